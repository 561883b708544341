"""Every fault in every phase of a rollout through a canary: one table, and after each cell one oracle.

Pure machine, real controller, real journal, fake pool, requests in virtual time. A cell is a rollout of its own that is
brought to its column, suffers its row, and is left alone until it rests.

    RES   goes on and succeeds                      RB    rolled back by itself, or by the abort that is the row
    FWD   is past the commit and succeeds           BACK  was on its way back and arrives there
    WR    a worker needs another step, succeeds     RBF   the rollback fails and the pool serves on
    TB    succeeds and is taken back by an undo     REJ   rejected, the service untouched
    PAU   stays or becomes paused by its operator   INC   pauses by itself for lack of evidence
    H/x   holds: nothing at all changes while the fault lasts; then x
    -     does not apply
"""

import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from control import canary, decide
from control.actions import Action, Record, Undrain
from control.controller import Controller
from control.events import Event, EventKind
from control.exits import PHASE_EXITS, Exit, exit_for
from control.journal import Journal
from control.plan import parse_count, resolve_steps
from control.rollout import Kind, Outcome, Part, PauseCause, Rollout
from control.verdicts import GateResult, GateSettings, worst
from control.view import Finding
from hotpool.errors import BadRollout, Conflict, HotpoolError, JournalCorrupt, NothingToDo, StaleEpoch, Unwritable
from hotpool.manifest import WEIGHTS
from hotpool.stable import read_stable
from hotpool.states import Phase, Strategy, WorkerState
from tests.fake_pool import MODEL, Killed, World, fast_folder, settings
from tests.fake_traffic import Behaviour, Traffic

K, P, S = EventKind, Phase, WorkerState
SEED = 5
RATE = 2000.0
TICK_S = 0.1
WATCH_S = 3.0
REST_S = WATCH_S + 1  # without an event: then it is over
SLOWEST_GATE_S = 16.0
MOST_TURNS = 800
AWAY_S = 60.0  # longer than any limit
N_WORKERS = 4
SETTINGS = settings(
    bake_s=2.0, load_timeout_s=15.0, steps=("shadow", "25"), step_min_s=1.0, step_max_s=15.0, watch_s=WATCH_S,
    gates=GateSettings(min_windows=3, beta=0.4),
)  # fmt: skip
OLD_VERSION, NEW_VERSION = "v1", "v2"


@dataclass
class Cell:
    """is_disturbed: ready workers were taken away by the fault, so that less than the floor may have been ready.
    each_turn: what the fault does again and again."""

    world: World
    traffic: Traffic
    column: str
    is_disturbed: bool = False
    has_held: bool = False
    rest_s: float = REST_S
    each_turn: Callable[[], None] = lambda: None

    @property
    def stable(self) -> str:
        return self.world.digests[OLD_VERSION]

    @property
    def target(self) -> str:
        return self.world.digests[NEW_VERSION]

    @property
    def in_step(self) -> str:
        """The worker whose step is open, else one that holds the target."""
        opened = [*self.world.last().steps]
        return opened[0] if opened else "worker-0"

    def kill(self, worker: str) -> None:
        self.is_disturbed = True
        self.world.pool.crash(worker)

    def pass_time(self, seconds: float) -> None:
        until = self.world.pool.now + seconds
        self.world.run(lambda: self.world.pool.now >= until)

    def settle(self) -> None:
        """Until it is over or paused, and then nothing happens any more."""
        pool, seq, quiet_since = self.world.pool, 0, self.world.pool.now
        for _ in range(MOST_TURNS):
            rollout, before = self.world.last(), seq
            seq = self.world.journal.last_seq()
            if seq != before or not (rollout.is_over or rollout.paused):
                quiet_since = pool.now
            if pool.now - quiet_since >= self.rest_s:
                return
            assert len(rollout.judged) < 20, "judged again and again"
            self.world.turn()
            self.each_turn()
        raise AssertionError(f"no end: {rollout.phase}, {len(rollout.judged)} times judged")


# ---- columns: where the fault comes


def until_state(state: WorkerState, worker: str = "worker-0") -> Callable[[Cell], None]:
    return lambda cell: cell.world.run(lambda: cell.world.pool.workers[worker].state is state)


def until_rejoin(cell: Cell) -> None:
    cell.world.run(lambda: any(step.part is Part.REJOIN for step in cell.world.last().steps.values()))


def until_analysis(step: int) -> Callable[[Cell], None]:
    def run(cell: Cell) -> None:
        cell.world.run(lambda: cell.world.last().analysis.step == step)
        cell.pass_time(0.5)
        assert cell.world.last().phase is P.ANALYZING

    return run


