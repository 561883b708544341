"""Pure: which worker computes on which cores."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import floor
from typing import Literal

from hotpool.errors import ConfigError

CoreSet = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Core:
    """One core as the system numbers them. Cores of one node are near the same memory; those of one `physical` core are
    hyperthreads of it: two that compute run at about half speed each."""

    id: int
    node: int
    physical: int


@dataclass(frozen=True, slots=True)
class Plan:
    """core_sets: one for each worker. warning: what the operator must know of workers that slow each other down."""

    core_sets: tuple[CoreSet, ...]
    threads: int
    warning: str | None = None


def flat(ids: Sequence[int]) -> list[Core]:
    """Cores of which nothing is known but their numbers."""
    return [Core(id, 0, id) for id in ids]


def plan_cores(
    allowed: Sequence[Core],
    quota: float | None,
    workers: int | Literal["auto"],
    threads: int,
    allow_oversubscription: bool,
) -> Plan:
    """Core sets for this many workers with this many computing threads each. No set spans two nodes; physical cores come
    before further hyperthreads of them, and workers are dealt out to the nodes in turn, for all of the memory's bandwidth.

    Args:
        allowed: the cores this process may run on.
        quota: how many cores' time its control group may use; None without a limit. A part of a core counts as none: a
            thread that is throttled in the middle of a request stalls all that wait for it.
        workers: `auto` is as many as fit on physical cores.

    Raises:
        ConfigError: they don't fit and oversubscription is not allowed. Two computing threads on one core run at half
            speed or less each, so this is never done silently.
    """
    n_usable = len(allowed) if quota is None else min(len(allowed), max(1, floor(quota)))
    alone, sharing = _core_sets(allowed, threads)
    n_fit = min(len(alone) + len(sharing), n_usable // threads)
    n = max(1, min(len(alone), n_fit)) if workers == "auto" else workers
    if n <= n_fit:
        return Plan((*alone, *sharing)[:n], threads, _warn_of_hyperthreads(n - len(alone)))
    excess, largest = _excess(n, threads, n_usable, allowed, quota), min(n_usable, max(map(len, _nodes(allowed))))
    if not allow_oversubscription:
        raise ConfigError(f"{excess}; {_remedy(n_fit, largest)}, or set pool.allow_oversubscription = true")
    usable = _by_preference(allowed)[:n_usable]
    shared = tuple(tuple(sorted({usable[(i * threads + j) % n_usable] for j in range(threads)})) for i in range(n))
    return Plan(shared, threads, f"{excess}: workers share cores or span sockets, and answer more slowly")


def _core_sets(allowed: Sequence[Core], threads: int) -> tuple[list[CoreSet], list[CoreSet]]:
    """All sets that have their physical cores for themselves, and then those on what is left."""
    alone, sharing = [], []
    for cores in _nodes(allowed):
        first, further = _first_and_further(cores)
        n_whole = len(first) // threads * threads
        alone.append(_chunks(first[:n_whole], threads))
        sharing.append(_chunks(first[n_whole:] + further, threads))
    return _deal(alone), _deal(sharing)


def _nodes(allowed: Sequence[Core]) -> list[list[Core]]:
    """The cores of each node, by number."""
    ordered = sorted(allowed, key=lambda core: core.id)
    return [[core for core in ordered if core.node == node] for node in sorted({core.node for core in ordered})]


def _first_and_further(cores: list[Core]) -> tuple[list[Core], list[Core]]:
    """One hyperthread of each physical core, and the others."""
    first = {core.physical: core for core in reversed(cores)}
    further = [core for core in cores if first[core.physical] is not core]
    return [core for core in cores if first[core.physical] is core], further


def _by_preference(allowed: Sequence[Core]) -> list[int]:
    nodes = [_first_and_further(cores) for cores in _nodes(allowed)]
    return [core.id for first, _ in nodes for core in first] + [core.id for _, further in nodes for core in further]


def _chunks(cores: list[Core], size: int) -> list[CoreSet]:
    return [tuple(core.id for core in cores[i : i + size]) for i in range(0, len(cores) - size + 1, size)]


def _deal(piles: list[list[CoreSet]]) -> list[CoreSet]:
    """One from each pile in turn."""
    return [core_set for row in zip_longest(*piles) for core_set in row if core_set is not None]


def _warn_of_hyperthreads(n_sharing: int) -> str | None:
    if n_sharing <= 0:
        return None
    return f"{n_sharing} workers compute on further hyperthreads of physical cores that are taken: both run at about half speed"


def _excess(n: int, threads: int, n_usable: int, allowed: Sequence[Core], quota: float | None) -> str:
    sizes = [len(cores) for cores in _nodes(allowed)]
    limits = f"affinity allows {len(allowed)}" + (f" on sockets of {' + '.join(map(str, sizes))}" if sizes[1:] else "")
    limits += "" if quota is None else f", the cgroup quota {quota:g}"
    wanted = f"pool.workers = {n} with pool.threads = {threads} need {n * threads} cores"
    return f"{wanted}, usable are {n_usable} ({limits})"


def _remedy(n_fit: int, largest: int) -> str:
    if n_fit == 0:
        return f"set pool.threads to at most {largest}"
    return f'set pool.workers to at most {n_fit} or "auto"'
