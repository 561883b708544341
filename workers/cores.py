"""Shell: the cores this process may use, read from the system and set."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from .pinning import Core, flat

# Behind broker and control, which are at 0, and before the preflight (`scratch`). With six computing workers on two cores in
# one session a report of the broker took 13 ms at p99 beside workers at 0, 9 ms at 5, 9 ms at 10, 7 ms at 19: a step is enough,
# and more would give the cores away to whatever else runs on the host. SCHED_IDLE (5 ms) would give away all of them.
NICE = 5

# How often a computing thread of GNU OpenMP (torch's on Linux) looks for more work before it sleeps; its default is 300,000.
# Batch 4 on two threads: 1.02 of the default's time (0.94 to 1.12) on two idle cores, where sleeping at once takes 1.07; 0.59
# (0.52 to 0.70) where another process computes on one of them: waiting no longer keeps out what is waited for.
SPIN_COUNT = 10_000

TOPOLOGY_ROOT = Path("/sys/devices/system/cpu")


def allowed_cores() -> list[Core]:
    """By affinity on Linux; elsewhere all cores."""
    if sys.platform == "linux":
        return read_topology(sorted(os.sched_getaffinity(0)))
    return flat(range(os.cpu_count() or 1))


def read_topology(ids: Sequence[int], root: Path = TOPOLOGY_ROOT) -> list[Core]:
    """Where each of these cores lies; flat when the system doesn't tell, as in some containers."""
    try:
        return [Core(id, _node(root / f"cpu{id}"), _physical(root / f"cpu{id}")) for id in ids]
    except (OSError, ValueError):
        return flat(ids)


def _physical(folder: Path) -> int:
    """The lowest number among its hyperthreads, of a list like `3,67` or `3-4`; `core_id` is unique only inside a socket."""
    return int(re.split("[,-]", (folder / "topology" / "thread_siblings_list").read_text())[0])


def _node(folder: Path) -> int:
    """The node of its memory; a kernel without NUMA tells only the socket."""
    for link in folder.glob("node[0-9]*"):
        return int(link.name.removeprefix("node"))
    return int((folder / "topology" / "physical_package_id").read_text())


def can_pin() -> bool:
    return sys.platform == "linux"


def pin(cores: tuple[int, ...]) -> None:
    """This process and the threads it starts from now on. macOS has no such call."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, cores)


def lower_priority() -> None:
    """This process and the threads it starts from now on give way to the broker and to control. Needs no rights."""
    os.nice(NICE)


def thread_environment(threads: int) -> dict[str, str]:
    """What OpenMP, MKL and OpenBLAS read when they are loaded.

    OpenBLAS is numpy's, which computes nothing here, and would start its threads at once: the template must have none.
    """
    numbers = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
    return numbers | {"GOMP_SPINCOUNT": str(SPIN_COUNT)}
