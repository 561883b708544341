"""What kills cost the callers: workers killed and stopped, the broker killed every two seconds, under load, with real weights.

    python -m bench faults

How long each loss took to be seen and to be made good, and what the callers got meanwhile.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import torch
from PIL import Image

from bench.callers import Callers, History
from bench.figures import Bar, Figure, Findings
from control.versions import prepare, publish
from hotpool import Client, Prediction
from hotpool.admin import Admin
from hotpool.errors import BrokerUnreachable
from hotpool.home import Home
from hotpool.manifest import Manifest
from hotpool.messages import Changed, Report
from hotpool.stable import write_stable
from hotpool.states import WorkerState
from workers.loading import load_verified
from workers.pictures import Picture

ROOT = Path(__file__).parent.parent
MODEL, CROP, N_WORKERS, N_CALLERS = "faults", 48, 2, 4
PATIENCE_S = 60.0
SEEN = Bar("worker SIGKILL: time until it is noticed", "≤", 10)  # ms; promise 4
CLOSE = 1e-3  # of two logits: another batch size may turn them round


@dataclass
class Losses:
    """Of one kind of fault. seen_s, good_again_s: from the signal to the broker's word, to all workers ready."""

    what: str
    seen_s: list[float] = field(default_factory=list)
    good_again_s: list[float] = field(default_factory=list)
    history: History = field(default_factory=History)


class Pool:
    """A broker and a supervisor with its workers, as `hotpool up` starts them; a dead broker is started again at once."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._config = home.root / "hotpool.toml"
        self._config.write_text(f'[pool]\nmodel = "{MODEL}"\nworkers = {N_WORKERS}\nallow_oversubscription = true\n')
        self._log = (home.root / "services.log").open("ab")
        self.broker = self._start("broker")
        self.workers = self._start("workers")

    def restart_broker(self) -> None:
        self.broker.kill()
        self.broker.wait()
        self.broker = self._start("broker")

    def stop(self) -> None:
        self.workers.terminate()
        self.workers.wait()
        self.broker.terminate()
        self.broker.wait()
        self._log.close()

    def _start(self, service: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", service, "--home", str(self.home.root), "--config", str(self._config)]
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=self._log)


class Watch:
    """Every change of a worker's state, with the instant at which it was heard."""

    def __init__(self, home: Home) -> None:
        self.heard: list[tuple[float, Changed]] = []
        self._home, self._begun, self._stop = home, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watch":
        self._thread.start()
        if not self._begun.wait(PATIENCE_S):
            self._stop.set()
            raise TimeoutError(f"the broker told nothing within {PATIENCE_S:g} s")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for_loss(self, worker: str, since: float) -> float:
        """Seconds from `since` until the broker said that the worker is down."""
        while monotonic() < since + PATIENCE_S:
            for at, changed in self.heard:
                if at >= since and changed.worker == worker and changed.after == WorkerState.DOWN:
                    return at - since
            sleep(0.001)
        raise TimeoutError(f"the loss of {worker} was not seen within {PATIENCE_S:g} s")

    def _run(self) -> None:
        with Admin(self._home.endpoint("admin"), watch=True) as admin:
            admin.report(PATIENCE_S)  # answered after the wish to watch was heard: no loss is too early to be told
            self._begun.set()
            while not self._stop.is_set():
                changes = admin.changes(0.05)
                self.heard += [(monotonic(), changed) for changed in changes]


def kill_workers(pool: Pool, number: signal.Signals, n_times: int, losses: Losses) -> None:
    """Sends the signal to one worker after another, each time when all are ready."""
    with Watch(pool.home) as watch:
        for turn in range(n_times):
            victim = f"worker-{turn % N_WORKERS}"
            before = process_of(wait_until_ready(pool.home), victim)
            begin = monotonic()
            os.kill(before, number)
            losses.seen_s.append(watch.wait_for_loss(victim, begin))
            while process_of(wait_until_ready(pool.home), victim) == before:
                sleep(0.005)
            losses.good_again_s.append(monotonic() - begin)


def kill_broker(pool: Pool, every_s: float, n_times: int, losses: Losses) -> None:
    for _ in range(n_times):
        boot, begin = wait_until_ready(pool.home).boot, monotonic()
        pool.restart_broker()
        while wait_until_ready(pool.home).boot == boot:
            sleep(0.005)
        losses.good_again_s.append(monotonic() - begin)
        sleep(max(0.0, begin + every_s - monotonic()))


