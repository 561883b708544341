"""Shell: what a rollout costs the callers while it runs, and how long a worker is away.

    python -m bench.rollouts [--precision int8]

A ResNet-18 at 224 px, two workers with one thread each, eight requests of a 45 KB JPEG in flight through the client library.
Before each rollout the same load runs without one, so that both sides of a ratio are seconds apart. Times of a step and of a
respawn are given in forward passes of torch eager, float32, one picture, one thread, measured in the same run.
"""

import argparse
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.faults import ROOT, Watch, process_of, wait_until_ready
from bench.measure import spread
from hotpool import Client
from hotpool.home import Home
from hotpool.states import Strategy, WorkerState
from workers.loading import load_verified

IN_FLIGHT, CROP = 8, 224
BEFORE_S = 4.0
# A short bake: a longer one would only fill the time of the rollout with requests that notice nothing.
CONFIG = "[pool]\nworkers = 2\nallow_oversubscription = true\n[rollout]\nbake_s = 0.5\n"
LIVED_S = 10.5  # a process that has lived so long is started again at once


@dataclass
class Side:
    """Of one strategy, a list entry for each rollout. Milliseconds of each request; steps_s: drained -> ready again."""

    before_ms: list[list[float]] = field(default_factory=list)
    during_ms: list[list[float]] = field(default_factory=list)
    rollouts_s: list[float] = field(default_factory=list)
    steps_s: list[float] = field(default_factory=list)

    def ratios(self, percent: float) -> list[float]:
        """Of each rollout, against the time before it."""
        pairs = zip(self.during_ms, self.before_ms, strict=True)
        return [percentile(during, percent) / percentile(before, percent) for during, before in pairs]

    def ratio(self, percent: float) -> float:
        """Of all requests together."""
        return percentile(pooled(self.during_ms), percent) / percentile(pooled(self.before_ms), percent)


class Load:
    """So many callers that ask all the time; (when it was answered, milliseconds) of each request. A context manager."""

    def __init__(self, client: Client, picture: bytes) -> None:
        self.answers: list[tuple[float, float]] = []
        self._client, self._picture, self._stop = client, picture, threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(IN_FLIGHT)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def between(self, begin: float, end: float) -> list[float]:
        return [took_ms for at, took_ms in self.answers if begin <= at < end]

    def _run(self) -> None:
        while not self._stop.is_set():
            begin = monotonic()
            self._client.classify(self._picture)
            now = monotonic()
            self.answers.append((now, (now - begin) * 1e3))


class Pool:
    """`hotpool up` in a home of its own."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._config = home.root / "hotpool.toml"
        self._config.write_text(CONFIG)

    def __call__(self, *words: str) -> dict[str, Any]:
        """Runs a command to its end; what it shows with `-o json`, if it has that."""
        environment = os.environ | {"HOTPOOL_HOME": str(self.home.root), "HOTPOOL_CONFIG": str(self._config)}
        done = subprocess.run(
            [sys.executable, "-m", "control.cli", *words], cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True
        )
        shown: dict[str, Any] = json.loads(done.stdout) if "json" in words else {}
        return shown

    @contextmanager
    def up(self) -> Iterator[None]:
        self("up", "--detach")
        try:
            wait_until_ready(self.home)
            yield
        finally:
            self("down")


def pooled(values: list[list[float]]) -> list[float]:
    return list(chain.from_iterable(values))


def percentile(values: list[float], percent: float) -> float:
    return float(np.percentile(values, percent))


def add_versions(pool: Pool, precision: str) -> str:
    """v1 and v2 with seeded random weights. The digest of v1."""
    from torchvision.models import resnet18  # possible only after `workers.loading` (hotpool/torchvision_ops.py)

    digests = []
    for seed, name in enumerate(("v1", "v2")):
        torch.manual_seed(seed)
        source = pool.home.root / f"{name}.pth"
        torch.save(resnet18().state_dict(), source)
        chosen = () if precision == "fp32" else ("--precision", precision)
        digests.append(pool("versions", "add", str(source), "--name", name, *chosen, "-o", "json")["digest"])
    return str(digests[0])


def picture() -> bytes:
    """Soft blotches under noise, 500x375, about 45 KB as a JPEG."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (8, 10, 3), np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse, np.int16) + random.integers(-14, 15, (375, 500, 3), np.int16)
    file = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=80)
    return file.getvalue()


def eager_pass_s(n_passes: int = 20) -> float:
    """The unit: one picture through torchvision's own network, one thread."""
    from torchvision.models import resnet18

    torch.set_num_threads(1)
    network, row, times = resnet18().eval(), torch.rand(1, 3, CROP, CROP), []
    with torch.inference_mode():
        for _ in range(n_passes):
            begin = perf_counter()
            network(row)
            times.append(perf_counter() - begin)
    return statistics.median(times[2:])


