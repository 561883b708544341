"""Pure: the requests that wait for a worker, in lanes by model and by what may answer them."""

from collections.abc import Callable, Container, Iterator
from math import ceil

from .lanes import Lane
from .leases import Pending
from .roster import Worker


class Waiting:
    """n, n_bytes: requests in it and bytes of their payloads."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[str, str | None], Lane[Pending]] = {}
        self.n = self.n_bytes = 0

    def __iter__(self) -> Iterator[Pending]:
        return (pending for lane in self._lanes.values() for pending in lane)

    def push(self, pending: Pending, *, first: bool = False) -> None:
        lane = self._lane(pending)
        if first:
            lane.push_first(pending)
        else:
            lane.push(pending)
        self.n += 1
        self.n_bytes += len(pending.payload)

    def remove(self, pending: Pending) -> None:
        lane = self._lanes[pending.lane]
        lane.remove(pending)
        self._left(pending, lane)

    def lanes_of(self, worker: Worker) -> list[Lane[Pending]]:
        """Those from which this worker may take."""
        if not self._lanes:
            return []
        keys = {(worker.model, version): None for version in (None, worker.version, worker.digest)}
        return [lane for key in keys if (lane := self._lanes.get(key))]

    def take(self, worker: Worker, n_free: int, max_batch: int) -> list[Pending]:
        """What a free worker computes next. n_free: workers that are free for the same requests, itself included."""
        lanes = self.lanes_of(worker)
        if not lanes:
            return []
        # With several free workers each gets its share, so that none idles while another holds a batch.
        room = min(max_batch, ceil(sum(map(len, lanes)) / n_free))
        taken: list[Pending] = []
        while len(taken) < room and lanes:
            lane = lanes[0] if len(lanes) == 1 else min(lanes, key=lambda lane: lane.peek().submitted_at)
            pending = lane.pop()
            if taken and pending.is_suspect:
                lane.push_first(pending)
                break
            taken.append(pending)
            self._left(pending, lane)
            if pending.is_suspect:
                break
            if not lane:
                lanes.remove(lane)
        return taken

    def refused(self, model: str, served: Container[str | None]) -> list[Pending]:
        """Those that name a version of the model which is not served."""
        return [pending for pending in self if pending.model == model and pending.version not in served]

    def route_anew(self, model: str, goes_to: Callable[[Pending], str | None]) -> None:
        """Puts a model's requests where they may go now, in the order in which they came."""
        lanes = [self._lanes.pop(key) for key in [key for key in self._lanes if key[0] == model]]
        for pending in sorted((one for lane in lanes for one in lane), key=lambda one: one.submitted_at):
            pending.goes_to = goes_to(pending)
            self._lane(pending).push(pending)

    def _lane(self, pending: Pending) -> Lane[Pending]:
        lane = self._lanes.get(pending.lane)
        if lane is None:
            lane = self._lanes[pending.lane] = Lane()
        return lane

    def _left(self, pending: Pending, lane: Lane[Pending]) -> None:
        self.n -= 1
        self.n_bytes -= len(pending.payload)
        if not lane:
            # Callers choose the names of lanes: keeping empty ones would let memory grow with what they make up.
            del self._lanes[pending.lane]

    def check(self) -> None:
        """Invariants, for tests: they hold after every event."""
        assert all(lane for lane in self._lanes.values()), "an empty lane was kept"
        assert all(pending.lane == key for key, lane in self._lanes.items() for pending in lane)
        assert self.n == sum(1 for _ in self)
        assert self.n_bytes == sum(len(pending.payload) for pending in self)