def until_phase(phase: Phase) -> Callable[[Cell], None]:
    return lambda cell: cell.world.run_to(phase)


def until_loading(worker: str = "worker-0") -> Callable[[Cell], None]:
    """Out of service or beside."""
    return lambda cell: cell.world.run(lambda: bool(cell.world.pool.workers[worker].loading))


def until_rolling(cell: Cell) -> None:
    """In the middle: one worker is on the target, the second loads it."""
    until_loading("worker-1")(cell)
    assert cell.world.last().phase is P.ROLLING


def until_rolling_back(cell: Cell) -> None:
    """In the middle: two workers were on the target, the first of them loads stable."""
    cell.world.run(lambda: len(cell.world.last().ended_steps) == 2)
    cell.world.abort()
    until_loading()(cell)
    assert cell.world.last().phase is P.ROLLING_BACK


def until_paused(cell: Cell) -> None:
    until_analysis(1)(cell)
    cell.world.pause()
    cell.world.turn()


COLUMNS: dict[str, Callable[[Cell], None]] = {
    "preflight": until_phase(P.PREFLIGHT),
    "drain": until_state(S.DRAINING),
    "load": until_loading(),
    "rejoin": until_rejoin,
    "shadow": until_analysis(0),
    "share": until_analysis(1),
    "rolling": until_rolling,
    "baking": until_phase(P.BAKING),
    "committing": until_phase(P.COMMITTING),
    "back": until_rolling_back,
    "paused": until_paused,
}


# ---- rows: controller and journal


def controller_killed(cell: Cell) -> None:
    """Where it stands, and again in the middle of the next thing it does."""
    cell.world.kill()
    cell.world.crash_at = cell.world.crash_points + 1


def controller_away(cell: Cell) -> None:
    cell.world.kill()
    for _ in range(int(AWAY_S)):
        cell.world.pool.pass_time(1.0)


def second_controller(cell: Cell) -> None:
    """The lock keeps it away (test_control_kills.py); if it does not, the newer one leads and the older one is refused."""
    world, older = cell.world, cell.world.controller
    assert older is not None
    with Journal(world.home.database) as journal:
        Controller(world.home, MODEL, journal, world.pool, world.preflight, "controller").start(world.pool.now)
    seq = world.journal.last_seq()
    with pytest.raises(StaleEpoch):
        older.step(world.pool.now)
    assert world.journal.last_seq() == seq
    world.kill()
    world.run(lambda: world.pool.leader == world.ledger().epoch)
    with pytest.raises(StaleEpoch):
        older.carry_out(Undrain("worker-0"), world.pool.now)


def journal_torn(cell: Cell) -> None:
    """The power fails while the next event is written. It was not yet acted on."""
    if cell.column == "paused":
        cell.world.resume()  # the operator's order; nobody was told that it is written
    else:
        run_until_written(cell.world)
    lost = cell.world.journal.last_seq()
    tear(cell.world)
    assert cell.world.journal.last_seq() == lost - 1


def run_until_written(world: World) -> None:
    """Kills the controller between the next event and what follows from it."""
    assert world.controller is not None

    def kill_after_event(when: str, action: Action) -> None:
        if when == "after" and isinstance(action, Record):
            raise Killed(f"{action}")

    world.controller.at_crash_point = kill_after_event
    world.run(lambda: world.controller is None)


def tear(world: World) -> None:
    """Cuts the end off SQLite's log, in the middle of its last frame."""
    world.kill()
    path = world.home.database
    log = path.with_name(f"{path.name}-wal")
    database, frames = path.read_bytes(), log.read_bytes()
    world.journal.close()
    path.write_bytes(database)
    log.write_bytes(frames[:-1000])
    world.reopen()


def journal_corrupt(cell: Cell) -> None:
    world = cell.world
    world.kill()
    meddle(world, "eve")
    hold(cell, is_corrupt=True)
    meddle(world, world.journal.events()[1].operator)


def meddle(world: World, operator: str) -> None:
    """Changes the first event."""
    connection = sqlite3.connect(world.home.database)
    connection.execute("DROP TRIGGER IF EXISTS events_never_change")
    connection.execute("UPDATE events SET operator = ? WHERE seq = 1", (operator,))
    connection.commit()
    connection.close()


class Disk(Journal):
    """What the controller writes to. is_full: of all of them."""

    is_full = False

    def append(self, *arguments: Any, **named: Any) -> Event:
        if self.is_full:
            raise Unwritable("database or disk is full")
        return super().append(*arguments, **named)


