"""The controller against a fake pool in virtual time, with the real journal."""

import gc
import logging
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from control import orders
from control.actions import CheckWeights
from control.checks import Scratch, check_weights
from control.controller import Controller
from control.events import EventKind
from control.journal import Journal
from control.recorder import report_path
from control.rollout import Outcome
from control.view import Finding
from hotpool import messages as m
from hotpool.errors import BrokerUnreachable, JournalCorrupt, StaleEpoch
from hotpool.evidence import Counts
from hotpool.manifest import MANIFEST, WEIGHTS
from hotpool.stable import read_stable
from hotpool.states import Phase, Strategy, WorkerState
from tests.fake_pool import MODEL, SETTINGS, FakePool, World, fast_folder, settings
from tests.full_disk import full_disk, needs_limits
from tests.pool import ROOT, eventually

K, S = EventKind, WorkerState


@pytest.fixture
def world():
    with fast_folder() as folder:
        world = World(folder)
        yield world
        world.close()


def test_a_rollout_moves_every_worker_and_the_pointer(world: World) -> None:
    world.start("v2")
    rollout = world.run_to_end()
    world.check(Phase.SUCCEEDED)
    assert [step.outcome for step in rollout.ended_steps] == [Outcome.FINISHED] * 3
    assert all(step.seconds.keys() == {"drain", "load", "verify", "rejoin"} for step in rollout.ended_steps)
    assert all(step.seconds["drain"] >= world.pool.drain_s for step in rollout.ended_steps)
    assert world.pool.fewest_ready == 2


def test_the_events_of_a_rollout_in_order(world: World) -> None:
    world.start("v2")
    world.run_to_end()
    step = [K.STEP_STARTED, K.STEP_DRAINED, K.STEP_LOADED, K.STEP_FINISHED]
    kinds = world.kinds()
    start = kinds.index(K.ROLLOUT_CREATED)
    assert kinds[start:] == [
        K.ROLLOUT_CREATED,
        K.CONTROLLER_STARTED,
        K.PREFLIGHT_STARTED,
        K.PREFLIGHT_PASSED,
        *step * 3,
        K.BAKE_STARTED,
        K.COMMIT_STARTED,
        K.SUCCEEDED,
    ]


def test_several_workers_at_once_when_allowed() -> None:
    with fast_folder() as folder:
        world = World(folder, n_workers=5, settings=settings(max_unavailable=3))
        world.start("v2")
        world.run_to_end()
        world.check(Phase.SUCCEEDED)
        assert world.pool.fewest_ready == 2
        world.close()


def beside_world(folder: Path, n_workers: int = 3, **changes: float) -> World:
    return World(folder, n_workers, settings(strategy=Strategy.BESIDE, **changes))


def loading(world: World) -> list[str]:
    return [name for name, worker in world.pool.workers.items() if worker.beside]


@pytest.mark.parametrize("n_workers", [1, 3])
def test_with_the_strategy_beside_no_worker_ever_leaves(n_workers: int) -> None:
    with fast_folder() as folder:
        world = beside_world(folder, n_workers)
        most_at_once = 0
        world.start("v2")
        while not world.last().is_over:
            world.turn()
            most_at_once = max(most_at_once, len(loading(world)))
        world.undo()
        rollout = world.run_to_end()
        world.check(Phase.SUCCEEDED)
        assert (world.pool.fewest_ready, most_at_once) == (n_workers, 1)
        assert [list(step.seconds) for step in rollout.ended_steps] == [["load", "verify", "rejoin"]] * n_workers
        assert K.STEP_DRAINED not in world.kinds()
        world.close()


def test_beside_max_unavailable_is_how_many_load_at_once() -> None:
    with fast_folder() as folder:
        world = beside_world(folder, max_unavailable=2)
        world.start("v2")
        world.run(lambda: len(loading(world)) == 2)
        world.run_to_end()
        world.check(Phase.SUCCEEDED)
        assert world.pool.fewest_ready == 3
        world.close()


