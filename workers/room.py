"""Shell: whether a version fits into memory, asked before it is loaded and told when it turns out that it did not."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from hotpool.errors import BadVersion

from .batch import one_line
from .cgroups import control_groups, read

# How many times its weights file a load takes at most: the mapped file, the engine's own copy, and what folding and reordering
# need on the way. Seen were 2.5 for a ResNet-18 and 1.1 for a VGG-11, whose large tensors serve from where they are mapped.
OF_A_LOAD = 3
OF_ITS_OWN = 2  # without the mapped pages, which all workers share and the system takes back when it must

MB = 1_000_000
MEMORY = Path("/proc/meminfo")
# By the version of control groups: the limit, what is used, and what of that the system takes back when it must.
_LIMIT = {1: "memory.limit_in_bytes", 2: "memory.max"}
_USED = {1: "memory.usage_in_bytes", 2: "memory.current"}
_CACHED = {1: r"^total_inactive_file (\d+)$", 2: r"^inactive_file (\d+)$"}


def check_limit(weights: Path, limit_mb: int) -> None:
    """Whether the load of this file stays within `load_memory_mb`.

    Not by RLIMIT_AS around the load, which would say so exactly: the limit is that of the process. Threads that serve meanwhile
    would fail for want of memory. The scratch process of the preflight has one.

    Raises:
        BadVersion: it does not; names file, limit and what to do. A file that is missing is for the load to tell.
    """
    size = _size(weights)
    if OF_A_LOAD * size > limit_mb * MB:
        raise BadVersion(
            f"{weights.name} has {size // MB} MB, and loading it takes up to {OF_A_LOAD * size // MB} MB; allowed are "
            f"{limit_mb} MB. Raise pool.load_memory_mb in the configuration and restart the pool, or add a smaller "
            "version, such as one in int8"
        )


def check_free(weights: Path, free: Callable[[], int | None] | None = None) -> None:
    """Whether there is so much memory now: else the kernel would end a process of its choice, in the middle of a request.

    free: bytes that may still be taken, None where nobody knows.

    Raises:
        BadVersion: there is not; names file, what is free and what to do.
    """
    size, there = _size(weights), (free or free_bytes)()
    if there is not None and OF_ITS_OWN * size > there:
        raise BadVersion(
            f"{weights.name} has {size // MB} MB, and loading it takes up to {OF_ITS_OWN * size // MB} MB beside the mapped "
            f"file; {there // MB} MB of memory are free here. Free some, or add a smaller version, such as one in int8"
        )


def free_bytes(memory: Path = MEMORY, groups: Sequence[tuple[int, Path]] | None = None) -> int | None:
    """What this process may still take: of the machine, and of its control groups.

    groups: as `control_groups` gives them; None for this process's.
    """
    found = re.search(r"^MemAvailable: +(\d+) kB$", read(memory), re.MULTILINE)
    of_machine = [int(found[1]) * 1024] if found else []
    of_groups = (_left(*group) for group in (control_groups("memory") if groups is None else groups))
    return min([*of_machine, *(left for left in of_groups if left is not None)], default=None)


def _left(version: int, group: Path) -> int | None:
    limit, used = read(group / _LIMIT[version]), read(group / _USED[version])
    if not (limit.isdecimal() and used.isdecimal()):
        return None  # no limit, or no such group: the one at the root has no files
    cached = re.search(_CACHED[version], read(group / "memory.stat"), re.MULTILINE)
    return int(limit) - int(used) + (int(cached[1]) if cached else 0)


def ran_out(error: Exception) -> bool:
    """Whether memory was what was missing: torch and safetensors have no class of their own for that."""
    return isinstance(error, MemoryError) or "allocate memory" in str(error)


def explain_ran_out(error: Exception, digest: str) -> BadVersion:
    return BadVersion(
        f"there was not enough memory to load version {digest[:12]} ({one_line(error)}); free some, let fewer workers load at "
        "once (--max-unavailable), or add a smaller version, such as one in int8"
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
