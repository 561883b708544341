"""Promise 3: through a hundred rollouts no caller sees an error, and every answer is of the version that it names.

Real: broker, worker processes and their serve loop, journal, controller, client. The model does nothing, so that there is time
for a hundred rollouts; preflight has nothing to check in it.
"""

import threading
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.callers import Callers
from bench.noop import MODEL, noop_class, noop_manifest
from control import orders
from control.journal import Journal
from control.settings import Settings
from hotpool import Client
from hotpool.admin import Admin
from hotpool.errors import HotpoolError, UnknownVersion
from hotpool.home import Home
from hotpool.manifest import WEIGHTS, version_folder
from hotpool.states import Phase, Strategy
from tests.pool import eventually, running_pool
from tests.stage import (
    SETTINGS,
    Trace,
    add_versions,
    assert_nobody_noticed,
    end_of_rollout,
    last,
    start,
)

pytestmark = [pytest.mark.slow, pytest.mark.alone]

N_WORKERS, N_ROLLOUTS, N_REQUESTS = 3, 100, 20_000
BESIDE = replace(SETTINGS, strategy=Strategy.BESIDE)


def roll_out(home: Home, number: int, settings: Settings = SETTINGS) -> Phase:
    with Journal(home.database) as journal, Admin(home.endpoint("admin")) as admin:
        start(journal, admin, number, settings)
        return end_of_rollout(journal)


def ask_within(allowed: list[int]) -> tuple[Any, Any]:
    """What callers ask, and what is wrong with an answer. allowed: lowest and highest version that may answer now."""

    def ask(n):
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[0, 0, 0] = n % 10
        return pixels, allowed[0]

    def check(n, lowest_when_asked, prediction):
        number = int(prediction.version[1:])
        if not min(lowest_when_asked, allowed[0]) <= number <= allowed[1]:
            return f"answered by {prediction.version}, allowed were v{lowest_when_asked} to v{allowed[1]}"
        expected = noop_class(n % 10, prediction.version)
        return None if prediction.classes[0].index == expected else f"not the answer of {prediction.version}"

    return ask, check


class PinnedCallers:
    """Ask for the lowest and for the highest allowed version by name, all the time. Use as a context manager."""

    def __init__(self, client: Client, n_threads: int, allowed: list[int]) -> None:
        self.answered: Counter[str] = Counter()
        self.refused = 0
        self.problems: list[str] = []
        self._client, self._allowed, self._stop = client, allowed, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n % 2,)) for n in range(n_threads)]

    def __enter__(self) -> "PinnedCallers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, which: int) -> None:
        pixels = np.zeros((8, 8, 3), np.uint8)
        while not self._stop.is_set():
            version = f"v{self._allowed[which]}"
            try:
                got = self._client.classify(pixels, version=version)
            except UnknownVersion:
                self.refused += 1  # it does not serve yet, or not any more
                self._stop.wait(0.001)
            except HotpoolError as error:
                self.problems.append(repr(error))
            else:
                self.answered[version] += 1
                if (got.version, got.classes[0].index) != (version, noop_class(0, version)):
                    self.problems.append(f"asked for {version}: {got}")


@pytest.mark.timeout(300)
def test_a_hundred_rollouts_under_load_lose_nothing_and_keep_the_floor():
    allowed = [1, 1]
    with running_pool(N_WORKERS) as pool:
        add_versions(pool.home, N_ROLLOUTS + 1)
        pool.start_control()
        with pool.client() as client, Trace(pool.home) as trace:
            with Callers(client, 4, *ask_within(allowed)) as callers:
                for number in range(2, N_ROLLOUTS + 2):
                    allowed[1] = number
                    assert roll_out(pool.home, number) is Phase.SUCCEEDED
                    allowed[0] = number
                eventually(lambda: callers.history.answered >= N_REQUESTS, "enough requests", patience_s=120)
            report = pool.report()
        pool.end_control()
    print(f"{callers.history.sent} requests, slowest answer {callers.history.slowest_s * 1e3:.0f} ms")
    assert_nobody_noticed(callers.history)
    assert {worker.version for worker in report.workers} == {f"v{N_ROLLOUTS + 1}"}
    assert len([change for change in trace.changes if change.after == "draining"]) >= N_ROLLOUTS * N_WORKERS
    assert trace.fewest_ready >= N_WORKERS - 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("n_workers", [1, 3])