@pytest.mark.parametrize("n_loaded", [0, 2])
def test_a_version_that_can_not_be_loaded_beside_is_never_served(n_loaded: int) -> None:
    with fast_folder() as folder:
        world = beside_world(folder)
        world.start("v2")
        world.run(lambda: len(world.last().ended_steps) == n_loaded and bool(loading(world)))
        world.pool.bad[world.digests["v2"]] = "golden outputs differ by 3.1"
        rollout = world.run_to_end()
        world.check(Phase.ROLLED_BACK)
        assert (rollout.cause, rollout.ending) == ("version", f"worker-{n_loaded}: golden outputs differ by 3.1")
        assert world.pool.fewest_ready == 3
        world.close()


def test_an_abort_in_the_middle_of_a_load_beside_leaves_nobody_behind_on_the_target() -> None:
    """The load goes on and its version is swapped in: the rollback must not be over before it has taken that back."""
    with fast_folder() as folder:
        world = beside_world(folder)
        world.start("v2")
        world.run(lambda: bool(loading(world)))
        world.abort()
        world.run_to_end()
        world.pool.pass_time(10.0)
        world.check(Phase.ROLLED_BACK)
        assert world.pool.fewest_ready == 3
        world.close()


@pytest.mark.parametrize("n_workers", [1, 3])
def test_a_worker_killed_in_a_load_beside_boots_stable_and_gets_its_step_again(n_workers: int) -> None:
    with fast_folder() as folder:
        world = beside_world(folder, n_workers)
        world.start("v2")
        world.run(lambda: bool(loading(world)))
        world.pool.crash("worker-0")
        world.run(lambda: world.pool.workers["worker-0"].state is S.STARTING)
        assert world.pool.workers["worker-0"].digest == world.digests["v1"]
        rollout = world.run_to_end()
        world.check(Phase.SUCCEEDED)
        assert rollout.ended_steps[0].reason == "its process ended"
        assert len(rollout.ended_steps) == n_workers + 1
        world.close()


def test_a_broker_killed_in_a_load_beside_costs_no_attempt() -> None:
    with fast_folder() as folder:
        world = beside_world(folder)
        world.start("v2")
        world.run(lambda: bool(loading(world)))
        world.pool.restart_broker()
        rollout = world.run_to_end()
        world.check(Phase.SUCCEEDED)
        assert [step.outcome for step in rollout.ended_steps] == [Outcome.FINISHED] * 3
        world.close()


def test_a_version_that_fails_preflight_touches_no_worker(world: World) -> None:
    world.preflight.finding = Finding(False, "fc.weight: shape (9, 512), expected (10, 512)")
    world.start("v2")
    rollout = world.run_to_end()
    world.check(Phase.REJECTED)
    assert (rollout.cause, rollout.ending) == ("preflight", "fc.weight: shape (9, 512), expected (10, 512)")
    assert world.pool.fewest_ready == 3


def test_a_version_no_worker_can_load_is_tried_on_one_worker_once(world: World) -> None:
    world.pool.bad[world.digests["v2"]] = "golden outputs differ by 3.1"
    world.start("v2")
    rollout = world.run_to_end()
    world.check(Phase.ROLLED_BACK)
    assert (rollout.cause, rollout.ending) == ("version", "worker-0: golden outputs differ by 3.1")
    assert sum(step.outcome is Outcome.FAILED for step in rollout.ended_steps) == 1
    assert world.pool.fewest_ready == 2


def test_weights_changed_while_baking_never_commit(world: World) -> None:
    world.start("v2")
    world.run_to(Phase.BAKING)
    (world.home.versions / world.digests["v2"] / WEIGHTS).write_bytes(b"other")
    rollout = world.run_to_end()
    world.check(Phase.ROLLED_BACK)
    assert rollout.cause == "version"
    assert "was changed" in rollout.ending


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.PREFLIGHT, Phase.ROLLING, Phase.BAKING])
@pytest.mark.parametrize("paused", [False, True])
def test_an_abort_ends_where_it_should(world: World, phase: Phase, paused: bool) -> None:
    world.start("v2")
    world.run_to(phase)
    if paused:
        world.pause()
    world.abort()
    rollout = world.run_to_end()
    world.check(Phase.REJECTED if phase in (Phase.PENDING, Phase.PREFLIGHT) else Phase.ROLLED_BACK)
    assert rollout.cause == "abort"


