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
CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_MEMBERSHIP = Path("/proc/self/cgroup")


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


def cgroup_quota(root: Path = CGROUP_ROOT, membership: Path = CGROUP_MEMBERSHIP) -> float | None:
    """How many cores' time this control group and all above it may use; None without a limit. Knows v1 and v2."""
    groups = control_groups("cpu", root, membership)
    quotas = [_quota_v2(folder) if version == 2 else _quota_v1(folder) for version, folder in groups]
    return min((quota for quota in quotas if quota is not None), default=None)


def control_groups(
    controller: str, root: Path = CGROUP_ROOT, membership: Path = CGROUP_MEMBERSHIP
) -> list[tuple[int, Path]]:
    """Those of this process that may limit what this controller is for, and all above them: version, 1 or 2, and folder."""
    groups = []
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            groups += [(2, folder) for folder in _upwards(root, path)]
        elif controller in controllers.split(","):
            groups += [(1, folder) for base in (controller, controllers) for folder in _upwards(root / base, path)]
    return groups


def _upwards(root: Path, path: str) -> list[Path]:
    """The group's folder and those above it. In a container the path may not exist; the root is then its own."""
    folder = root / path.lstrip("/")
    return [folder, *[above for above in folder.parents if above == root or root in above.parents]]


def _quota_v2(folder: Path) -> float | None:
    words = _read(folder / "cpu.max").split()
    if len(words) != 2 or words[0] == "max":
        return None
    return int(words[0]) / int(words[1])


def _quota_v1(folder: Path) -> float | None:
    quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    if not quota or not period or int(quota) < 0:
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def other_threads() -> tuple[int, ...]:
    """The system's ids of this process's threads but for the main one; empty where there is no list of them."""
    try:
        return tuple(sorted({int(name) for name in os.listdir("/proc/self/task")} - {os.getpid()}))
    except OSError:
        return ()
