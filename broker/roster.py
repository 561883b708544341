"""Pure: the workers: who is there, in which state, who is free, who has gone silent."""

from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

from hotpool.messages import Seat, Seats, WorkerHello, WorkerReport
from hotpool.states import WorkerState

from .leases import Lease
from .lifecycle import WorkerEvent, next_state

S, E = WorkerState, WorkerEvent

Change = tuple[str, WorkerState, WorkerState, str, str, int]  # all of a `Changed` but its time


@dataclass(slots=True, eq=False)
class Worker:
    """A numbered seat. It outlives its processes; what belongs to one process is set anew by its hello."""

    name: str
    model: str
    state: WorkerState = S.DOWN
    connection: bytes = b""  # of its session; empty without one
    hello: WorkerHello | None = None  # of its present or last process
    version: str = ""
    digest: str = ""
    silence_ends_at: float = inf  # when it must have been heard again
    looks: int = 0  # at its silent process, since it was heard
    looks_runnable: int = 0  # that found that it could run
    served: int = 0
    # Of this process with this version.
    replies: int = 0  # the first ones come slowly, its caches are cold
    took_s: float = 0.0  # from the lease to the answer of the last row that was computed by itself; 0: of none yet
    # Leases: at most one batch at a time, so a worker with an open lease is busy and gets no other.
    leases: dict[int, Lease] = field(default_factory=dict)
    lease_ends_at: float = inf
    turn: int = 0  # when it became free, counted
    leaving: bool = False  # its process asked to stop
    given_up: int = 0  # hellos of this incarnation and lower come from a process that is being killed
    given_up_for: str = ""  # the cause, for the supervisor
    # The last load that was ordered. beside: what is done for it beside the worker's state, which then says nothing of it.
    beside: WorkerState | None = None  # loading or verifying
    token: str = ""
    load_reason: str = ""
    load_s: float = 0.0
    verify_s: float = 0.0
    load_ends_at: float = inf
    # From heartbeats and from the supervisor.
    rss_bytes: int = 0
    private_bytes: int = 0
    seat: Seat | None = None

    @property
    def incarnation(self) -> int:
        """Of the process in the seat, as far as we know."""
        if self.hello and self.is_connected:
            return self.hello.incarnation
        return max(self.hello.incarnation if self.hello else 0, self.seat.incarnation if self.seat else 0)

    @property
    def is_connected(self) -> bool:
        return bool(self.connection)

    @property
    def cores(self) -> set[int]:
        """Which are planned for its process."""
        return set(self.hello.cores) if self.hello else set()

    @property
    def is_loading(self) -> bool:
        return self.state in (S.LOADING, S.VERIFYING) or self.beside is not None

    @property
    def is_free(self) -> bool:
        return self.state is S.READY and not self.leases

    def report(self) -> WorkerReport:
        hello, seat = self.hello, self.seat
        return WorkerReport(
            worker=self.name,
            state=self.state,
            model=self.model,
            version=self.version,
            digest=self.digest,
            incarnation=self.incarnation,
            pid=(hello.pid if hello and self.is_connected else 0) or (seat.pid if seat else 0),
            cores=hello.cores if hello else (),
            threads=hello.threads if hello else 0,
            in_flight=len(self.leases),
            served=self.served,
            rss_bytes=self.rss_bytes,
            private_bytes=self.private_bytes,
            restarts=dict(seat.restarts) if seat else {},
            token=self.token,
            load_reason=self.load_reason,
            load_s=self.load_s,
            verify_s=self.verify_s,
            note=seat.note if seat else "",
            beside=self.beside or "",
        )


