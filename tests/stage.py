"""All that rollouts under load need, and the oracle after each.

Real: broker, supervisor, worker processes, journal, controller, client. The model does little (`tests.odd_workers`) unless a
test brings another; there is no preflight.
"""

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from random import Random
from typing import Any

import numpy as np

from bench.callers import Callers, History
from bench.noop import MODEL, noop_manifest
from control import orders
from control.events import EventKind
from control.journal import Journal
from control.ledger import replay
from control.recheck import recheck
from control.rollout import Rollout
from control.settings import Settings
from control.verdicts import GateSettings
from hotpool import Client, Prediction
from hotpool.admin import Admin
from hotpool.control_client import ControlClient
from hotpool.home import Home
from hotpool.manifest import MANIFEST, WEIGHTS, Manifest, manifest_json, version_folder
from hotpool.messages import Changed
from hotpool.stable import read_stable
from hotpool.states import Phase, WorkerState
from tests import held
from tests.command_line import CommandLine
from tests.odd_workers import odd_class
from tests.pool import Pool, eventually, supervised_pool

N_VERSIONS = 120
PATIENCE_S = 90.0
SETTINGS = Settings(
    max_unavailable=1, bake_s=0.0, drain_timeout_s=10, load_timeout_s=10, progress_deadline_s=60, max_worker_retries=2,
    preflight_memory_mb=1024, preflight_timeout_s=10,
)  # fmt: skip
GATES = GateSettings(min_windows=4)
EXITS = {Phase.SUCCEEDED: 0, Phase.ROLLED_BACK: 3, Phase.ROLLBACK_FAILED: 8, Phase.REJECTED: 10}  # docs/cli.md
CANARY = replace(SETTINGS, steps=("shadow", "50"), step_min_s=0.5, step_max_s=60, watch_s=0.0, gates=GATES)


class Trace:
    """Every change of a worker's state, as the broker tells it. Not samples: a dip of a microsecond is in it."""

    def __init__(self, home: Home) -> None:
        self.changes: list[Changed] = []
        self._home, self._begun, self._stop = home, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch)

    @property
    def fewest_ready(self) -> int:
        return min(change.ready for change in self.changes)

    def __enter__(self) -> "Trace":
        self._thread.start()
        assert self._begun.wait(PATIENCE_S), "the broker told nothing"
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        with Admin(self._home.endpoint("admin"), watch=True) as admin:
            admin.report(PATIENCE_S)  # answered after the wish to watch was heard: nothing is too early to be told
            self._begun.set()
            while not self._stop.is_set():
                self.changes += admin.changes(0.05)


@dataclass
class Stage:
    """floor: workers that stay ready. first_at: when a version first answered one of `load`. is_disturbed: a fault took workers
    away."""

    pool: Pool
    client: Client
    journal: Journal
    admin: Admin
    trace: Trace
    floor: int
    first_at: dict[str, datetime] = field(default_factory=dict)
    is_disturbed: bool = False

    # ---- the run

    def start(self, number: int, settings: Settings = CANARY) -> None:
        start(self.journal, self.admin, number, settings)

    def start_control(self) -> None:
        self.pool.start_control()
        self.wait_until_led()

    def wait_until_led(self) -> None:
        eventually(self._is_led, "the controller has spoken")

    def kill_worker(self, name: str, number: int = signal.SIGKILL) -> None:
        """Nobody but the pool itself replaces it."""
        self.is_disturbed = True
        os.kill(next(worker.pid for worker in self.admin.report().workers if worker.worker == name), number)

    def restart_broker(self) -> None:
        self.is_disturbed = True
        self.pool.kill("broker")
        self.pool.start_broker()

    def last(self) -> Rollout:
        return last(self.journal)

    def until(self, claim: Callable[[Rollout], bool], what: str) -> Rollout:
        eventually(lambda: claim(self.last()), what, patience_s=PATIENCE_S)
        return self.last()

    def until_over(self) -> Rollout:
        return self.until(lambda rollout: rollout.is_over or rollout.paused, "the end of the rollout")

    # ---- the oracle

    def check(self) -> None:
        """What must hold at rest, whatever happened before; what callers saw is checked where `load` ends."""
        self._check_journal()
        self._check_pool()
        self._check_floor()
        self._check_exit()

    def end(self) -> None:
        """The oracle, and then the controller is asked to end and does."""
        self.check()
        self.pool.end_control()

    def _check_journal(self) -> None:
        """What the running controller has in its memory is what one would read that starts now."""
        with ControlClient(self.pool.home.endpoint("control")) as control:
            eventually(lambda: control.call(held.VERB)["seq"] == self.journal.last_seq(), "it has read all events")
            events, in_memory = self.journal.events(), control.call(held.VERB)
        read = held.as_told(replay(events, 0.0))
        assert in_memory == read, [name for name in read if in_memory[name] != read[name]]
        assert self.journal.verify() == len(events)
        recheck(events)

    def _check_pool(self) -> None:
        """One version everywhere."""
        eventually(lambda: self._is_led() and self.admin.report().models[0].target is None, "no target may serve")
        report, stable = self.admin.report(), orders.read(self.journal).stable(MODEL)
        assert {(worker.state, worker.digest) for worker in report.workers} == {(WorkerState.READY, stable)}
        assert report.models[0].stable == read_stable(self.pool.home, MODEL) == stable

    def _check_floor(self) -> None:
        """After a fault only for those who were ordered to leave."""
        changes = [one for one in self.trace.changes if not self.is_disturbed or one.after == WorkerState.DRAINING]
        assert min((change.ready for change in changes), default=self.floor) >= self.floor

    def _check_exit(self) -> None:
        """Of the command that shows how the rollout ended."""
        if (rollout := orders.read(self.journal).last(MODEL)) is not None:
            CommandLine(self.pool.home, self.pool.config)("rollout", "status", code=EXITS[rollout.phase])

    def _is_led(self) -> bool:
        return bool(self.admin.report().models)


