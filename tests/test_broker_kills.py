"""The broker is killed while workers hold a version that did not commit, and with it the controller, which alone could tell the
next broker so.

Real: broker, worker processes, journal, controller, client. The model computes for two milliseconds.
"""

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from bench.callers import Callers
from bench.noop import MODEL, noop_manifest
from control import orders
from hotpool import Client, Prediction
from hotpool.stable import read_stable
from hotpool.states import Phase
from tests.pool import eventually
from tests.stage import CANARY, SETTINGS, Stage, staged, unnoticed
from tests.test_canary_under_load import in_share
from tests.test_rollouts_under_load import ask_within

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]

N_KILLS = 8
TARGET = 11  # computes what v1 does


class Keyed:
    """For `Callers`: each asks with a route key."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def classify(self, question: Any) -> Prediction:
        pixels, key = question
        return self._client.classify(pixels, route_key=key)


def callers_of(stage: Stage, salt: int, share: float) -> Callers:
    def ask(n: int) -> tuple[Any, str]:
        key = f"user-{n % 5_000}"
        pixels = np.random.default_rng(n).integers(0, 256, (8, 8, 3), np.uint8)
        pixels[0, 0] = n % 10, n % 250, 0
        return (pixels, key), key

    def check(n: int, key: str, prediction: Prediction) -> str | None:
        is_allowed = prediction.version == "v1" or in_share(key, salt, share)
        return None if is_allowed else f"{key} is outside the share and was answered by {prediction.version}"

    return Callers(Keyed(stage.client), 3, ask, check)  # type: ignore[arg-type]


def is_told(stage: Stage, share: float) -> bool:
    return any(model.policy is not None and model.policy.share == share for model in stage.admin.report().models)


@pytest.mark.parametrize(("step", "share"), [("shadow", 0.0), ("25", 25.0)])
def test_whoever_is_killed_nobody_outside_the_share_gets_the_target(step, share):
    rng = Random(5)
    print("seed 5")
    with staged() as stage:
        stage.start(TARGET, replace(CANARY, steps=(step,), step_min_s=600, step_max_s=600))
        rollout = stage.until(lambda one: one.phase is Phase.ANALYZING, "the canary answers")
        with unnoticed(callers_of(stage, rollout.number, share)) as callers:
            for n in range(N_KILLS):
                eventually(lambda: is_told(stage, share), "the share is set")
                callers.wait_for(rng.randrange(10, 200))
                if is_alone := bool(n % 2):
                    stage.pool.kill("control")
                stage.restart_broker()
                if is_alone:
                    eventually(lambda: stage.pool.ready() == 2, "both workers said hello")
                callers.wait_for(rng.randrange(50, 500))
                if is_alone:
                    assert not stage.admin.report().models, "nobody has told this broker anything"
                    stage.start_control()
            eventually(lambda: is_told(stage, share), "the share is set")
            callers.wait_for(200)
            orders.abort(stage.journal, model=MODEL, operator="test")
            assert stage.until_over().phase is Phase.ROLLED_BACK
    print(callers.history.by_version, f"longest gap {callers.history.longest_gap_s:.2f} s")
    assert (callers.history.by_version[f"v{TARGET}"] > 0) == (share > 0)


def test_when_all_workers_hold_the_target_they_serve_on_though_nobody_can_say_that_they_may():
    with staged() as stage:
        stage.start(2, replace(SETTINGS, bake_s=600))
        with unnoticed(Callers(stage.client, 3, *ask_within([1, 2]))) as callers:
            stage.until(lambda one: one.phase is Phase.BAKING, "all workers on the target")
            stage.pool.kill("control")
            stage.restart_broker()
            callers.wait_for(500)
            report = stage.admin.report()
            assert (report.models, {worker.version for worker in report.workers}) == ((), {"v2"})
            assert read_stable(stage.pool.home, MODEL) == noop_manifest("v1").digest
            stage.start_control()
            orders.abort(stage.journal, model=MODEL, operator="test")
            assert stage.until_over().phase is Phase.ROLLED_BACK
    print(callers.history.by_version, f"longest gap {callers.history.longest_gap_s:.2f} s")
