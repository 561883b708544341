"""Shell: what serving costs: a pool of two workers beside two bare processes with the same engine and preprocessing.

    python -m bench serving

The pool is driven through the client library by this process, so its client, its broker and its two workers share the two
cores on which the two bare processes have nothing to share.
"""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from control.versions import list_versions
from hotpool import Client, Prediction
from hotpool.home import Home

from .alone import MAX_BATCH
from .figures import Bar, Figure, Findings, ratios
from .measure import Asked, asked, closed_loop
from .pool import add_versions, make_jpeg, running_pool, wait_until_ready

WORKERS, IN_FLIGHT = 2, 16
POOL, BARE, BATCHES = "pool", "bare processes", f"bare processes, {MAX_BATCH} at once"
# Where its memory happens to lie makes a process, the pool's or a bare one, faster or slower by a fortieth for as long as it
# lives. So there are several of each, one after another; rounds are those in one life.
LIVES, QUICK_LIVES = 4, 1
TURN_S, ROUNDS = 1.2, 1
# One in flight: what is looked for is less than a tenth, so more and shorter turns.
SHORT_TURN_S, SHORT_ROUNDS = 0.4, 4

# Pictures a second: of the pool, of bare processes, of those that compute several at once.
Rates = tuple[float, float, float]
# Milliseconds: the pool's p50, its computing, its way, and a bare process's p50.
Times = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Sides:
    """bare: by the worker on whose core it is. Cores of one machine may differ, by what else the host runs on them."""

    client: Client
    bare: Mapping[str, Asked]


def run(quick: bool = False) -> Findings:
    picture = make_jpeg(0)
    rates: list[Rates] = []
    times: list[Times] = []
    lives = QUICK_LIVES if quick else LIVES
    for _ in range(lives):
        with _sides(picture) as sides:
            rates += [_rates(sides, picture) for _ in range(ROUNDS)]
            times += [_times(sides, picture) for _ in range(SHORT_ROUNDS)]
    notes = (
        f"int8 ResNet-18 at 224, JPEG of {len(picture) / 1e3:.0f} KB, {WORKERS} workers of one thread, {IN_FLIGHT} in flight",
        f"bare: {WORKERS} processes on the workers' cores, one picture after another, no server and no client",
        "one in flight: beside the bare process on the core of the worker that answers",
        f"the pool computes up to {MAX_BATCH} pictures at once; so does '{BATCHES}'",
        "the way: what a round trip takes beyond the time that the worker says it computed for",
        f"{lives} pools and as many pairs of bare processes, one after another, with {ROUNDS} and {SHORT_ROUNDS} rounds each",
    )
    return Findings((*_rate_figures(rates), *_time_figures(times)), notes)


def _rates(sides: Sides, picture: bytes) -> Rates:
    """One round, all sides in turn."""

    def submit() -> "Future[Prediction]":
        return sides.client.submit(picture, timeout_s=60)

    bare = list(sides.bare.values())
    alone, batches = bare_rate(bare, TURN_S), bare_rate(bare, TURN_S, MAX_BATCH)
    return closed_loop(submit, int(alone * TURN_S), IN_FLIGHT), alone, batches


def _rate_figures(found: Sequence[Rates]) -> list[Figure]:
    pool, alone_rates, batch_rates = zip(*found, strict=True)
    name, bar = "16 in flight", Bar("pool's rate / that of bare processes, int8, 16 in flight", "≥", 0.93)
    return [
        Figure(POOL, name, pool, "pictures/s"),
        Figure(POOL, "/ bare", ratios(pool, alone_rates), bar=bar),
        Figure(POOL, f"/ bare, {MAX_BATCH} at once", ratios(pool, batch_rates)),
        Figure(BARE, name, alone_rates, "pictures/s"),
        Figure(BATCHES, name, batch_rates, "pictures/s"),
    ]


def _times(sides: Sides, picture: bytes) -> Times:
    """One round, both sides in turn on one core, as who has one picture at a time asks, and waits in the call."""
    worker = sides.client.classify(picture, timeout_s=60).worker  # of idle ones the last to compute is asked again
    alone = statistics.median(ask_bare([sides.bare[worker]], SHORT_TURN_S)[0])
    whole, computing = _round_trips(sides.client, picture, worker, max(20, int(SHORT_TURN_S * 1e3 / alone)))
    ways = [one - other for one, other in zip(whole, computing, strict=True)]
    return statistics.median(whole), statistics.median(computing), statistics.median(ways), alone


def _time_figures(found: Sequence[Times]) -> list[Figure]:
    p50s, computed, way, alone_ms = zip(*found, strict=True)
    bar = Bar("pool's p50 / that of a bare process, int8, one in flight", "≤", 1.10)
    return [
        Figure(POOL, "p50, one in flight", p50s, "ms"),
        Figure(POOL, "p50 / bare", ratios(p50s, alone_ms), bar=bar),
        Figure(POOL, "computing / bare", ratios(computed, alone_ms)),
        Figure(POOL, "the way", way, "ms"),
        Figure(BARE, "p50, one in flight", alone_ms, "ms"),
    ]


def _round_trips(client: Client, picture: bytes, worker: str, n: int) -> tuple[list[float], list[float]]:
    """Milliseconds of n requests one after another, and what their workers say they computed for."""
    whole, computing = [], []
    for _ in range(n):
        begin = perf_counter()
        prediction = client.classify(picture, timeout_s=60)
        whole.append((perf_counter() - begin) * 1e3)
        assert prediction.worker == worker, "another worker has answered, on another core"
        computing.append(prediction.service_ms)
    return whole, computing


@contextmanager
def _sides(picture: bytes) -> Iterator[Sides]:
    """Both stand ready; who is not asked is idle."""
    with TemporaryDirectory(prefix="hp") as folder, ExitStack() as stack:
        home = Home(Path(folder))
        add_versions(home, "int8")
        stack.enter_context(running_pool(home, WORKERS))
        client = stack.enter_context(Client(home.endpoint("clients")))
        bare = stack.enter_context(bare_processes(home, picture))
        ask_bare(list(bare.values()), 0.2, MAX_BATCH)
        for _ in range(20):
            client.classify(picture, timeout_s=60)
        yield Sides(client, bare)


@contextmanager
def bare_processes(home: Home, picture: bytes) -> Iterator[Mapping[str, Asked]]:
    """One for each worker of the pool that runs there, on the worker's core, with the home's version; warm."""
    file, (version,) = home.root / "picture.jpg", list_versions(home)
    file.write_bytes(picture)
    with ExitStack() as stack:
        bare = {
            one.worker: stack.enter_context(
                asked("bench.alone", str(home.root), version.digest, str(one.cores[0]), str(file))
            )
            for one in wait_until_ready(home, WORKERS).workers
        }
        ask_bare(list(bare.values()), 0.2)
        yield bare


def bare_rate(processes: Sequence[Asked], seconds: float, batch: int = 1) -> float:
    """Pictures a second of all together."""
    return sum(len(times) for times in ask_bare(processes, seconds, batch)) * batch / seconds


def ask_bare(processes: Sequence[Asked], seconds: float, batch: int = 1) -> list[list[float]]:
    """Milliseconds of each batch, of each process; all at the same time."""
    for process in processes:
        process.tell(f"{seconds} {batch}")
    return [json.loads(process.hear()) for process in processes]