@contextmanager
def staged(
    n_workers: int = 2,
    *,
    supervisor: str = "tests.odd_supervisor",
    fill: Callable[[Home], None] = lambda home: add_versions(home, N_VERSIONS),
    has_controller: bool = True,
) -> Iterator[Stage]:
    """When the block ends the oracle is asked. has_controller: if not, the test starts it, and leaves one that runs."""
    with (
        supervised_pool(n_workers, supervisor, fill, has_controller=has_controller) as pool,
        pool.client() as client,
        Journal(pool.home.database) as journal,
        Admin(pool.home.endpoint("admin")) as admin,
        Trace(pool.home) as trace,
    ):
        stage = Stage(pool, client, journal, admin, trace, floor=n_workers - 1)
        if has_controller:
            stage.wait_until_led()
        yield stage
        stage.end()


def add_versions(home: Home, n_versions: int) -> None:
    """No-op workers know versions by their digest; the controller wants to see weights before it commits."""
    manifests = [noop_manifest(f"v{number}") for number in range(1, n_versions + 1)]
    for manifest in manifests:
        folder = version_folder(home, manifest.digest)
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_bytes(manifest_json(manifest))
        (folder / WEIGHTS).write_bytes(manifest.name.encode())
    note_versions(home, manifests)


def note_versions(home: Home, manifests: Sequence[Manifest]) -> None:
    """In the journal; the first becomes stable."""
    with Journal(home.database) as journal, journal.transaction():
        for manifest in manifests:
            body = {"name": manifest.name, "digest": manifest.digest, "reason": ""}
            journal.append(EventKind.VERSION_ADDED, model=MODEL, operator="test", body=body)
            if manifest is manifests[0]:
                journal.append(EventKind.STABLE_SET, model=MODEL, operator="test", body=body)


def start(journal: Journal, admin: Admin, number: int, settings: Settings) -> None:
    workers = admin.report().workers
    orders.start(journal, model=MODEL, version=f"v{number}", workers=workers, settings=settings, operator="test")


def end_of_rollout(journal: Journal) -> Phase:
    eventually(lambda: last(journal).is_over, "the end of the rollout")
    return last(journal).phase


def last(journal: Journal) -> Rollout:
    rollout = orders.read(journal).last(MODEL)
    assert rollout is not None
    return rollout


@contextmanager
def load(stage: Stage, n_threads: int = 3, *, allowed: Collection[str] = ()) -> Iterator[Callers]:
    """allowed: codes of errors, see `unnoticed`."""
    print("seed 11")
    ask, check = questions(Random(11))

    def note_and_check(n: int, asked: Any, prediction: Prediction) -> str | None:
        stage.first_at.setdefault(prediction.version, datetime.now(UTC))
        problem: str | None = check(n, asked, prediction)
        return problem

    with unnoticed(Callers(stage.client, n_threads, ask, note_and_check), allowed) as callers:
        yield callers


@contextmanager
def unnoticed(callers: Callers, allowed: Collection[str] = ()) -> Iterator[Callers]:
    """They ask until the block ends, and then none of them may have seen anything but errors with these codes."""
    with callers:
        yield callers
    assert callers.history.answered > 0
    assert_nobody_noticed(callers.history, allowed)


def questions(random: Random) -> tuple[Any, Any]:
    """Pictures that all differ; an answer must be the very one of the version that it names."""

    def ask(n: int) -> tuple[Any, tuple[int, int]]:
        pixels = np.frombuffer(random.randbytes(8 * 8 * 3), np.uint8).reshape(8, 8, 3).copy()
        first, second = n % 10, random.randrange(250)
        pixels[0, 0, :2] = first, second
        return pixels, (first, second)

    def check(n: int, values: tuple[int, int], prediction: Prediction) -> str | None:
        got, right = prediction.classes[0].index, odd_class(*values, prediction.version)
        return None if got == right else f"{prediction.version} said {got} to {values}, not {right}"

    return ask, check


def assert_nobody_noticed(history: History, allowed: Collection[str] = ()) -> None:
    """allowed: codes of errors."""
    errors = [error for error in history.errors if error.code not in allowed]
    assert history.lost == 0
    assert not errors, errors[:5]
    assert not history.wrong, history.wrong[:5]
