"""Pure: the broker without its sockets: messages and `now` in, actions out.

    requests   `dispatch`    queue, leases, retries, deadlines
    workers    `roster`      sessions, states, who is free
    versions   `routing`     what may serve, epochs
               `loads`       from an order to load to the worker's serving it
               `arms`        stable or target, while a policy splits the requests between them, and the evidence of it

Liveness is judged here: a session is lost when its process ends, when it is silent for 4 heartbeats, or when a lease or a load
takes longer than allowed. The supervisor is told to end a process that is silent or hung, but not one that starves, which is
silent for want of the processor: it says hello again when it has that.
"""

from dataclasses import dataclass
from math import inf

from hotpool.errors import Conflict, HotpoolError, TooLarge, UnknownVersion
from hotpool.messages import (
    MAX_TEXT,
    PROTOCOL,
    SILENT_HEARTBEATS,
    Ack,
    Cancel,
    Changed,
    ClientHello,
    Done,
    Drain,
    Evidence,
    Failed,
    FromAdmin,
    FromClient,
    FromWorker,
    GetEvidence,
    GetReport,
    Kill,
    Leaving,
    LoadEnded,
    LoadState,
    LoadVersion,
    Ping,
    Pong,
    Pulse,
    Released,
    Report,
    Request,
    Restart,
    Seats,
    SetSpares,
    SetVersions,
    Spares,
    Undrain,
    Welcome,
    Who,
    WorkerHello,
)
from hotpool.states import WorkerState, is_spare

from .actions import Action, ExamineSilence, Payload, ToClient, ToWorker, WatchProcess
from .arms import Arms
from .dispatch import Dispatcher, Limits
from .leases import Pending, Probe
from .lifecycle import WorkerEvent
from .loads import Loads
from .metrics import Metrics
from .replies import error_reply, payload_problem
from .report import evidence, report
from .roster import Roster, Worker
from .routing import Routing

S, E = WorkerState, WorkerEvent

FORGET_CLIENT_S = 30.0  # a client pings every heartbeat; one that was silent for so long must say hello again
LEAST_LOOKS = 2  # one may find by chance that a thread could run; a heartbeat has time for four of them
SWEEP_S = 0.05  # how often silence and overdue leases are looked for; small against heartbeats and leases


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one broker process. boot: random, names it; all durations in seconds. stable: by model, the digest in the pointer to
    its stable version when this process started; empty where it can't be read."""

    boot: int
    default_model: str
    stable: dict[str, str]
    heartbeat_s: float
    load_timeout_s: float
    max_bytes: int
    limits: Limits


