"""Shell: what the other servers' workers compute: nothing, or what a worker of the pool does, by its engine and preprocessing.

They start their workers in ways of their own, so the choice comes in the environment: `nothing`, or `HOME:DIGEST`; and how many
pictures they may compute at once.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from hotpool.home import Home

WORK, AT_ONCE = "HOTPOOL_BENCH_WORK", "HOTPOOL_BENCH_AT_ONCE"
NOTHING = "nothing"

Work = Callable[[Sequence[bytes]], list[int]]  # picture files to the most probable classes


def describe_version(home: Home, digest: str) -> str:
    return f"{home.root}:{digest}"


def at_once() -> int:
    """1: the server is to hand over one picture at a time, as they do without a word."""
    return int(os.environ[AT_ONCE])


def make_work(chosen: str = "") -> Work:
    """In a worker's process: torch is not loaded for nothing. chosen: instead of what the environment says."""
    chosen = chosen or os.environ[WORK]
    if chosen == NOTHING:
        return lambda pictures: [0] * len(pictures)
    from workers.torch_version import limit_threads

    from .alone import Alone

    limit_threads(1)
    folder, _, digest = chosen.rpartition(":")
    version = Alone(Home(Path(folder)), digest)
    return lambda pictures: version.logits(pictures).argmax(axis=1).tolist()
