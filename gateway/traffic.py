"""Pure: what went through the pool in a second, from two reports of the broker: how much, how fast, how much failed."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any

from hotpool.errors import BY_CODE, RequestError
from hotpool.messages import Report, Sample
from hotpool.metrics import count, quantile

TIMES, OUTCOMES = "hotpool_total_seconds", "hotpool_requests_total"
_NO_FAULT_OF_OURS = {"ok", "cancelled"} | {code for code, cls in BY_CODE.items() if issubclass(cls, RequestError)}

Buckets = tuple[tuple[float, int], ...]


@dataclass(frozen=True, slots=True)
class Totals:
    """Since a broker has started. buckets, errors: by version; errors of requests that no version had: under the empty name."""

    boot: int
    uptime_s: float
    queue: int
    buckets: dict[str, Buckets] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)


def totals(report: Report, model: str) -> Totals:
    found = Totals(report.boot, report.uptime_s, report.queue.requests, {}, defaultdict(float))
    for family in report.metrics:
        for sample in family.samples:
            if sample.labels.get("model") != model:
                continue
            version = sample.labels.get("version", "")
            if family.name == TIMES:
                found.buckets[version] = sample.buckets
            elif family.name == OUTCOMES and sample.labels["outcome"] not in _NO_FAULT_OF_OURS:
                found.errors[version] += sample.value
    return found


def traffic(before: Totals, after: Totals, at: float) -> dict[str, Any] | None:
    """at: seconds since 1970. None: the broker was started in between, so that nothing can be compared."""
    seconds = after.uptime_s - before.uptime_s
    if before.boot != after.boot or seconds <= 0:
        return None
    errors = {name: n - before.errors.get(name, 0.0) for name, n in after.errors.items()}
    versions = {}
    for name, buckets in after.buckets.items():
        grown = Sample({}, buckets=_growth(before.buckets.get(name, ()), buckets))
        if count(grown) or errors.get(name):
            versions[name] = {
                "rate": round(count(grown) / seconds, 3),
                "p50_ms": _ms(quantile(grown, 0.50)),
                "p99_ms": _ms(quantile(grown, 0.99)),
                "errors": round(errors.get(name, 0.0) / seconds, 3),
            }
    unserved = sum(n for name, n in errors.items() if name not in after.buckets)
    return {"at": round(at, 3), "queue": after.queue, "versions": versions, "unserved": round(unserved / seconds, 3)}


def _growth(before: Sequence[tuple[float, int]], after: Buckets) -> Buckets:
    earlier = [n for _, n in before] or [0] * len(after)
    return tuple((bound, n - past) for (bound, n), past in zip(after, earlier, strict=True))


def _ms(seconds: float) -> float | None:
    return None if isnan(seconds) else round(seconds * 1000, 3)