def test_an_abort_that_comes_between_decision_and_event_wins(world: World) -> None:
    """The order is written just before the commit would be: the controller must see it and decide anew."""
    world.start("v2")
    world.run_to(Phase.BAKING)
    assert world.controller is not None
    original = world.controller.at_crash_point

    def abort_before_commit(when: str, action: object) -> None:
        if when == "before" and getattr(action, "kind", None) is K.COMMIT_STARTED:
            world.abort()
        original(when, action)  # type: ignore[arg-type]

    world.controller.at_crash_point = abort_before_commit
    world.run_to_end()
    world.check(Phase.ROLLED_BACK)
    assert K.COMMIT_STARTED not in world.kinds()


def test_weights_that_were_good_before_a_pause_are_checked_again(world: World) -> None:
    world.start("v2")
    world.run_to(Phase.BAKING)
    assert world.controller is not None

    def pause_after_the_check(when: str, action: object) -> None:
        if when == "after" and isinstance(action, CheckWeights) and not world.last().paused:
            world.pause()
            (world.home.versions / world.digests["v2"] / WEIGHTS).write_bytes(b"other")

    world.controller.at_crash_point = pause_after_the_check
    world.run(lambda: world.last().paused)
    world.turn()
    world.controller.at_crash_point = lambda when, action: None
    world.resume()
    world.run_to_end()
    world.check(Phase.ROLLED_BACK)


def test_a_pause_lets_open_steps_end_and_starts_no_other(world: World) -> None:
    world.start("v2")
    world.run(lambda: bool(world.last().steps))
    world.pause()
    for _ in range(int(3 * SETTINGS.progress_deadline_s / 0.05)):
        world.turn()
    rollout = world.last()
    assert rollout.paused
    assert rollout.phase is Phase.ROLLING
    assert [step.outcome for step in rollout.ended_steps] == [Outcome.FINISHED]
    assert world.pool.ready() == 3
    world.resume()
    world.run_to_end()
    world.check(Phase.SUCCEEDED)


def test_a_pause_while_baking_begins_the_bake_anew(world: World) -> None:
    world.start("v2")
    world.run_to(Phase.BAKING)
    world.pause()
    for _ in range(100):
        world.turn()
    assert world.last().phase is Phase.BAKING
    world.resume()
    resumed_at = world.pool.now
    world.run_to_end()
    assert world.pool.now - resumed_at >= SETTINGS.bake_s
    world.check(Phase.SUCCEEDED)


def test_with_each_start_of_the_controller_the_bake_and_the_deadline_begin_anew(world: World) -> None:
    world.start("v2")
    world.run_to(Phase.BAKING)
    world.kill()
    for _ in range(int(2 * SETTINGS.progress_deadline_s)):
        world.pool.pass_time(1.0)
    back_at = world.pool.now
    world.run_to_end()
    assert world.pool.now - back_at >= SETTINGS.bake_s
    world.check(Phase.SUCCEEDED)


@pytest.mark.parametrize("state", [S.DRAINING, S.LOADING, S.DRAINED])
def test_a_worker_lost_in_its_step_gets_another(world: World, state: WorkerState) -> None:
    world.start("v2")
    world.run(lambda: world.pool.workers["worker-1"].state is state)
    world.pool.crash("worker-1")
    rollout = world.run_to_end()
    world.check(Phase.SUCCEEDED)
    outcomes = [step.outcome for step in rollout.ended_steps if step.worker == "worker-1"]
    assert outcomes == [Outcome.FAILED, Outcome.FINISHED]


def test_a_worker_lost_while_baking_is_updated_again(world: World) -> None:
    world.start("v2")
    world.run_to(Phase.BAKING)
    world.pool.crash("worker-0")
    world.run_to_end()
    world.check(Phase.SUCCEEDED)
    assert world.kinds().count(K.BAKE_STARTED) == 2


