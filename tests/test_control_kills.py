"""Real processes: the controller is killed outright at random moments of rollouts, with a real broker and real workers."""

import random
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import pytest

from bench.noop import MODEL, noop_manifest
from control import orders
from control.events import EventKind
from control.journal import Journal
from control.rollout import Rollout
from hotpool.admin import Admin
from hotpool.manifest import MANIFEST, WEIGHTS, manifest_json, read_stable, version_folder
from hotpool.states import Phase, WorkerState
from tests.fake_pool import OPERATOR, settings
from tests.pool import ROOT, Pool, eventually, running_pool

pytestmark = pytest.mark.slow
VERSIONS = ("v1", "v2", "v3")
SETTINGS = settings(bake_s=0.1)


def publish_versions(pool: Pool, journal: Journal) -> None:
    """No-op workers know versions by their digest; the controller wants to see weights before it commits."""
    for name in VERSIONS:
        manifest = noop_manifest(name)
        folder = version_folder(pool.home, manifest.digest)
        folder.mkdir(parents=True)
        (folder / WEIGHTS).write_bytes(name.encode())
        (folder / MANIFEST).write_bytes(manifest_json(manifest))
        body = {"name": name, "digest": manifest.digest}
        journal.append(EventKind.VERSION_ADDED, model=MODEL, operator=OPERATOR, body=body)
    body = {"digest": noop_manifest("v1").digest}
    journal.append(EventKind.STABLE_SET, model=MODEL, operator=OPERATOR, body=body)


def start_control(pool: Pool) -> None:
    command = [sys.executable, "-m", "tests.control_process", str(pool.home.root)]
    log_path = pool.home.root / "control.log"
    with log_path.open("ab") as log:
        pool.processes["control"] = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def last(journal: Journal) -> Rollout:
    rollout = orders.read(journal).last(MODEL)
    assert rollout is not None
    return rollout


@pytest.fixture
def pool() -> Iterator[Pool]:
    with running_pool(n_workers=3) as pool:
        yield pool


@pytest.fixture
def journal(pool: Pool) -> Iterator[Journal]:
    with Journal(pool.home.database) as journal:
        publish_versions(pool, journal)
        yield journal


def has_reached(journal: Journal, seq: int) -> bool:
    return journal.last_seq() >= seq or last(journal).is_over


def run_with_kills(pool: Pool, journal: Journal, rng: random.Random, version: str, abort_after: int | None) -> Rollout:
    """Starts a rollout and kills the controller each time it has written a random number of events."""
    workers = pool.report().workers
    orders.start(journal, model=MODEL, version=version, workers=workers, settings=SETTINGS, operator=OPERATOR)
    is_aborted = abort_after is None
    while not last(journal).is_over:
        start_control(pool)
        enough = journal.last_seq() + rng.randint(1, 9)
        eventually(partial(has_reached, journal, enough), "the rollout goes on")
        pool.kill("control")
        if not is_aborted and abort_after is not None and len(last(journal).ended_steps) >= abort_after:
            orders.abort(journal, model=MODEL, operator=OPERATOR)
            is_aborted = True
    return last(journal)


@pytest.mark.parametrize("seed", range(3))
def test_rollouts_survive_a_controller_that_is_killed_again_and_again(pool: Pool, journal: Journal, seed: int) -> None:
    rng = random.Random(seed)
    with Admin(pool.home.endpoint("admin"), watch=True) as admin:
        assert run_with_kills(pool, journal, rng, "v2", abort_after=None).phase is Phase.SUCCEEDED
        assert run_with_kills(pool, journal, rng, "v3", abort_after=1).phase is Phase.ROLLED_BACK
        start_control(pool)
        stable = noop_manifest("v2").digest
        eventually(lambda: pool.report().models[0].target is None, "the target is not admitted any more")
        changes = admin.changes(0.1)
        report = admin.report()
    assert {(worker.state, worker.digest) for worker in report.workers} == {(WorkerState.READY, stable)}
    assert read_stable(pool.home, MODEL) == stable == report.models[0].stable
    assert len(changes) >= 3 * 2 * 4
    assert min(change.ready for change in changes) >= 2
    assert journal.verify() == journal.last_seq()
    print(f"seed {seed}: {orders.read(journal).epoch} controllers, {journal.last_seq()} events")


def test_a_second_controller_is_refused_and_the_first_goes_on(pool: Pool, journal: Journal) -> None:
    start_control(pool)
    eventually(lambda: bool(pool.report().models), "the controller has spoken")
    second = subprocess.run(
        [sys.executable, "-m", "control", "--home", str(pool.home.root), "--config", str(pool.config)],
        cwd=ROOT, capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert (second.returncode, "another controller" in second.stderr) == (6, True), second.stderr
    assert orders.read(journal).epoch == 1


def test_sigterm_stops_the_controller_cleanly(pool: Pool, journal: Journal) -> None:
    start_control(pool)
    eventually(lambda: bool(pool.report().models), "the controller has spoken")
    pool.processes["control"].terminate()
    assert pool.processes["control"].wait(10) == 0