def roll_out(pool: Pool, load: Load, watch: Watch, version: str, strategy: Strategy, side: Side) -> None:
    """One rollout and the time before it."""
    calm = monotonic()
    sleep(BEFORE_S)
    begin = monotonic()
    pool("rollout", "start", "--version", version, "--strategy", strategy.value)
    end = monotonic()
    side.before_ms.append(load.between(calm, begin))
    side.during_ms.append(load.between(begin, end))
    side.rollouts_s.append(end - begin)
    side.steps_s += steps_s(watch, begin)


def steps_s(watch: Watch, since: float) -> list[float]:
    """Of each worker, by the broker's clock."""
    drained: dict[str, int] = {}
    steps = []
    for at, changed in list(watch.heard):
        if at < since:
            continue
        if changed.after == WorkerState.DRAINED and changed.before == WorkerState.DRAINING:
            drained[changed.worker] = changed.at_us
        elif changed.after == WorkerState.READY and changed.worker in drained:
            steps.append((changed.at_us - drained.pop(changed.worker)) / 1e6)
    return steps


def respawns_s(pool: Pool, client: Client, image: bytes) -> list[float]:
    """From SIGKILL to the first answer of the worker's next process, one caller asking all the time."""
    took = []
    for victim in ("worker-0", "worker-1"):
        pid = process_of(wait_until_ready(pool.home), victim)
        begin = monotonic()
        os.kill(pid, signal.SIGKILL)
        while client.classify(image).worker != victim:
            pass
        took.append(monotonic() - begin)
    return took


def run(precision: str = "fp32", n_rollouts: int = 2) -> dict[str, Any]:
    """The strategies take turns. Every figure in the result is a ratio; the seconds are only for orientation."""
    sides = {strategy: Side() for strategy in Strategy}
    image, version = picture(), "v1"
    with tempfile.TemporaryDirectory(prefix="hp") as folder:
        pool = Pool(Home(Path(folder)))
        digest = add_versions(pool, precision)
        unit_s = eager_pass_s()
        with pool.up(), Client(pool.home.endpoint("clients")) as client:
            since = monotonic()
            with Load(client, image) as load, Watch(pool.home) as watch:
                sleep(1.0)
                for _ in range(n_rollouts):
                    for strategy, side in sides.items():
                        version = "v1" if version == "v2" else "v2"
                        roll_out(pool, load, watch, version, strategy, side)
            sleep(max(0.0, since + LIVED_S - monotonic()))
            respawned_s = respawns_s(pool, client, image)
        loaded = load_verified(pool.home, digest)
    return {
        "precision": precision,
        "picture_bytes": len(image),
        "eager_pass_s": unit_s,
        "load_passes": loaded.load_s / unit_s,
        "verify_passes": loaded.verify_s / unit_s,
        "step_passes": [step_s / unit_s for step_s in sides[Strategy.DRAIN].steps_s],
        "respawn_passes": [respawn_s / unit_s for respawn_s in respawned_s],
        "strategies": {strategy.value: figures(side) for strategy, side in sides.items()},
    }


def figures(side: Side) -> dict[str, Any]:
    return {
        "p99_ratio": side.ratio(99),
        "p99_ratios": side.ratios(99),
        "p50_ratio": side.ratio(50),
        "requests_before": sum(map(len, side.before_ms)),
        "requests_during": sum(map(len, side.during_ms)),
        "p99_before_ms": percentile(pooled(side.before_ms), 99),
        "rollouts_s": side.rollouts_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.rollouts")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rollouts", type=int, default=2, help="of each strategy")
    arguments = parser.parse_args()
    found = run(arguments.precision, arguments.rollouts)
    print(f"precision {found['precision']}; one eager pass: {found['eager_pass_s'] * 1e3:.1f} ms")
    for name, side in found["strategies"].items():
        print(
            f"{name}: p99 during / before {side['p99_ratio']:.2f} (of each rollout {spread(side['p99_ratios'])}), "
            f"p50 {side['p50_ratio']:.2f}; {side['requests_during']} requests during, {side['requests_before']} before "
            f"(p99 {side['p99_before_ms']:.0f} ms); a rollout took {spread(side['rollouts_s'])} s"
        )
    print(f"one step, drained -> ready again, in eager passes: {spread(found['step_passes'])}")
    print(f"SIGKILL -> first answer of the next process, in eager passes: {spread(found['respawn_passes'])}")
    print(f"alone: load {found['load_passes']:.1f}, verify {found['verify_passes']:.1f} eager passes")


if __name__ == "__main__":
    main()
