"""A pool in virtual time for the controller: broker, workers and preflight as the controller sees them, and a world around it.

The fake obeys every order, also one that breaks the floor, and remembers what was wrong with it.
"""

import hashlib
import heapq
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from msgspec import convert

from control import orders
from control.actions import Action, Record, SetTable
from control.controller import Controller
from control.events import Event, EventKind
from control.journal import Journal
from control.ledger import Ledger, replay
from control.plan import SHADOW, share_of
from control.recheck import recheck
from control.rollout import Kind, Rollout
from control.settings import Settings
from control.view import Evaluating, Finding, Probed, Round
from hotpool import messages as m
from hotpool.errors import Unwritable
from hotpool.evidence import Counts
from hotpool.home import Home
from hotpool.manifest import MANIFEST, WEIGHTS, Manifest, manifest_json
from hotpool.stable import read_stable, write_stable
from hotpool.states import Phase, Strategy, WorkerState, is_spare, spare_name
from tests.held import without_clocks

K, S = EventKind, WorkerState
MODEL = "shapes"
OPERATOR = "ada@example"
ANY_EPOCH = -1
ORDERS = (EventKind.PAUSED, EventKind.RESUMED, EventKind.PROMOTED, EventKind.ABORT_REQUESTED)
ENDS_A_PAUSE = (EventKind.RESUMED, EventKind.PROMOTED, EventKind.ABORT_REQUESTED, EventKind.ROLLBACK_STARTED)
SETTINGS = Settings(
    max_unavailable=1,
    bake_s=1.0,
    drain_timeout_s=5.0,
    load_timeout_s=5.0,
    progress_deadline_s=20.0,
    max_worker_retries=2,
    preflight_memory_mb=1024,
    preflight_timeout_s=10.0,
)


class Killed(Exception):
    """The controller was killed here."""


@dataclass(slots=True)
class FakeWorker:
    name: str
    digest: str
    state: WorkerState = S.READY
    incarnation: int = 1
    epoch: int = 0  # counts what happened to it: a scheduled event of an earlier time is void
    token: str = ""
    load_reason: str = ""
    is_known: bool = True  # False: the broker was restarted and has not heard of it yet
    beside: str = ""
    loading: str = ""  # digest of what it loads
    has_loaded: bool = False  # and nobody has said yet what to serve


class Requests(Protocol):
    """What happens to the requests of the pool, see `fake_traffic`."""

    def pass_time(self, seconds: float) -> None: ...
    def lose(self, digest: str) -> None: ...
    def forget(self) -> None: ...


class NoRequests:
    """Nobody asks."""

    def pass_time(self, seconds: float) -> None:
        pass

    def lose(self, digest: str) -> None:
        """A worker with this version was lost while it served."""

    def forget(self) -> None:
        """The broker was restarted."""


