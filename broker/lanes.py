"""Pure: the queue of requests that the same workers can answer, in three priorities.

Every operation costs the same however long the queue is: each priority is an `OrderedDict` in order of arrival, so that a
cancelled or expired request leaves from the middle without a scan.
"""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from typing import Generic, Protocol, TypeVar

from hotpool.states import Priority

# Of 13 requests taken while all three wait, 8 are high, 4 normal, 1 low: low is slow, never starved.
WEIGHTS = {Priority.HIGH: 8, Priority.NORMAL: 4, Priority.LOW: 1}
_STRIDES = tuple(1 / WEIGHTS[priority] for priority in sorted(Priority))


class Queued(Protocol):
    """What a lane needs to know of a request."""

    @property
    def id(self) -> bytes: ...
    @property
    def priority(self) -> int: ...


R = TypeVar("R", bound=Queued)


class Lane(Generic[R]):
    """Stride scheduling over three first-in-first-out queues: the priority that is furthest behind its weight goes next."""

    def __init__(self) -> None:
        self._queues: tuple[OrderedDict[bytes, R], ...] = tuple(OrderedDict() for _ in Priority)
        self._passes = [0.0] * len(self._queues)

    def __len__(self) -> int:
        high, normal, low = self._queues
        return len(high) + len(normal) + len(low)

    def __bool__(self) -> bool:
        high, normal, low = self._queues
        return bool(high or normal or low)

    def __iter__(self) -> Iterator[R]:
        return chain.from_iterable(queue.values() for queue in self._queues)

    def push(self, request: R) -> None:
        queue = self._queues[request.priority]
        if not queue:
            self._catch_up(request.priority)
        queue[request.id] = request

    def push_first(self, request: R) -> None:
        """For a request that was taken before and comes back: it keeps its place at the head."""
        self.push(request)
        self._queues[request.priority].move_to_end(request.id, last=False)

    def remove(self, request: R) -> None:
        """Raises KeyError when it is not queued here."""
        del self._queues[request.priority][request.id]

    def peek(self) -> R:
        """The request that `pop` would take. Raises IndexError when the lane is empty."""
        queue = self._queues[self._next()]
        return queue[next(iter(queue))]

    def pop(self) -> R:
        """Raises IndexError when the lane is empty."""
        priority = self._next()
        self._passes[priority] += _STRIDES[priority]
        return self._queues[priority].popitem(last=False)[1]

    def _next(self) -> int:
        best = -1
        for priority, queue in enumerate(self._queues):
            if queue and (best < 0 or self._passes[priority] < self._passes[best]):
                best = priority
        if best < 0:
            raise IndexError("pop from an empty lane")
        return best

    def _catch_up(self, priority: int) -> None:
        """A priority that was empty gets no credit for the time it did not wait."""
        waiting = [self._passes[other] for other, queue in enumerate(self._queues) if queue]
        if waiting:
            self._passes[priority] = max(self._passes[priority], min(waiting))
        else:
            self._passes = [0.0] * len(self._queues)
