"""Pure: tests and bounds on counts, without a word about what was counted. Formulas: docs/gates.md.

Evidence is a wager against a claim. If the claim is true the stake does not grow on average, so it ever reaches k times
itself with a chance of at most 1/k, however often one looks (Ville's inequality). That is why it may be read after every
reply, and a p-value may not. All of it is in natural logarithms: ten million replies are far outside what a float holds.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from statistics import NormalDist

MULTIPLES = (2.0, 4.0, 8.0, 16.0, 32.0)
NEARLY_ONE = 0.99
CERTAIN = 1 - 1e-12
FAR = 8.0  # standard deviations: what lies beyond is less than rounding


def log_evidence(bad: int, n: int, limit: float, alternatives: Sequence[float]) -> float:
    """Evidence that more than `limit` of n are bad: the mean of the likelihood ratios of some larger shares.

    The mean of several finds a small excess late and a large one at once; no single alternative does both.
    """
    good = n - bad
    terms = [bad * math.log(p / limit) + good * math.log((1 - p) / (1 - limit)) for p in alternatives]
    top = max(terms)
    return top + math.log(math.fsum(math.exp(term - top) for term in terms) / len(terms))


def larger_shares(limit: float) -> tuple[float, ...]:
    """Alternatives to a share that is small: 2 to 32 times as large."""
    assert limit < NEARLY_ONE
    return tuple(min(limit * multiple, NEARLY_ONE) for multiple in MULTIPLES)


def share_of_events(share: float, ratio: float) -> float:
    """Of all events, how many come from an arm with this share of the trials when they are `ratio` times as frequent there."""
    return min(share * ratio / (share * ratio + 1 - share), CERTAIN)


def log_likelihood_ratio(bad: int, n: int, p0: float, p1: float) -> float:
    """Wald's: positive speaks for p1."""
    return bad * math.log(p1 / p0) + (n - bad) * math.log((1 - p1) / (1 - p0))


def z(confidence: float) -> float:
    """Of the standard normal distribution, one-sided."""
    return NormalDist().inv_cdf(confidence)


def wilson(k: int, n: int, z: float) -> tuple[float, float]:
    """Interval for a share seen k times in n."""
    p, z2 = k / n, z * z
    half = z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    middle, scale = p + z2 / (2 * n), 1 + z2 / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def binomial_at_least(k: int, n: int, p: float) -> float:
    """P(X >= k)."""
    spread = FAR * math.sqrt(n * p * (1 - p))
    if k <= n * p - spread:
        return 1.0
    last = min(n, max(k, math.ceil(n * p + spread)))
    return min(1.0, math.fsum(math.exp(_log_binomial(i, n, p)) for i in range(k, last + 1)))


def upper_rank(n: int, quantile: float, alpha: float) -> int | None:
    """The smallest rank, from 1, whose value in a sample of n is at least the quantile with confidence 1 - alpha.

    None: not even the largest value is. The largest is enough from `ln alpha / ln quantile` on: 90 for the p95 at 99 %.
    """
    rank = min(n, math.ceil(n * quantile + FAR * math.sqrt(n * quantile * (1 - quantile))))
    tail = term = math.exp(_log_binomial(rank, n, quantile))
    while tail <= alpha:
        term *= rank * (1 - quantile) / ((n - rank + 1) * quantile)  # from one to the next: this runs at every look
        rank -= 1
        tail += term
    return rank + 1 if rank < n else None


def _log_binomial(k: int, n: int, p: float) -> float:
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return ways + k * math.log(p) + (n - k) * math.log1p(-p)


def at_rank(histogram: Mapping[int, int], rank: int) -> int:
    """The key of the rank-th smallest entry, from 1."""
    seen = 0
    for key in sorted(histogram):
        seen += histogram[key]
        if seen >= rank:
            return key
    raise AssertionError(f"rank {rank} of {seen}")


def at_quantile(histogram: Mapping[int, int], quantile: float) -> int:
    return at_rank(histogram, max(1, math.ceil(sum(histogram.values()) * quantile)))


def median_interval(histogram: Mapping[int, int], alpha: float) -> tuple[int, int] | None:
    """Order statistics that hold the median with confidence 1 - 2 alpha, whatever the distribution; None: too few."""
    n = sum(histogram.values())
    upper = upper_rank(n, 0.5, alpha)
    return None if upper is None else (at_rank(histogram, n + 1 - upper), at_rank(histogram, upper))


def equal_bins(histogram: Mapping[int, int], n_bins: int) -> tuple[int, ...]:
    """The last key of every bin but the last one. Fewer bins where one key holds more than its part."""
    least, held, ends = sum(histogram.values()) / n_bins, 0, []
    keys = sorted(key for key, count in histogram.items() if count)
    for key in keys[:-1]:
        held += histogram[key]
        if held >= least:
            ends.append(key)
            held = 0
    return tuple(ends)


def stability_index(before: Mapping[int, int], after: Mapping[int, int], ends: Sequence[int]) -> float:
    """PSI over the bins. Half an entry is added to each bin: an empty one would make it infinite."""
    p, q = _shares(before, ends), _shares(after, ends)
    return math.fsum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))


def _shares(histogram: Mapping[int, int], ends: Sequence[int]) -> list[float]:
    bins = [0.5] * (len(ends) + 1)
    for key, count in histogram.items():
        bins[bisect_left(ends, key)] += count
    total = math.fsum(bins)
    return [count / total for count in bins]


def paired_difference(only_before: int, only_after: int, n: int, z: float) -> tuple[float, float]:
    """Interval for (only_after - only_before) / n by Bonett and Price: one is added to both and two to n.

    Without that, a few pairs without a difference would be an interval of no width.
    """
    a, b = (only_before + 1) / (n + 2), (only_after + 1) / (n + 2)
    half = z * math.sqrt((a + b - (b - a) ** 2) / (n + 2))
    return max(-1.0, b - a - half), min(1.0, b - a + half)