class FakePool:
    """The broker with its workers. Time moves only by `pass_time`."""

    def __init__(self, home: Home, n_workers: int, stable: str, floor: int) -> None:
        self.home, self.floor, self.now = home, floor, 100.0
        self.workers = {f"worker-{i}": FakeWorker(f"worker-{i}", stable) for i in range(n_workers)}
        self.table: m.ModelReport | None = None
        self.booted_at = self.now  # the broker
        self.leader = 0  # highest epoch obeyed
        self.drain_s, self.load_s, self.restart_s, self.boot_s = 0.11, 0.23, 0.31, 0.17
        self.bad: dict[str, str] = {}  # digest -> why no worker can load it
        self.stuck: set[str] = set()  # workers whose drain or load never ends
        self.dead: set[str] = set()  # workers that never start again
        self.lying: set[str] = set()  # workers whose loads end well and change nothing
        self.wrong: list[str] = []  # what the controller did that it must not
        self.fewest_ready = n_workers
        self.orders = 0  # obeyed
        self.n_restarts = 0  # that were ordered
        self.leaving: set[str] = set()  # spares that are told to go
        self.counts: Callable[[], Counts | None] = lambda: None
        self.requests: Requests = NoRequests()
        self.is_announced: Callable[[str], bool] = lambda worker: True
        self._due: list[tuple[float, int, str, int, Callable[[FakeWorker], None]]] = []
        self._n = count(1)

    # ---- what the controller uses

    def report(self) -> m.Report:
        reports = tuple(
            m.WorkerReport(
                worker=w.name,
                state=w.state,
                model=MODEL,
                version=w.digest[:4],
                digest=w.digest,
                incarnation=w.incarnation,
                token=w.token,
                load_reason=w.load_reason,
                load_s=self.load_s,
                beside=w.beside,
            )
            for w in self.workers.values()
            if w.is_known
        )
        tables = (self.table,) if self.table else ()
        return m.Report(1, 1, 0.0, self.leader, reports, m.QueueReport(0, 0, 0, 0), tables, ())

    def request(self, make: Callable[[int], m.FromAdmin]) -> m.Ack | m.Report:
        order = make(next(self._n))
        assert not isinstance(order, m.GetReport | m.Watch)
        if order.epoch < self.leader:
            return m.Ack(order.seq, "stale_epoch", "replaced")
        self.leader = order.epoch
        self.orders += 1
        if isinstance(order, m.SetVersions):
            self._set_versions(order)
            return m.Ack(order.seq)
        if isinstance(order, m.SetSpares):
            self._set_spares(order.n)
            return m.Ack(order.seq)
        if not self.is_announced(order.worker):
            self.wrong.append(f"{order} came before its event")
        worker = self.workers[order.worker]
        if worker.state is S.DOWN:
            return m.Ack(order.seq, "conflict", "it has no running process to order")
        match order:
            case m.Drain():
                self._drain(worker, f"{order}")
            case m.Undrain():
                if not self.admits(worker.digest):
                    return m.Ack(order.seq, "unknown_version", "not admitted")
                if worker.state in (S.DRAINING, S.DRAINED) and worker.name not in self.leaving:
                    self.become(worker, S.READY)
            case m.LoadVersion():
                return self._load(worker, order)
            case m.Restart():
                return self._restart(worker, order)
        return m.Ack(order.seq)

    def evidence(self, model: str) -> Counts | None:
        return self.counts()

    def changes(self, timeout_s: float) -> list[m.Changed]:
        return []

    # ---- faults

    def crash(self, name: str) -> None:
        worker = self.workers[name]
        if worker.state is not S.DOWN:
            if worker.state in (S.READY, S.DRAINING):
                self.requests.lose(worker.digest)
            self.become(worker, S.DOWN)
            worker.is_known, worker.loading, worker.beside = True, "", ""
            if name not in self.dead:
                self._after(worker, self.restart_s, self._start)

    def restart_supervisor(self) -> None:
        """All workers end with it, and it knows of no spares."""
        for name in list(self.workers):
            self.crash(name)
            if is_spare(name):
                self._leave(self.workers[name])

    def restart_broker(self) -> None:
        """Workers keep what they hold and go on with their loads; drains that were ordered are forgotten."""
        self.table, self.leader, self.booted_at = None, 0, self.now
        self.requests.forget()
        for worker in self.workers.values():
            if worker.state not in (S.DOWN, S.STARTING):
                worker.is_known = False
                self.become(worker, S.DOWN)
                self._after(worker, 0.05 * next(self._n) % 0.4, self._join)

    # ---- time

    def pass_time(self, at_most_s: float = 0.05) -> None:
        self.now += at_most_s
        self.requests.pass_time(at_most_s)
        while self._due and self._due[0][0] <= self.now:
            _, _, name, epoch, what = heapq.heappop(self._due)
            worker = self.workers.get(name)  # a spare may be gone
            if worker is not None and epoch in (worker.epoch, ANY_EPOCH):
                what(worker)

    # ---- inside

    def ready(self) -> int:
        return sum(worker.state is S.READY for worker in self.workers.values())

    def is_at_rest(self) -> bool:
        return all(worker.state is S.READY and not is_spare(worker.name) for worker in self.workers.values())

    def admits(self, digest: str) -> bool:
        return self.table is None or digest in (self.table.stable, self.table.target)

    def become(self, worker: FakeWorker, state: WorkerState) -> None:
        worker.state = state
        worker.epoch += 1
        self.fewest_ready = min(self.fewest_ready, self.ready())

    def _after(self, worker: FakeWorker, delay_s: float, what: Callable[[FakeWorker], None]) -> None:
        self._at(worker, worker.epoch, delay_s, what)

    def _at(self, worker: FakeWorker, epoch: int, delay_s: float, what: Callable[[FakeWorker], None]) -> None:
        heapq.heappush(self._due, (self.now + delay_s, next(self._n), worker.name, epoch, what))

    def _set_versions(self, order: m.SetVersions) -> None:
        names = dict(order.names)
        self.table = m.ModelReport(order.model, order.epoch, order.stable, order.target, names, order.policy)
        for worker in self.workers.values():
            if not self.admits(worker.digest):
                self._drain(worker, f"{order}")

    def _drain(self, worker: FakeWorker, why: str) -> None:
        if worker.state is not S.READY:
            return
        if self.ready() - 1 < self.floor:
            self.wrong.append(f"{self.ready()} ready, floor {self.floor}: {why} breaks it")
        self.become(worker, S.DRAINING)
        self.drain_later(worker)

    def drain_later(self, worker: FakeWorker) -> None:
        if worker.name not in self.stuck:
            self._after(worker, self.drain_s, lambda worker: self.become(worker, S.DRAINED))

    def _load(self, worker: FakeWorker, order: m.LoadVersion) -> m.Ack:
        if order.token == worker.token:
            return m.Ack(order.seq)
        if worker.loading or worker.state is not (S.READY if order.beside else S.DRAINED):
            return m.Ack(order.seq, "conflict", "only a ready one loads beside, only a drained one without")
        if order.beside and not self.admits(order.digest):
            self.wrong.append(f"{order} of what may not serve")
        worker.token, worker.load_reason, worker.loading, worker.has_loaded = order.token, "", order.digest, False
        if order.beside:
            worker.beside = "loading"
        else:
            self.become(worker, S.LOADING)
        if worker.name not in self.stuck:
            self._at(worker, ANY_EPOCH, self.load_s, lambda worker: self._end_load(worker, order.token))
        return m.Ack(order.seq)

    def _restart(self, worker: FakeWorker, order: m.Restart) -> m.Ack:
        if worker.incarnation > order.incarnation:
            return m.Ack(order.seq)
        if worker.state is not S.DRAINED:
            return m.Ack(order.seq, "conflict", "only a drained worker is restarted")
        self.n_restarts += 1
        self.crash(worker.name)
        return m.Ack(order.seq)

    def _set_spares(self, n: int) -> None:
        """The supervisor's part too. A spare that is to go is drained at once, and its seat is empty a little later."""
        spares = [worker for worker in self.workers.values() if is_spare(worker.name)]
        for number in range(len(spares), n):
            spare = FakeWorker(spare_name(number), "", S.DOWN, incarnation=10 * next(self._n))
            self.workers[spare.name] = spare
            if spare.name not in self.dead:
                self._after(spare, self.restart_s, self._start)
        for spare in spares[n:]:
            self.leaving.add(spare.name)
            self._drain(spare, "a spare leaves")
            self._at(spare, ANY_EPOCH, self.drain_s, self._leave)

    def _leave(self, spare: FakeWorker) -> None:
        self.workers.pop(spare.name, None)
        self.leaving.discard(spare.name)

    def _end_load(self, worker: FakeWorker, token: str) -> None:
        if worker.loading and worker.token == token:  # else its process ended
            worker.has_loaded = True
            if worker.is_known:
                self._serve(worker)

    def _serve(self, worker: FakeWorker) -> None:
        """The broker hears how the load ended and says what to serve."""
        worker.load_reason = self.bad.get(worker.loading, "")
        if worker.beside and not self.admits(worker.loading):
            worker.load_reason = worker.load_reason or "may not serve any more"
        if not worker.load_reason and worker.name not in self.lying:
            worker.digest = worker.loading
        worker.loading = worker.beside = ""
        if worker.state is S.LOADING:
            self.become(worker, S.DRAINED)

    def _start(self, worker: FakeWorker) -> None:
        worker.incarnation += 1
        worker.token = worker.load_reason = ""
        self.become(worker, S.STARTING)
        stable = read_stable(self.home, MODEL)
        assert stable is not None
        worker.digest = stable
        self._after(worker, self.boot_s, self._join)

    def _join(self, worker: FakeWorker) -> None:
        worker.is_known, worker.beside = True, "loading" if worker.loading else ""
        self.become(worker, S.READY if self.admits(worker.digest) else S.DRAINED)
        if worker.loading and worker.has_loaded:
            self._serve(worker)


