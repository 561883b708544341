"""Pure: what the broker counts of the two arms of a rollout, and what the gates judge. Counts only: no times, no samples.

Dictionaries keyed by whole numbers keep the evidence small however long it is gathered.
"""

import math
from typing import Annotated

from msgspec import Meta, Struct, field

BUCKETS_PER_E = 50  # of service time: one bucket is 2 % wide, which is finer than any limit and coarser than any clock
TAIL = 0.95  # the quantile that is the tail; the p99 needs five times the replies and is reported only
BY_CHANCE = 0.2  # of the windows, at most, have `tail_rank` replies beyond the tail when one in twenty is

Count = Annotated[int, Meta(ge=0, le=2**53)]


class Arm(Struct):
    """Of one version: stable or target.

    routed: requests that name no version and were given to this arm. answered: replies, shadow copies and errors among them.
    errors: faults of the server alone, never the caller's. classes: by top-1. confidence: by whole percent of the largest
    softmax probability, 0 to 99. service: processor time, by the rows computed together, then by `bucket`.
    """

    routed: Count = 0
    answered: Count = 0
    errors: Count = 0
    classes: dict[int, Count] = field(default_factory=dict)
    confidence: dict[int, Count] = field(default_factory=dict)
    service: dict[int, dict[int, Count]] = field(default_factory=dict)


class Counts(Struct):
    """All evidence of one run.

    policy: the number of the routing policy it was gathered under; 0: none. pairs: requests that both arms answered.
    disagreements: of these, with another top-1. windows: of one second each, by `log_percent` of the median service times.
    tails: of each second, by the rows computed together, then by `bucket` of the target's `tail_rank` longest time.
    """

    policy: Count = 0
    stable: Arm = field(default_factory=Arm)
    target: Arm = field(default_factory=Arm)
    pairs: Count = 0
    disagreements: Count = 0
    windows: dict[int, Count] = field(default_factory=dict)
    tails: dict[int, dict[int, Count]] = field(default_factory=dict)

    @property
    def share(self) -> float | None:
        """Percent of the requests without a version that the target got; None while there were none."""
        routed = self.stable.routed + self.target.routed
        return 100 * self.target.routed / routed if routed else None


def bucket(service_us: float) -> int:
    """Of a service time. What took less than a microsecond took one."""
    return math.floor(BUCKETS_PER_E * math.log(max(service_us, 1.0)))


def bucket_us(bucket: int) -> float:
    """The middle of the bucket, at most 1 % away from any time in it."""
    return math.exp((bucket + 0.5) / BUCKETS_PER_E)


def log_percent(ratio: float) -> int:
    """The key of a window: 0 when both arms were as fast, 14 when the target took 15 % longer, -14 when stable did."""
    return round(100 * math.log(ratio))


def tail_rank(n: int) -> int:
    """Of n times in a window so many are more than the tail's part: if one in twenty is beyond it, as many or more are so in
    `BY_CHANCE` of the windows at most. 1 of up to 4, 2 of up to 16, 3 of up to 30."""
    rank, chance = 0, 1.0
    while chance > BY_CHANCE:
        ways = math.lgamma(n + 1) - math.lgamma(rank + 1) - math.lgamma(n - rank + 1)
        chance -= math.exp(ways + rank * math.log(1 - TAIL) + (n - rank) * math.log(TAIL))
        rank += 1
    return rank