def disk_full(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is announced is still done. The controller begins anew when it can't write down what comes next, again and again."""
    monkeypatch.setattr(Disk, "is_full", True)
    seq = cell.world.journal.last_seq()
    cell.pass_time(1.0)
    assert cell.world.journal.last_seq() == seq
    cell.world.kill()
    hold(cell)
    monkeypatch.setattr(Disk, "is_full", False)


def hold(cell: Cell, *, is_corrupt: bool = False, for_s: float = 3.0) -> None:
    """Nothing is ordered, and the pool serves."""
    world, pool = cell.world, cell.world.pool
    before = (world.journal.last_seq(), pool.table, read_stable(world.home, MODEL), sum(cell.traffic.answered.values()))
    orders, until = pool.orders, pool.now + for_s
    while pool.now < until:
        if not is_corrupt:
            world.turn()
            continue
        with pytest.raises(JournalCorrupt) as raised:
            world.turn()
        assert exit_for(raised.value) is Exit.DEGRADED
        world.kill()
        pool.pass_time(TICK_S)
    after = (world.journal.last_seq(), pool.table, read_stable(world.home, MODEL))
    assert after == before[:3]
    assert pool.orders == orders
    assert sum(cell.traffic.answered.values()) >= before[3] + 0.9 * RATE * for_s
    cell.has_held = True


def clock_jumps(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an hour, forth and back at every look, and the controller is stopped as by SIGTERM."""

    class Jumping(datetime):
        n = 0

        @classmethod
        def now(cls, tz: Any = None) -> "Jumping":
            cls.n += 1
            jumped = datetime.now(UTC) + timedelta(hours=(-1) ** cls.n)
            return cls.fromtimestamp(jumped.timestamp(), tz)

    monkeypatch.setattr("control.journal.datetime", Jumping)
    cell.world.kill()


# ---- rows: broker and workers


def broker_restarted(cell: Cell) -> None:
    cell.is_disturbed = True
    cell.world.pool.restart_broker()


def step_worker_killed(cell: Cell) -> None:
    cell.kill(cell.in_step)


def step_worker_dies_of_the_target(cell: Cell) -> None:
    worker = cell.world.pool.workers[cell.in_step]

    def kill_again() -> None:
        if worker.state is S.READY and worker.digest == cell.target:
            cell.kill(worker.name)

    cell.kill(worker.name)
    cell.each_turn = kill_again


def other_worker_killed(cell: Cell) -> None:
    cell.kill("worker-3")


def worker_hangs(cell: Cell) -> None:
    """Its pulse stops; after a second of silence the broker has its process killed."""
    worker = cell.in_step
    cell.world.pool.stuck.add(worker)
    cell.pass_time(1.0)
    cell.world.pool.stuck.clear()
    cell.kill(worker)


def long_request(cell: Cell) -> None:
    """Longer than `drain_timeout_s`, shorter than what the broker allows a lease."""
    pool = cell.world.pool
    pool.drain_s = SETTINGS.drain_timeout_s + 2
    for worker in pool.workers.values():
        if worker.state is S.DRAINING:
            pool.become(worker, S.READY)
            worker.epoch += 1
            pool.become(worker, S.DRAINING)
            pool.drain_later(worker)


def worker_gone_for_good(cell: Cell) -> None:
    gone(cell, cell.in_step)


def gone(cell: Cell, worker: str) -> None:
    cell.world.pool.dead.add(worker)
    cell.kill(worker)


# ---- rows: the version


def goes_bad(reason: str, *, on_disk: bool) -> Callable[[Cell], None]:
    """What all are on their way to: the target, on the way back stable."""

    def fault(cell: Cell) -> None:
        version = OLD_VERSION if cell.column == "back" else NEW_VERSION
        cell.world.pool.bad[cell.world.digests[version]] = reason
        cell.world.preflight.finding = Finding(False, reason)
        if on_disk:
            (cell.world.home.versions / cell.world.digests[version] / WEIGHTS).write_bytes(b"")

    return fault


def worker_keeps_its_old_version(cell: Cell) -> None:
    """It says that it has loaded."""
    if cell.column == "rejoin":
        cell.world.pool.workers[cell.in_step].digest = cell.stable
    cell.world.pool.lying.add(cell.in_step)


def target_is(**behaviour: Any) -> Callable[[Cell], None]:
    def fault(cell: Cell) -> None:
        cell.traffic.behaviours[cell.target] = Behaviour(**behaviour)
        cell.world.pool.load_s = 12.0  # rolling lasts long enough to see anything
        cell.rest_s = SLOWEST_GATE_S if cell.column == "paused" else REST_S

    return fault


def target_errs_and_another_worker_is_gone(cell: Cell) -> None:
    cell.traffic.behaviours[cell.target] = Behaviour(errors=1.0)
    gone(cell, "worker-3")


def target_errs_and_stable_is_damaged(cell: Cell) -> None:
    cell.traffic.behaviours[cell.target] = Behaviour(errors=1.0)
    cell.world.pool.bad[cell.stable] = "model.safetensors has another SHA-256"


def stable_errs(cell: Cell) -> None:
    cell.traffic.behaviours[cell.stable] = Behaviour(errors=0.1)


def no_traffic(cell: Cell) -> None:
    cell.traffic.rate = 0.0


def metric_source_fails(cell: Cell) -> None:
    cell.world.pool.counts = lambda: None


# ---- rows: orders


def abort(cell: Cell) -> None:
    if cell.column == "committing":
        assert refused(cell.world.abort, NothingToDo) is Exit.NOTHING_TO_DO
    else:
        cell.world.abort()


def abort_then_controller_killed(cell: Cell) -> None:
    abort(cell)
    controller_killed(cell)


def pause(cell: Cell) -> None:
    error = {"committing": Conflict, "back": Conflict, "paused": NothingToDo}.get(cell.column)
    if error:
        assert refused(cell.world.pause, error) in (Exit.CONFLICT, Exit.NOTHING_TO_DO)
    else:
        cell.world.pause()


def second_start(cell: Cell) -> None:
    for version in (OLD_VERSION, NEW_VERSION, "v3"):
        assert refused(partial(cell.world.start, version), Conflict) is Exit.CONFLICT


def refused(order: Callable[[], object], error: type[HotpoolError]) -> Exit:
    with pytest.raises(error) as raised:
        order()
    return exit_for(raised.value)


# ---- the table

FAULTS: dict[str, Callable[..., None]] = {
    "controller killed": controller_killed,
    "controller away for long": controller_away,
    "second controller": second_controller,
    "journal torn": journal_torn,
    "journal corrupt": journal_corrupt,
    "disk full": disk_full,
    "clock jumps, SIGTERM": clock_jumps,
    "broker restarted": broker_restarted,
    "worker in step killed": step_worker_killed,
    "worker dies of the target": step_worker_dies_of_the_target,
    "other worker killed": other_worker_killed,
    "worker hangs": worker_hangs,
    "request outlasts the drain": long_request,
    "worker gone for good": worker_gone_for_good,
    "weights damaged": goes_bad("model.safetensors has another SHA-256", on_disk=True),
    "key missing": goes_bad("fc.weight is missing", on_disk=False),
    "not finite": goes_bad("NaN in fc.weight", on_disk=False),
    "golden outputs differ": goes_bad("golden outputs differ by 3.1", on_disk=False),
    "worker keeps old version": worker_keeps_its_old_version,
    "other answers": target_is(disagreement=0.1),
    "100 % errors": target_is(errors=1.0),
    "5 % errors": target_is(errors=0.05),
    "2 % errors": target_is(errors=0.02),
    "100 % errors, another gone": target_errs_and_another_worker_is_gone,
    "100 % errors, no way back": target_errs_and_stable_is_damaged,
    "stable errs": stable_errs,
    "30 % slower": target_is(slower=1.3),
    "tail x 3": target_is(tail=0.2),
    "no traffic": no_traffic,
    "no metrics": metric_source_fails,
    "abort": abort,
    "abort, controller killed": abort_then_controller_killed,
    "pause": pause,
    "second start": second_start,
}

# fmt: off
TABLE: dict[str, str] = {
    # Where this says otherwise than the plan it comes from, a comment says why.
    #                            preflight drain load   rejoin shadow share  rolling baking committing back  paused
    "controller killed":          "RES     RES    RES    RES    RES    RES    RES    RES    FWD    BACK   PAU",
    # The plan rolls back after five minutes. Here it always resumes: a bad version is found again by the same checks.
    "controller away for long":   "RES     RES    RES    RES    RES    RES    RES    RES    FWD    BACK   PAU",
    "second controller":          "RES     RES    RES    RES    RES    RES    RES    RES    FWD    BACK   PAU",
    "journal torn":               "RES     RES    RES    RES    RES    RES    RES    RES    FWD    BACK   PAU",
    "journal corrupt":            "H/RES   H/RES  H/RES  H/RES  H/RES  H/RES  H/RES  H/RES  H/FWD  H/BACK H/PAU",
    # The plan rejects in the preflight; nothing can be written down, so that is not either.
    "disk full":                  "H/RES   H/RES  H/RES  H/RES  H/RES  H/RES  H/RES  H/RES  H/FWD  H/BACK H/PAU",
    "clock jumps, SIGTERM":       "RES     RES    RES    RES    RES    RES    RES    RES    FWD    BACK   PAU",
    # The plan counts a lost drain against the worker; here it is ordered again, when the others are back.
    "broker restarted":           "RES     RES    RES    RES    RES    RES    RES    RES    FWD    BACK   PAU",
    "worker in step killed":      "-       WR     WR     WR     WR     WR     WR     WR     FWD    BACK   PAU",
    "worker dies of the target":  "-       RB     RB     RB     RB     RB     RB     RB     -      BACK   PAU",
    "other worker killed":        "RES     RES    RES    RES    RES    RES    RES    WR     FWD    BACK   PAU",
    "worker hangs":               "-       WR     WR     WR     WR     WR     WR     WR     FWD    BACK   PAU",
    "request outlasts the drain": "-       WR     -      -      -      -      WR     -      -      BACK   -",
    # The progress deadline. With one of four gone the other three are the floor: who is on the target goes back beside.
    # While samples are waited for there is none, and the canary that is gone gives no more.
    "worker gone for good":       "-       RB     RB     RB     INC    INC    RB     RB     FWD    BACK   PAU",
    "weights damaged":            "REJ     RB     RB     RB     RB     RB     RB     RB     FWD    RBF    PAU",
    "key missing":                "REJ     RB     RB     -      -      -      RB     -      -      -      -",
    "not finite":                 "REJ     RB     RB     -      -      -      RB     -      -      -      -",
    "golden outputs differ":      "REJ     RB     RB     -      -      -      RB     -      -      -      -",
    "worker keeps old version":   "-       RB     RB     RB     -      -      RB     -      -      RBF    -",
    # Answers are compared in the shadow alone; after it only a collapse to few classes is seen.
    "other answers":              "-       RB     RB     RB     RB     RES    RES    RES    FWD    BACK   PAU",
    # After the commit it is watched for a while. Who begins to err at 2 % in the bake has all the good replies of the roll in
    # its favour: it is found when the watch begins to count anew.
    "100 % errors":               "-       RB     RB     RB     RB     RB     RB     RB     TB     BACK   RB",
    "5 % errors":                 "-       RB     RB     RB     RB     RB     RB     RB     TB     BACK   RB",
    "2 % errors":                 "-       RB     RB     RB     RB     RB     RB     TB     TB     BACK   RB",
    # Before the canary it is the deadline that sends it back: with the floor at three no worker can have its first step.
    "100 % errors, another gone": "RB      RB     RB     RB     RB     RB     RB     RB     TB     BACK   RB",
    # Stable can't be loaded any more: the workers that have left it stay away, those that have not answer alone.
    "100 % errors, no way back":  "RBF     RBF    RBF    RBF    RBF    RBF    RBF    RBF    -      -      RBF",
    # The target is held to limits of its own, and to stable's errors only where it has more of them.
    "stable errs":                "RES     RES    RES    RES    RES    RES    RES    RES    FWD    BACK   PAU",
    # There is nothing to compare with when all workers have the target.
    "30 % slower":                "-       RB     RB     RB     RB     RB     RB     RES    FWD    BACK   RB",
    "tail x 3":                   "-       RB     RB     RB     RB     RB     RB     RES    FWD    BACK   RB",
    # The bake does not wait for evidence: from rolling on only failures count.
    "no traffic":                 "INC     INC    INC    INC    INC    INC    RES    RES    FWD    BACK   PAU",
    # There is no pause of its own for it: no evidence is no evidence.
    "no metrics":                 "INC     INC    INC    INC    INC    INC    RES    RES    FWD    BACK   PAU",
    "abort":                      "REJ     RB     RB     RB     RB     RB     RB     RB     FWD    BACK   RB",
    "abort, controller killed":   "REJ     RB     RB     RB     RB     RB     RB     RB     FWD    BACK   RB",
    "pause":                      "PAU     PAU    PAU    PAU    PAU    PAU    PAU    PAU    FWD    BACK   PAU",
    # There is no --supersede.
    "second start":               "RES     RES    RES    RES    RES    RES    RES    RES    FWD    BACK   PAU",
}

# Why it went back, was rejected or could not go back, where the row is to blame.
REASONS: dict[str, tuple[str, str]] = {
    "worker dies of the target": ("worker",    "worker-[012] needed more than 3 attempts"),
    "worker gone for good":      ("deadline",  "no progress for 2[02] s"),
    "weights damaged":           ("preflight|version|worker", "SHA-256|was changed|has 0 bytes"),
    "key missing":               ("preflight|version", "fc.weight is missing"),
    "not finite":                ("preflight|version", "NaN in fc.weight"),
    "golden outputs differ":     ("preflight|version", "golden outputs differ by 3.1"),
    "worker keeps old version":  ("worker",    "its load was lost|came back with version"),
    "other answers":             ("gate",      "^gate agreement: "),
    "100 % errors":              ("gate",      "^gate errors"),
    "5 % errors":                ("gate",      "^gate errors"),
    "2 % errors":                ("gate",      "^gate errors"),
    "100 % errors, another gone": ("gate|deadline", "^gate errors|^no progress for 20 s in phase canary"),
    "100 % errors, no way back": ("worker",    "needed more than 3 attempts; the last failed because .* SHA-256"),
    "30 % slower":               ("gate",      "^gate latency: "),
    "tail x 3":                  ("gate",      "^gate latency_tail: "),
    "abort":                     ("abort",     "^aborted by "),
    "abort, controller killed":  ("abort",     "^aborted by "),
}
# fmt: on

# With the strategy beside nobody is drained.
BESIDE = {
    ("request outlasts the drain", "rolling"): "RES",
}

PHASES = {
    "RES": P.SUCCEEDED, "FWD": P.SUCCEEDED, "WR": P.SUCCEEDED, "TB": P.SUCCEEDED, "RB": P.ROLLED_BACK, "BACK": P.ROLLED_BACK,
    "RBF": P.ROLLBACK_FAILED, "REJ": P.REJECTED,
}  # fmt: skip
EXITS = {
    "RES": 0, "FWD": 0, "WR": 0, "TB": 0, "RB": 3, "BACK": 3, "RBF": 8, "REJ": 10, "PAU": 4, "INC": 4,
}  # fmt: skip
LATE = ("rolling", "baking", "committing")  # the way there, through the whole canary, takes half of the table's time
CELLS = [
    pytest.param(row, column, outcome, id=f"{row}: {column}", marks=[pytest.mark.slow] if column in LATE else [])
    for row, outcomes in TABLE.items()
    for column, outcome in zip(COLUMNS, outcomes.split(), strict=True)
    if outcome != "-"
]


def test_every_fault_has_a_row_and_every_row_a_fault() -> None:
    assert TABLE.keys() == FAULTS.keys()


@pytest.mark.parametrize(("row", "column", "outcome"), CELLS)
def test_a_fault_in_a_phase_ends_as_the_table_says(
    row: str, column: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_cell(row, column, outcome, monkeypatch)


def run_cell(
    row: str, column: str, outcome: str, monkeypatch: pytest.MonkeyPatch, strategy: Strategy = Strategy.DRAIN
) -> None:
    with fast_folder() as folder:
        cell = brought_to(folder, column, strategy)
        fault = FAULTS[row]
        fault(cell, monkeypatch) if fault in (clock_jumps, disk_full) else fault(cell)
        cell.settle()
        check(cell, row, outcome)
        cell.world.close()


@pytest.mark.slow
@pytest.mark.parametrize(("row", "column", "outcome"), [cell for cell in CELLS if cell.values[1] != "drain"])
def test_it_ends_likewise_when_workers_load_beside(
    row: str, column: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_cell(row, column, BESIDE.get((row, column), outcome), monkeypatch, Strategy.BESIDE)


def brought_to(folder: Path, column: str, strategy: Strategy) -> Cell:
    world = World(folder, N_WORKERS, replace(SETTINGS, strategy=strategy))
    world.tick_s, world.open_journal = TICK_S, Disk
    cell = Cell(world, Traffic(world.pool, SEED, RATE), column)
    world.start(NEW_VERSION)
    COLUMNS[column](cell)
    return cell


# ---- the oracle


def check(cell: Cell, row: str, outcome: str) -> None:
    """What must hold after every cell."""
    held, _, outcome = outcome.rpartition("/")
    assert cell.has_held == bool(held)
    rollout = check_outcome(cell, outcome)
    if outcome in ("RB", "REJ", "RBF") and row in REASONS:
        cause, reason = REASONS[row]
        assert rollout.cause in cause.split("|"), rollout
        assert re.search(reason, rollout.ending), rollout.ending
    check_pool(cell, outcome, rollout)
    check_requests(cell, rollout)
    cell.world.check_always()  # journal, verdicts, pointer, order of events, what no controller may do
    if rollout.paused:
        check_way_out(cell)


def check_outcome(cell: Cell, outcome: str) -> Rollout:
    world = cell.world
    last, rollout = world.last(), world.ledger().rollouts[1]
    code = Exit.PAUSED if rollout.paused else PHASE_EXITS[rollout.phase]
    assert code == EXITS[outcome], rollout
    assert (last.kind is Kind.UNDO) == (outcome == "TB")
    if rollout.paused:
        assert rollout.pause_cause is {"PAU": PauseCause.USER, "INC": PauseCause.INCONCLUSIVE}[outcome]
        missing = ("undecided", "not all canary workers")
        assert outcome == "PAU" or any(word in rollout.analysis.reason for word in missing)
    else:
        assert (rollout.phase, last.phase) == (PHASES[outcome], P.SUCCEEDED if outcome == "TB" else PHASES[outcome])
        assert not rollout.steps
    n_steps = sum(step.outcome is not Outcome.WITHDRAWN for step in rollout.ended_steps)
    assert outcome not in ("RES", "WR") or (n_steps > N_WORKERS) == (outcome == "WR"), f"{n_steps} steps"
    assert outcome != "BACK" or rollout.cause == "abort"
    return rollout


def check_pool(cell: Cell, outcome: str, rollout: Rollout) -> None:
    """Where all rests."""
    pool, ledger = cell.world.pool, cell.world.ledger()
    alive = [worker for worker in pool.workers.values() if worker.name not in pool.dead]
    assert pool.ready() >= N_WORKERS - 1
    assert pool.table is not None
    if outcome == "RBF":
        helpless = alive if cell.stable in pool.bad else [pool.workers[name] for name in pool.lying]
        assert {worker.digest for worker in helpless} <= {cell.stable, cell.target}
        assert all(worker.digest == cell.stable for worker in alive if worker not in helpless), "who can go back does"
    elif not rollout.paused:
        assert all(worker.state is S.READY for worker in alive)
        assert {worker.digest for worker in alive} == {ledger.stable(MODEL)}
        assert pool.table.target is None
    if not rollout.paused and outcome != "RBF":
        assert pool.table.policy is None, "nothing is split any more"
    assert cell.is_disturbed or pool.fewest_ready >= pool.floor


def check_requests(cell: Cell, rollout: Rollout) -> None:
    """All are answered in time, by the versions that may."""
    traffic = cell.traffic
    assert traffic.answered.keys() <= {cell.stable, cell.target}
    assert traffic.longest_wait_s <= (2.0 if cell.is_disturbed else 0.0)
    before, seq = dict(traffic.answered), cell.world.journal.last_seq()
    cell.pass_time(1.0)
    grown = {digest for digest, n in traffic.answered.items() if n > before.get(digest, 0)}
    if rollout.phase is not P.ROLLBACK_FAILED:
        assert cell.world.journal.last_seq() == seq
    if rollout.phase is P.ROLLBACK_FAILED and canary.leaves_bad_answers(rollout):
        workers = cell.world.pool.workers.values()
        is_left = any(worker.digest == cell.stable and worker.state is S.READY for worker in workers)
        assert grown == {cell.stable if is_left else cell.target}
    elif rollout.is_over and rollout.phase is not P.ROLLBACK_FAILED and traffic.rate:
        assert grown == {cell.world.ledger().stable(MODEL)}


def check_way_out(cell: Cell) -> None:
    """A pause is no trap: the rollout can be aborted, and goes back."""
    cell.world.abort()
    cell.settle()
    rollout = cell.world.last()
    assert rollout.cause == "abort" or rollout.phase is P.ROLLBACK_FAILED
    check_pool(cell, "RBF" if rollout.phase is P.ROLLBACK_FAILED else "RB", rollout)
    cell.world.check_always()


# ---- the oracle has teeth


def by_capacity_always(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(canary, "_SHARES", dict.fromkeys(canary._SHARES, canary._by_capacity))


def back_by_capacity(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(canary, "_SHARES", canary._SHARES | {P.ROLLING_BACK: canary._by_capacity})


def leaving_workers_count(patch: pytest.MonkeyPatch) -> None:
    def staying(rollout: Rollout, workers: canary.Workers, digest: str) -> int:
        return sum(worker.state is S.READY and worker.digest == digest for worker in workers.values())

    patch.setattr(canary, "_staying", staying)


def no_verdict_while_paused(patch: pytest.MonkeyPatch) -> None:
    right = canary.catch_failure
    patch.setattr(canary, "catch_failure", lambda rollout, *rest: None if rollout.paused else right(rollout, *rest))


def no_verdict_after_the_canary(patch: pytest.MonkeyPatch) -> None:
    right = canary.catch_failure
    patch.setattr(
        canary, "catch_failure", lambda rollout, *rest: right(rollout, *rest) if rollout.phase is P.ANALYZING else None
    )


def watched_for_ever(patch: pytest.MonkeyPatch) -> None:
    right = canary.is_watched
    patch.setattr(canary, "is_watched", lambda rollout, now: right(rollout, rollout.analysis.since))


def never_watched(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(canary, "is_watched", lambda rollout, now: False)


def no_evidence_is_a_pass(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        canary, "worst", lambda found: GateResult.FAIL if worst(found) is GateResult.FAIL else GateResult.PASS
    )


def tried_again_until_it_passes(patch: pytest.MonkeyPatch) -> None:
    right = canary.end_step
    for name in ("end_step", "wait_for_workers"):
        patch.setattr(canary, name, lambda rollout, *rest: right(replace(rollout, paused=False), *rest))


def failures_forgiven(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(canary, "gives_up", lambda rollout: False)


def lost_canary_worker_ignored(patch: pytest.MonkeyPatch) -> None:
    right = decide._start_step
    patch.setattr(
        decide, "_start_step", lambda rollout, *seen: None if rollout.phase is P.ANALYZING else right(rollout, *seen)
    )


def lost_canary_workers_step_left_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(canary, "begin", canary._next_step)


def the_floor_holds_who_must_go_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(decide, "_must_not_wait", lambda *seen: False)


def bad_answers_for_want_of_workers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(canary, "leaves_bad_answers", lambda rollout: False)


def an_undo_waits_for_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(decide, "_has_arrived", decide.is_settled)


def one_that_can_not_go_back_is_the_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(decide, "_can_others_go_back", lambda *seen: False)


# A mistake in the machine, and the cell it dies in.
PLANTED: list[tuple[Callable[[pytest.MonkeyPatch], None], str, str]] = [
    (by_capacity_always, "controller killed", "share"),
    (back_by_capacity, "abort", "shadow"),
    (leaving_workers_count, "second start", "rolling"),
    (no_verdict_while_paused, "100 % errors", "paused"),
    (no_verdict_after_the_canary, "5 % errors", "baking"),
    (watched_for_ever, "second start", "baking"),
    (never_watched, "100 % errors", "committing"),
    (no_evidence_is_a_pass, "no traffic", "shadow"),
    (tried_again_until_it_passes, "no metrics", "share"),
    (failures_forgiven, "other answers", "shadow"),
    (lost_canary_worker_ignored, "worker in step killed", "shadow"),
    (lost_canary_workers_step_left_out, "worker in step killed", "share"),
    (the_floor_holds_who_must_go_back, "100 % errors, another gone", "rolling"),
    (the_floor_holds_who_must_go_back, "100 % errors, another gone", "committing"),
    (bad_answers_for_want_of_workers, "100 % errors, another gone", "baking"),
    (bad_answers_for_want_of_workers, "100 % errors", "committing"),
    (bad_answers_for_want_of_workers, "100 % errors, no way back", "rolling"),
    (an_undo_waits_for_all, "100 % errors, another gone", "committing"),
    (one_that_can_not_go_back_is_the_end, "worker keeps old version", "back"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("plant", "row", "column"), PLANTED, ids=lambda value: getattr(value, "__name__", value))
def test_a_planted_fault_dies(
    plant: Callable[[pytest.MonkeyPatch], None], row: str, column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = dict(zip(COLUMNS, TABLE[row].split(), strict=True))[column]
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        run_cell(row, column, outcome, monkeypatch)


# ---- fenceposts: what is refused before it begins


@pytest.mark.parametrize(
    ("n_workers", "changes", "message"),
    [
        (1, {"steps": ()}, "one worker can't be drained"),
        (3, {"max_unavailable": 3}, "would leave none serving"),
        (3, {"steps": ("50",)}, "carry 33.3 percent"),
        (3, {"canary_workers": 3}, "would leave none on the stable version"),
        (2, {"steps": ("shadow",), "canary_workers": 2}, "would leave none on the stable version"),
    ],
)
def test_what_can_not_keep_the_pool_serving_is_a_usage_error(
    n_workers: int, changes: dict[str, Any], message: str
) -> None:
    with fast_folder() as folder:
        world = World(folder, n_workers, replace(SETTINGS, **changes))
        with pytest.raises(BadRollout, match=message) as raised:
            world.start(NEW_VERSION)
        assert exit_for(raised.value) is Exit.USAGE
        assert K.ROLLOUT_CREATED not in world.kinds()
        world.close()


def test_percentages_that_come_to_nothing_are_usage_errors() -> None:
    with pytest.raises(BadRollout):
        parse_count("25%", 3, "--max-unavailable")
    assert resolve_steps(("auto",), 1, 1) == ()