class FakePreflight:
    """Ends after a while with what was put into `finding`."""

    def __init__(self, pool: FakePool) -> None:
        self._pool = pool
        self.finding = Finding(True)
        self.on_the_way: Evaluating | None = None
        self.lasts_s = 0.09
        self.runs = 0
        self._ends_at: float | None = None

    def start(self, digest: str, settings: Settings, stable: str) -> None:
        if self._ends_at is None:
            self.runs += 1
            self._ends_at = self._pool.now + self.lasts_s

    def poll(self) -> Finding | Evaluating | None:
        if self._ends_at is None:
            return None
        return self.finding if self._pool.now >= self._ends_at else self.on_the_way

    def stop(self) -> None:
        self._ends_at = None


class FakeProber:
    """wrong: what is wrong with a worker's answers. busy: workers that have no time for it. Off until there is an interval."""

    def __init__(self, pool: FakePool) -> None:
        self._pool = pool
        self.interval_s, self.lasts_s = 0.0, 0.07
        self.wrong: Callable[[FakeWorker], str] = lambda worker: ""
        self.busy: set[str] = set()
        self.trouble = ""
        self.rounds = 0
        self._due_at = 0.0
        self._asked: list[m.WorkerReport] = []
        self._ends_at: float | None = None
        self._last: Round | None = None

    def is_due(self, now: float) -> bool:
        return self.interval_s > 0 and self._ends_at is None and now >= self._due_at

    def start(self, workers: Sequence[m.WorkerReport], now: float) -> None:
        self._asked, self._ends_at, self._due_at = list(workers), now + self.lasts_s, now + self.interval_s

    def poll(self) -> Round | None:
        if self._ends_at is not None and self._pool.now >= self._ends_at:
            self._ends_at, self.rounds = None, self.rounds + 1
            self._last = Round(tuple(probed for worker in self._asked if (probed := self._probe(worker))), self.trouble)
        return self._last

    def stop(self) -> None:
        """Its process is no more, and with it what it has found."""
        self._ends_at = self._last = None
        self._due_at = 0.0

    def _probe(self, asked: m.WorkerReport) -> Probed | None:
        worker = self._pool.workers[asked.worker]
        if asked.worker in self.busy or (worker.incarnation, worker.digest) != (asked.incarnation, asked.digest):
            return None
        return Probed(asked.worker, asked.incarnation, asked.digest, asked.version, self.wrong(worker), asked.token)