class Roster:
    """All workers, and for each model and version the free ones, the last used last."""

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self.changes: list[Change] = []  # since the core last looked
        self._by_connection: dict[bytes, Worker] = {}
        # model -> digest -> name
        self._free: defaultdict[str, defaultdict[str, OrderedDict[str, Worker]]] = defaultdict(
            lambda: defaultdict(OrderedDict)
        )
        self._turn = 0
        self.supervisors: dict[str, bytes] = {}  # model -> connection

    def __iter__(self) -> Iterator[Worker]:
        return iter(self.workers.values())

    def of_connection(self, connection: bytes) -> Worker | None:
        return self._by_connection.get(connection)

    def ready(self, model: str) -> int:
        return sum(worker.state is S.READY for worker in self if worker.model == model)

    def name_of(self, model: str, digest: str) -> str:
        """What people call this version; empty when no worker holds it."""
        return next((worker.version for worker in self if (worker.model, worker.digest) == (model, digest)), "")

    # ---- sessions

    def join(self, connection: bytes, hello: WorkerHello, *, admitted: bool) -> Worker:
        """A process with verified weights takes its seat. The seat must be without a session."""
        worker = self.workers.setdefault(hello.worker, Worker(hello.worker, hello.model))
        worker.connection, worker.hello = connection, hello
        worker.model, worker.version, worker.digest = hello.model, hello.version, hello.digest
        worker.token, worker.load_reason = hello.loading or hello.token, "" if hello.loading else hello.load_reason
        worker.beside = S.LOADING if hello.loading else None
        worker.leaving = False
        worker.replies, worker.took_s = 0, 0.0
        worker.load_ends_at = inf
        self._by_connection[connection] = worker
        self.change(worker, E.JOINED if admitted else E.STOOD_BY, "hello")
        return worker

    def part(self, worker: Worker, cause: str) -> None:
        """The session is over; whoever calls this has taken the leases back."""
        assert not worker.leases
        self._by_connection.pop(worker.connection, None)
        worker.connection = b""
        worker.lease_ends_at = worker.load_ends_at = worker.silence_ends_at = inf
        worker.beside = None
        self.change(worker, E.LOST, cause)

    def seat(self, connection: bytes, message: Seats) -> list[Worker]:
        """What the supervisor says of its seats. Returns workers whose session belongs to a process that is no more."""
        self.supervisors[message.model] = connection
        gone = []
        for seat in message.seats:
            worker = self.workers.setdefault(seat.worker, Worker(seat.worker, message.model))
            worker.seat = seat
            if worker.is_connected and (seat.incarnation > worker.incarnation or not seat.pid):
                gone.append(worker)
            elif worker.state is S.DOWN and seat.pid and seat.incarnation > worker.given_up:
                self.change(worker, E.FORKED, "forked")
            elif worker.state is S.STARTING and not seat.pid:
                self.change(worker, E.LOST, "exit")
        self._forget_seats(message)
        return gone

    def _forget_seats(self, message: Seats) -> None:
        """The supervisor was started anew with fewer workers: seats that it does not have are no more."""
        kept = {seat.worker for seat in message.seats}
        for worker in [w for w in self if w.model == message.model and w.name not in kept and w.state is S.DOWN]:
            del self.workers[worker.name]

    # ---- states and who is free

    def change(self, worker: Worker, event: WorkerEvent, cause: str) -> None:
        """The only place that changes a worker's state."""
        before = worker.state
        self._withdraw(worker)
        worker.state = next_state(worker.name, before, event)
        self._note(worker, before, cause)
        if worker.state is S.DRAINING and not worker.leases:
            self.change(worker, E.IDLE, cause)
        self.offer(worker)

    def change_beside(self, worker: Worker, beside: WorkerState | None, cause: str) -> None:
        """What it does beside its state, which stays."""
        worker.beside = beside
        self._note(worker, worker.state, cause)

    def idle(self, worker: Worker) -> None:
        """Its last lease closed."""
        if worker.state is S.DRAINING:
            self.change(worker, E.IDLE, "no open lease")
        else:
            self.offer(worker)

    def offer(self, worker: Worker) -> None:
        """Puts the worker among the free, behind those that wait longer, if it is free."""
        if worker.is_free:
            self._turn += 1
            worker.turn = self._turn
            self._free[worker.model][worker.digest][worker.name] = worker

    def set_version(self, worker: Worker, version: str, digest: str) -> None:
        """Of the leases it gets from now on. The free are sorted by version."""
        self._withdraw(worker)
        worker.version, worker.digest = version, digest
        worker.replies, worker.took_s = 0, 0.0
        self.offer(worker)

    def open_lease(self, worker: Worker, lease: Lease) -> None:
        self._withdraw(worker)
        worker.leases[lease.job] = lease

    def next_free(self, model: str, version: str | None) -> Worker | None:
        """The free worker that computed last, of those that can answer for this version (alias or digest; None: any).

        Its weights are still in the caches: with one request in flight and two workers, taking the other one each time made the
        answer later by a tenth (bench/serving.py).
        """
        best: Worker | None = None
        for group in self._free.get(model, {}).values():
            if not group:
                continue
            worker = next(reversed(group.values()))
            fits = version is None or version in (worker.version, worker.digest)
            if fits and (best is None or worker.turn > best.turn):
                best = worker
        return best

    def n_free(self, worker: Worker) -> int:
        """How many workers are free with this one's model and version, itself included: under a policy, all that may take what
        it may take."""
        return len(self._free[worker.model][worker.digest])

    def _note(self, worker: Worker, before: WorkerState, cause: str) -> None:
        self.changes.append((worker.name, before, worker.state, cause, worker.version, self.ready(worker.model)))

    def _withdraw(self, worker: Worker) -> None:
        group = self._free[worker.model][worker.digest]
        group.pop(worker.name, None)
        if not group:  # each rollout brings another digest: what is empty must not add up in `next_free`
            del self._free[worker.model][worker.digest]

    def check(self) -> None:
        """Invariants, for tests: they hold after every event."""
        free = {name for groups in self._free.values() for group in groups.values() for name in group}
        assert free == {worker.name for worker in self if worker.is_free}
        for worker in self:
            connected = worker.state not in (S.DOWN, S.STARTING)
            assert worker.is_connected == connected, (
                f"{worker.name} is {worker.state}, connection {worker.connection!r}"
            )
            assert connected == (worker.silence_ends_at < inf), f"{worker.name}: silence until {worker.silence_ends_at}"
            assert not worker.leases or worker.state in (S.READY, S.DRAINING), (
                f"{worker.name} {worker.state} holds leases"
            )
            assert not worker.beside or worker.state in (S.READY, S.DRAINING, S.DRAINED), (
                f"{worker.name} {worker.state} loads beside"
            )
            assert not worker.is_loading or worker.load_ends_at < inf, f"{worker.name} may load for ever"
            assert connected == (self._by_connection.get(worker.connection) is worker)
