"""gateway/traffic.py: what went through between two reports of the broker."""

from broker.metrics import Metrics
from gateway.traffic import totals, traffic
from hotpool.messages import QueueReport, Report

MODEL = "m"


def report(metrics: Metrics, uptime_s: float, boot: int = 1, queue: int = 0) -> Report:
    families = metrics.families([], (queue, 0))
    return Report(1, boot, uptime_s, 0, (), QueueReport(queue, 10, 0, 10), (), families)


def answered(metrics: Metrics, version: str, *seconds: float, model: str = MODEL) -> None:
    for one in seconds:
        metrics.total_s[model, version].observe(one)
        metrics.requests[model, version, "ok"] += 1


def seen(metrics: Metrics, between, seconds: float = 1.0):
    before = totals(report(metrics, 10.0), MODEL)
    between()
    return traffic(before, totals(report(metrics, 10.0 + seconds, queue=7), MODEL), at=1000.0)


def test_rate_and_times_are_those_of_the_answers_in_between():
    metrics = Metrics()
    answered(metrics, "v1", *[9.0] * 1000)  # long ago
    sample = seen(metrics, lambda: answered(metrics, "v1", *[0.004] * 98, 0.9, 0.9), seconds=2.0)
    assert sample["at"] == 1000.0
    assert sample["queue"] == 7
    assert list(sample["versions"]) == ["v1"]
    v1 = sample["versions"]["v1"]
    assert v1["rate"] == 50.0
    assert 3 < v1["p50_ms"] <= 5
    assert 750 < v1["p99_ms"] <= 1000
    assert v1["errors"] == 0


def test_a_version_that_is_new_counts_from_nothing_and_one_that_rests_is_left_out():
    metrics = Metrics()
    answered(metrics, "v1", 0.1)
    assert list(seen(metrics, lambda: answered(metrics, "v2", 0.1))["versions"]) == ["v2"]


def test_errors_are_those_that_are_not_the_callers_fault():
    metrics = Metrics()

    def between() -> None:
        answered(metrics, "v1", 0.1)
        for outcome in ("model_error", "worker_lost", "bad_image", "too_large", "cancelled"):
            metrics.requests[MODEL, "v1", outcome] += 4
        metrics.requests[MODEL, "", "queue_full"] += 6
        metrics.requests[MODEL, "", "unknown_version"] += 6

    sample = seen(metrics, between, seconds=2.0)
    assert sample["versions"]["v1"]["errors"] == 4.0
    assert sample["unserved"] == 3.0


def test_a_version_that_only_fails_has_no_times():
    metrics = Metrics()
    answered(metrics, "v1", 0.1)
    sample = seen(metrics, lambda: metrics.requests.update({(MODEL, "v1", "model_error"): 5}))
    assert sample["versions"]["v1"] == {"rate": 0.0, "p50_ms": None, "p99_ms": None, "errors": 5.0}


def test_other_models_are_not_counted():
    metrics = Metrics()
    assert seen(metrics, lambda: answered(metrics, "v1", 0.1, model="other"))["versions"] == {}


def test_a_broker_that_was_started_in_between_can_not_be_compared():
    before, after = totals(report(Metrics(), 10.0), MODEL), totals(report(Metrics(), 11.0, boot=2), MODEL)
    assert traffic(before, after, at=0.0) is None
    assert traffic(before, before, at=0.0) is None