class CrashableController(Controller):
    """Asks before and after everything it does whether it is killed now."""

    at_crash_point: Callable[[str, Action], None]
    has_acted = False

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    def carry_out(self, action: Action, now: float) -> bool:
        self.has_acted = True
        self.at_crash_point("before", action)
        is_busy = super().carry_out(action, now)
        self.at_crash_point("after", action)
        return is_busy


class World:
    """A home with versions v1 (stable), v2 and v3, a fake pool, and the real controller with a real journal."""

    def __init__(self, folder: Path, n_workers: int = 3, settings: Settings = SETTINGS) -> None:
        self.home = Home(folder)
        self.settings = settings
        self.digests = {name: make_version(self.home, name) for name in ("v1", "v2", "v3")}
        self.journal = Journal(self.home.database)  # the operator's own connection
        for name, digest in self.digests.items():
            self.append(EventKind.VERSION_ADDED, name=name, digest=digest)
        self.append(EventKind.STABLE_SET, digest=self.digests["v1"])
        write_stable(self.home, MODEL, self.digests["v1"])
        is_drained = settings.strategy is Strategy.DRAIN
        floor = max(1, n_workers - settings.max_unavailable) if is_drained else n_workers
        self.pool = FakePool(self.home, n_workers, self.digests["v1"], floor)
        self.pool.is_announced = self._is_announced
        self.preflight = FakePreflight(self.pool)
        self.open_journal: Callable[[Path], Journal] = Journal  # of the controller
        self.prober = FakeProber(self.pool)
        self.controller: CrashableController | None = None
        self._controllers_journal: Journal | None = None
        self.crash_points = 0
        self.crash_at: int | None = None
        self.crashed_in = ""
        self.kills = 0
        self.tick_s = 0.05  # how long nothing happens, when the controller has nothing to do
        self.pointers = [self.digests["v1"]]
        self._followed = Ledger()

    def append(self, kind: EventKind, **body: object) -> None:
        self.journal.append(kind, model=MODEL, operator=OPERATOR, body=body)

    # ---- orders

    def start(self, version: str = "v2", *, force: bool = False) -> Rollout:
        rollout = orders.start(
            self.journal, model=MODEL, version=version, workers=self.pool.report().workers, settings=self.settings,
            operator=OPERATOR, reason="better weights", force=force,
        )  # fmt: skip
        assert rollout is not None
        return rollout

    def undo(self, number: int | None = None) -> Rollout:
        return orders.undo(
            self.journal, model=MODEL, workers=self.pool.report().workers, settings=self.settings, operator=OPERATOR,
            number=number,
        )  # fmt: skip

    def abort(self) -> Rollout:
        return orders.abort(self.journal, model=MODEL, operator=OPERATOR, reason="changed my mind")

    def retry(self, reason: str = "") -> Rollout:
        return orders.retry(
            self.journal, model=MODEL, workers=self.pool.report().workers, operator=OPERATOR, reason=reason
        )

    def promote(self, *, full: bool = False, step: str | None = None) -> Rollout:
        return orders.promote(self.journal, model=MODEL, operator=OPERATOR, full=full, step=step)

    def pause(self) -> Rollout:
        return orders.pause(self.journal, model=MODEL, operator=OPERATOR)

    def resume(self) -> Rollout:
        return orders.resume(self.journal, model=MODEL, operator=OPERATOR)

    # ---- the run

    def turn(self) -> None:
        """One step of the controller; when it has nothing to do, time passes."""
        try:
            if self.controller is None:
                self._start_controller()
            assert self.controller is not None
            self.controller.has_acted = False
            if not self.controller.step(self.pool.now):
                if not self.controller.has_acted:
                    self._check_share()
                self.pool.pass_time(self.tick_s)
        except Killed:
            self.kill()
        except Unwritable:  # as `Controller.run`: it begins anew
            self.kill()
            self.pool.pass_time(self.tick_s)
        pointer = read_stable(self.home, MODEL)
        if pointer is not None and pointer != self.pointers[-1]:
            self.pointers.append(pointer)

    def run(self, until: Callable[[], bool], turns: int = 5000) -> None:
        for _ in range(turns):
            if until():
                return
            self.turn()
        raise AssertionError(f"stuck: {self.last()}\n{self.pool.workers}")

    def run_to_end(self) -> Rollout:
        """Until the last rollout is over and the pool is at rest."""
        self.run(lambda: self.last().is_over)
        self.run(lambda: self.pool.is_at_rest() and not self.busy() and self.pool.is_at_rest())
        return self.last()

    def run_to(self, phase: Phase) -> None:
        self.run(lambda: self.last().phase is phase)

    def busy(self) -> bool:
        """Whether the controller still does things when asked."""
        before = self.pool.now
        self.turn()
        return self.pool.now == before or self.controller is None

    def kill(self) -> None:
        self.kills += 1
        self.controller = None
        self.preflight.stop()
        self.prober.stop()
        if self._controllers_journal is not None:
            self._controllers_journal.close()
            self._controllers_journal = None

    def reopen(self) -> None:
        """The operator's connection, after something has happened to the file."""
        self.journal = Journal(self.home.database)
        self._followed = Ledger()

    def last(self) -> Rollout:
        """The newest rollout, followed event by event: asked in every turn."""
        rollout = self._follow().last(MODEL)
        assert rollout is not None
        return rollout

    def _follow(self) -> Ledger:
        self._followed = replay(self.journal.events(self._followed.seq), self.pool.now, self._followed)
        return self._followed

    def ledger(self) -> Ledger:
        return replay(self.journal.events(), self.pool.now)

    def kinds(self) -> list[EventKind]:
        return [event.kind for event in self.journal.events()]

    def close(self) -> None:
        self.kill()
        self.journal.close()

    # ---- the oracle

    def check(self, *allowed: Phase) -> None:
        """What must hold after every run, whatever happened in it."""
        ledger, rollout = self.ledger(), self.last()
        assert rollout.phase in allowed, rollout
        pointer = ledger.stable(MODEL)
        assert {worker.digest for worker in self.pool.workers.values()} == {pointer}
        assert all(worker.state is S.READY for worker in self.pool.workers.values()), self.pool.workers
        assert not rollout.steps
        table = self.pool.table
        assert table is not None
        assert (table.epoch, table.stable, table.target, table.names) == (ledger.epoch, pointer, None, self.digests)
        assert table.policy is None or (table.policy.share, table.policy.shadow) == (0, 0)
        self.check_always()

    def check_always(self) -> None:
        """What must hold at any moment."""
        assert self.pool.wrong == []
        ledger, events = self.ledger(), self.journal.events()
        pointer, active = read_stable(self.home, MODEL), ledger.active(MODEL)
        is_moving = active is not None and active.phase is Phase.COMMITTING
        assert pointer == ledger.stable(MODEL) or (is_moving and pointer == active.target)
        self._check_memory(events)
        assert self.journal.verify() == ledger.seq
        recheck(events)
        committed = [event.body["digest"] for event in events if event.kind is EventKind.SUCCEEDED]
        moving = [pointer] if is_moving and pointer != ledger.stable(MODEL) else []
        assert self.pointers == [self.digests["v1"], *committed, *moving], "the stable pointer moved outside a success"
        for number in ledger.rollouts:
            check_order([event for event in events if event.rollout == number])

    def _check_memory(self, events: list[Event]) -> None:
        """The controller that runs holds what one that starts now would read, but for orders that it has not seen yet."""
        if self.controller is not None:
            held = self.controller.ledger
            read = replay(events[: held.seq], self.pool.now)
            assert without_clocks(held) == without_clocks(read), "the journal says something else"

    def _start_controller(self) -> None:
        self._controllers_journal = self.open_journal(self.home.database)
        self.controller = CrashableController(
            self.home, MODEL, self._controllers_journal, self.pool, self.preflight, "controller", self.prober
        )
        self.controller.at_crash_point = self._at_crash_point
        self.controller.start(self.pool.now)

    def _at_crash_point(self, when: str, action: Action) -> None:
        self.crash_points += 1
        if self.crash_at == self.crash_points:
            self.crashed_in = f"{when} {action}"
            raise Killed(self.crashed_in)
        if when == "after" and isinstance(action, SetTable):
            self._check_share()
        if when == "before" and isinstance(action, Record) and action.kind is EventKind.COMMIT_STARTED:
            target = self.last().target
            is_undo = self.last().kind is Kind.UNDO  # which waits for nobody without a process
            seen = [w for w in self.pool.workers.values() if not (is_undo and w.state is S.DOWN)]
            not_there = [w for w in seen if w.state is not S.READY or w.digest != target]
            self.pool.wrong += [f"commit while {worker}" for worker in not_there]

    def _check_share(self) -> None:
        """The controller has looked and is content: then nobody may get the target who must not, nor anybody what is bad."""
        table, rollout = self.pool.table, self._follow().last(MODEL)
        if table is None or rollout is None:
            return
        ready = {w.digest for w in self.pool.workers.values() if w.state is S.READY and w.is_known}
        bad = found_bad(rollout)
        wanted = 0.0 if bad == rollout.target else 100.0
        if bad and ready - {bad} and (table.policy is None or table.policy.share != wanted):
            self.pool.wrong.append(f"what answers badly still answers in phase {rollout.phase}: {table.policy}")
        if table.policy is None or rollout.is_over:
            return
        share = table.policy.share
        if rollout.phase is Phase.CANARY or (rollout.phase is Phase.ANALYZING and rollout.step == SHADOW):
            limit = 0.0
        elif rollout.phase is Phase.ANALYZING:
            limit = share_of(rollout.step)
        else:
            n_stable = sum(
                w.state is S.READY and w.digest == table.stable for w in self.pool.workers.values() if w.is_known
            )
            limit = 0.0 if rollout.phase is Phase.ROLLING_BACK and n_stable >= self.pool.floor else 100.0
        if share > limit:
            self.pool.wrong.append(f"{share:g} percent for the target, {limit:g} allowed, in phase {rollout.phase}")

    def _is_announced(self, worker: str) -> bool:
        """Read with another connection: what the controller only has in its memory does not count."""
        ledger = self._follow()
        active = ledger.active(MODEL)
        return worker in (active.steps if active else ledger.repairs) or worker in ledger.wrong


