"""Rollouts that judge for themselves: what they take back, what faults do to them, and that no caller sees any of it.

Real: broker, supervisor, worker processes, journal, controller, client. The model computes for two milliseconds; preflight has
nothing to check in it. With real weights: test_real_weights_under_load.py.
"""

import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b

import numpy as np
import pytest

from bench.noop import MODEL
from broker.routing import point
from control import orders
from control.rollout import PauseCause
from control.settings import Settings
from hotpool.errors import Conflict
from hotpool.messages import WorkerReport
from hotpool.states import Phase, WorkerState
from tests.odd_workers import COLLAPSED, DISAGREES, ERRS, ERRS_OFTEN, SLOWER, SPIKES, held_loads
from tests.pool import eventually
from tests.stage import CANARY, GATES, SETTINGS, Stage, load, staged

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]

SHARE = ("50",)  # where the target's answers reach callers from the first
# fmt: off
WORSE = [
    # what                      version     steps         gate            errors that callers may see
    ("5 % errors",              ERRS,       CANARY.steps, "errors",       {"model_error"}),
    ("20 % errors",             ERRS_OFTEN, CANARY.steps, "errors",       {"model_error"}),
    ("10 % of top-1 changed",   DISAGREES,  CANARY.steps, "agreement",    set()),
    ("one class for all",       COLLAPSED,  SHARE,        "collapse",     set()),
    ("30 % slower",             SLOWER,     CANARY.steps, "latency",      set()),
    ("15 % three times slower", SPIKES,     SHARE,        "latency_tail", set()),
]
# fmt: on


def test_of_5000_requests_exactly_those_of_the_share_get_the_target():
    with staged() as stage:
        endless = replace(CANARY, steps=("25",), gates=replace(GATES, min_replies=10**6), step_max_s=600)
        stage.start(11, endless)
        rollout = stage.until(lambda one: one.phase is Phase.ANALYZING, "the canary answers")
        eventually(lambda: stage.admin.report().models[0].policy.share == 25, "the share is set")
        pixels = np.zeros((8, 8, 3), np.uint8)
        futures = [
            (f"user-{n}", stage.client.submit(pixels, route_key=f"user-{n}", timeout_s=60)) for n in range(5_000)
        ]
        answers = {key: future.result(60).version for key, future in futures}
        orders.abort(stage.journal, model=MODEL, operator="test")
        assert stage.until_over().phase is Phase.ROLLED_BACK
    expected = {key: "v11" if in_share(key, rollout.number, 25) else "v1" for key in answers}
    print(Counter(answers.values()))
    assert answers == expected
    assert 1_100 < Counter(answers.values())["v11"] < 1_400


def in_share(key: str, salt: int, share: float) -> bool:
    return point(blake2b(key.encode(), digest_size=16).digest(), salt) < share


@pytest.mark.parametrize(("what", "number", "steps", "gate", "allowed"), WORSE, ids=[row[0] for row in WORSE])
def test_a_worse_version_is_taken_back_by_the_gate_meant_for_it(what, number, steps, gate, allowed):
    with staged() as stage:
        with load(stage, allowed=allowed) as callers:
            stage.start(number, replace(CANARY, steps=steps))
            rollout = stage.until_over()
        judged = rollout.judged[-1]
        n_replies, n_pairs = judged["counts"]["target"]["answered"], judged["counts"]["pairs"]
        print(
            f"{what}: {n_replies} replies of the target, {n_pairs} pairs; {rollout.ending}; {callers.history.by_version}"
        )
        assert (rollout.phase, rollout.cause) == (Phase.ROLLED_BACK, "gate")
        assert rollout.ending.startswith(f"gate {gate}:")
        if steps[judged["step"]] == "shadow":
            assert set(callers.history.by_version) == {"v1"}, "in the shadow nobody gets an answer of the target"
            assert not callers.history.errors


def test_without_traffic_it_is_paused_inconclusive_and_an_abort_brings_it_back():
    with staged() as stage:
        stage.start(11, replace(CANARY, step_max_s=1.0))
        rollout = stage.until_over()
        assert (rollout.paused, rollout.pause_cause) == (True, PauseCause.INCONCLUSIVE)
        assert "0 of 200 replies" in rollout.analysis.reason
        with pytest.raises(Conflict, match="is analyzing"):
            stage.start(21)
        orders.abort(stage.journal, model=MODEL, operator="test")
        assert stage.until(lambda one: one.is_over, "the rollback").phase is Phase.ROLLED_BACK


