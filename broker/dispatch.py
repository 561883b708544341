"""Pure: requests from submit to their one outcome: queued, leased, answered.

    arms       where a request that names no version goes, and the evidence of what came of it
    waiting    the queue
    shadow     copies for comparison
    probes     questions to one certain worker

A lease is one request held by one worker. It outlives its request when that was cancelled or has expired: the worker still
computes, and its late answer is counted and dropped. Cost per request depends neither on the length of the queue nor on the
number of workers.
"""

import heapq
from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass
from itertools import count
from math import inf

from hotpool.errors import (
    DeadlineExceeded,
    HotpoolError,
    NoReadyWorker,
    PoisonRequest,
    QueueFull,
    UnknownVersion,
    WorkerLost,
)
from hotpool.messages import Done, ErrorReply, Failed, Job, Reply
from hotpool.states import Executed

from .actions import Action, Payload, ToClient, ToWorker
from .arms import Arms
from .evidence import WARM_UP
from .leases import Lease, Pending
from .metrics import Metrics
from .probes import Probes
from .replies import error_reply
from .roster import Roster, Worker
from .shadow import Shadow
from .waiting import Waiting

KILLS_TO_POISON = 2
AT_ONCE_S = 5e-7  # a budget is whole microseconds, and a lease without any would be work for nobody
# How much earlier or later than the last one an answer is looked for: so much of the time that it took, and no more than this.
MARGIN_SHARE, MARGIN_S = 0.05, 0.0005
FIRST_RETRY_AFTER_S = 0.1  # before the first answer has told how long the work takes


@dataclass(frozen=True, slots=True)
class Limits:
    """See `[dispatch]` and `[pool]` in configs/default.toml."""

    max_requests: int
    max_bytes: int
    max_batch: int
    max_attempts: int
    lease_s: float