def found_bad(rollout: Rollout) -> str:
    """What this rollout leads away from, if a gate or the probe has found its answers bad."""
    if rollout.phase in (Phase.ROLLING, Phase.BAKING, Phase.COMMITTING):
        return rollout.stable if rollout.is_stable_wrong else ""
    verdicts = [one for body in rollout.judged for one in body["verdicts"] if one["enforced"]]
    failed = {one["gate"] for one in verdicts if one["result"] == "fail"}
    is_bad = rollout.back_cause == "probe" or failed - {"latency", "latency_tail"}
    return rollout.target if is_bad and rollout.phase in (Phase.ROLLING_BACK, Phase.ROLLBACK_FAILED) else ""


def check_order(events: list[Event]) -> None:
    """What may not follow what, in the events of one rollout."""
    check_steps(events)
    forward = {K.PREFLIGHT_PASSED, K.CANARY_STARTED, K.ANALYSIS_STARTED, K.ROLL_STARTED, K.BAKE_STARTED}
    forward |= {K.COMMIT_STARTED, K.SUCCEEDED}
    begun = {K.PREFLIGHT_STARTED, K.STEP_STARTED, K.ANALYSIS_STARTED, K.ROLL_STARTED, K.BAKE_STARTED, K.COMMIT_STARTED}
    open_workers: set[str] = set()
    is_aborted = is_paused = is_bad = has_failed = False
    for event in events:
        kind = event.kind
        assert not (is_aborted and kind in forward), f"{kind} after an abort"
        assert not (is_paused and kind in begun), f"{kind} while paused"
        assert not has_failed or kind in (K.ROLLBACK_STARTED, *ORDERS), f"{kind} after a gate has failed"
        if kind is K.ROLLBACK_STARTED:
            open_workers.clear()
        if kind is K.STEP_STARTED:
            open_workers.add(event.body["worker"])
        elif "worker" in event.body and kind is not K.WORKER_REPAIRED:
            assert event.body["worker"] in open_workers, f"{kind}: no step of {event.body['worker']} is open"
        assert not is_bad or kind in (K.ROLLBACK_STARTED, *ORDERS), f"{kind} after a version fault"
        is_aborted |= kind is K.ABORT_REQUESTED
        result = event.body["result"] if kind is K.JUDGED else ""
        is_paused = kind is K.PAUSED or result == "inconclusive" or (is_paused and kind not in ENDS_A_PAUSE)
        has_failed = result == "fail" or (has_failed and kind is not K.ROLLBACK_STARTED)
        is_bad = kind is not K.ROLLBACK_STARTED and (is_bad or event.body.get("fault") == "version")


