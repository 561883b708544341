"""Pure: shadow copies: requests that stable answers, computed by the target too, so that their answers can be compared.

A copy is a lease without a caller. It is never queued: it goes out together with its original, to a free worker of the
target, for which by that nothing waits (`Dispatcher.check`), or not at all. Nobody waits for its answer and nothing is
tried again for it.
"""

from collections import Counter as Tally
from collections.abc import Iterable, Iterator
from hashlib import blake2b

from hotpool.messages import Done, Job

from .actions import Action, Payload, ToWorker
from .arms import Split
from .evidence import Run
from .leases import Lease, Pair, Pending
from .metrics import Metrics
from .roster import Roster
from .routing import point

MAX_COPIED = 100_000  # payloads of one run: many times what any gate needs; their marks take 6 MB
SHADOW_SALT = 1 << 64  # beyond every rollout's: who is copied has nothing to do with who is whose arm


class Shadow:
    """jobs: where the numbers of all leases come from. lease_s: how long one may take."""

    def __init__(self, roster: Roster, metrics: Metrics, jobs: Iterator[int], lease_s: float) -> None:
        self._roster, self._metrics, self._jobs, self._lease_s = roster, metrics, jobs, lease_s

    def copy(self, pending: Pending, split: Split, run: Run, now: float) -> list[Action]:
        """The copy of a request that was just leased, if there is to be one."""
        assert pending.lease is not None
        if not split.policy.shadow or pending.lease.digest != split.stable or not _is_chosen(pending, split):
            return []
        worker = self._roster.next_free(pending.model, split.target)
        if worker is None:
            return self._skip(pending, run, "busy")
        mark = _mark(pending.payload)
        if mark in run.copied:  # the same picture twice is no independent sample
            return self._skip(pending, run, "repeated")
        if len(run.copied) >= MAX_COPIED:
            return self._skip(pending, run, "full")
        run.copied.add(mark)
        pending.pair = Pair(run)
        lease = Lease(next(self._jobs), None, now, worker.version, worker.digest, pending.pair)
        self._roster.open_lease(worker, lease)
        worker.lease_ends_at = now + self._lease_s
        self._metrics.shadow_sent[pending.model, run.version] += 1
        budget_us = max(0, int((pending.deadline - now) * 1e6))
        return [ToWorker(worker.connection, Job(lease.job, budget_us, pending.work), pending.payload)]

    def answered(self, model: str, pair: Pair, done: Done) -> None:
        """By the target."""
        self._metrics.shadow_answered[model, pair.run.version] += 1
        pair.copy = done.top1
        self._compare(model, pair)

    def original_answered(self, pending: Pending, digest: str, done: Done) -> None:
        """By whoever held it last, which may be another version than when it was copied."""
        pair, pending.pair = pending.pair, None
        assert pair is not None
        if digest != pair.run.stable:
            self.drop(pending.model, pair, "original")
            return
        pair.original = done.top1
        self._compare(pending.model, pair)

    def drop(self, model: str, pair: Pair, reason: str) -> None:
        """One of the two comes to nothing."""
        if not pair.is_over:
            pair.is_over = True
            self._metrics.shadow_dropped[model, pair.run.version, reason] += 1

    def _compare(self, model: str, pair: Pair) -> None:
        if pair.is_over or pair.original is None or pair.copy is None:
            return
        if pair.original < 0 or pair.copy < 0:
            self.drop(model, pair, "no_class")
            return
        pair.is_over = True
        agree = pair.original == pair.copy
        pair.run.compared(agree=agree)
        self._metrics.shadow_pairs[model, pair.run.version, "yes" if agree else "no"] += 1

    def _skip(self, pending: Pending, run: Run, reason: str) -> list[Action]:
        self._metrics.shadow_dropped[pending.model, run.version, reason] += 1
        return []

    def check(self, pending: Iterable[Pending]) -> None:
        """Invariants, for tests: they hold after every event."""
        copies = [(worker, lease.pair) for worker in self._roster for lease in worker.leases.values() if lease.pair]
        assert all(len(worker.leases) == 1 for worker, _ in copies), "a copy shares its worker with another lease"
        assert not any(lease.pair and lease.pending for worker in self._roster for lease in worker.leases.values())
        pairs = {id(pair): pair for pair in (*(pair for _, pair in copies), *(p.pair for p in pending if p.pair))}
        found = Tally[str](pair.run.version for pair in pairs.values() if not pair.is_over)
        for (_, version, _), n in self._metrics.shadow_pairs.items():
            found[version] += int(n)
        for (_, version, reason), n in self._metrics.shadow_dropped.items():
            found[version] += int(n) if reason not in ("busy", "repeated", "full") else 0  # those were never sent
        for (_, version), n in self._metrics.shadow_sent.items():
            assert n == found[version], "a copy has no end, or two"


def _is_chosen(pending: Pending, split: Split) -> bool:
    """By the id even where a route key decides the arm: a part of all requests, not all requests of some callers."""
    return point(pending.id, SHADOW_SALT + split.policy.salt) < split.policy.shadow


def _mark(payload: Payload) -> bytes:
    """Tells payloads apart. The one place where the broker looks into one."""
    return blake2b(payload, digest_size=8).digest()
