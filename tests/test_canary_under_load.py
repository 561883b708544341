"""Rollouts that judge for themselves: what they let pass, what they take back, and that no caller sees any of it.

Real: broker, worker processes, journal, controller, client. The model computes for two milliseconds; preflight has nothing to
check in it.
"""

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from random import Random
from typing import Any

import numpy as np
import pytest

from bench.callers import Callers
from bench.noop import MODEL, noop_class
from broker.routing import point
from control import orders
from control.journal import Journal
from control.recheck import recheck
from control.rollout import PauseCause, Rollout
from control.verdicts import GateSettings
from hotpool import Client, Prediction
from hotpool.admin import Admin
from hotpool.errors import Conflict
from hotpool.states import Phase
from tests.odd_workers import COLLAPSED, DISAGREES, ERRS, ERRS_OFTEN, SLOWER, SPIKES
from tests.pool import Pool, eventually, running_pool
from tests.test_rollouts_under_load import SETTINGS, add_versions, assert_nobody_noticed, controlled, last, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

N_VERSIONS = 120
GATES = GateSettings(min_windows=4)
CANARY = replace(SETTINGS, steps=("shadow", "50"), step_min_s=0.5, step_max_s=60, watch_s=0.0, gates=GATES)
PATIENCE_S = 90.0
ODD = (ERRS, ERRS_OFTEN, DISAGREES, SLOWER, SPIKES, COLLAPSED)
SAME_WEIGHTS = [number for number in range(11, N_VERSIONS, 10) if number not in ODD] + [1, 11, 21, 1, 11]


@dataclass
class Stage:
    """All that a rollout under load needs."""

    pool: Pool
    client: Client
    journal: Journal
    admin: Admin

    def start(self, number: int, settings=CANARY) -> None:
        start(self.journal, self.admin, number, settings)

    def last(self) -> Rollout:
        return last(self.journal)

    def until(self, claim: Callable[[Rollout], bool], what: str) -> Rollout:
        eventually(lambda: claim(self.last()), what, patience_s=PATIENCE_S)
        return self.last()

    def until_over(self) -> Rollout:
        return self.until(lambda rollout: rollout.is_over or rollout.paused, "the end of the rollout")

    def check(self) -> None:
        """What must hold after each rollout."""
        stable = orders.read(self.journal).stable(MODEL)
        assert {worker.digest for worker in self.admin.report().workers} == {stable}
        assert self.journal.verify() > 0
        recheck(self.journal.events())


@contextmanager
def staged(n_workers: int = 2) -> Iterator[Stage]:
    with running_pool(n_workers, module="tests.odd_workers") as pool:
        add_versions(pool.home, N_VERSIONS)
        with (
            controlled(pool.home),
            pool.client() as client,
            Journal(pool.home.database) as journal,
            Admin(pool.home.endpoint("admin")) as admin,
        ):
            yield Stage(pool, client, journal, admin)


def questions(random: Random) -> tuple[Any, Any]:
    """Pictures that all differ; an answer must be that of v1 and its like, or be no answer of theirs by chance."""

    def ask(n: int) -> tuple[Any, int]:
        pixels = np.frombuffer(random.randbytes(8 * 8 * 3), np.uint8).reshape(8, 8, 3).copy()
        pixels[0, 0, :2] = n % 10, random.randrange(250)
        return pixels, n % 10

    def check(n: int, first: int, prediction: Prediction) -> str | None:
        expected = noop_class(first, "v1")
        return None if prediction.classes[0].index == expected else f"{prediction.version} said something else"

    return ask, check


@contextmanager
def load(stage: Stage, n_threads: int = 3) -> Iterator[Callers]:
    print("seed 11")
    with Callers(stage.client, n_threads, *questions(Random(11))) as callers:
        yield callers


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
