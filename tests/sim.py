"""A world for the broker's core: one seed decides every delay, loss, crash and restart; time only moves from event to event.

Real: `broker.core.Core`, the client's `hotpool.calls.Calls`, the messages. Simulated: sockets, clocks, worker processes, their
supervisor, and an operator who rolls out one version after another. The oracle is `World.verdict`, with `sim_arms.Judge` where
requests are split between two versions.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from broker.actions import Action, ExamineSilence, ToClient, ToWorker, WatchProcess
from broker.core import Core, Settings
from broker.dispatch import Limits
from broker.leases import Pending
from hotpool import messages as m
from hotpool.calls import LAST_WORD_S, Call, Calls
from hotpool.errors import HotpoolError, error_from
from hotpool.states import Executed, WorkerState
from hotpool.wire import decode_result, encode_body

from .sim_arms import WAIT_FOR_STABLE_S, Judge

MODEL = "shapes"
HEARTBEAT_S = 0.05
LEASE_S = 0.5
MAX_EVENTS = 60_000
# The invariants take two thirds of the time. A third of all seeds looks after each event that has a consequence; the others do
# so now and then, as all do after heartbeats and the like.
LOOKS_EVERY = 8
GRACE_S = 0.05  # promise 1: each call ends by its deadline + 50 ms
WORK = encode_body(m.Work("picture"))
PROBE = b"-1 good"  # the payload of a probe


@dataclass(eq=False)
class Connection:
    """One ZeroMQ session: messages of one direction keep their order, and all are lost when it ends."""

    id: bytes
    peer: Any
    boot: int
    alive: bool = True
    arrives_at: dict[str, float] = field(default_factory=dict)


@dataclass
class Plan:
    """What goes wrong in this world. Counts are events over the run."""

    n_workers: int = 3
    n_requests: int = 40
    seconds: float = 4.0
    crashes: int = 2
    hangs: int = 1
    broker_restarts: int = 1
    poison: int = 1
    cancels: int = 3
    rollouts: bool = True
    probes: int = 0  # and now and then a drained worker is restarted
    beside: bool = False  # rollouts load beside what is served, and some are given up half way
    arms: bool = False  # requests are split and copied by policies that change all the time; rollouts take longer
    silences: int = 0  # of the operator, and some more before commits: a broker that comes meanwhile has no table
    starvations: int = 0  # a worker gets no processor for a while, and goes on where it was
    sees_exits: bool = True  # False: as on macOS, only silence and the supervisor tell
    queue_max: int = 1000
    max_batch: int = 3


class World:
    def __init__(self, seed: int, plan: Plan, core_type: type[Core] = Core) -> None:
        self.seed, self.plan, self.core_type = seed, plan, core_type
        self.rng, self.now, self.heap = random.Random(seed), 0.0, []
        self.n_events = self.n_scheduled = 0
        self.boot = 0
        self.problems: list[str] = []
        self.connections: dict[bytes, Connection] = {}
        self.stable = "v1"
        self.target: str | None = None
        self.policy: m.Policy | None = None
        self.ever_tabled = {"v1"}
        self.executed: Counter[int] = Counter()
        self.kills: Counter[int] = Counter()
        self.fewest_ready = plan.n_workers
        self.n_drains = self.n_swaps = self.n_kept = 0
        self.judge = Judge(self) if plan.arms else None
        self.start_broker()
        self.supervisor = Supervisor(self)
        self.client = Client(self)
        self.operator = Operator(self) if plan.rollouts else None
        self.schedule()

    # ---- time

    def after(self, delay_s: float, what: Callable[..., None], *args: Any) -> None:
        self.at(self.now + delay_s, what, *args)

    def at(self, when: float, what: Callable[..., None], *args: Any) -> None:
        self.n_scheduled += 1
        heapq.heappush(self.heap, (when, self.n_scheduled, what, args))

    def run(self) -> None:
        while self.heap and not self.problems:
            self.n_events += 1
            if self.n_events > MAX_EVENTS:
                self.problems.append("the world never comes to rest")
                return
            self.now, _, what, args = heapq.heappop(self.heap)
            if self.now > self.plan.seconds + 7:  # the longest deadline is 5 s
                return
            what(*args)

    def schedule(self) -> None:
        plan, rng = self.plan, self.rng
        poison = set(rng.sample(range(plan.n_requests), min(plan.poison, plan.n_requests)))
        for number in range(plan.n_requests):
            self.after(rng.uniform(0.1, plan.seconds), self.client.call, number, number in poison)
        for _ in range(plan.crashes):
            self.after(rng.uniform(0.2, plan.seconds), self.supervisor.crash_one)
        for _ in range(plan.hangs):
            self.after(rng.uniform(0.2, plan.seconds), self.supervisor.hang_one)
        for _ in range(plan.starvations):
            self.after(rng.uniform(0.2, plan.seconds), self.supervisor.starve_one)
        for _ in range(plan.broker_restarts):
            self.after(rng.uniform(0.2, plan.seconds), self.crash_broker)
        for _ in range(plan.cancels):
            self.after(rng.uniform(0.2, plan.seconds), self.client.cancel_one)
        for number in range(plan.probes):
            self.after(rng.uniform(0.2, plan.seconds), self.client.probe, number)
        for _ in range(plan.silences):
            self.after(rng.uniform(0.2, plan.seconds), self.operator.fall_silent)

    # ---- the broker

    def start_broker(self) -> None:
        self.boot, self.booted_at = self.boot + 1, self.now
        self.is_down = False
        limits = Limits(self.plan.queue_max, 10**9, self.plan.max_batch, max_attempts=3, lease_s=LEASE_S)
        settings = Settings(
            self.boot, MODEL, {MODEL: digest(self.stable)}, HEARTBEAT_S, load_timeout_s=1.0, max_bytes=10**6, limits=limits,
        )  # fmt: skip
        self.core = self.core_type(settings, self.now)
        self.tick(self.boot)

    def crash_broker(self) -> None:
        if self.is_down:
            return
        self.is_down = True
        peers = [connection.peer for connection in self.connections.values() if connection.alive]
        for connection in self.connections.values():
            connection.alive = False
        self.connections.clear()
        self.after(self.rng.uniform(0.05, 0.3), self.start_broker)
        for peer in peers:
            self.after(self.rng.uniform(0.3, 0.4), peer.connect)

    def tick(self, boot: int) -> None:
        if boot == self.boot:
            self.do(self.core.tick(self.now))
            self.after(max(0.0, self.core.next_tick() - self.now), self.tick, boot)

    def do(self, actions: list[Action]) -> None:
        if (actions and self.seed % 3 == 0) or self.n_events % LOOKS_EVERY == 0:
            try:
                self.core.check()
            except AssertionError as error:
                self.problems.append(f"invariant: {error}")
        for changed in self.core.take_changes(self.now):
            if changed.cause == "ordered" and changed.after == WorkerState.DRAINING:
                self.n_drains += 1
                self.fewest_ready = min(self.fewest_ready, changed.ready)
        self.inspect_batches(actions)
        for action in actions:
            match action:
                case ToClient(connection, message, payload) | ToWorker(connection, message, payload):
                    if isinstance(message, m.Job):
                        self.inspect_lease(connection, message, payload, is_probe=payload == PROBE)
                    assert payload is None or isinstance(payload, bytes)
                    self.deliver(connection, message, payload)
                case WatchProcess(pid, _):
                    self.supervisor.watch(pid)
                case ExamineSilence(worker, pid, _):
                    self.core.examined(worker, is_runnable=self.supervisor.pids[pid].is_starved)
        if self.judge:
            self.judge.waiting()

    def inspect_batches(self, actions: list[Action]) -> None:
        """Who is told that jobs come behind must get them in the same breath, or a worker would wait for nothing."""
        behind: dict[bytes, int] = {}
        for action in actions:
            if isinstance(action, ToWorker) and isinstance(action.message, m.Job):
                if behind.get(action.connection, 0) not in (0, action.message.behind + 1):
                    self.problems.append(f"a job with {action.message.behind} behind it came out of its turn")
                behind[action.connection] = action.message.behind
        if any(behind.values()):
            self.problems.append("a batch was not sent whole")

    def inspect_lease(self, connection: bytes, job: m.Job, payload: Any, *, is_probe: bool) -> None:
        if job.budget_us <= 0 and not is_probe:
            self.problems.append("a request was leased after its deadline")
        worker = self.core.roster.of_connection(connection)
        if worker is None:
            return  # lost in the same breath; the lease is back in the queue
        if is_probe and self.core.dispatch._waiting.lanes_of(worker):
            self.problems.append(f"{worker.name} was probed while requests waited for it")
        admitted = self.admitted(worker.leases[job.job].pending)
        if worker.version not in admitted:
            self.problems.append(f"{worker.name} got a request on {worker.version}, admitted are {admitted}")
        if self.judge:
            self.judge.leased(worker, worker.leases[job.job], int(payload.split()[0]))

    def admitted(self, pending: Pending | None, wait_s: float = WAIT_FOR_STABLE_S) -> set[str | None]:
        """What may answer now. A broker without a table takes workers at their word for those who name a version; for others
        stable alone, unless there was time to say hello and nobody has come who holds it."""
        if self.core.routing.report():
            return {self.stable, self.target}
        has_stable = any(w.version == self.stable and w.state is WorkerState.READY for w in self.core.roster)
        has_waited = self.now - self.booted_at >= wait_s
        is_named = pending is None or pending.version is not None
        return {*self.ever_tabled} if is_named or (has_waited and not has_stable) else {self.stable}

    # ---- the network

    def connect(self, peer: Any) -> Connection:
        connection = Connection(self.rng.randbytes(5), peer, self.boot)
        self.connections[connection.id] = connection
        return connection

    def arrival(self, connection: Connection, direction: str) -> float:
        at = max(self.now + self.rng.uniform(0.0001, 0.002), connection.arrives_at.get(direction, 0.0) + 1e-6)
        connection.arrives_at[direction] = at
        return at - self.now

    def send(self, connection: Connection, message: m.Message, payload: bytes | None = None) -> None:
        """From a peer to the broker."""
        self.after(self.arrival(connection, "in"), self.receive, connection, message, payload)

    def receive(self, connection: Connection, message: Any, payload: bytes | None) -> None:
        if not connection.alive or connection.boot != self.boot:
            return
        handler = self.core.from_client if isinstance(connection.peer, Client) else self.core.from_worker
        owed = self.judge.owed(message) if self.judge else None
        actions = handler(connection.id, message, payload, self.now)
        if owed and not any(isinstance(action.message, m.Reply) for action in actions if isinstance(action, ToClient)):
            self.problems.append(f"the answer to request {owed} was held back")
        self.do(actions)

    def deliver(self, connection_id: bytes, message: m.Message, payload: bytes | None) -> None:
        connection = self.connections.get(connection_id)
        if connection is not None and connection.alive:
            self.after(self.arrival(connection, "out"), self.hand_over, connection, message, payload)

    def hand_over(self, connection: Connection, message: m.Message, payload: bytes | None) -> None:
        if connection.alive:
            connection.peer.on_message(connection, message, payload)

    def cut(self, connection: Connection) -> None:
        connection.alive = False
        self.connections.pop(connection.id, None)

    # ---- the oracle

    def verdict(self) -> list[str]:
        problems = list(self.problems)
        for number in range(self.plan.n_requests):
            outcomes = self.client.outcomes[number]
            if len(outcomes) != 1:
                problems.append(f"request {number} has outcomes {outcomes}")
            elif outcomes[0] == "ok" and not self.executed[number]:
                problems.append(f"request {number} was answered but never executed")
        problems += [f"request {n} ended {k} workers" for n, k in self.kills.items() if k > self.allowed_kills()]
        if self.plan.beside and self.n_drains:
            problems.append("a rollout that loads beside has drained a worker")
        if self.fewest_ready < max(1, self.plan.n_workers - 1):
            problems.append(f"an ordered drain left {self.fewest_ready} ready")
        problems += self.left_over()
        if self.plan.probes and not self.client.n_probed:
            problems.append("no probe was ever answered")
        return problems

    def left_over(self) -> list[str]:
        """Nothing may stay behind when the dust has settled."""
        found = []
        if held := self.core.dispatch.n_pending:
            found.append(f"the broker still holds {held} requests")
        if parked := self.core.dispatch.probes._parked:
            found.append(f"the broker still holds probes of {list(parked)}")
        for worker in self.core.roster:
            if worker.leases:
                found.append(f"{worker.name} still holds {len(worker.leases)} leases")
        if missing := self.plan.n_workers - sum(worker.is_connected for worker in self.core.roster):
            found.append(f"{missing} workers never came back")
        return found

    def allowed_kills(self) -> int:
        # Once in a batch (not blamed alone), then twice alone, and its one copy; a broker that restarts forgets, so the count
        # starts again.
        return (3 + self.plan.arms) * self.boot


class Client:
    """The client library's core, with simulated sockets."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.calls: Calls[int] = Calls("sim", world.rng.random, max_bytes=10**6)
        self.outcomes: dict[int, list[str]] = {number: [] for number in range(world.plan.n_requests)}
        self.welcomed = False
        self.probes: dict[bytes, tuple[str, str]] = {}  # without an outcome: which worker, with which digest
        self.n_probed = 0
        self.connect()

    def connect(self) -> None:
        self.welcomed = False
        if self.world.is_down:
            self.world.after(0.02, self.connect)
            return
        self.connection = self.world.connect(self)
        self.world.send(self.connection, m.ClientHello(1, b"clientid"))
        self.world.after(0.5, self.retry_hello, self.connection)

    def retry_hello(self, connection: Connection) -> None:
        if connection is self.connection and not self.welcomed:
            self.world.cut(connection)
            self.connect()

    def call(self, number: int, poison: bool) -> None:
        world = self.world
        request_id = b"clientid" + number.to_bytes(8, "big")
        version = world.rng.choice([None, None, None, "v1"])
        if world.plan.beside:
            version = world.rng.choice([None, None, world.stable, world.target])
        if world.plan.arms:
            version = world.rng.choice([None] * 8 + [world.stable, world.target])
        timeout_s = world.rng.choice([0.3, 2.0, 5.0])
        request = m.Request(request_id, MODEL, version, world.rng.randrange(3), 0, WORK)
        if world.judge:
            request = world.judge.asked(number, request)
        payload = f"{number} {'poison' if poison else world.rng.choice(['good'] * 9 + ['bad'])}".encode()
        call = Call(request, payload, number, world.now, world.now + timeout_s)
        self.calls.add(call)
        if self.welcomed:
            self.submit(call)
        world.after(timeout_s + LAST_WORD_S + 1e-6, self.due)
        world.after(timeout_s + GRACE_S, self.must_be_over, number)

    def submit(self, call: Call[int]) -> None:
        asked, world = call.request, self.world
        left_us = int((call.deadline - world.now) * 1e6)
        if left_us > 0:
            call.times_sent += 1
            world.send(
                self.connection,
                m.Request(
                    asked.id,
                    asked.model,
                    asked.version,
                    asked.priority,
                    left_us,
                    asked.work,
                    call.times_sent,
                    asked.route,
                ),
                bytes(call.payload),
            )

    def probe(self, number: int) -> None:
        worker = self.world.rng.choice(list(self.world.supervisor.processes))
        asked = digest(self.world.rng.choice([self.world.stable, self.world.target or self.world.stable]))
        request_id = b"proberid" + number.to_bytes(8, "big")
        self.probes[request_id] = worker, asked
        if self.welcomed:
            budget_us = self.world.rng.choice([20_000, 2_000_000])
            request = m.Request(request_id, MODEL, asked, 2, budget_us, WORK, worker=worker)
            self.world.send(self.connection, request, PROBE)

    def on_probed(self, message: m.Reply | m.ErrorReply) -> None:
        worker, asked = self.probes.pop(message.id, ("", ""))
        if not worker:
            self.world.problems.append(f"a probe has two outcomes, the second is {message}")
        elif isinstance(message, m.Reply):
            self.n_probed += 1
            version = decode_result(message.result).classes[0][1]
            if (message.worker, message.digest, digest(version)) != (worker, asked, asked):
                self.world.problems.append(f"a probe of {worker} with {asked} was answered by {message}")

    def due(self) -> None:
        again, ended = self.calls.due(self.world.now, connected=self.welcomed)
        for call in again:
            if self.welcomed:
                self.submit(call)
        for outcome in ended:
            self.outcomes[outcome.call.ticket].append(outcome.error.code)
        if (at := self.calls.next_timer()) is not None and again:
            self.world.after(max(0.0, at - self.world.now), self.due)

    def must_be_over(self, number: int) -> None:
        if not self.outcomes[number]:
            self.world.problems.append(f"request {number} has no outcome 50 ms after its deadline")

    def cancel_one(self) -> None:
        open_numbers = [number for number, got in self.outcomes.items() if not got]
        number = self.world.rng.choice(open_numbers or [0])
        call = self.calls.take(b"clientid" + number.to_bytes(8, "big"))
        if call is not None:
            self.outcomes[number].append("cancelled")
            self.world.send(self.connection, m.Cancel(call.request.id))

    def on_message(self, connection: Connection, message: m.Message, payload: bytes | None) -> None:
        match message:
            case m.Welcome():
                self.welcomed = True
                for call in self.calls.unanswered():
                    self.submit(call)
                self.world.after(HEARTBEAT_S, self.ping, connection)
            case m.Reply() | m.ErrorReply() if message.id.startswith(b"proberid"):
                self.on_probed(message)
            case m.Reply():
                self.on_reply(message)
            case m.ErrorReply():
                executed = Executed(message.executed)
                retry_s = None if message.retry_after_us is None else message.retry_after_us / 1e6
                self.on_error(message.id, error_from(message.code, message.message, executed, retry_s))
            case m.Who():
                self.world.send(connection, m.ClientHello(1, b"clientid"))

    def ping(self, connection: Connection) -> None:
        if connection.alive:
            self.world.send(connection, m.Ping())
            self.world.after(HEARTBEAT_S, self.ping, connection)

    def on_reply(self, reply: m.Reply) -> None:
        call = self.calls.take(reply.id)
        if call is None:
            return
        number, version, _ = decode_result(reply.result).classes[0]
        if number != call.ticket:
            self.world.problems.append(f"request {call.ticket} got the answer to {number}")
        if self.world.judge:
            self.world.judge.answered(number, reply)
        if version != reply.version:
            self.world.problems.append(f"request {call.ticket}: computed by {version}, said to be {reply.version}")
        if call.request.version not in (None, reply.version):
            self.world.problems.append(f"request {call.ticket} for {call.request.version} was answered by {version}")
        self.outcomes[call.ticket].append("ok")

    def on_error(self, request_id: bytes, error: HotpoolError) -> None:
        outcome = self.calls.refused(request_id, error, self.world.now)
        if outcome is not None:
            self.outcomes[outcome.call.ticket].append(outcome.error.code)
        elif (at := self.calls.next_timer()) is not None:
            self.world.after(max(0.0, at - self.world.now), self.due)