def check_steps(events: list[Event]) -> None:
    """No step of the canary is left out, but by order."""
    n_steps = len(events[0].body["settings"]["steps"])
    step, left = -1, set[int]()
    for event in events:
        if event.kind is K.JUDGED and event.body["result"] == "pass":
            left.add(event.body["step"])
        if event.kind is K.PROMOTED:
            left |= set(range(n_steps)) if event.body["full"] else {step}
        if event.kind is K.ANALYSIS_STARTED:
            step = event.body["step"]
            assert left >= set(range(step)), f"step {step} begins after {left}"
        if event.kind is K.ROLL_STARTED:
            assert left >= set(range(n_steps)), f"the roll begins after {left}"


@contextmanager
def fast_folder() -> Iterator[Path]:
    """In memory where there is one for files: hundreds of runs must not wait for the disk at every event."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def make_version(home: Home, name: str) -> str:
    """A version's folder with some bytes as weights; returns its digest."""
    weights = f"weights of {name}".encode()
    sha256 = hashlib.sha256(weights).hexdigest()
    manifest = convert(
        {
            "model": MODEL,
            "arch": "resnet18",
            "classes": 2,
            "labels": ("square", "circle"),
            "preprocessing": {},
            "weights_sha256": sha256,
            "tensors_sha256": sha256,
            "golden_sha256": sha256,
            "name": name,
            "source": "test",
            "added_by": OPERATOR,
            "added_ts": datetime(2026, 1, 1, tzinfo=UTC),
        },
        Manifest,
    )
    folder = home.versions / manifest.digest
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(weights)
    (folder / MANIFEST).write_bytes(manifest_json(manifest))
    return manifest.digest


def rollout_body(stable: str, target: str, kind: str = "start", n_workers: int = 3) -> dict[str, object]:
    """Of a `rollout_created` event."""
    return {
        "kind": kind,
        "stable": stable,
        "stable_name": stable[:4],
        "target": target,
        "target_name": target[:4],
        "workers": [f"worker-{i}" for i in range(n_workers)],
        "settings": asdict(SETTINGS),
        "reason": "better weights",
    }


def settings(**changes: Any) -> Settings:
    """The tests' settings with some changed."""
    return replace(SETTINGS, **changes)
