"""Pure: counts the evidence of one policy: replies by the version that computed them, and windows of one second."""

from statistics import median

from hotpool.errors import HotpoolError, ModelError
from hotpool.evidence import Arm, Counts, bucket, log_percent, tail_rank
from hotpool.messages import Done

WARM_UP = 20  # replies of a process with a version: its caches are cold, so their times are not counted
LEAST_IN_WINDOW = 3  # replies of either arm: a median of fewer says little
MAX_ROWS = (
    256  # computed together; what comes in more has no like to be compared with, and callers choose how many come
)
SERVER_FAULTS = frozenset({ModelError.code, HotpoolError.code})  # any other code says what is wrong with the request


class Run:
    """One policy of one model: from the order that brought its number until the next. It costs a few additions a reply."""

    def __init__(self, number: int, stable: str, target: str, version: str, now: float) -> None:
        """version: what people call the target."""
        self.key, self.stable, self.target, self.began_at = (number, stable, target), stable, target, now
        self.version = version
        self.copied: set[bytes] = set()  # marks of payloads that were copied, see `shadow`
        self._counts = Counts(number)
        self._second = 0
        self._times: dict[
            int, tuple[list[int], list[int]]
        ] = {}  # of this second: rows -> microseconds of stable, target
        self._computed: dict[int, list[int]] = {}  # of this second: rows -> microseconds of the target's batches
        self._batches: dict[str, tuple[int, int, int]] = {}  # by worker, the last: its rows and times

    def counts(self, now: float) -> Counts:
        """All counts until now."""
        self._turn_to(now)
        return self._counts

    def routed(self, digest: str) -> None:
        """A request that names no version was leased for the first time."""
        if arm := self._arm(digest):
            arm.routed += 1

    def answered(self, worker: str, digest: str, done: Done, now: float, *, is_warm: bool) -> None:
        """is_warm: the worker's times count."""
        arm = self._arm(digest)
        if arm is None:
            return
        arm.answered += 1
        if done.top1 >= 0:
            _add(arm.classes, done.top1)
            _add(arm.confidence, min(99, int(done.confidence * 100)))
        if is_warm and done.batch <= MAX_ROWS:
            took_us = done.cpu_us or max(1, done.service_us)  # where no clock tells the processor's time
            _add(arm.service.setdefault(done.batch, {}), bucket(took_us))
            self._turn_to(now)
            self._times.setdefault(done.batch, ([], []))[digest == self.target].append(took_us)
            if self._is_new_batch(worker, done) and digest == self.target:
                self._computed.setdefault(done.batch, []).append(took_us)

    def failed(self, digest: str, code: str) -> None:
        """The worker refused. What is the caller's fault says nothing of the version and is not counted."""
        if code in SERVER_FAULTS:
            self.lost(digest)

    def lost(self, digest: str) -> None:
        """The worker died or hung while it held the lease."""
        if arm := self._arm(digest):
            arm.answered += 1
            arm.errors += 1

    def compared(self, *, agree: bool) -> None:
        """A request and its shadow copy are both answered."""
        self._counts.pairs += 1
        self._counts.disagreements += not agree

    def _arm(self, digest: str) -> Arm | None:
        """None for a version that was served before this policy."""
        if digest == self.target:
            return self._counts.target
        return self._counts.stable if digest == self.stable else None

    def _is_new_batch(self, worker: str, done: Done) -> bool:
        """False for further replies of a batch: all of them tell its time, and are no evidence on top of the first."""
        batch = (done.batch, done.cpu_us, done.service_us)
        before, self._batches[worker] = self._batches.get(worker), batch
        return done.batch == 1 or batch != before

    def _turn_to(self, now: float) -> None:
        """Closes the window that is open, if its second is over."""
        second = int(now - self.began_at)
        if second == self._second:
            return
        full = {rows: times for rows, times in sorted(self._times.items()) if min(map(len, times)) >= LEAST_IN_WINDOW}
        if full:
            stable, target = max(full.values(), key=lambda times: min(map(len, times)))
            _add(self._counts.windows, log_percent(median(target) / median(stable)))
        for rows in full.keys() & self._computed.keys():  # none of a batch whose first reply was in the second before
            times_us = sorted(self._computed[rows])
            _add(self._counts.tails.setdefault(rows, {}), bucket(times_us[-tail_rank(len(times_us))]))
        self._second, self._times, self._computed = second, {}, {}


def _add(counts: dict[int, int], key: int) -> None:
    counts[key] = counts.get(key, 0) + 1