def test_rollouts_beside_under_load_take_nobody_out_of_service(n_workers):
    """With requests for a certain version among them: none is answered by another, although workers swap under load."""
    allowed, n_rollouts = [1, 1], 30
    with running_pool(n_workers) as pool:
        add_versions(pool.home, n_rollouts + 1)
        pool.start_control()
        with pool.client() as client, Trace(pool.home) as trace:
            with Callers(client, 4, *ask_within(allowed)) as callers, PinnedCallers(client, 2, allowed) as pinned:
                for number in range(2, n_rollouts + 2):
                    allowed[1] = number
                    assert roll_out(pool.home, number, BESIDE) is Phase.SUCCEEDED
                    allowed[0] = number
                eventually(lambda: callers.history.answered >= 5_000, "enough requests", patience_s=120)
            report = pool.report()
        pool.end_control()
    print(f"{callers.history.sent} requests; asked for a version: {pinned.answered.total()}, refused {pinned.refused}")
    assert_nobody_noticed(callers.history)
    assert not pinned.problems, pinned.problems[:5]
    assert pinned.answered.total() >= n_rollouts
    assert {worker.version for worker in report.workers} == {f"v{n_rollouts + 1}"}
    swaps = [change for change in trace.changes if change.cause == "verified"]
    assert len(swaps) == n_rollouts * n_workers
    assert {(change.after, change.ready) for change in trace.changes} == {("ready", n_workers)}


@pytest.mark.parametrize("strategy", [Strategy.BESIDE, Strategy.DRAIN])
def test_a_version_too_large_for_the_memory_is_refused_under_load_and_nobody_notices(strategy):
    """The preflight would refuse it too; here it is left out, so that the workers must."""
    with running_pool(2) as pool:
        add_versions(pool.home, 2)
        with (version_folder(pool.home, noop_manifest("v2").digest) / WEIGHTS).open("wb") as file:
            file.truncate(5 * 10**9)  # takes no room on the disk, and three times as much in memory
        pool.start_control()
        with (
            pool.client() as client,
            Trace(pool.home) as trace,
            Journal(pool.home.database) as journal,
            Callers(client, 4, *ask_within([1, 1])) as callers,
        ):
            assert roll_out(pool.home, 2, replace(SETTINGS, strategy=strategy)) is Phase.ROLLED_BACK
            rollout, answered = last(journal), callers.history.answered
            eventually(lambda: callers.history.answered >= answered + 200, "answers after the rollout")
            report = pool.report()
        pool.end_control()
    assert rollout.cause == "version"
    said = "weights.safetensors has 5000 MB, and loading it takes up to 15000 MB; allowed are 8192 MB"
    assert said in rollout.ending
    assert_nobody_noticed(callers.history)
    assert {(worker.version, worker.incarnation, worker.state) for worker in report.workers} == {("v1", 1, "ready")}
    if strategy is Strategy.BESIDE:
        assert {(change.after, change.ready) for change in trace.changes} == {("ready", 2)}
    assert trace.fewest_ready >= 1


def test_an_abort_and_an_undo_beside_under_load_take_nobody_out_of_service():
    allowed = [1, 2]
    with running_pool(2) as pool:
        add_versions(pool.home, 2)
        pool.start_control()
        with (
            pool.client() as client,
            Trace(pool.home) as trace,
            Admin(pool.home.endpoint("admin")) as admin,
            Journal(pool.home.database) as journal,
            Callers(client, 4, *ask_within(allowed)) as callers,
        ):
            start(journal, admin, 2, replace(BESIDE, bake_s=60))
            eventually(lambda: last(journal).phase is Phase.BAKING, "all workers on v2")
            orders.abort(journal, model=MODEL, operator="test")
            assert end_of_rollout(journal) is Phase.ROLLED_BACK
            assert {worker.version for worker in admin.report().workers} == {"v1"}
            start(journal, admin, 2, BESIDE)
            assert end_of_rollout(journal) is Phase.SUCCEEDED
            orders.undo(journal, model=MODEL, workers=admin.report().workers, settings=BESIDE, operator="test")
            assert end_of_rollout(journal) is Phase.SUCCEEDED
            assert {worker.version for worker in admin.report().workers} == {"v1"}
        pool.end_control()
    assert_nobody_noticed(callers.history)
    assert {(change.after, change.ready) for change in trace.changes} == {("ready", 2)}


def test_an_abort_and_an_undo_under_load_lose_nothing_and_keep_the_floor():
    allowed = [1, 2]
    with running_pool(N_WORKERS) as pool:
        add_versions(pool.home, 2)
        pool.start_control()
        with (
            pool.client() as client,
            Trace(pool.home) as trace,
            Admin(pool.home.endpoint("admin")) as admin,
            Journal(pool.home.database) as journal,
            Callers(client, 4, *ask_within(allowed)) as callers,
        ):
            start(journal, admin, 2, replace(SETTINGS, bake_s=60))
            eventually(lambda: last(journal).phase is Phase.BAKING, "all workers on v2")
            orders.abort(journal, model=MODEL, operator="test")
            assert end_of_rollout(journal) is Phase.ROLLED_BACK
            assert {worker.version for worker in admin.report().workers} == {"v1"}
            start(journal, admin, 2, SETTINGS)
            assert end_of_rollout(journal) is Phase.SUCCEEDED
            orders.undo(journal, model=MODEL, workers=admin.report().workers, settings=SETTINGS, operator="test")
            assert end_of_rollout(journal) is Phase.SUCCEEDED
            assert {worker.version for worker in admin.report().workers} == {"v1"}
        pool.end_control()
    assert_nobody_noticed(callers.history)
    assert trace.fewest_ready >= N_WORKERS - 1
