"""Pure: the steps of a canary: what an operator writes, what a pool of so many workers can carry.

A step is `shadow` (copies of requests, whose answers nobody sees) or a share in percent, both as text.
"""

from collections.abc import Sequence
from itertools import pairwise

from hotpool.errors import BadRollout

SHADOW = "shadow"
AUTO, NONE = "auto", "none"
DEFAULT = (SHADOW, "5", "25", "50")  # as far as they are below what the canary workers can carry


def parse_steps(text: str) -> tuple[str, ...]:
    """The steps in `shadow,5,25,50`; `auto` and `none` stand alone.

    Raises:
        BadRollout: names the part that is none.
    """
    parts = tuple(part.strip() for part in text.split(","))
    if parts == (NONE,):
        return ()
    if parts == (AUTO,):
        return parts
    shares = [share_of(part) for part in parts]
    if any(before >= after for before, after in pairwise(shares)):
        raise BadRollout(f"steps {text!r}: each share must be larger than the one before, and shadow comes first")
    return parts


def share_of(step: str) -> float:
    """Percent of the requests that the target gets in a step. Raises BadRollout."""
    if step == SHADOW:
        return 0.0
    try:
        share = float(step.removesuffix("%"))
    except ValueError:
        share = 0.0
    if not 0 < share < 100:
        raise BadRollout(f"step {step!r}: expected shadow, or a share above 0 and below 100 percent")
    return share


def resolve_steps(steps: Sequence[str], canary_workers: int, n_workers: int) -> tuple[str, ...]:
    """The steps for a pool of so many workers; `auto` becomes those that its canary workers can carry.

    Raises:
        BadRollout: a share is more than they can carry, or no worker would stay on stable.
    """
    if not steps or (tuple(steps) == (AUTO,) and n_workers == 1):
        return ()
    if canary_workers >= n_workers:
        raise BadRollout(
            f"{canary_workers} canary workers of {n_workers} would leave none on the stable version to compare with; "
            "use fewer, or no canary: --steps none"
        )
    carried = carried_share(canary_workers, n_workers)
    if tuple(steps) == (AUTO,):
        # The last one is all that they can carry: only there are the workers of both versions equally busy.
        return (*(step for step in DEFAULT if share_of(step) < carried), f"{carried:g}")
    if too_large := [step for step in steps if share_of(step) > carried]:
        raise BadRollout(
            f"step {too_large[0]}: {canary_workers} of {n_workers} workers carry {carried:.3g} percent at most; "
            "use smaller shares or more --canary-workers"
        )
    return tuple(steps)


def carried_share(canary_workers: int, n_workers: int) -> float:
    """Percent of the requests with which the canary workers are as busy as the others, rounded down to a tenth."""
    return 1000 * canary_workers // n_workers / 10


def parse_count(text: str, n_workers: int, name: str) -> int:
    """Workers, as a number or a percentage of all, rounded down.

    Raises:
        BadRollout: it is neither, or comes to none.
    """
    number = text.removesuffix("%")
    if not number.isdecimal():
        raise BadRollout(f"{name} = {text!r}: expected a number of workers, or a percentage like 25%")
    count = int(number) * n_workers // 100 if text.endswith("%") else int(number)
    if count == 0:
        raise BadRollout(f"{name} = {text} comes to no worker of {n_workers}; ask for one at least")
    return count