def test_an_abort_while_it_is_paused_under_load_brings_it_back():
    with staged() as stage, load(stage) as callers:
        stage.start(11, replace(CANARY, steps=SHARE, step_min_s=50))
        stage.until(lambda one: one.phase is Phase.ANALYZING, "the canary answers")
        orders.pause(stage.journal, model=MODEL, operator="test")
        answered = callers.history.by_version["v11"]
        eventually(lambda: callers.history.by_version["v11"] > answered + 20, "the canary answers while it is paused")
        assert stage.last().paused
        orders.abort(stage.journal, model=MODEL, operator="test")
        rollout = stage.until(lambda one: one.is_over, "the rollback")
        assert (rollout.phase, rollout.cause) == (Phase.ROLLED_BACK, "abort")


# ---- faults


@pytest.mark.parametrize("fault", ["canary SIGKILL", "canary SIGSTOP", "other SIGKILL", "broker SIGKILL"])
def test_a_fault_while_analyzing_delays_the_verdict_and_nobody_notices(fault):
    with staged() as stage, load(stage) as callers:
        stage.start(11, replace(CANARY, steps=SHARE))
        stage.until(lambda one: one.phase is Phase.ANALYZING, "the canary answers")
        callers.wait_for(100)
        who, number = fault.split()
        inject(stage, {"canary": "worker-0", "other": "worker-1", "broker": "broker"}[who], getattr(signal, number))
        rollout = stage.until_over()
        assert rollout.phase is Phase.SUCCEEDED, rollout.ending or rollout.analysis.reason


@pytest.mark.parametrize("who", ["worker", "broker"])
@pytest.mark.parametrize("phase", [Phase.CANARY, Phase.ROLLING, Phase.BAKING, Phase.ROLLING_BACK])
def test_a_kill_in_another_phase_delays_the_rollout_and_nobody_notices(phase, who):
    """In the middle of a load, but for the bake; killed is the worker that loads."""
    with staged() as stage, load(stage) as callers:
        UNTIL[phase](stage)
        callers.wait_for(50)
        name = next((worker.worker for worker in workers(stage) if worker.state is WorkerState.VERIFYING), "worker-0")
        inject(stage, name if who == "worker" else who, signal.SIGKILL)
        held_loads(stage.pool.home).unlink(missing_ok=True)
        assert stage.until_over().phase is (Phase.ROLLED_BACK if phase is Phase.ROLLING_BACK else Phase.SUCCEEDED)


def inject(stage: Stage, name: str, number: signal.Signals) -> None:
    """Whoever was hit must be missed; a worker is replaced by the pool, a broker by whoever runs it."""
    if name == "broker":
        stage.restart_broker()
        return
    before = incarnation(stage, name)
    stage.kill_worker(name, number)
    eventually(lambda: incarnation(stage, name) > before, f"another process as {name}")


def incarnation(stage: Stage, name: str) -> int:
    return next(worker.incarnation for worker in workers(stage) if worker.worker == name)


def workers(stage: Stage) -> tuple[WorkerReport, ...]:
    return stage.admin.report().workers


def until_loading(stage: Stage, phase: Phase, settings: Settings) -> None:
    held_loads(stage.pool.home).touch()
    stage.start(11, settings)
    until_held(stage, phase)


def until_held(stage: Stage, phase: Phase) -> None:
    """In this phase a worker is about to end its load."""
    eventually(lambda: any(worker.state is WorkerState.VERIFYING for worker in workers(stage)), "a worker loads")
    assert stage.last().phase is phase


def until_baking(stage: Stage, bake_s: float) -> None:
    stage.start(11, replace(SETTINGS, bake_s=bake_s))
    stage.until(lambda one: one.phase is Phase.BAKING, "the bake")


def until_rolling_back(stage: Stage) -> None:
    until_baking(stage, bake_s=60)
    held_loads(stage.pool.home).touch()
    orders.abort(stage.journal, model=MODEL, operator="test")
    until_held(stage, Phase.ROLLING_BACK)


UNTIL: dict[Phase, Callable[[Stage], None]] = {
    Phase.CANARY: lambda stage: until_loading(stage, Phase.CANARY, replace(CANARY, steps=("shadow",))),
    Phase.ROLLING: lambda stage: until_loading(stage, Phase.ROLLING, SETTINGS),
    Phase.BAKING: lambda stage: until_baking(stage, bake_s=1.0),
    Phase.ROLLING_BACK: until_rolling_back,
}