class Dispatcher:
    """Which worker gets which request. Knows neither sockets nor clock; time comes in as `now`, monotonic seconds."""

    def __init__(self, roster: Roster, arms: Arms, metrics: Metrics, limits: Limits, first_job: int) -> None:
        self._roster, self._arms, self._metrics, self._limits = roster, arms, metrics, limits
        # Differs from boot to boot: no answer to an earlier broker's job fits one of ours.
        self._jobs = count(first_job)
        self._pending: dict[bytes, Pending] = {}
        self._waiting = Waiting()
        self._shadow = Shadow(roster, metrics, self._jobs, limits.lease_s)
        self.probes = Probes(roster, self._waiting, metrics, self._jobs, limits.lease_s)
        self._deadlines: list[tuple[float, bytes]] = []  # heap; what is answered meanwhile is skipped when it surfaces
        self._service_s = FIRST_RETRY_AFTER_S  # moving average

    @property
    def n_pending(self) -> int:
        """Requests without an outcome, queued or leased."""
        return len(self._pending)

    @property
    def queued(self) -> int:
        """Requests that wait for a worker."""
        return self._waiting.n

    @property
    def queued_bytes(self) -> int:
        """Of their payloads."""
        return self._waiting.n_bytes

    # ---- requests

    def submit(self, pending: Pending, now: float) -> list[Action]:
        """Queue it, lease it at once if a worker is free.

        Raises:
            QueueFull: count or bytes of the queue are at their limit; nothing was kept.
        """
        known = self._pending.get(pending.id)
        if known is not None:
            known.client = pending.client  # sent again over a new connection: the answer goes there
            self._metrics.duplicates[()] += 1
            return []
        arms = self._arms
        pending.goes_to = arms.goes_to(pending) if arms.splits or arms.presumed else pending.version
        worker = self._roster.next_free(pending.model, pending.goes_to)
        if worker is None:
            self._refuse_if_full(pending)
        self._pending[pending.id] = pending
        self._note_deadline(pending)
        if worker is not None and pending.deadline >= now + AT_ONCE_S:
            return self._lease(worker, [pending], now)  # nothing waits that it could take instead, or it were not free
        self._waiting.push(pending)
        return self.expire(now)

    def cancel(self, request_id: bytes, client: bytes) -> None:
        """Only the connection that asked may cancel. An unknown id is no error: the answer may be on its way."""
        pending = self._pending.get(request_id)
        if pending is not None and pending.client == client:
            self._finish(pending, "cancelled")

    def abandon(self, client: bytes) -> None:
        """The client is gone: nobody waits for its requests."""
        for pending in [pending for pending in self._pending.values() if pending.client == client]:
            self._finish(pending, "abandoned")

    def refuse_versions(self, model: str, served: Container[str | None]) -> list[Action]:
        """Fails what waits for versions of a model that no worker will answer for any more."""
        return [
            self._fail(pending, UnknownVersion(f"version {pending.version!r} of {model!r} is not served any more"))
            for pending in self._waiting.refused(model, served)
        ]

    def expire(self, now: float) -> list[Action]:
        """Answers every request whose deadline has passed."""
        actions: list[Action] = []
        while self._deadlines and self._deadlines[0][0] < now + AT_ONCE_S:
            pending = self._pending.get(heapq.heappop(self._deadlines)[1])
            if pending is not None:
                actions.append(self._fail(pending, self._deadline_exceeded(pending, now)))
        return actions

    def next_deadline(self) -> float | None:
        """When `expire` may have something to do: too early if that request was answered meanwhile. Taking each answered one
        off the heap would cost more than a look in vain, and the more the longer the queue is."""
        return self._deadlines[0][0] if self._deadlines else None

    def next_answer(self) -> tuple[float, float] | None:
        """From and until when the answer to the one request under way may come, if it takes its worker as long as the last one.

        None if more is under way or nothing, if nobody knows how long it takes, and where the broker has no core to wait on
        awake: that of an idle worker, which no other one needs. Looks at all workers, but only for one request at a time.
        """
        if len(self._pending) != 1:
            return None
        (pending,) = self._pending.values()
        busy = [worker for worker in self._roster if worker.leases]
        if pending.lease is None or len(busy) != 1 or not busy[0].took_s:
            return None
        needed = {core for worker in self._roster if worker.leases or worker.is_loading for core in worker.cores}
        if not any(worker.cores - needed for worker in self._roster if worker.is_free):
            return None
        due_at, margin_s = pending.lease.sent_at + busy[0].took_s, min(MARGIN_S, MARGIN_SHARE * busy[0].took_s)
        return due_at - margin_s, due_at + margin_s

    # ---- workers

    def feed(self, worker: Worker, now: float) -> list[Action]:
        """Leases to a worker, if it is free, what is queued for it, up to `max_batch`; never waits for more."""
        if not worker.is_free:
            return []
        actions = self.expire(now)
        taken = self._waiting.take(worker, self._roster.n_free(worker), self._limits.max_batch)
        return actions + (self._lease(worker, taken, now) if taken else self.probes.feed(worker, now))

    def done(self, worker: Worker, done: Done, payload: Payload | None, now: float) -> list[Action]:
        """The worker's answer, to the caller if it still waits."""
        lease = self._close(worker, done.job)
        if lease is None:
            return []
        if lease.probe is not None:
            return [self.probes.answered(worker, lease, done, payload), *self._after_lease(worker, now)]
        worker.replies += 1
        if done.batch == 1:
            worker.took_s = now - lease.sent_at
        if self._arms.runs and (run := self._arms.run_of(worker.model, lease)):
            run.answered(worker.name, lease.digest, done, now, is_warm=worker.replies > WARM_UP)
        if lease.pair is not None:
            self._shadow.answered(worker.model, lease.pair, done)
        pending = lease.pending
        if pending is None:
            return self._after_lease(worker, now)
        reply = self._reply(worker, lease, pending, done, now)
        return [ToClient(pending.client, reply, payload), *self._after_lease(worker, now)]

    def failed(self, worker: Worker, failed: Failed, now: float) -> list[Action]:
        """The worker refused the request: another one would refuse it too."""
        lease = self._close(worker, failed.job)
        if lease is None:
            return []
        if lease.probe is not None:
            return [self.probes.failed(worker, lease, failed), *self._after_lease(worker, now)]
        if run := self._arms.run_of(worker.model, lease):
            run.failed(lease.digest, failed.code)
        if lease.pair is not None:
            self._shadow.drop(worker.model, lease.pair, "error")
        pending = lease.pending
        if pending is None:
            return self._after_lease(worker, now)
        self._finish(pending, failed.code, lease.version)
        reply = ErrorReply(
            pending.id, failed.code, failed.message, failed.executed,
            version=lease.version, digest=lease.digest, worker=worker.name,
        )  # fmt: skip
        return [ToClient(pending.client, reply), *self._after_lease(worker, now)]

    def take_back(self, worker: Worker, cause: str, now: float, *, blame: bool) -> list[Action]:
        """The worker is lost: its requests return to the head of the queue, for others. It must not be free any more.

        blame: the process died or hung by itself, so that a request which it held alone may be the reason.
        """
        leases, worker.leases = worker.leases, {}
        actions: list[Action] = [self.probes.lost(worker, lease) for lease in leases.values() if lease.probe]
        self._forsake(worker.model, [lease for lease in leases.values() if not lease.probe], blame=blame)
        # Backwards, because each goes to the head of its lane: the oldest ends up first.
        for pending in [lease.pending for lease in reversed(leases.values()) if lease.pending]:
            pending.is_suspect |= blame
            pending.kills += blame and len(leases) == 1
            pending.losses += cause != "starved"
            if pending.kills >= KILLS_TO_POISON:
                actions.append(self._fail(pending, _poison(pending)))
            elif pending.losses >= self._limits.max_attempts:
                actions.append(self._fail(pending, _lost(pending)))
            else:
                self._metrics.redispatched[(cause,)] += 1
                pending.lease = None
                pending.goes_to = self._arms.goes_to(pending)
                self._waiting.push(pending, first=True)
        return actions

    def feed_all(self, now: float) -> list[Action]:
        """After a change of versions or of workers' states, which may have freed workers or requests without an answer, or have
        changed where requests may go: rare, so a scan is no matter."""
        for model in self._arms.refresh(now):
            self._waiting.route_anew(model, self._arms.goes_to)
        actions = self.probes.refresh()
        return actions + [action for worker in self._roster if worker.is_free for action in self.feed(worker, now)]

    # ---- inside

    def _close(self, worker: Worker, job: int) -> Lease | None:
        """The lease that an answer ends. Counted when nobody waits for it, and when there is none."""
        lease = worker.leases.pop(job, None)
        if lease is None or (lease.pending is None and lease.pair is None):
            self._metrics.late[()] += 1
        return lease

    def _reply(self, worker: Worker, lease: Lease, pending: Pending, done: Done, now: float) -> Reply:
        if pending.pair is not None:
            self._shadow.original_answered(pending, lease.digest, done)
        worker.served += 1
        queue_s, service_s = lease.sent_at - pending.submitted_at, done.service_us / 1e6
        self._service_s += 0.05 * (service_s - self._service_s)
        labels = (pending.model, lease.version)
        self._metrics.queue_s[labels].observe(queue_s)
        self._metrics.service_s[labels].observe(service_s)
        self._metrics.total_s[labels].observe(now - pending.submitted_at)
        self._finish(pending, "ok", lease.version)
        return Reply(
            pending.id, worker.model, lease.version, lease.digest, worker.name, pending.attempts,
            int(queue_s * 1e6), done.service_us, done.result,
        )  # fmt: skip

    def _lease(self, worker: Worker, taken: list[Pending], now: float) -> list[Action]:
        actions: list[Action] = []
        for behind, pending in zip(reversed(range(len(taken))), taken, strict=True):
            job = next(self._jobs)
            pending.lease = Lease(job, pending, now, worker.version, worker.digest)
            pending.attempts += 1
            self._roster.open_lease(worker, pending.lease)
            budget_us = max(0, int((pending.deadline - now) * 1e6))
            actions.append(ToWorker(worker.connection, Job(job, budget_us, pending.work, behind), pending.payload))
        self._set_lease_end(worker, now)
        if self._arms.runs and (run := self._arms.runs.get(worker.model)):
            split = self._arms.splits[worker.model]
            for pending in taken:
                if pending.version is None and pending.attempts == 1:
                    run.routed(worker.digest)
                    actions += self._shadow.copy(pending, split, run, now)
        return actions

    def _forsake(self, model: str, leases: Iterable[Lease], *, blame: bool) -> None:
        """What losing these leases means for the evidence and for copies. A loss is one error, whatever was held: gates take
        errors to be independent of one another."""
        for lease in leases:
            if blame and (run := self._arms.run_of(model, lease)):
                run.lost(lease.digest)
                blame = False
            if lease.pair is not None:
                self._shadow.drop(model, lease.pair, "worker_lost")

    def _after_lease(self, worker: Worker, now: float) -> list[Action]:
        self._set_lease_end(worker, now)
        if worker.leases:
            return []
        self._roster.idle(worker)
        return self.feed(worker, now)

    def _set_lease_end(self, worker: Worker, now: float) -> None:
        # In the worst case the worker computes a batch one after another.
        worker.lease_ends_at = now + self._limits.lease_s * len(worker.leases) if worker.leases else inf

    def _finish(self, pending: Pending, outcome: str, version: str = "") -> None:
        """The one place where a request ends."""
        del self._pending[pending.id]
        if pending.lease is not None:
            pending.lease.pending = None
        else:
            self._waiting.remove(pending)
        if pending.pair is not None:
            self._shadow.drop(pending.model, pending.pair, "original")
        self._metrics.ended(pending.model, version, outcome)

    def _fail(self, pending: Pending, error: HotpoolError) -> Action:
        self._finish(pending, error.code)
        return ToClient(pending.client, error_reply(pending.id, error))

    def _note_deadline(self, pending: Pending) -> None:
        if len(self._pending) == 1:  # all others are answered, and would wake us for nothing while we wait for this one
            self._deadlines = [(pending.deadline, pending.id)]
        elif len(self._deadlines) > 2 * len(self._pending) + 1000:  # mostly answered: they must not fill the memory
            self._deadlines = [(waiting.deadline, waiting.id) for waiting in self._pending.values()]
            heapq.heapify(self._deadlines)
        else:
            heapq.heappush(self._deadlines, (pending.deadline, pending.id))

    def _refuse_if_full(self, pending: Pending) -> None:
        queued, limits = self._waiting.n, self._limits
        full = queued >= limits.max_requests
        if not full and self._waiting.n_bytes + len(pending.payload) <= limits.max_bytes:
            return
        what = f"{queued} requests" if full else f"{self._waiting.n_bytes} bytes"
        allowed = f"{limits.max_requests} requests" if full else f"{limits.max_bytes} bytes"
        # A tenth of the queue must have been served before there is room worth asking for.
        retry_after_s = min(2.0, max(0.02, 0.1 * queued * self._service_s / max(1, self._roster.ready(pending.model))))
        raise QueueFull(f"the queue is full: it holds {what} of {allowed}", retry_after_s=retry_after_s)

    def _deadline_exceeded(self, pending: Pending, now: float) -> DeadlineExceeded:
        waited = f"after {now - pending.submitted_at:.3g} s"
        if pending.lease is not None:
            return DeadlineExceeded(f"no answer {waited}: a worker is still computing it", executed=Executed.MAYBE)
        ready = self._roster.ready(pending.model)
        executed = Executed.MAYBE if pending.attempts else Executed.NO
        if ready:
            return DeadlineExceeded(f"still queued {waited} for {ready} ready workers", executed=executed)
        counts = Counter(worker.state.value for worker in self._roster if worker.model == pending.model)
        states = ", ".join(f"{n} {state}" for state, n in sorted(counts.items())) or "none known"
        return NoReadyWorker(
            f"no worker of model {pending.model!r} became ready {waited} ({states})", executed=executed
        )

    def check(self) -> None:
        """Invariants, for tests: they hold after every event."""
        self._waiting.check()
        self.probes.check()
        self._shadow.check(self._pending.values())
        queued = list(self._waiting)
        leased = [lease.pending for worker in self._roster for lease in worker.leases.values() if lease.pending]
        assert len(queued) + len(leased) == len(self._pending), (
            "a request is queued or leased, never both, never neither"
        )
        assert {p.id for p in queued} | {p.id for p in leased} == set(self._pending)
        assert all(pending.lease is None for pending in queued)
        assert all(p.lease is not None and p.lease.pending is p for p in leased)
        assert all(len(worker.leases) <= self._limits.max_batch for worker in self._roster)
        assert {p.id for p in self._pending.values()} <= {request_id for _, request_id in self._deadlines}
        for pending in queued:
            assert pending.goes_to == self._arms.goes_to(pending), "a request waits where it may not go"
            assert self._roster.next_free(pending.model, pending.goes_to) is None, (
                "a worker idles while a request waits"
            )


def _poison(pending: Pending) -> PoisonRequest:
    return PoisonRequest(
        f"this request ended {pending.kills} workers that worked on nothing else; it will not be tried again",
        executed=Executed.MAYBE,
    )


def _lost(pending: Pending) -> WorkerLost:
    return WorkerLost(f"{pending.losses} workers were lost while they held this request", executed=Executed.MAYBE)