def test_a_version_that_keeps_ending_its_worker_is_rolled_back(world: World) -> None:
    world.start("v2")

    def crash_who_serves_the_target() -> bool:
        for worker in world.pool.workers.values():
            if worker.state is S.READY and worker.digest == world.digests["v2"]:
                world.pool.crash(worker.name)
        return world.last().is_over

    world.run(crash_who_serves_the_target)
    rollout = world.run_to_end()
    world.check(Phase.ROLLED_BACK)
    assert rollout.cause == "worker"
    assert "attempts" in rollout.ending


def test_a_worker_that_never_comes_back_ends_in_a_rollback_without_it(world: World) -> None:
    world.start("v2")
    world.run(lambda: bool(world.last().ended_steps))
    world.pool.dead.add("worker-2")
    world.pool.crash("worker-2")
    world.run(lambda: world.last().is_over, turns=20_000)
    rollout = world.last()
    assert (rollout.phase, rollout.cause) == (Phase.ROLLED_BACK, "deadline")
    assert {w.digest for w in world.pool.workers.values() if w.state is S.READY} == {world.digests["v1"]}
    assert (world.pool.ready(), world.pool.wrong) == (2, [])


def test_a_drain_that_never_ends_is_the_workers_fault(world: World) -> None:
    world.pool.stuck.add("worker-0")
    world.start("v2")
    world.run(lambda: any(step.outcome is Outcome.FAILED for step in world.last().ended_steps))
    assert "drain took longer than 5 s" in world.last().ended_steps[0].reason
    world.pool.crash("worker-0")  # the broker kills it when its leases run out
    world.pool.stuck.clear()
    world.run_to_end()
    world.check(Phase.SUCCEEDED)


def test_a_rollback_that_can_not_load_stable_fails_and_still_serves(world: World) -> None:
    world.start("v2")
    world.run_to(Phase.BAKING)
    world.pool.bad[world.digests["v1"]] = "can't be read"
    world.abort()
    world.run(lambda: world.last().is_over)
    assert (world.last().phase, world.last().cause) == (Phase.ROLLBACK_FAILED, "worker")
    for _ in range(200):
        world.turn()
    assert world.pool.ready() == 2
    assert world.pool.wrong == []
    del world.pool.bad[world.digests["v1"]]
    world.run(lambda: world.pool.ready() == 3)  # the drained one is repaired, the others serve the target on
    assert world.pool.workers["worker-0"].digest == world.digests["v1"]


@pytest.mark.parametrize("phase", [Phase.PREFLIGHT, Phase.ROLLING, Phase.BAKING, Phase.COMMITTING])
def test_a_restarted_broker_is_told_everything_again(world: World, phase: Phase) -> None:
    world.start("v2")
    world.run_to(phase)
    world.pool.restart_broker()
    world.run_to_end()
    world.check(Phase.SUCCEEDED)


def test_undo_twice_goes_back_two(world: World) -> None:
    for version in ("v2", "v3"):
        world.start(version)
        world.run_to_end()
    for expected in ("v2", "v1"):
        world.undo()
        world.run_to_end()
        world.check(Phase.SUCCEEDED)
        assert read_stable(world.home, MODEL) == world.digests[expected]
    assert world.preflight.runs == 4, "an undo is checked like any other"


def test_a_lost_pointer_is_written_again(world: World) -> None:
    world.home.stable_pointer(MODEL).unlink()
    world.run(lambda: read_stable(world.home, MODEL) == world.digests["v1"], turns=50)


def test_each_start_is_a_new_epoch_and_the_older_controller_ends(world: World) -> None:
    world.turn()
    old = world.controller
    assert old is not None
    with Journal(world.home.database) as journal:
        Controller(world.home, MODEL, journal, world.pool, world.preflight, "controller").start(world.pool.now)
        with pytest.raises(StaleEpoch, match="epoch 2, ours is 1"):
            old.step(world.pool.now)


def test_an_older_controller_is_refused_by_the_broker(world: World) -> None:
    world.pool.leader = 9
    with pytest.raises(StaleEpoch):
        world.turn()