def wait_until_ready(home: Home) -> Report:
    """The broker's report once all workers are ready."""
    deadline = monotonic() + PATIENCE_S
    while monotonic() < deadline:
        with Admin(home.endpoint("admin")) as admin:
            try:
                report = admin.report(timeout_s=1.0)
            except BrokerUnreachable:
                continue
        if sum(worker.state is WorkerState.READY for worker in report.workers) == N_WORKERS:
            return report
        sleep(0.005)
    raise TimeoutError(f"not all {N_WORKERS} workers became ready within {PATIENCE_S:g} s")


def process_of(report: Report, name: str) -> int:
    return next(worker.pid for worker in report.workers if worker.worker == name)


def add_version(home: Home) -> Manifest:
    """A ResNet-18 with seeded random weights, small pictures: tens of milliseconds to load, a few to compute."""
    from torchvision.models import resnet18  # possible only after `workers.loading` (hotpool/torchvision_ops.py)

    torch.manual_seed(0)
    source = home.root / "weights.pth"
    torch.save(resnet18(num_classes=10).state_dict(), source)
    manifest = publish(
        prepare(
            home, str(source), model=MODEL, name="v1", operator="bench", memory_mb=8192,
            preprocessing={"resize": CROP, "crop": CROP},
        )
    )  # fmt: skip
    write_stable(home, MODEL, manifest.digest)
    return manifest


def right_answers(home: Home, digest: str, pictures: list[np.ndarray]) -> list[set[int]]:
    """The classes each picture may get, computed here."""
    version = load_verified(home, digest)
    found = []
    for picture in pictures:
        image = Image.fromarray(picture)
        logits = version.engine(version.preprocessor.input(Picture(image, image.size)))[0]
        found.append(set(torch.nonzero(logits >= logits.max() - CLOSE).flatten().tolist()))
    return found


@contextmanager
def under_load(pool: Pool, right: list[set[int]], pictures: list[np.ndarray]) -> Iterator[History]:
    """Callers that ask all the time; the history is complete when the block has ended."""

    def ask(n: int) -> tuple[np.ndarray, None]:
        return pictures[n % len(pictures)], None

    def check(n: int, _: None, prediction: Prediction) -> str | None:
        got = prediction.classes[0].index
        return None if got in right[n % len(right)] else f"class {got}, right is {right[n % len(right)]}"

    with Client(pool.home.endpoint("clients")) as client, Callers(client, N_CALLERS, ask, check) as callers:
        yield callers.history


def play(kills: int = 4, stops: int = 2, broker_kills: int = 4) -> list[Losses]:
    """All three faults, one after another, on one pool."""
    pictures = list(np.random.default_rng(0).integers(0, 256, (32, CROP, CROP, 3), np.uint8))
    with tempfile.TemporaryDirectory(prefix="hp") as folder:
        home = Home(Path(folder))
        right = right_answers(home, add_version(home).digest, pictures)
        pool = Pool(home)
        try:
            wait_until_ready(home)
            killed, stopped, broker = Losses("worker SIGKILL"), Losses("worker SIGSTOP"), Losses("broker SIGKILL")
            with under_load(pool, right, pictures) as killed.history:
                kill_workers(pool, signal.SIGKILL, kills, killed)
            with under_load(pool, right, pictures) as stopped.history:
                kill_workers(pool, signal.SIGSTOP, stops, stopped)
            with under_load(pool, right, pictures) as broker.history:
                kill_broker(pool, 2.0, broker_kills, broker)
        finally:
            pool.stop()
    return [killed, stopped, broker]


def run(quick: bool = False) -> Findings:
    figures: list[Figure] = []
    for losses in play(1, 1, 1) if quick else play():
        what, got = losses.what, losses.history
        harm = got.lost + len(got.errors) + len(got.wrong)
        harmless = Bar(f"{what}: requests lost, failed or wrong", "≤", 0)
        figures += [
            Figure(what, "requests", (got.sent,)),
            Figure(what, "lost, failed or wrong", (harm,), bar=harmless),
            Figure(what, "all ready again after", tuple(losses.good_again_s), "s"),
        ]
        if losses.seen_s:
            bar = SEEN if what == "worker SIGKILL" else None
            figures.append(Figure(what, "seen after", tuple(1e3 * value for value in losses.seen_s), "ms", bar))
    return Findings(tuple(figures))