class Supervisor:
    """Keeps the seats filled and ends processes that the broker gave up."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.processes: dict[str, Process] = {}
        self.incarnations: Counter[str] = Counter()
        self.pids: dict[int, Process] = {}
        self.connect()
        for number in range(world.plan.n_workers):
            self.fork(f"worker-{number}")

    def connect(self) -> None:
        if self.world.is_down:
            self.world.after(0.02, self.connect)
            return
        self.connection = self.world.connect(self)
        self.heartbeat(self.connection)

    def heartbeat(self, connection: Connection) -> None:
        if connection.alive:
            seats = tuple(
                m.Seat(name, self.incarnations[name], process.pid if process.alive else 0, {})
                for name, process in self.processes.items()
            )
            self.world.send(connection, m.Seats(MODEL, seats))
            self.world.after(HEARTBEAT_S, self.heartbeat, connection)

    def on_message(self, connection: Connection, message: m.Message, payload: bytes | None) -> None:
        if isinstance(message, m.Kill):
            process = self.processes[message.worker]
            if process.incarnation == message.incarnation:
                if message.cause == "silent" and process.alive and not process.hung:
                    self.world.problems.append(f"{process.name} only waited for the processor, and was given up")
                self.end(process)

    def fork(self, name: str) -> None:
        self.incarnations[name] += 1
        process = Process(self.world, name, self.incarnations[name], pid=len(self.pids) + 1)
        self.processes[name] = self.pids[process.pid] = process

    def end(self, process: "Process") -> None:
        if not process.alive:
            return
        process.alive = False
        self.world.cut(process.connection)
        if self.world.plan.sees_exits and process.watched:
            self.world.after(0.002, self.report_exit, process.pid)
        self.world.after(self.world.rng.uniform(0.05, 0.4), self.fork, process.name)

    def report_exit(self, pid: int) -> None:
        self.world.do(self.world.core.process_ended(pid, self.world.now))

    def watch(self, pid: int) -> None:
        process = self.pids[pid]
        process.watched = True
        if not process.alive and self.world.plan.sees_exits:
            self.world.after(0.002, self.report_exit, pid)

    def crash_one(self) -> None:
        self.end(self.world.rng.choice(list(self.processes.values())))

    def hang_one(self) -> None:
        process = self.world.rng.choice(list(self.processes.values()))
        process.hung = True
        process.silent = self.world.rng.random() < 0.5  # SIGSTOP silences the heartbeat too, an endless loop does not

    def starve_one(self) -> None:
        process = self.world.rng.choice(list(self.processes.values()))
        process.starved_until = max(process.starved_until, self.world.now + self.world.rng.uniform(0.2, 3.0))


class Process:
    """A worker process: loads, computes one job after another, answers."""

    def __init__(self, world: World, name: str, incarnation: int, pid: int) -> None:
        self.world, self.name, self.incarnation, self.pid = world, name, incarnation, pid
        self.alive, self.hung, self.silent, self.watched, self.busy = True, False, False, False, False
        self.starved_until, self.welcomed = 0.0, False
        self.version, self.token, self.load_reason = world.stable, "", ""
        self.order: m.Load | None = None  # the newest, until it failed or the broker has said what to serve
        self.held = ""  # loaded by it, and not yet served
        self.jobs: list[tuple[Connection, m.Message, bytes]] = []  # and orders, in the order in which they came
        self.connection = Connection(b"", self, -1, alive=False)
        world.after(world.rng.uniform(0.01, 0.1), self.connect)

    @property
    def is_starved(self) -> bool:
        return self.alive and not self.hung and self.world.now < self.starved_until

    def later(self, what: Callable[..., None], *args: Any) -> None:
        """What it would do now, as soon as it has the processor again."""
        self.world.at(self.starved_until, what, *args)  # to the digit, or messages would change their order

    def connect(self) -> None:
        if not self.alive or self.hung:
            return
        if self.is_starved:
            self.later(self.connect)
            return
        if self.world.is_down:
            self.world.after(0.02, self.connect)
            return
        self.connection = self.world.connect(self)
        self.hello()
        self.pulse(self.connection)

    def hello(self) -> None:
        hello = m.WorkerHello(
            1, self.name, self.incarnation, self.pid, MODEL, self.version, digest(self.version), 0, (0,), 1,
            self.token, self.load_reason, self.order.token if self.order else "",
        )  # fmt: skip
        self.welcomed = False
        self.world.send(self.connection, hello)

    def pulse(self, connection: Connection) -> None:
        if self.is_starved:
            self.later(self.pulse, connection)
        elif connection.alive and not self.silent:
            self.world.send(connection, m.Pulse(self.name, self.incarnation, 0, 0))
            self.world.after(HEARTBEAT_S, self.pulse, connection)

    def on_message(self, connection: Connection, message: m.Message, payload: bytes | None) -> None:
        if self.hung:
            return
        if self.is_starved:
            self.later(self.on_message, connection, message, payload)
            return
        match message:
            case m.Job() | m.Load() | m.Serve():
                self.jobs.append((connection, message, payload or b""))
                self.compute_next()
            case m.Welcome():
                self.welcomed = True
                self.report_held()
            case m.Who() if self.welcomed:
                self.hello()

    def loaded(self, load: m.Load) -> None:
        if self.is_starved:
            self.later(self.loaded, load)
            return
        if not self.alive or self.hung or load is not self.order:
            return
        if self.connection.alive:
            self.world.send(self.connection, m.LoadState(load.token, "verifying"))
        if self.world.rng.random() < 0.1:
            self.order, self.token, self.load_reason = None, load.token, "refused"
            if self.connection.alive:
                ended = m.LoadEnded(load.token, self.version, digest(self.version), 1, 1, "refused")
                self.world.send(self.connection, ended)
        else:
            self.held = load.digest[7:]
            self.report_held()

    def report_held(self) -> None:
        if self.order and self.held and self.connection.alive:
            self.world.send(self.connection, m.LoadEnded(self.order.token, self.held, digest(self.held), 1, 1))

    def serve(self, connection: Connection, order: m.Serve) -> None:
        if not connection.alive:
            return  # it was never read: the session's socket is closed
        kept, swapped = order.digest == digest(self.version), order.digest == digest(self.held)
        if not (kept or swapped):
            self.world.problems.append(
                f"{self.name} was told to serve {order.digest}, it holds {self.version} {self.held}"
            )
        self.world.n_swaps, self.world.n_kept = self.world.n_swaps + swapped, self.world.n_kept + kept
        self.version = self.held if swapped else self.version
        self.order, self.held, self.token, self.load_reason = None, "", order.token, ""

    def compute_next(self) -> None:
        while self.jobs and not self.busy:
            connection, message, payload = self.jobs.pop(0)
            match message:
                case m.Serve():
                    self.serve(connection, message)
                case m.Load() if connection.alive:
                    self.order, self.held = message, ""
                    self.world.after(self.world.rng.uniform(0.05, 0.2), self.loaded, message)
                case m.Job():
                    self.busy = True
                    self.world.after(self.world.rng.expovariate(1 / 0.02), self.finish, connection, message, payload)

    def finish(self, connection: Connection, job: m.Job, payload: bytes) -> None:
        if not self.alive or self.hung:
            return
        if self.is_starved:
            self.later(self.finish, connection, job, payload)
            return
        self.busy = False
        number, kind = payload.decode().split()
        self.world.executed[int(number)] += 1
        if kind == "poison":
            self.world.kills[int(number)] += 1
            self.world.supervisor.end(self)
            return
        if connection.alive:
            if kind == "bad":
                self.world.send(connection, m.Failed(job.job, 1, "bad_image", "no picture", "no"))
            else:
                result = m.Result(((int(number), self.version, 1.0),))
                self.world.send(connection, m.Done(job.job, 1, encode_body(result), int(number)))
        self.compute_next()


class Operator:
    """Rolls out v2, v3, ... for ever, one worker at a time, and says which versions may serve."""

    def __init__(self, world: World) -> None:
        self.world, self.n, self.boot, self.attempt, self.n_policies = world, 1, 0, 0, 0
        self.silent_until = 0.0
        world.after(0.3, self.act)

    def fall_silent(self) -> None:
        self.silent_until = self.world.now + self.world.rng.uniform(0.2, 2.0)

    def act(self) -> None:
        world = self.world
        if world.now < world.plan.seconds + 1:
            world.after(0.02, self.act)
        if world.now < self.silent_until:
            return
        if self.boot != world.boot:
            self.boot = world.boot
            self.tell()
        goal = world.target or self.begin()
        workers = [worker for worker in world.core.roster if worker.is_connected]
        for worker in workers:
            if worker.state is WorkerState.DRAINED:
                self.step(worker, goal)
        if world.plan.arms:
            if world.rng.random() < 0.2:
                self.split()
            if world.rng.random() < 0.9:
                return  # there is more to see while the arms differ
        # Reckless: asks for every worker at once and commits while seats are empty. The floor and the table must hold.
        behind = [worker for worker in workers if worker.version != goal]
        for worker in behind:
            if not world.plan.beside:
                self.order(m.Drain(0, 1, worker.name, floor=max(1, world.plan.n_workers - 1)))
            elif worker.state is WorkerState.READY and not worker.is_loading:
                self.load(worker, goal, beside=True)
        if workers and not behind and all(worker.state is WorkerState.READY for worker in workers):
            if world.plan.silences and world.rng.random() < 0.3:
                self.fall_silent()  # killed at the worst moment, and the broker with it
                world.crash_broker()
                return
            world.stable, world.target, world.policy = goal, None, None
            self.tell()
        elif world.plan.beside and world.rng.random() < 0.02:
            world.target = world.policy = None  # in the middle of loads: what they bring must not be served
            self.tell()

    def begin(self) -> str:
        self.n += 1
        target = self.world.target = f"v{self.n}"
        self.world.ever_tabled.add(target)
        self.tell()
        return target

    def split(self) -> None:
        """Another share, sometimes the same number again, sometimes no policy at all."""
        world, rng = self.world, self.world.rng
        self.n_policies += rng.random() < 0.8
        share, shadow = rng.choice([0.0, 0.0, 5.0, 30.0, 99.0, 100.0]), rng.choice([0.0, 50.0, 100.0])
        world.policy = m.Policy(self.n_policies, self.n, share, shadow) if rng.random() < 0.9 else None
        self.tell()

    def step(self, worker: Any, goal: str) -> None:
        if self.world.plan.probes and self.world.rng.random() < 0.1:
            self.order(m.Restart(0, 1, worker.name, worker.incarnation))
        elif worker.version == goal:
            self.order(m.Undrain(0, 1, worker.name))
        else:
            self.load(worker, goal, beside=False)

    def load(self, worker: Any, goal: str, *, beside: bool) -> None:
        self.attempt += 1
        self.order(m.LoadVersion(0, 1, worker.name, digest(goal), f"{goal}-{self.attempt}", beside))

    def tell(self) -> None:
        world = self.world
        names = {f"v{n}": digest(f"v{n}") for n in range(1, self.n + 1)}
        target = digest(world.target) if world.target else None
        self.order(m.SetVersions(0, 1, MODEL, digest(world.stable), target, names, world.policy))

    def order(self, order: m.FromAdmin) -> None:
        _, actions = self.world.core.from_admin(order, self.world.now)
        self.world.do(actions)


def digest(version: str) -> str:
    return f"digest-{version}"
