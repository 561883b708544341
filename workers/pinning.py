"""Pure: which worker computes on which cores."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from typing import Literal

from hotpool.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Plan:
    """core_sets: one for each worker. warning: what the operator must know of an oversubscribed plan."""

    core_sets: tuple[tuple[int, ...], ...]
    threads: int
    warning: str | None = None


def plan_cores(
    allowed: Sequence[int],
    quota: float | None,
    workers: int | Literal["auto"],
    threads: int,
    allow_oversubscription: bool,
) -> Plan:
    """Core sets for this many workers with this many computing threads each.

    Args:
        allowed: the cores this process may run on.
        quota: how many cores' time its control group may use; None without a limit. A part of a core counts as none: a
            thread that is throttled in the middle of a request stalls all that wait for it.
        workers: `auto` is as many as fit.

    Raises:
        ConfigError: they don't fit and oversubscription is not allowed. Two computing threads on one core run at half
            speed or less each, so this is never done silently.
    """
    usable = tuple(sorted(allowed))
    if quota is not None:
        usable = usable[: max(1, floor(quota))]
    n_fit = len(usable) // threads
    n = max(1, n_fit) if workers == "auto" else workers
    if n <= n_fit:
        return Plan(tuple(usable[i * threads : (i + 1) * threads] for i in range(n)), threads)
    excess = _excess(n, threads, usable, len(allowed), quota)
    if not allow_oversubscription:
        raise ConfigError(f"{excess}; {_remedy(n_fit, len(usable))}, or set pool.allow_oversubscription = true")
    shared = tuple(tuple(sorted({usable[(i * threads + j) % len(usable)] for j in range(threads)})) for i in range(n))
    return Plan(shared, threads, f"{excess}: workers share cores and answer more slowly")


def _excess(n: int, threads: int, usable: tuple[int, ...], n_allowed: int, quota: float | None) -> str:
    limits = f"affinity allows {n_allowed}" + ("" if quota is None else f", the cgroup quota {quota:g}")
    wanted = f"pool.workers = {n} with pool.threads = {threads} need {n * threads} cores"
    return f"{wanted}, usable are {len(usable)} ({limits})"


def _remedy(n_fit: int, n_usable: int) -> str:
    if n_fit == 0:
        return f"set pool.threads to at most {n_usable}"
    return f'set pool.workers to at most {n_fit} or "auto"'
