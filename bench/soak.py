"""Shell: rollouts back to back under load, and whether anything grows, is lost or goes wrong meanwhile.

    python -m bench.soak [--minutes 30] [--callers 6]

Growth is that of the median of the last tenth of the time over the median of the tenth that follows the first five minutes
(a quarter of the time when it is short).
"""

import argparse
import statistics
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import psutil

from control import orders
from control.admin import Admin
from control.journal import Journal
from control.rollout import Settings
from control.versions import list_versions
from hotpool import Client, Prediction
from hotpool.config import Config
from hotpool.home import Home
from hotpool.states import Phase

from .alone import Alone
from .callers import Callers, History
from .measure import machine
from .pool import add_resnet18, make_jpeg, running_pool, wait_until_ready, worker_pids

MODEL, N_WORKERS, N_PICTURES = "soak", 2, 12
SAMPLE_S, WARM_UP_MINUTES, PATIENCE_S = 3.0, 5.0, 120.0
CLOSE = 0.02  # of the largest logit: another batch size, or int8, may turn two such classes round
BAR = 0.03
SETTINGS = Settings(**Config().rollout.model_dump() | {"bake_s": 0.5})


@dataclass(frozen=True)
class Sample:
    """One process at one instant. rss: all that is resident, shared or not; uss: what only it has."""

    at_s: float
    name: str
    pid: int
    rss: int
    uss: int


@dataclass
class Soak:
    """What happened. phases: how each rollout ended."""

    seconds: float
    history: History = field(default_factory=History)
    phases: list[Phase] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def growth(self, measure: str) -> dict[str, tuple[float, float]]:
        """By process: bytes after the warm-up, and by what part of them it has grown since."""
        begin = min(WARM_UP_MINUTES * 60, self.seconds / 4)
        tenth = self.seconds / 10
        grown = {}
        for name in dict.fromkeys(sample.name for sample in self.samples):
            early = self._median(name, measure, begin, begin + tenth)
            grown[name] = early, self._median(name, measure, self.seconds - tenth, self.seconds) / early - 1
        return grown

    def restarts(self) -> int:
        return len({(sample.name, sample.pid) for sample in self.samples}) - len({x.name for x in self.samples})

    def _median(self, name: str, measure: str, since_s: float, until_s: float) -> float:
        values = [getattr(x, measure) for x in self.samples if x.name == name and since_s <= x.at_s <= until_s]
        return float(statistics.median(values))


class Sampler(threading.Thread):
    """Samples all processes of the pool until told to stop."""

    def __init__(self, home: Home, services: dict[str, int], samples: list[Sample]) -> None:
        super().__init__(daemon=True)
        self._home, self._services, self._samples = home, services, samples
        self.stopping = threading.Event()

    def run(self) -> None:
        begin = monotonic()
        with Admin(self._home.endpoint("admin")) as admin:
            while not self.stopping.wait(SAMPLE_S):
                pids = {**self._services, **worker_pids(admin.report())}
                (pids["template"],) = [child.pid for child in psutil.Process(pids["workers"]).children()]
                for name, pid in pids.items():
                    try:
                        memory = psutil.Process(pid).memory_full_info()
                    except psutil.NoSuchProcess:
                        continue  # a worker that has just ended
                    self._samples.append(Sample(monotonic() - begin, name, pid, memory.rss, memory.uss))


def run(minutes: float = 30.0, n_callers: int = 6) -> Soak:
    """Broker, two workers and controller; ResNet-18 v1 and v2 in turn."""
    soak = Soak(minutes * 60)
    with tempfile.TemporaryDirectory(prefix="hp") as folder:
        home = Home(Path(folder))
        for seed, name in enumerate(("v1", "v2")):
            add_resnet18(home, MODEL, name, seed)
        pictures = [make_jpeg(seed) for seed in range(N_PICTURES)]
        versions = {manifest.name: manifest.digest for manifest in list_versions(home, MODEL)}
        right = {name: _right_answers(home, digest, pictures) for name, digest in versions.items()}
        with running_pool(home, f'model = "{MODEL}"', N_WORKERS, ("broker", "workers", "control")) as services:
            sampler = Sampler(home, services, soak.samples)
            sampler.start()
            soak.history = _roll_under_load(home, pictures, right, n_callers, soak)
            sampler.stopping.set()
            sampler.join()
    return soak


def _roll_under_load(
    home: Home, pictures: list[bytes], right: dict[str, list[set[int]]], n_callers: int, soak: Soak
) -> History:
    def ask(n: int) -> tuple[bytes, None]:
        return pictures[n % N_PICTURES], None

    def check(n: int, _: None, prediction: Prediction) -> str | None:
        expected = right[prediction.version][n % N_PICTURES]
        got = prediction.classes[0].index
        return None if got in expected else f"class {got} from {prediction.version}, right is {expected}"

    ends_at = monotonic() + soak.seconds
    with Client(home.endpoint("clients")) as client, Callers(client, n_callers, ask, check) as callers:
        while monotonic() < ends_at:
            soak.phases.append(_roll_out(home, f"v{2 - len(soak.phases) % 2}"))
    return callers.history


def _roll_out(home: Home, version: str) -> Phase:
    """As `hotpool rollout start` orders it."""
    with Journal(home.database) as journal:
        workers = wait_until_ready(home, N_WORKERS).workers
        orders.start(journal, model=MODEL, version=version, workers=workers, settings=SETTINGS, operator="bench")
        deadline = monotonic() + PATIENCE_S
        while monotonic() < deadline:
            rollout = orders.read(journal).last(MODEL)
            if rollout is not None and rollout.is_over:
                return rollout.phase
            sleep(0.1)
    raise TimeoutError(f"the rollout to {version} did not end within {PATIENCE_S:g} s")


def _right_answers(home: Home, digest: str, pictures: list[bytes]) -> list[set[int]]:
    """The classes that this version may give each picture, computed here."""
    version = Alone(home, digest)
    found = []
    for picture in pictures:
        logits = version.logits(picture)
        found.append(set(np.flatnonzero(logits >= logits.max() - CLOSE * np.abs(logits).max()).tolist()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.soak")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--callers", type=int, default=6)
    arguments = parser.parse_args()
    soak = run(arguments.minutes, arguments.callers)
    got = soak.history
    print(f"{machine()}; {arguments.minutes:g} minutes, {arguments.callers} callers, {N_WORKERS} workers, ResNet-18")
    print(f"rollouts: {', '.join(f'{n} {phase}' for phase, n in Counter(soak.phases).items())}")
    print(
        f"{got.sent} requests, {got.lost} lost, {len(got.errors)} errors, {len(got.wrong)} wrong, "
        f"by version {dict(got.by_version)}, {soak.restarts()} processes started again"
    )
    for problem in [*map(repr, got.errors[:3]), *got.wrong[:3]]:
        print(f"  {problem}")
    for measure in ("rss", "uss"):
        for name, (early, grown) in soak.growth(measure).items():
            print(f"{measure} {name:9} {early / 1e6:6.1f} MB after the warm-up, then {grown:+.2%}")
    print(f"less than {BAR:.0%} is promised of each")


if __name__ == "__main__":
    main()