def test_a_journal_that_was_meddled_with_stops_the_controller_before_it_acts(world: World) -> None:
    with Journal(world.home.database) as journal:
        journal._connection.execute("DROP TRIGGER events_never_change")
        journal._connection.execute("UPDATE events SET operator = 'eve' WHERE seq = 1")
        seq = journal.last_seq()
        with pytest.raises(JournalCorrupt):
            world.turn()
        assert journal.last_seq() == seq
    assert world.pool.table is None


class SilentAtFirst:
    """A broker that does not answer the first three questions; stops the controller once it has spoken to it."""

    def __init__(self, pool: FakePool, stopping: threading.Event) -> None:
        self._pool, self._stopping, self._silent_for = pool, stopping, 3

    def report(self) -> m.Report:
        if self._silent_for:
            self._silent_for -= 1
            raise BrokerUnreachable("no broker answered")
        return self._pool.report()

    def evidence(self, model: str) -> Counts | None:
        return None

    def request(self, make: Callable[[int], m.FromAdmin]) -> m.Ack | m.Report:
        self._stopping.set()
        return self._pool.request(make)

    def changes(self, timeout_s: float) -> list[m.Changed]:
        return [m.Changed(1, "worker-0", "down", "ready", "", "", 1)]


def test_without_a_broker_the_controller_holds_and_says_it_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    stopping = threading.Event()
    broker = SilentAtFirst(world.pool, stopping)
    with caplog.at_level(logging.INFO, "hotpool.control"), Journal(world.home.database) as journal:
        Controller(world.home, MODEL, journal, broker, world.preflight, "controller").run(stopping)
    said = [record.getMessage() for record in caplog.records]
    assert sum("holding" in line for line in said) == 1
    assert sum("going on" in line for line in said) == 1
    assert world.pool.table is not None


class FullAtFirst(SilentAtFirst):
    """The disk is full from the first question to the first pause; stops the controller once it speaks after that."""

    def __init__(self, pool: FakePool, stopping: threading.Event, disk: ExitStack) -> None:
        super().__init__(pool, stopping)
        self._silent_for, self._disk, self._is_new = 0, disk, True

    def report(self) -> m.Report:
        if self._is_new:
            self._disk.enter_context(full_disk())
        self._is_new = False
        return super().report()

    def changes(self, timeout_s: float) -> list[m.Changed]:
        self._disk.close()
        return super().changes(timeout_s)


@needs_limits
def test_a_pointer_to_stable_that_finds_no_room_is_waited_for(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.home.stable_pointer(MODEL).unlink()
    stopping = threading.Event()
    with caplog.at_level(logging.INFO, "hotpool.control"), Journal(world.home.database) as journal, ExitStack() as disk:
        broker = FullAtFirst(world.pool, stopping, disk)
        Controller(world.home, MODEL, journal, broker, world.preflight, "controller").run(stopping)
    assert read_stable(world.home, MODEL) == world.digests["v1"]
    said = [record.getMessage() for record in caplog.records]
    assert sum("holding" in line and "models/shapes/stable" in line for line in said) == 1
    assert sum("going on" in line for line in said) == 1


# ---- checks


def test_weights_are_good_until_somebody_touches_them(world: World) -> None:
    digest = world.digests["v2"]
    folder = world.home.versions / digest
    assert check_weights(world.home, digest) == Finding(True)
    (folder / WEIGHTS).write_bytes(b"weights of v3")
    assert "was changed" in check_weights(world.home, digest).reason
    (folder / WEIGHTS).unlink()
    assert WEIGHTS in check_weights(world.home, digest).reason
    (folder / MANIFEST).unlink()
    assert MANIFEST in check_weights(world.home, digest).reason


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "is_good", "reason"),
    [
        ('print(\'noise\\n{"ok": true, "reason": ""}\')', True, ""),
        ('print(\'{"ok": false, "reason": "NaN in fc.weight"}\')', False, "NaN in fc.weight"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            False,
            "was ended by SIGKILL before it had a result",
        ),
        ("raise SystemExit(3)", False, "ended with exit code 3 before it had a result"),
        ("print('[]')", False, "before it had a result"),
        ("import time; time.sleep(60)", False, "preflight took longer than 0.3 s"),
    ],
)
def test_whatever_the_scratch_process_does_it_becomes_a_finding(
    world: World, program: str, is_good: bool, reason: str
) -> None:
    scratch = Scratch(world.home, [sys.executable, "-c", program])
    timeout_s = 0.3 if "sleep" in program else 30.0
    scratch.start(world.digests["v2"], settings(preflight_timeout_s=timeout_s), world.digests["v1"])
    finding = None
    while finding is None:
        finding = scratch.poll()
    assert finding.is_good == is_good
    assert reason in finding.reason
    assert scratch.poll() == finding
    scratch.stop()
    assert scratch.poll() is None


