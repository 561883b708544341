"""All that rollouts under load need. Real: broker, worker processes, journal, controller, client. The model does nothing, or
little (`tests.odd_workers`); preflight has nothing to check in it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from random import Random
from typing import Any

import numpy as np

from bench.callers import Callers, History
from bench.noop import MODEL, noop_class, noop_manifest
from control import orders
from control.controller import Controller
from control.events import EventKind
from control.journal import Journal
from control.ledger import replay
from control.recheck import recheck
from control.rollout import Rollout
from control.settings import Settings
from control.verdicts import GateSettings
from hotpool import Client, Prediction
from hotpool.admin import Admin
from hotpool.home import Home
from hotpool.manifest import MANIFEST, WEIGHTS, manifest_json, read_stable, version_folder
from hotpool.messages import Changed
from hotpool.states import Phase, WorkerState
from tests.control_process import GoodPreflight
from tests.pool import Pool, eventually, running_pool

N_VERSIONS = 120
PATIENCE_S = 90.0
SETTINGS = Settings(
    max_unavailable=1, bake_s=0.0, drain_timeout_s=10, load_timeout_s=10, progress_deadline_s=60, max_worker_retries=2,
    preflight_memory_mb=1024, preflight_timeout_s=10,
)  # fmt: skip
GATES = GateSettings(min_windows=4)
CANARY = replace(SETTINGS, steps=("shadow", "50"), step_min_s=0.5, step_max_s=60, watch_s=0.0, gates=GATES)


class Trace:
    """Every change of a worker's state, as the broker tells it. Not samples: a dip of a microsecond is in it."""

    def __init__(self, home: Home) -> None:
        self.changes: list[Changed] = []
        self._home, self._stop = home, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    @property
    def fewest_ready(self) -> int:
        return min(change.ready for change in self.changes)

    def __enter__(self) -> "Trace":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        with Admin(self._home.endpoint("admin"), watch=True) as admin:
            while not self._stop.is_set():
                self.changes += admin.changes(0.05)


@dataclass
class Stage:
    """first_at: when a version first answered one of `load`."""

    pool: Pool
    client: Client
    journal: Journal
    admin: Admin
    first_at: dict[str, datetime] = field(default_factory=dict)

    def start(self, number: int, settings: Settings = CANARY) -> None:
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
        events = self.journal.events()
        stable = replay(events, 0.0).stable(MODEL)
        workers = self.admin.report().workers
        assert {(worker.state, worker.digest) for worker in workers} == {(WorkerState.READY, stable)}
        assert read_stable(self.pool.home, MODEL) == stable
        assert self.journal.verify() == len(events)
        assert replay(events, 0.0) == replay(events, 0.0)
        recheck(events)


@contextmanager
def staged(n_workers: int = 2, module: str = "tests.odd_workers", *, has_controller: bool = True) -> Iterator[Stage]:
    """has_controller: in a thread of ours; if not, a test starts a process of its own, `stage.pool.start_control()`."""
    with running_pool(n_workers, module=module) as pool:
        add_versions(pool.home, N_VERSIONS)
        with (
            controlled(pool.home) if has_controller else nullcontext(),
            pool.client() as client,
            Journal(pool.home.database) as journal,
            Admin(pool.home.endpoint("admin")) as admin,
        ):
            yield Stage(pool, client, journal, admin)


def add_versions(home: Home, n_versions: int) -> None:
    """No-op workers know versions by their digest; the controller wants to see weights before it commits."""
    with Journal(home.database) as journal:
        for number in range(1, n_versions + 1):
            manifest = noop_manifest(f"v{number}")
            folder = version_folder(home, manifest.digest)
            folder.mkdir(parents=True)
            (folder / MANIFEST).write_bytes(manifest_json(manifest))
            (folder / WEIGHTS).write_bytes(manifest.name.encode())
            body = {"name": manifest.name, "digest": manifest.digest, "reason": ""}
            journal.append(EventKind.VERSION_ADDED, model=MODEL, operator="test", body=body)
            if number == 1:
                journal.append(EventKind.STABLE_SET, model=MODEL, operator="test", body=body)


@contextmanager
def controlled(home: Home) -> Iterator[None]:
    """A controller in a thread, and nothing the callers see may depend on it."""
    stopping = threading.Event()
    controller = threading.Thread(target=_control, args=(home, stopping))
    controller.start()
    try:
        yield
    finally:
        stopping.set()
        controller.join()


def _control(home: Home, stopping: threading.Event) -> None:
    with Admin(home.endpoint("admin"), watch=True) as broker, Journal(home.database) as journal:
        Controller(home, MODEL, journal, broker, GoodPreflight(), "controller").run(stopping)


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
def load(stage: Stage, n_threads: int = 3) -> Iterator[Callers]:
    print("seed 11")
    ask, check = questions(Random(11))

    def note_and_check(n: int, first: int, prediction: Prediction) -> str | None:
        stage.first_at.setdefault(prediction.version, datetime.now(UTC))
        problem: str | None = check(n, first, prediction)
        return problem

    with Callers(stage.client, n_threads, ask, note_and_check) as callers:
        yield callers


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


def assert_nobody_noticed(history: History) -> None:
    assert history.lost == 0
    assert not history.errors, history.errors[:5]
    assert not history.wrong, history.wrong[:5]
