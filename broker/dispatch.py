"""Pure: requests from submit to their one outcome: queued, leased, answered.

A lease is one request held by one worker. It outlives its request when that was cancelled or has expired: the worker still
computes, and its late answer is counted and dropped. Cost per request depends neither on the length of the queue nor on the
number of workers.
"""

import heapq
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from itertools import count
from math import ceil, inf

from hotpool.errors import DeadlineExceeded, HotpoolError, PoisonRequest, QueueFull, UnknownVersion, WorkerLost
from hotpool.messages import MAX_TEXT, Done, ErrorReply, Failed, Job, Reply
from hotpool.states import Executed

from .actions import Action, Payload, ToClient, ToWorker
from .lanes import Lane
from .leases import Lease, Pending
from .metrics import Metrics
from .roster import Roster, Worker

KILLS_TO_POISON = 2
AT_ONCE_S = 5e-7  # a budget is whole microseconds, and a lease without any would be work for nobody
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

    def __init__(self, roster: Roster, metrics: Metrics, limits: Limits, first_job: int) -> None:
        self._roster, self._metrics, self._limits = roster, metrics, limits
        self._jobs = count(
            first_job
        )  # differs from boot to boot: no answer to an earlier broker's job fits one of ours
        self._pending: dict[bytes, Pending] = {}
        self._lanes: dict[tuple[str, str | None], Lane[Pending]] = {}
        self._deadlines: list[tuple[float, bytes]] = []  # heap; what is answered meanwhile is skipped when it surfaces
        self._service_s = FIRST_RETRY_AFTER_S  # moving average
        self.queued = self.queued_bytes = 0  # requests that wait for a worker; `_enqueue` and `_dequeued` count them

    @property
    def n_pending(self) -> int:
        """Requests without an outcome, queued or leased."""
        return len(self._pending)

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
        worker = self._roster.next_free(pending.model, pending.version)
        if worker is None:
            self._refuse_if_full(pending)
        self._pending[pending.id] = pending
        self._note_deadline(pending)
        if worker is not None and pending.deadline >= now + AT_ONCE_S:
            return self._lease(worker, [pending], now)  # nothing waits that it could take instead, or it were not free
        self._enqueue(pending)
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
        gone = [lane for key, lane in self._lanes.items() if key[0] == model and key[1] not in served]
        waiting = [pending for lane in gone for pending in lane]
        return [
            self._fail(pending, UnknownVersion(f"version {pending.version!r} of {model!r} is not served any more"))
            for pending in waiting
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

    # ---- workers

    def feed(self, worker: Worker, now: float) -> list[Action]:
        """Leases to a worker, if it is free, what is queued for it, up to `max_batch`; never waits for more."""
        if not worker.is_free:
            return []
        actions = self.expire(now)
        return actions + self._lease(worker, self._take(worker), now)

    def done(self, worker: Worker, done: Done, payload: Payload | None, now: float) -> list[Action]:
        """The worker's answer, to the caller if it still waits."""
        lease = worker.leases.pop(done.job, None)
        if lease is None or lease.pending is None:
            self._metrics.late[()] += 1
            return self._after_lease(worker, now) if lease else []
        pending = lease.pending
        worker.served += 1
        queue_s, service_s = lease.sent_at - pending.submitted_at, done.service_us / 1e6
        self._service_s += 0.05 * (service_s - self._service_s)
        labels = (pending.model, lease.version)
        self._metrics.queue_s[labels].observe(queue_s)
        self._metrics.service_s[labels].observe(service_s)
        self._metrics.total_s[labels].observe(now - pending.submitted_at)
        self._finish(pending, "ok", lease.version)
        reply = Reply(
            pending.id, worker.model, lease.version, lease.digest, worker.name, pending.attempts,
            int(queue_s * 1e6), done.service_us, done.result,
        )  # fmt: skip
        return [ToClient(pending.client, reply, payload), *self._after_lease(worker, now)]

    def failed(self, worker: Worker, failed: Failed, now: float) -> list[Action]:
        """The worker refused the request: another one would refuse it too."""
        lease = worker.leases.pop(failed.job, None)
        if lease is None or lease.pending is None:
            self._metrics.late[()] += 1
            return self._after_lease(worker, now) if lease else []
        pending = lease.pending
        self._finish(pending, failed.code, lease.version)
        reply = ErrorReply(pending.id, failed.code, failed.message, failed.executed)
        return [ToClient(pending.client, reply), *self._after_lease(worker, now)]

    def take_back(self, worker: Worker, cause: str, now: float, *, blame: bool) -> list[Action]:
        """The worker is lost: its requests return to the head of the queue, for others. It must not be free any more.

        blame: the process died or hung by itself, so that a request which it held alone may be the reason.
        """
        leases, worker.leases = worker.leases, {}
        actions: list[Action] = []
        # Backwards, because each goes to the head of its lane: the oldest ends up first.
        for pending in [lease.pending for lease in reversed(leases.values()) if lease.pending]:
            pending.is_suspect |= blame
            pending.kills += blame and len(leases) == 1
            if pending.kills >= KILLS_TO_POISON:
                actions.append(self._fail(pending, _poison(pending)))
            elif pending.attempts >= self._limits.max_attempts:
                actions.append(self._fail(pending, _lost(pending)))
            else:
                self._metrics.redispatched[(cause,)] += 1
                pending.lease = None
                self._enqueue(pending, first=True)
        return actions

    def feed_all(self, now: float) -> list[Action]:
        """After a change that may have freed workers or requests without an answer: rare, so a scan is no matter."""
        return [action for worker in self._roster if worker.is_free for action in self.feed(worker, now)]

    # ---- inside

    def _lease(self, worker: Worker, taken: list[Pending], now: float) -> list[Action]:
        actions: list[Action] = []
        for pending in taken:
            job = next(self._jobs)
            pending.lease = Lease(job, pending, now, worker.version, worker.digest)
            pending.attempts += 1
            self._roster.open_lease(worker, pending.lease)
            budget_us = max(0, int((pending.deadline - now) * 1e6))
            actions.append(ToWorker(worker.connection, Job(job, budget_us, pending.work), pending.payload))
        self._set_lease_end(worker, now)
        return actions

    def _take(self, worker: Worker) -> list[Pending]:
        if not self._lanes:
            return []
        keys = {(worker.model, version): None for version in (None, worker.version, worker.digest)}
        lanes = [lane for key in keys if (lane := self._lanes.get(key))]
        if not lanes:
            return []
        # With several free workers each gets its share, so that none idles while another holds a batch.
        room = min(self._limits.max_batch, ceil(sum(map(len, lanes)) / self._roster.n_free(worker)))
        taken: list[Pending] = []
        while len(taken) < room and lanes:
            lane = lanes[0] if len(lanes) == 1 else min(lanes, key=lambda lane: lane.peek().submitted_at)
            pending = lane.pop()
            if taken and pending.is_suspect:
                lane.push_first(pending)
                break
            taken.append(pending)
            self._dequeued(pending, lane)
            if pending.is_suspect:
                break
            if not lane:
                lanes.remove(lane)
        return taken

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
            lane = self._lanes[pending.lane]
            lane.remove(pending)
            self._dequeued(pending, lane)
        self._metrics.requests[pending.model, version, outcome] += 1

    def _fail(self, pending: Pending, error: HotpoolError) -> Action:
        self._finish(pending, error.code)
        return ToClient(pending.client, error_reply(pending.id, error))

    def _note_deadline(self, pending: Pending) -> None:
        if len(self._deadlines) > 2 * len(self._pending) + 1000:  # mostly answered: they must not fill the memory
            self._deadlines = [(waiting.deadline, waiting.id) for waiting in self._pending.values()]
            heapq.heapify(self._deadlines)
        else:
            heapq.heappush(self._deadlines, (pending.deadline, pending.id))

    def _enqueue(self, pending: Pending, *, first: bool = False) -> None:
        lane = self._lanes.get(pending.lane)
        if lane is None:
            lane = self._lanes[pending.lane] = Lane()
        if first:
            lane.push_first(pending)
        else:
            lane.push(pending)
        self.queued += 1
        self.queued_bytes += len(pending.payload)

    def _dequeued(self, pending: Pending, lane: Lane[Pending]) -> None:
        self.queued -= 1
        self.queued_bytes -= len(pending.payload)
        if (
            not lane
        ):  # callers choose the names of lanes: keeping empty ones would let memory grow with what they make up
            del self._lanes[pending.lane]

    def _refuse_if_full(self, pending: Pending) -> None:
        queued, limits = self.queued, self._limits
        full = queued >= limits.max_requests
        if not full and self.queued_bytes + len(pending.payload) <= limits.max_bytes:
            return
        what = f"{queued} requests" if full else f"{self.queued_bytes} bytes"
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
        return DeadlineExceeded(
            f"no worker of model {pending.model!r} became ready {waited} ({states})", executed=executed
        )

    def check(self) -> None:
        """Invariants; tests call this after every event."""
        queued = [pending for lane in self._lanes.values() for pending in lane]
        leased = [lease.pending for worker in self._roster for lease in worker.leases.values() if lease.pending]
        assert len(queued) + len(leased) == len(self._pending), (
            "a request is queued or leased, never both, never neither"
        )
        assert {p.id for p in queued} | {p.id for p in leased} == set(self._pending)
        assert all(pending.lease is None for pending in queued)
        assert all(p.lease is not None and p.lease.pending is p for p in leased)
        assert all(lane for lane in self._lanes.values()), "an empty lane was kept"
        assert self.queued == len(queued)
        assert self.queued_bytes == sum(len(pending.payload) for pending in queued)
        assert all(len(worker.leases) <= self._limits.max_batch for worker in self._roster)
        assert {p.id for p in self._pending.values()} <= {request_id for _, request_id in self._deadlines}
        for pending in queued:
            assert self._roster.next_free(pending.model, pending.version) is None, (
                "a worker idles while a request waits"
            )


def error_reply(request_id: bytes, error: HotpoolError) -> ErrorReply:
    """An error as it travels to the caller."""
    retry_after_us = None if error.retry_after_s is None else int(error.retry_after_s * 1e6)
    return ErrorReply(request_id, error.code, str(error)[:MAX_TEXT], error.executed.value, retry_after_us)


def _poison(pending: Pending) -> PoisonRequest:
    return PoisonRequest(
        f"this request ended {pending.kills} workers that worked on nothing else; it will not be tried again",
        executed=Executed.MAYBE,
    )


def _lost(pending: Pending) -> WorkerLost:
    return WorkerLost(f"{pending.attempts} workers were lost while they held this request", executed=Executed.MAYBE)
