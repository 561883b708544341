"""Rollouts of a real network that judge for themselves, under load: the same weights encoded anew, and weights that are worse.

Real: broker, supervisor, workers with torch, journal, controller, client. Each worker verifies what it loads; the preflight,
which would do the same once more in a process of its own, is left out for its time.
"""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import numpy as np
import pytest
from bench.callers import Callers
from bench.noop import MODEL
from control.verdicts import GateSettings
from control.versions import list_versions
from hotpool import Prediction
from hotpool.home import Home
from hotpool.stable import write_stable
from hotpool.states import Phase
from PIL import Image
from tests.small_versions import CROP, add_version, make_tensors, save, with_noisy_last_layer
from tests.stage import CANARY, Stage, note_versions, staged, unnoticed
from workers.golden import make_inputs
from workers.pictures import Picture
from workers.torch_version import load_torch_version

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(600)]
SIDE, N_PICTURES, N_ROLLOUTS = 36, 600, 10
SAME, NOISY = (1, 2, 3), 4
CLOSE = 1e-3  # of two logits: computed in another batch they may change places
# By default a rollout takes over 20 seconds here: latency wants 20 windows of one each. With these three are enough. Only for
# agreement beta is also in the bound at which it fails: that is lower here, which forgives less.
QUICK = replace(CANARY, step_max_s=120, gates=GateSettings(min_windows=3, beta=0.25))


def pictures() -> np.ndarray:
    return make_inputs(SIDE, N_PICTURES, seed=3).permute(0, 2, 3, 1).contiguous().numpy()


def add_versions(home: Home) -> None:
    """v1; v2 with its last layers in half precision, widened again; v3 with every logit one higher; v4 with noise in the last
    layer. All layers in half precision change one answer in a hundred of a network with random weights."""
    tensors = make_tensors(seed=2)
    halves = {name: t.half() if name.startswith(("conv5.0", "fc")) else t for name, t in tensors.items()}
    raised = {**tensors, "fc.bias": tensors["fc.bias"] + 1}
    noisy = with_noisy_last_layer(tensors, 0.1, make_inputs(CROP, 1000, seed=1))
    manifests = [
        add_version(home, save(one, home.root / f"v{number}.pth"), f"v{number}", MODEL)
        for number, one in enumerate((tensors, halves, raised, noisy), start=1)
    ]
    note_versions(home, manifests)
    write_stable(home, MODEL, manifests[0].digest)


def right_classes(home: Home, digest: str) -> list[set[int]]:
    """For each picture; of two that are about equal either will do."""
    version = load_torch_version(home, digest, on_state=lambda state: None)
    rows = np.empty((N_PICTURES, version.side, version.side, 3), np.float32)
    for pixels, row in zip(pictures(), rows, strict=True):
        version.picture(Picture(Image.fromarray(pixels), (SIDE, SIDE)), row)
    logits = version.logits(rows.transpose(0, 3, 1, 2))
    return [set(np.flatnonzero(one >= one.max() - CLOSE).tolist()) for one in logits]


def callers_of(stage: Stage) -> Callers:
    asked = pictures()
    right = {one.name: right_classes(stage.pool.home, one.digest) for one in list_versions(stage.pool.home, MODEL)}

    def ask(n: int) -> tuple[Any, int]:
        return asked[n % N_PICTURES], n % N_PICTURES

    def check(n: int, picture: int, prediction: Prediction) -> str | None:
        got = prediction.classes[0].index
        return None if got in right[prediction.version][picture] else f"{prediction.version} would not say {got}"

    return Callers(stage.client, 3, ask, check)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged(supervisor="workers", fill=add_versions) as stage:
        yield stage


def test_ten_rollouts_to_the_same_weights_encoded_anew_all_succeed_and_nobody_notices(stage):
    """One may go back by the tail of its times, and then succeeds: what else runs for five seconds on one worker's core looks
    like a slower version."""
    n_tails = 0
    with unnoticed(callers_of(stage)) as callers:
        for number in islice(cycle(SAME), 1, 1 + N_ROLLOUTS):
            stage.start(number, QUICK)
            rollout = stage.until_over()
            if rollout.phase is Phase.ROLLED_BACK and rollout.ending.startswith("gate latency_tail:") and not n_tails:
                n_tails += 1
                print(f"once more, because of {rollout.ending}")
                stage.start(number, QUICK)
                rollout = stage.until_over()
            told = [f"{one['gate']}: {one['reason']}" for judged in rollout.judged for one in judged["verdicts"]]
            print(f"v{number}: {rollout.phase} {rollout.ending}", *told, sep="\n  ")
            assert rollout.phase is Phase.SUCCEEDED
    stage.check()
    print(callers.history.by_version)


def test_a_noisy_last_layer_is_taken_back_by_agreement_before_any_caller_gets_an_answer_of_it(stage):
    with unnoticed(callers_of(stage)) as callers:
        stage.start(NOISY, QUICK)
        rollout = stage.until_over()
    print(rollout.ending)
    assert (rollout.phase, rollout.cause) == (Phase.ROLLED_BACK, "gate")
    assert rollout.ending.startswith("gate agreement:")
    assert f"v{NOISY}" not in callers.history.by_version