class Core:
    """Each `from_*` takes one message of a peer and returns what to do; `take_changes` tells which workers changed."""

    def __init__(self, settings: Settings, now: float) -> None:
        self.settings, self.started_at, self._sweep_at = settings, now, now + SWEEP_S
        self.metrics = Metrics()
        self.roster = Roster()
        self.routing = Routing(settings.default_model, settings.stable)
        self.loads = Loads(self.roster, self.routing, settings.load_timeout_s)
        # 20 bits of the boot's random number and 2**32 jobs: together below 2**53, the limit of `messages.Count`.
        first_job = (settings.boot & 0xFFFFF) << 32
        self.arms = Arms(self.routing, self.roster, now)
        self.dispatch = Dispatcher(self.roster, self.arms, self.metrics, settings.limits, first_job)
        self._clients: dict[bytes, float] = {}  # connection -> last heard
        self._welcome = Welcome(PROTOCOL, settings.boot, int(settings.heartbeat_s * 1e6), settings.max_bytes)
        self._pong = Pong(settings.boot)

    # ---- clients

    def from_client(self, connection: bytes, message: FromClient, payload: Payload | None, now: float) -> list[Action]:
        if connection not in self._clients and not isinstance(message, ClientHello):
            self.metrics.strangers[("clients",)] += 1
            return [ToClient(connection, Who())]
        self._clients[connection] = now
        match message:
            case Request():
                return self._submit(connection, message, payload, now)
            case Ping():
                return [ToClient(connection, self._pong)]
            case Cancel():
                self.dispatch.cancel(message.id, connection)
                return []
            case ClientHello():
                return [ToClient(connection, self._welcome)]

    def client_gone(self, connection: bytes) -> None:
        """It was silent for too long, or an answer could not be delivered: it is gone, or has not read for a while. If it comes
        back, it is asked who it is, says hello, and sends again what it still waits for."""
        if (
            self._clients.pop(connection, None) is not None
        ):  # of strangers nothing is taken on, so there is nothing to look for
            self.dispatch.abandon(connection)

    def _submit(self, connection: bytes, request: Request, payload: Payload | None, now: float) -> list[Action]:
        model = ""
        try:
            model = self.routing.model_of(request.model, (worker.model for worker in self.roster))
            if payload is None or len(payload) > self.settings.max_bytes:
                raise TooLarge(payload_problem(payload, self.settings.max_bytes))
            deadline = now + request.budget_us / 1e6
            if request.worker is not None:
                name, digest = request.worker, request.version or ""
                probe = Probe(request.id, connection, model, name, digest, deadline, request.work, payload)
                return self.dispatch.probes.submit(probe, now)
            self.routing.check_version(model, request.version)
            pending = Pending(
                request.id, connection, model, request.version, request.priority, now, deadline, request.work, payload,
                request.route,
            )  # fmt: skip
            return self.dispatch.submit(pending, now)
        except HotpoolError as error:
            self.metrics.ended(model, "", error.code)
            return [ToClient(connection, error_reply(request.id, error))]

    # ---- workers and their supervisor

    def from_worker(self, connection: bytes, message: FromWorker, payload: Payload | None, now: float) -> list[Action]:
        match message:
            case WorkerHello():
                return self._join(connection, message, now)
            case Pulse():
                return self._pulse(connection, message, now)
            case Seats():
                return self._seat(connection, message, now)
        worker = self.roster.of_connection(connection)
        if worker is not None:
            self._heard(worker, now)
        elif connection not in self.roster.supervisors.values():
            self.metrics.strangers[("workers",)] += 1
            return [ToWorker(connection, Who())]
        if isinstance(message, Ping):
            return [ToWorker(connection, self._pong)]
        return self._from_member(worker, message, payload, now) if worker else []

    def process_ended(self, pid: int, now: float) -> list[Action]:
        """The operating system says that this local process is no more."""
        gone = [worker for worker in self.roster if worker.is_connected and worker.hello and worker.hello.pid == pid]
        return [action for worker in gone for action in self.lose(worker, "exit", now)]

    def examined(self, name: str, *, is_runnable: bool) -> None:
        """What a look at a silent worker's process has found."""
        worker = self.roster.workers[name]
        worker.looks += 1
        worker.looks_runnable += is_runnable

    def worker_gone(self, connection: bytes, now: float) -> list[Action]:
        """A message could not be sent to it."""
        worker = self.roster.of_connection(connection)
        return self.lose(worker, "unreachable", now) if worker else []

    def lose(self, worker: Worker, cause: str, now: float) -> list[Action]:
        """Ends the worker's session; its requests go to others."""
        if not worker.leaving:
            self.metrics.workers_lost[(cause,)] += 1
        blame = cause in ("exit", "hung", "silent") and not worker.leaving
        actions = self.dispatch.take_back(worker, cause, now, blame=blame)
        self.roster.part(worker, cause)
        return actions + self.dispatch.feed_all(now)

    def _from_member(self, worker: Worker, message: FromWorker, payload: Payload | None, now: float) -> list[Action]:
        match message:
            case Done():
                actions = self.dispatch.done(worker, message, payload, now)
            case Failed():
                actions = self.dispatch.failed(worker, message, now)
            case LoadState():
                self.loads.note(worker, message)
                return []
            case LoadEnded():
                return [*self.loads.end(worker, message), *self.dispatch.feed_all(now)]
            case Leaving():
                worker.leaving = True
                self._drain(worker, "leaving")
                actions = self.dispatch.feed_all(now)
            case _:
                return []
        if worker.leaving and not worker.leases:
            actions.append(ToWorker(worker.connection, Released()))
        return actions

    def _join(self, connection: bytes, hello: WorkerHello, now: float) -> list[Action]:
        known = self.roster.workers.get(hello.worker)
        if known is not None and hello.incarnation <= known.given_up:
            return []  # a process that is being killed came to life again
        actions: list[Action] = []
        for stale in {self.roster.of_connection(connection), known}:
            if stale is not None and stale.is_connected:
                cause = "new session" if stale.incarnation == hello.incarnation else "exit"
                actions += self.lose(stale, cause, now)
        self.routing.hear_of(hello.epoch)
        admitted = self.routing.admits(hello.model, hello.digest)
        worker = self.roster.join(connection, hello, admitted=admitted)
        self._heard(worker, now)
        if worker.is_loading:
            self.loads.begin(worker, now)
        actions += [ToWorker(connection, self._welcome), WatchProcess(hello.pid, hello.pulse_thread)]
        return actions + self.dispatch.feed_all(now)

    def _pulse(self, connection: bytes, pulse: Pulse, now: float) -> list[Action]:
        worker = self.roster.workers.get(pulse.worker)
        if worker is not None and worker.incarnation == pulse.incarnation:
            if worker.is_connected:  # or it comes late, of a process that was given up
                self._heard(worker, now)
            worker.rss_bytes, worker.private_bytes = pulse.rss_bytes, pulse.private_bytes
        return [ToWorker(connection, self._pong)]

    def _seat(self, connection: bytes, message: Seats, now: float) -> list[Action]:
        is_new = self.roster.supervisors.get(message.model) != connection
        gone = self.roster.seat(connection, message)
        for worker in self.roster:
            if worker.state is S.STARTING and worker.load_ends_at == inf:
                worker.load_ends_at = now + self.settings.load_timeout_s
        actions: list[Action] = []
        for worker in gone:
            if worker.is_connected:  # a message may name a seat twice
                actions += self.lose(worker, "exit", now)
        actions.append(ToWorker(connection, self._welcome if is_new else self._pong))
        return actions + self._repeat_kills(connection, message)

    def _repeat_kills(self, connection: bytes, message: Seats) -> list[Action]:
        """The first order may have been lost with the supervisor's session."""
        seats = [(seat, self.roster.workers[seat.worker]) for seat in message.seats]
        return [
            ToWorker(connection, Kill(worker.name, seat.incarnation, worker.given_up_for))
            for seat, worker in seats
            if seat.pid and seat.incarnation <= worker.given_up
        ]

    # ---- controller and command line

    def from_admin(self, message: FromAdmin, now: float) -> tuple[Ack | Report | Evidence, list[Action]]:
        """The reply to the one who ordered, and what to do besides. Every order may be repeated without harm."""
        actions: list[Action] = []
        try:
            match message:
                case GetReport():
                    return report(self, message.seq, now), []
                case GetEvidence():
                    return evidence(self, message, now), []
                case SetVersions():
                    actions = self._set_versions(message)
                case Drain():
                    self._order_drain(message)
                case Undrain():
                    self._order_undrain(message)
                case Restart():
                    actions = self._order_restart(message, now)
                case SetSpares():
                    actions = self._order_spares(message)
                case LoadVersion():
                    actions = self.loads.order(self._ordered(message.epoch, message.worker), message, now)
        except HotpoolError as error:
            return Ack(message.seq, error.code, str(error)[:MAX_TEXT]), []
        return Ack(message.seq), [*actions, *self.dispatch.feed_all(now)]

    def _set_versions(self, order: SetVersions) -> list[Action]:
        self.routing.fence(order.epoch)
        self.routing.set_versions(order)
        for worker in self.roster:
            if worker.model == order.model and not self.routing.admits(worker.model, worker.digest):
                self._drain(worker, "version not admitted")
        may_serve = {name for name, digest in order.names.items() if digest in (order.stable, order.target)}
        held = {worker.version for worker in self.roster if worker.model == order.model and worker.version}
        self.metrics.forget(order.model, may_serve | held, order.names)
        served = {None, order.stable, order.target}
        served |= {name for name, digest in order.names.items() if digest in served}
        return self.dispatch.refuse_versions(order.model, served)

    def _order_drain(self, order: Drain) -> None:
        worker = self._ordered(order.epoch, order.worker)
        ready = self.roster.ready(worker.model)
        if worker.state is S.READY and ready - 1 < order.floor:
            raise Conflict(f"{worker.name} stays: {ready} ready, at least {order.floor} must remain after draining")
        self._drain(worker, "ordered")

    def _order_undrain(self, order: Undrain) -> None:
        worker = self._ordered(order.epoch, order.worker)
        if worker.state in (S.LOADING, S.VERIFYING) or worker.leaving:
            raise Conflict(f"{worker.name} is {'leaving' if worker.leaving else worker.state}, it can't rejoin now")
        if not self.routing.admits(worker.model, worker.digest):
            raise UnknownVersion(f"{worker.name} holds {worker.version}, which is not admitted")
        if worker.state is not S.READY:
            self.roster.change(worker, E.UNDRAIN, "ordered")

    def _order_restart(self, order: Restart, now: float) -> list[Action]:
        worker = self._ordered(order.epoch, order.worker)
        if worker.incarnation > order.incarnation:
            return []  # it was restarted
        if worker.state is not S.DRAINED:
            raise Conflict(f"{worker.name} is {worker.state}; only a drained worker is restarted")
        return self._give_up(worker, "wrong", now)

    def _order_spares(self, order: SetSpares) -> list[Action]:
        self.routing.fence(order.epoch)
        supervisor = self.roster.supervisors.get(order.model)
        if supervisor is None:
            raise Conflict(f"no supervisor of model {order.model!r} is here to fork a spare worker")
        for worker in self.roster:
            if not order.n and worker.model == order.model and is_spare(worker.name):
                self._drain(worker, "no longer needed")  # at once: who may leave next is decided by who is ready now
        return [ToWorker(supervisor, Spares(order.n))]

    def _ordered(self, epoch: int, name: str) -> Worker:
        self.routing.fence(epoch)
        worker = self.roster.workers.get(name)
        if worker is None or not worker.is_connected:
            state = worker.state if worker else "unknown here"
            raise Conflict(f"{name} is {state}: it has no running process to order")
        return worker

    def _drain(self, worker: Worker, cause: str) -> None:
        if worker.state is S.READY:
            self.roster.change(worker, E.DRAIN, cause)

    # ---- time

    def tick(self, now: float) -> list[Action]:
        """What is due by now."""
        actions = self.dispatch.expire(now)
        if now >= self._sweep_at:
            actions += self.dispatch.probes.expire(now)
            self._forgive_own_pause(now - self._sweep_at)
            self._sweep_at = now + SWEEP_S
            for connection in [c for c, heard_at in self._clients.items() if now - heard_at > FORGET_CLIENT_S]:
                self.client_gone(connection)
            for worker in list(self.roster):
                self.loads.expire(worker, now)
                if worker.state is not S.DOWN:
                    actions += self._judge(worker, now)
            if self.arms.is_due(now):
                actions += self.dispatch.feed_all(now)
        return actions

    def next_tick(self) -> float:
        """When to call `tick` at the latest."""
        deadline = self.dispatch.next_deadline()
        return self._sweep_at if deadline is None else min(self._sweep_at, deadline)

    def take_changes(self, now: float) -> list[Changed]:
        """Workers' changes of state since the last call."""
        changes, self.roster.changes = self.roster.changes, []
        at_us = int((now - self.started_at) * 1e6)
        return [Changed(at_us, *change) for change in changes]

    def _judge(self, worker: Worker, now: float) -> list[Action]:
        """Whether it is late. A process that never says hello counts: it may have hung under an earlier broker, which alone
        knew of its lease. One that is silent for three heartbeats is examined, and after the fourth it is lost."""
        if now > worker.lease_ends_at or now > worker.load_ends_at:
            return self._give_up(worker, "hung", now)
        if now > worker.silence_ends_at and worker.looks >= LEAST_LOOKS:
            starves = worker.looks_runnable == worker.looks
            return self.lose(worker, "starved", now) if starves else self._give_up(worker, "silent", now)
        if now > worker.silence_ends_at - self.settings.heartbeat_s and worker.hello:
            return [ExamineSilence(worker.name, worker.hello.pid, worker.hello.pulse_thread)]
        return []

    def _heard(self, worker: Worker, now: float) -> None:
        worker.silence_ends_at = now + SILENT_HEARTBEATS * self.settings.heartbeat_s
        worker.looks = worker.looks_runnable = 0

    def _give_up(self, worker: Worker, cause: str, now: float) -> list[Action]:
        worker.given_up, worker.given_up_for = worker.incarnation, cause
        supervisor = self.roster.supervisors.get(worker.model)
        kill = [ToWorker(supervisor, Kill(worker.name, worker.given_up, cause))] if supervisor else []
        return [*kill, *self.lose(worker, cause, now)]

    def _forgive_own_pause(self, pause: float) -> None:
        """After a pause of our own (SIGSTOP, a suspended machine) nobody else was silent (ipyparallel, dask#6391)."""
        if pause <= self.settings.heartbeat_s:
            return
        self._clients = {connection: heard_at + pause for connection, heard_at in self._clients.items()}
        self.arms.wait_ends_at += pause
        for worker in self.roster:
            worker.silence_ends_at += pause
            worker.lease_ends_at += pause
            worker.load_ends_at += pause

    def check(self) -> None:
        """Invariants, for tests: they hold after every event."""
        self.roster.check()
        self.arms.check()
        self.dispatch.check()
