"""Rollouts that judge for themselves: what they let pass, what they take back, and that no caller sees any of it.

Real: broker, worker processes, journal, controller, client. The model computes for two milliseconds; preflight has nothing to
check in it.
"""

import signal
from collections import Counter
from dataclasses import replace
from hashlib import blake2b

import numpy as np
import pytest

from bench.noop import MODEL
from broker.routing import point
from control import orders
from control.rollout import PauseCause
from hotpool.errors import Conflict
from hotpool.states import Phase
from tests.odd_workers import COLLAPSED, DISAGREES, ERRS, ERRS_OFTEN, SLOWER, SPIKES
from tests.pool import eventually
from tests.stage import CANARY, GATES, N_VERSIONS, Stage, assert_nobody_noticed, load, staged

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]

ODD = (ERRS, ERRS_OFTEN, DISAGREES, SLOWER, SPIKES, COLLAPSED)
SAME_WEIGHTS = [number for number in range(11, N_VERSIONS, 10) if number not in ODD] + [1, 11, 21, 1, 11]


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
        stage.check()
    expected = {key: "v11" if in_share(key, rollout.number, 25) else "v1" for key in answers}
    print(Counter(answers.values()))
    assert answers == expected
    assert 1_100 < Counter(answers.values())["v11"] < 1_400


def in_share(key: str, salt: int, share: float) -> bool:
    return point(blake2b(key.encode(), digest_size=16).digest(), salt) < share


def test_ten_rollouts_of_the_same_weights_all_succeed_and_nobody_notices():
    with staged() as stage, load(stage) as callers:
        for number in SAME_WEIGHTS:
            stage.start(number)
            rollout = stage.until_over()
            print(f"v{number}: {rollout.phase} {rollout.ending}{rollout.analysis.reason}")
            assert rollout.phase is Phase.SUCCEEDED
        stage.check()
    assert_nobody_noticed(callers.history)


@pytest.mark.parametrize(
    ("number", "gate"),
    [(DISAGREES, "agreement"), (COLLAPSED, "agreement"), (SLOWER, "latency"), (ERRS, "errors"), (ERRS_OFTEN, "errors")],
)
def test_a_worse_version_is_taken_back_by_the_gate_meant_for_it(number, gate):
    with staged() as stage:
        with load(stage) as callers:
            stage.start(number)
            rollout = stage.until_over()
        print(f"{rollout.ending}; {callers.history.by_version}")
        assert (rollout.phase, rollout.cause) == (Phase.ROLLED_BACK, "gate")
        assert rollout.ending.startswith(f"gate {gate}")
        stage.check()
        assert callers.history.lost == 0
        if "shadow" in str(rollout.judged[-1]["step"]) or rollout.judged[-1]["step"] == 0:
            assert set(callers.history.by_version) == {"v1"}, "in the shadow nobody gets an answer of the target"
            assert_nobody_noticed(callers.history)


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
        stage.check()


@pytest.mark.parametrize("fault", ["canary SIGKILL", "canary SIGSTOP", "other SIGKILL", "broker SIGKILL"])
def test_a_fault_while_analyzing_delays_the_verdict_and_nobody_notices(fault):
    with staged() as stage, load(stage) as callers:
        stage.start(11, replace(CANARY, steps=("50",)))
        stage.until(lambda one: one.phase is Phase.ANALYZING, "the canary answers")
        callers.wait_for(100)
        inject(stage, fault)
        rollout = stage.until_over()
        assert rollout.phase is Phase.SUCCEEDED, rollout.ending or rollout.analysis.reason
        stage.check()
    assert_nobody_noticed(callers.history)


def inject(stage: Stage, fault: str) -> None:
    who, number = fault.split()
    name = {"canary": "worker-0", "other": "worker-1", "broker": "broker"}[who]
    stage.pool.kill(name, getattr(signal, number))
    if number == "SIGSTOP":
        eventually(lambda: ready(stage) < 2, "the broker misses it")
        stage.pool.kill(name)
    if who == "broker":
        stage.pool.start_broker()
    else:
        stage.pool.start_worker(name)


def ready(stage: Stage) -> int:
    return stage.pool.ready()
