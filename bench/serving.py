"""Shell: what serving costs: a pool of two workers beside two bare processes with the same engine and preprocessing.

    python -m bench.serving [--quick]

The pool is driven through the client library by this process, so its client, its broker and its two workers share the two
cores on which the two bare processes have nothing to share.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from control.versions import list_versions
from hotpool import Client, Prediction
from hotpool.home import Home

from .figures import Bar, Figure, Findings, ratios
from .measure import closed_loop, round_trips_ms
from .pool import add_resnet18, make_jpeg, running_pool

MODEL, WORKERS, IN_FLIGHT = "serving", 2, 16
TURN_S, ROUNDS, QUICK_ROUNDS = 1.2, 5, 2


def run(quick: bool = False) -> Findings:
    figures: list[Figure] = []
    picture = make_jpeg(0)
    for precision in ("int8", "fp32"):
        figures += _compare(precision, picture, QUICK_ROUNDS if quick else ROUNDS)
    cores = sorted(os.sched_getaffinity(0))[:WORKERS]
    notes = (
        f"ResNet-18 at 224, JPEG of {len(picture) / 1e3:.0f} KB, {WORKERS} workers of one thread, {IN_FLIGHT} in flight",
        f"bare: {WORKERS} processes on cores {cores}, one picture after another, no server and no client",
        "the pool computes up to four pictures at once, a bare process one",
    )
    return Findings(tuple(figures), notes)


def _compare(precision: str, picture: bytes, rounds: int) -> list[Figure]:
    """Rates and times of both sides, in turn, one figure a round."""
    found: dict[str, list[float]] = {name: [] for name in ("pool rate", "bare rate", "pool p50", "bare p50")}
    with _sides(precision, picture) as (client, bare):

        def submit() -> "Future[Prediction]":
            return client.submit(picture, timeout_s=60)

        def ask() -> Prediction:
            """As who has one picture at a time asks; it waits in the call."""
            return client.classify(picture, timeout_s=60)

        for _ in range(rounds):
            found["bare rate"].append(sum(len(times) for times in ask_bare(bare, TURN_S)) / TURN_S)
            n = int(found["bare rate"][-1] * TURN_S)
            found["pool rate"].append(closed_loop(submit, n, IN_FLIGHT))
            found["bare p50"].append(statistics.median(ask_bare(bare[:1], TURN_S)[0]))
            found["pool p50"].append(statistics.median(round_trips_ms(ask, max(20, n // 4))))
    return _figures(precision, {name: tuple(values) for name, values in found.items()})


def _figures(precision: str, found: dict[str, tuple[float, ...]]) -> list[Figure]:
    is_promised = precision == "int8"
    rate = Bar("pool's rate / that of bare processes, int8, 16 in flight", "≥", 0.93) if is_promised else None
    p50 = Bar("pool's p50 / that of a bare process, int8, one in flight", "≤", 1.10) if is_promised else None
    pool, bare = f"pool, {precision}", f"bare processes, {precision}"
    return [
        Figure(pool, "16 in flight", found["pool rate"], "pictures/s"),
        Figure(pool, "/ bare", ratios(found["pool rate"], found["bare rate"]), bar=rate),
        Figure(pool, "p50, one in flight", found["pool p50"], "ms"),
        Figure(pool, "p50 / bare", ratios(found["pool p50"], found["bare p50"]), bar=p50),
        Figure(bare, "16 in flight", found["bare rate"], "pictures/s"),
        Figure(bare, "p50, one in flight", found["bare p50"], "ms"),
    ]


Bare = list["subprocess.Popen[str]"]


@contextmanager
def _sides(precision: str, picture: bytes) -> Iterator[tuple[Client, Bare]]:
    """Both stand ready; who is not asked is idle."""
    with TemporaryDirectory(prefix="hp") as folder, ExitStack() as stack:
        home = Home(Path(folder))
        add_resnet18(home, MODEL, "v1", 0, precision)
        (home.root / "picture.jpg").write_bytes(picture)
        stack.enter_context(running_pool(home, f'model = "{MODEL}"', WORKERS))
        client = stack.enter_context(Client(home.endpoint("clients")))
        (version,) = list_versions(home)
        cores = sorted(os.sched_getaffinity(0))
        bare = [stack.enter_context(bare_process(home, version.digest, cores[i % len(cores)])) for i in range(WORKERS)]
        ask_bare(bare, 0.2)
        for _ in range(20):
            client.classify(picture, timeout_s=60)
        yield client, bare


@contextmanager
def bare_process(home: Home, digest: str, core: int) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "bench.alone", str(home.root), digest, str(core), str(home.root / "picture.jpg")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ask_bare(processes: Bare, seconds: float) -> list[list[float]]:
    """Milliseconds of each picture, of each process; all at the same time."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{seconds}\n")
        process.stdin.flush()
    return [json.loads(process.stdout.readline()) for process in processes if process.stdout]