@pytest.mark.slow
def test_the_scratch_process_gives_way_to_the_pool_from_its_first_instruction(world: World) -> None:
    """Importing torch is most of its work."""
    program = (
        "import json, os; print(json.dumps({'ok': True, 'reason': f'{os.nice(0)} {os.getsid(0) == os.getpid()}'}))"
    )
    scratch = Scratch(world.home, [sys.executable, "-c", program])
    scratch.start(world.digests["v2"], settings(preflight_timeout_s=30.0), world.digests["v1"])
    while (finding := scratch.poll()) is None:
        pass
    scratch.stop()
    nice, has_own_session = finding.reason.split()
    assert int(nice) > os.nice(0)
    assert has_own_session == "True", "or the kernel would not look at niceness"


WAITING = """
import sys, time
from pathlib import Path
from msgspec.structs import asdict
from control.checks import Scratch
from control.settings import Settings
from hotpool.config import Config
from hotpool.home import Home
scratch = Scratch(Home(Path(sys.argv[1])), [sys.executable, "-c", "import time; time.sleep(60)"])
scratch.start("a" * 64, Settings(**asdict(Config().rollout)), "b" * 64)
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it goes on for as long as it takes")
def test_a_scratch_process_ends_with_a_controller_that_is_killed(world: World) -> None:
    command = [sys.executable, "-c", WAITING, str(world.home.root)]
    with subprocess.Popen(command, cwd=ROOT) as controller:
        children = psutil.Process(controller.pid).children
        eventually(lambda: ["import time; time.sleep(60)" in one.cmdline() for one in children()] == [True], "it runs")
        (scratch,) = children()
        controller.kill()
    eventually(
        lambda: not scratch.is_running() or scratch.status() == psutil.STATUS_ZOMBIE, "the scratch process is gone"
    )


def test_a_page_that_the_last_controller_had_no_time_to_write_is_written_at_the_next_start(world: World) -> None:
    world.start("v2")
    world.run_to_end()
    page = report_path(world.home, 1)
    page.unlink(missing_ok=True)
    world.kill()
    world.turn()
    assert "v2 is stable" in page.read_text()


def test_a_rollout_that_is_over_takes_little_memory() -> None:
    """All of them are kept, for as long as the controller lives."""
    n_rollouts = 20
    with fast_folder() as folder:
        world = World(folder, n_workers=2)
        for n in range(n_rollouts):
            world.start("v1" if n % 2 else "v2")
            world.run_to_end()
        held, before = world.controller.ledger, orders.read(world.journal)
        gc.collect()
        tracemalloc.start()
        try:
            ledger = orders.read(world.journal)
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        world.close()
    assert ledger.rollouts.keys() == before.rollouts.keys() == set(range(1, n_rollouts + 1))
    print(f"{kept / n_rollouts:.0f} bytes a rollout")
    assert kept / n_rollouts < 2500  # 1,900 were seen, and 4,150 when there were digests, names and settings for each
    for known in (held, ledger):  # what the controller has seen happen, and what it has read
        first, other = known.rollouts[1], known.rollouts[2]
        assert first.settings is other.settings
        assert first.target is other.stable is first.ended_steps[0].goal
        assert first.ended_steps[0].worker is other.ended_steps[0].worker
