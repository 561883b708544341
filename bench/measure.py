"""Shell: what the benchmarks share: processes that end with the block, closed-loop load, sides that take turns."""

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from time import perf_counter
from typing import Any

Submit = Callable[[], "Future[Any]"]


@contextmanager
def running(*arguments: str, environment: Mapping[str, str] | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    """`python -m ARGUMENTS`, ended with the block. environment: besides our own."""
    command, variables = [sys.executable, "-m", *arguments], {**os.environ, **(environment or {})}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=variables)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


class Asked:
    """A process of our own that answers each line of its input with one of its output."""

    def __init__(self, name: str, process: "subprocess.Popen[str]") -> None:
        self._name, self._process = name, process

    def tell(self, line: str) -> None:
        """RuntimeError: it has ended."""
        assert self._process.stdin
        try:
            print(line, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._ended() from None

    def hear(self) -> str:
        """RuntimeError: it has ended."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._ended()
        return line.removesuffix("\n")

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.hear()

    def _ended(self) -> RuntimeError:
        return RuntimeError(f"{self._name} ended without an answer, exit code {self._process.wait()}")


@contextmanager
def asked(*arguments: str) -> Iterator[Asked]:
    """`python -m ARGUMENTS`, ended with the block."""
    command = [sys.executable, "-m", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Asked(" ".join(arguments), process)
    finally:
        process.kill()
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


def answered(submit: Submit) -> object:
    return submit().result()


def round_trips_ms(ask: Callable[[], object], n_requests: int) -> list[float]:
    """Milliseconds of each request, one after another. ask: returns when it is answered."""
    times = []
    for _ in range(n_requests):
        begin = perf_counter()
        ask()
        times.append((perf_counter() - begin) * 1e3)
    return times


def in_turn(sides: Sequence[Callable[[], object]], rounds: int, repeats: int = 1) -> list[tuple[float, ...]]:
    """Milliseconds of one call, for each side one figure a round: they take turns, so that all see the same machine."""
    for side in sides:
        side()  # warm: caches, memory, lazy imports
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, seen in zip(sides, times, strict=True):
            begin = perf_counter()
            for _ in range(repeats):
                side()
            seen.append((perf_counter() - begin) * 1e3 / repeats)
    return [tuple(seen) for seen in times]
