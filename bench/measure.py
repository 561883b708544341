"""Shell: what the benchmarks share: processes that end with the block, closed-loop load, figures with their spread."""

import os
import platform
import statistics
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from time import perf_counter
from typing import Any

Submit = Callable[[], "Future[Any]"]


@contextmanager
def running(*arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """`python -m ARGUMENTS`, ended with the block."""
    process = subprocess.Popen([sys.executable, "-m", *arguments], stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def closed_loop(submit: Submit, n_requests: int, in_flight: int) -> float:
    """Requests per second with so many under way at any time."""
    waiting: deque[Future[Any]] = deque()
    begin = perf_counter()
    for _ in range(n_requests):
        if len(waiting) >= in_flight:
            waiting.popleft().result()
        waiting.append(submit())
    while waiting:
        waiting.popleft().result()
    return n_requests / (perf_counter() - begin)


def round_trips_ms(submit: Submit, n_requests: int) -> list[float]:
    """Milliseconds of each request, one after another."""
    times = []
    for _ in range(n_requests):
        begin = perf_counter()
        submit().result()
        times.append((perf_counter() - begin) * 1e3)
    return times


def in_turn(sides: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """Each side's figures, one a round: they take turns, so that all see the same machine. The first round is warm-up."""
    figures: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds + 1):
        for side, seen in zip(sides, figures, strict=True):
            seen.append(side())
    return [seen[1:] for seen in figures]


def summary(values: Sequence[float]) -> dict[str, float]:
    """As `spread`, for JSON."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def machine() -> str:
    """One line on where this was measured."""
    return f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"
