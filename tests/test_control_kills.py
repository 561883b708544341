"""Real processes: the controller is killed outright at random moments of rollouts, with a real broker and real workers."""

import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from random import Random

import pytest

from bench.callers import Callers
from bench.noop import MODEL, noop_manifest
from control import orders
from control.events import EventKind
from control.ledger import replay
from control.rollout import Rollout
from hotpool.states import Phase
from tests.odd_workers import DISAGREES, SLOWER
from tests.pool import ROOT, eventually
from tests.stage import CANARY, PATIENCE_S, SETTINGS, Stage, load, staged

pytestmark = [pytest.mark.slow, pytest.mark.alone]
BAKED = replace(SETTINGS, bake_s=0.1)


def run_with_kills(
    stage: Stage, rng: Random, callers: Callers | None = None, abort_after: int | None = None
) -> Rollout:
    """Starts a controller and kills it when it has written a random number of events, or callers have got a random number of
    answers; then the next.

    abort_after: so many steps the rollout is aborted.
    """
    while not (stage.last().is_over or stage.last().paused):
        stage.pool.start_control()
        n_events = stage.journal.last_seq() + rng.randint(1, 6)
        n_answers = callers.history.answered + rng.randint(50, 800) if callers else 0

        def is_enough(n_events: int = n_events, n_answers: int = n_answers) -> bool:
            is_answered = callers is not None and callers.history.answered >= n_answers
            return is_answered or stage.journal.last_seq() >= n_events or stage.last().is_over

        eventually(is_enough, "the rollout goes on", patience_s=PATIENCE_S)
        stage.pool.kill("control")
        if abort_after is not None and len(stage.last().ended_steps) >= abort_after and not stage.last().is_over:
            orders.abort(stage.journal, model=MODEL, operator="test")
    return stage.last()


@pytest.mark.parametrize("seed", range(3))
def test_rollouts_survive_a_controller_that_is_killed_again_and_again(seed: int) -> None:
    rng = Random(seed)
    with staged(3, has_controller=False) as stage:
        with load(stage, n_threads=1):
            stage.start(11, BAKED)
            assert run_with_kills(stage, rng).phase is Phase.SUCCEEDED
            stage.start(21, BAKED)
            assert run_with_kills(stage, rng, abort_after=1).phase is Phase.ROLLED_BACK
        stage.start_control()
        ledger = orders.read(stage.journal)
        assert ledger.stable(MODEL) == noop_manifest("v11").digest
        assert len(stage.trace.changes) >= 3 * 2 * 4
    print(f"seed {seed}: {ledger.epoch} controllers, {ledger.seq} events")


@pytest.mark.parametrize(
    ("number", "phase"),
    [(11, Phase.SUCCEEDED), (DISAGREES, Phase.ROLLED_BACK), (SLOWER, Phase.ROLLED_BACK)],
    ids=["as good", "disagrees", "slower"],
)
def test_a_rollout_through_a_canary_ends_as_its_gates_say_although_the_controller_is_killed_again_and_again(
    number: int, phase: Phase
) -> None:
    """And the callers see none of it: no error, and in the shadow no answer of the target."""
    rng = Random(number)
    with staged(has_controller=False) as stage:
        with load(stage) as callers:
            stage.start(number, CANARY)
            rollout = run_with_kills(stage, rng, callers)
        stage.start_control()
        events = stage.journal.events()
    n_controllers = replay(events, 0.0).epoch
    print(f"seed {number}: {n_controllers} controllers, {len(events)} events, {callers.history.by_version}")
    assert (rollout.phase, rollout.cause) == (phase, "gate" if phase is Phase.ROLLED_BACK else "")
    assert n_controllers > 3
    shares = [event.ts for event in events if event.kind is EventKind.ANALYSIS_STARTED and event.body["step"] == 1]
    if shares:
        assert stage.first_at[f"v{number}"] >= datetime.fromisoformat(shares[0])
    else:
        assert set(callers.history.by_version) == {"v1"}


def test_a_second_controller_is_refused_and_the_first_goes_on() -> None:
    with staged(1) as stage:
        command = ["-m", "control", "--home", str(stage.pool.home.root), "--config", str(stage.pool.config)]
        second = subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
        )
        assert (second.returncode, "another controller" in second.stderr) == (6, True), second.stderr
        assert orders.read(stage.journal).epoch == 1
