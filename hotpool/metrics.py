"""Pure: counters and histograms cheap enough for the broker's hot path, and their `Family` in a report.

One thread owns them: no locks. prometheus-client's own metrics take a lock and scan their buckets one by one at every
observation; its exposition renders these families (`hotpool/exposition.py`).
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import inf, nan

from .messages import Family, Sample

# From half a millisecond (a no-op worker, one host) past the default deadline of 10 s; finest where most requests are.
SECONDS_BOUNDS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03,
    0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0,
)  # fmt: skip


class Counter(defaultdict[tuple[str, ...], float]):
    """Counts by label values in the order of `labels`: `requests["ok", "v1"] += 1`; without labels `lost[()] += 1`."""

    def __init__(self, name: str, help: str, *labels: str) -> None:
        super().__init__(float)
        self.name, self.help, self.labels = name, help, labels
        if not labels:
            self[()] = 0.0  # zero is a fact that a graph can show; what is missing is a gap

    def family(self) -> Family:
        return family(self.name, self.help, "counter", self.labels, self.items())


class Histogram:
    """How often values fell under each bound. `observe` costs one bisection and two additions."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float] = SECONDS_BOUNDS) -> None:
        assert list(bounds) == sorted(set(bounds)), f"bounds must rise: {bounds}"
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """A value on a bound belongs to it: Prometheus' `le` is "less or equal"."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def sample(self, labels: dict[str, str]) -> Sample:
        return Sample(labels, self._sum, tuple(zip((*self._bounds, inf), accumulate(self._counts), strict=True)))


class Histograms(dict[tuple[str, ...], Histogram]):
    """Histograms by label values: `queue_seconds["v1", "high"].observe(0.004)`."""

    def __init__(self, name: str, help: str, *labels: str, bounds: Sequence[float] = SECONDS_BOUNDS) -> None:
        super().__init__()
        self.name, self.help, self.labels, self.bounds = name, help, labels, bounds

    def __missing__(self, values: tuple[str, ...]) -> Histogram:
        return self.setdefault(values, Histogram(self.bounds))

    def family(self) -> Family:
        samples = (one.sample(dict(zip(self.labels, values, strict=True))) for values, one in sorted(self.items()))
        return Family(self.name, self.help, "histogram", tuple(samples))


def family(
    name: str, help: str, kind: str, labels: Sequence[str], values: Iterable[tuple[tuple[str, ...], float]]
) -> Family:
    """Samples sorted by their label values, so that two reports of one state are equal."""
    samples = (Sample(dict(zip(labels, key, strict=True)), float(value)) for key, value in sorted(values))
    return Family(name, help, kind, tuple(samples))


def gauge(name: str, help: str, values: Iterable[tuple[tuple[str, ...], float]], *labels: str) -> Family:
    """What is so now, for facts that are stored elsewhere: `gauge("hotpool_queue_bytes", "...", [((), 512.0)])`."""
    return family(name, help, "gauge", labels, values)


def count(sample: Sample) -> int:
    """Observations in a histogram's sample."""
    return sample.buckets[-1][1] if sample.buckets else 0


def quantile(sample: Sample, q: float) -> float:
    """Estimated by interpolation inside the bucket, as Prometheus' histogram_quantile does; nan without observations.

    A value beyond the last finite bound gives that bound: all that is known is that it is more.
    """
    rank, low, below = q * count(sample), 0.0, 0
    for bound, up_to in sample.buckets:
        if up_to >= rank and up_to > below:
            return low if bound == inf else low + (bound - low) * (rank - below) / (up_to - below)
        low, below = bound, up_to
    return nan
