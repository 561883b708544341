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
from time import perf_counter

from control.versions import list_versions
from hotpool import Client, Prediction
from hotpool.home import Home

from .alone import MAX_BATCH
from .figures import Bar, Figure, Findings, ratios
from .measure import closed_loop
from .pool import add_versions, make_jpeg, running_pool

WORKERS, IN_FLIGHT = 2, 16
TURN_S, ROUNDS, QUICK_ROUNDS = 1.2, {"int8": 5, "fp32": 3}, 2
# One in flight: what is looked for is less than a tenth, so more and shorter turns.
SHORT_TURN_S, SHORT_ROUNDS = 0.6, {"int8": 15, "fp32": 3}


def run(quick: bool = False) -> Findings:
    figures: list[Figure] = []
    picture = make_jpeg(0)
    for precision, short_rounds in SHORT_ROUNDS.items():
        with _sides(precision, picture) as (client, bare):
            figures += _compare_rates(precision, client, bare, picture, QUICK_ROUNDS if quick else ROUNDS[precision])
            figures += _compare_times(precision, client, bare, picture, QUICK_ROUNDS if quick else short_rounds)
    cores = sorted(os.sched_getaffinity(0))[:WORKERS]
    notes = (
        f"ResNet-18 at 224, JPEG of {len(picture) / 1e3:.0f} KB, {WORKERS} workers of one thread, {IN_FLIGHT} in flight",
        f"bare: {WORKERS} processes on cores {cores}, one picture after another, no server and no client",
        f"the pool computes up to {MAX_BATCH} pictures at once; so does 'bare processes, {MAX_BATCH} at once'",
        "the way: what a round trip takes beyond the time that the worker says it computed for",
    )
    return Findings(tuple(figures), notes)


def _compare_rates(precision: str, client: Client, bare: "Bare", picture: bytes, rounds: int) -> list[Figure]:
    """Pictures a second, all sides in turn, one figure a round."""

    def submit() -> "Future[Prediction]":
        return client.submit(picture, timeout_s=60)

    found: list[tuple[float, float, float]] = []
    for _ in range(rounds):
        alone, batches = bare_rate(bare, TURN_S), bare_rate(bare, TURN_S, MAX_BATCH)
        found.append((closed_loop(submit, int(alone * TURN_S), IN_FLIGHT), alone, batches))
    pool, alone_rates, batch_rates = zip(*found, strict=True)
    name, row = "16 in flight", f"pool, {precision}"
    bar = Bar("pool's rate / that of bare processes, int8, 16 in flight", "≥", 0.93) if precision == "int8" else None
    return [
        Figure(row, name, pool, "pictures/s"),
        Figure(row, "/ bare", ratios(pool, alone_rates), bar=bar),
        Figure(row, f"/ bare, {MAX_BATCH} at once", ratios(pool, batch_rates)),
        Figure(f"bare processes, {precision}", name, alone_rates, "pictures/s"),
        Figure(f"bare processes, {MAX_BATCH} at once, {precision}", name, batch_rates, "pictures/s"),
    ]


def _compare_times(precision: str, client: Client, bare: "Bare", picture: bytes, rounds: int) -> list[Figure]:
    """As who has one picture at a time asks, and waits in the call: medians, both sides in turn, one figure a round."""
    found: list[tuple[float, float, float, float]] = []
    for _ in range(rounds):
        alone = statistics.median(ask_bare(bare[:1], SHORT_TURN_S)[0])
        whole, computing = _round_trips(client, picture, max(20, int(SHORT_TURN_S * 1e3 / alone)))
        ways = [one - other for one, other in zip(whole, computing, strict=True)]
        found.append((statistics.median(whole), statistics.median(computing), statistics.median(ways), alone))
    p50s, computed, way, alone_ms = zip(*found, strict=True)
    row = f"pool, {precision}"
    bar = Bar("pool's p50 / that of a bare process, int8, one in flight", "≤", 1.10) if precision == "int8" else None
    return [
        Figure(row, "p50, one in flight", p50s, "ms"),
        Figure(row, "p50 / bare", ratios(p50s, alone_ms), bar=bar),
        Figure(row, "computing / bare", ratios(computed, alone_ms)),
        Figure(row, "the way", way, "ms"),
        Figure(f"bare processes, {precision}", "p50, one in flight", alone_ms, "ms"),
    ]


def _round_trips(client: Client, picture: bytes, n: int) -> tuple[list[float], list[float]]:
    """Milliseconds of n requests one after another, and what their workers say they computed for."""
    whole, computing = [], []
    for _ in range(n):
        begin = perf_counter()
        prediction = client.classify(picture, timeout_s=60)
        whole.append((perf_counter() - begin) * 1e3)
        computing.append(prediction.service_ms)
    return whole, computing


Bare = list["subprocess.Popen[str]"]


@contextmanager
def _sides(precision: str, picture: bytes) -> Iterator[tuple[Client, Bare]]:
    """Both stand ready; who is not asked is idle."""
    with TemporaryDirectory(prefix="hp") as folder, ExitStack() as stack:
        home = Home(Path(folder))
        add_versions(home, precision)
        (home.root / "picture.jpg").write_bytes(picture)
        stack.enter_context(running_pool(home, WORKERS))
        client = stack.enter_context(Client(home.endpoint("clients")))
        (version,) = list_versions(home)
        cores = sorted(os.sched_getaffinity(0))
        bare = [stack.enter_context(bare_process(home, version.digest, cores[i % len(cores)])) for i in range(WORKERS)]
        ask_bare(bare, 0.2)
        ask_bare(bare, 0.2, MAX_BATCH)
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


def bare_rate(processes: Bare, seconds: float, batch: int = 1) -> float:
    """Pictures a second of all together."""
    return sum(len(times) for times in ask_bare(processes, seconds, batch)) * batch / seconds


def ask_bare(processes: Bare, seconds: float, batch: int = 1) -> list[list[float]]:
    """Milliseconds of each batch, of each process; all at the same time."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{seconds} {batch}\n")
        process.stdin.flush()
    return [json.loads(process.stdout.readline()) for process in processes if process.stdout]
