"""Pure: metric families as Prometheus text, written by prometheus-client so that the text is valid by construction.

Beside `metrics.py` and not in it: the broker counts but never renders, and need not import an HTTP server for it.
"""

from collections.abc import Iterable, Iterator
from math import inf

from prometheus_client import exposition
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from .messages import Family, Sample


class _Snapshot(Collector):
    """The form in which prometheus-client takes what it renders."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return map(_metric, self._families)


def to_prometheus(families: Iterable[Family]) -> str:
    """The text format 0.0.4, which every scraper and the node exporter's textfile collector read."""
    return exposition.generate_latest(_Snapshot(families)).decode()


def _metric(family: Family) -> Metric:
    name = family.name.removesuffix("_total") if family.kind == "counter" else family.name
    metric = Metric(name, family.help, family.kind)
    for sample in family.samples:
        if family.kind == "histogram":
            _add_histogram(metric, sample)
        else:
            metric.add_sample(name + ("_total" if family.kind == "counter" else ""), sample.labels, sample.value)
    return metric


def _add_histogram(metric: Metric, sample: Sample) -> None:
    for bound, up_to in sample.buckets:
        metric.add_sample(f"{metric.name}_bucket", {**sample.labels, "le": _bound(bound)}, up_to)
    metric.add_sample(f"{metric.name}_count", sample.labels, sample.buckets[-1][1])
    metric.add_sample(f"{metric.name}_sum", sample.labels, sample.value)


def _bound(bound: float) -> str:
    return "+Inf" if bound == inf else str(bound)
