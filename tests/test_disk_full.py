"""Real processes on a full disk: what can't be written down is not done, and serving goes on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random

import pytest

from bench.callers import Callers
from bench.noop import MODEL
from control import orders
from hotpool.stable import read_stable
from hotpool.states import Phase
from tests.full_disk import full_disk, needs_limits
from tests.odd_workers import DISAGREES
from tests.pool import eventually, running_pool
from tests.stage import CANARY, PATIENCE_S, SETTINGS, Stage, add_versions, load, staged

pytestmark = [pytest.mark.slow, pytest.mark.alone, needs_limits]
FRAME_BYTES = 4096 + 24  # of SQLite's log of changes; an event takes one to four
SAID = "holding reason=the journal"


def log_of(stage: Stage) -> str:
    return (stage.pool.home.root / "control.log").read_text()


def state(stage: Stage) -> object:
    """All that a controller changes."""
    report = stage.admin.report()
    workers = [(worker.worker, worker.state, worker.digest, worker.incarnation) for worker in report.workers]
    return stage.journal.last_seq(), read_stable(stage.pool.home, MODEL), report.models, workers


@contextmanager
def held(stage: Stage, callers: Callers, n_frames: int = 0) -> Iterator[None]:
    """The controller's disk is full but for so many frames of the journal, until the block ends.

    Entered when it holds, or the rollout is over. What is shorter than the journal, such as the log, finds room.
    """
    n_said = log_of(stage).count(SAID)
    limit = stage.pool.home.database.with_name("hotpool.db-wal").stat().st_size + n_frames * FRAME_BYTES
    assert len(log_of(stage)) + FRAME_BYTES < limit
    with full_disk(stage.pool.processes["control"].pid, limit):
        eventually(lambda: log_of(stage).count(SAID) > n_said or stage.last().is_over, "it holds", PATIENCE_S)
        before, is_over = state(stage), stage.last().is_over
        callers.wait_for(200)
        assert is_over or state(stage) == before
        yield


def check_log(stage: Stage, callers: Callers) -> None:
    log, n_controllers = log_of(stage), orders.read(stage.journal).epoch
    assert stage.pool.processes["control"].poll() is None
    assert (log.count(SAID), log.count("going on after=the journal")) == (n_controllers - 1, n_controllers - 1)
    assert "hotpool.db can't be used" in log
    assert "MB free" in log
    print(f"{n_controllers - 1} times full, {callers.history.answered} answers, {callers.history.by_version}")


@pytest.mark.parametrize(("number", "phase"), [(11, Phase.SUCCEEDED), (DISAGREES, Phase.ROLLED_BACK)])
def test_no_verdict_takes_effect_before_there_is_room_for_it(number: int, phase: Phase) -> None:
    with staged() as stage:
        with load(stage) as callers:
            stage.start(number, CANARY)
            stage.until(lambda rollout: rollout.analysis.step == 0, "copies to the canary")
            with held(stage, callers):
                assert set(callers.history.by_version) == {"v1"}
            if phase is Phase.SUCCEEDED:
                stage.until(lambda rollout: rollout.analysis.step == 1, "the canary answers")
                with held(stage, callers):
                    assert stage.last().phase is Phase.ANALYZING
            assert stage.until_over().phase is phase
        check_log(stage, callers)


@pytest.mark.parametrize("seed", range(2))
def test_wherever_in_a_rollout_the_disk_gets_full_it_goes_on_from_there(seed: int) -> None:
    rng = Random(seed)
    with staged(3) as stage:
        with load(stage) as callers:
            for number, phase in ((11, Phase.SUCCEEDED), (21, Phase.ROLLED_BACK)):
                stage.start(number, replace(SETTINGS, bake_s=0.1))
                while not stage.last().is_over:
                    with held(stage, callers, rng.randint(5, 8)):
                        is_to_abort = phase is Phase.ROLLED_BACK and bool(stage.last().ended_steps)
                    if is_to_abort and not stage.last().is_over:
                        orders.abort(stage.journal, model=MODEL, operator="test")
                assert stage.last().phase is phase
        print(f"seed {seed}")
        check_log(stage, callers)


def test_a_controller_that_is_started_on_a_full_disk_waits_for_room() -> None:
    """Nobody else has the journal open: not even the file that SQLite needs beside it finds room."""
    with running_pool(1) as pool:
        add_versions(pool.home, 1)
        log = pool.home.root / "control.log"
        pool.start_control()
        with full_disk(pool.processes["control"].pid, limit=4096):
            eventually(lambda: SAID in log.read_text(), "it holds")
            assert pool.report().models == ()
        eventually(lambda: bool(pool.report().models), "the controller has spoken")
        assert "Traceback" not in log.read_text()
