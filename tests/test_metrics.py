"""Counters and histograms of the broker, and their text for Prometheus."""

import math
import random

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hotpool.exposition import to_prometheus
from hotpool.metrics import SECONDS_BOUNDS, Counter, Histogram, Histograms, count, gauge, quantile


def test_a_counter_counts_by_its_label_values():
    answers = Counter("hotpool_answers_total", "Answers by outcome.", "outcome", "version")
    answers["ok", "v1"] += 1
    answers["ok", "v1"] += 2
    answers["expired", "v2"] += 1
    family = answers.family()
    assert family.kind == "counter"
    assert [(s.labels, s.value) for s in family.samples] == [
        ({"outcome": "expired", "version": "v2"}, 1.0),
        ({"outcome": "ok", "version": "v1"}, 3.0),
    ]


def test_a_counter_without_labels_has_one_sample_from_the_start():
    dropped = Counter("hotpool_malformed_total", "Dropped.")
    assert [(s.labels, s.value) for s in dropped.family().samples] == [({}, 0.0)]
    dropped[()] += 1
    assert [(s.labels, s.value) for s in dropped.family().samples] == [({}, 1.0)]


def test_a_key_that_does_not_fit_the_labels_is_a_bug():
    answers = Counter("hotpool_answers_total", "Answers.", "outcome")
    answers["ok", "v1"] += 1
    with pytest.raises(ValueError, match="zip"):
        answers.family()


@pytest.mark.parametrize(("value", "bucket"), [(0.0, 0), (1.0, 0), (1.0001, 1), (2.0, 1), (2.5, 2), (99.0, 2)])
def test_a_value_on_a_bound_belongs_to_it(value, bucket):
    histogram = Histogram((1.0, 2.0))
    histogram.observe(value)
    cumulative = [up_to for _, up_to in histogram.sample({}).buckets]
    assert cumulative == [1 if at >= bucket else 0 for at in range(3)]


def test_the_last_bucket_is_infinite_and_counts_all():
    histogram = Histogram()
    for value in (0.0001, 0.004, 3.0, 1e6):
        histogram.observe(value)
    sample = histogram.sample({"model": "m"})
    assert sample.buckets[-1] == (math.inf, 4)
    assert count(sample) == 4
    assert sample.value == pytest.approx(0.0001 + 0.004 + 3.0 + 1e6)


def test_bounds_must_rise():
    with pytest.raises(AssertionError, match="rise"):
        Histogram((1.0, 1.0))


def test_quantiles_are_within_one_bucket_of_the_truth():
    seed = 7
    print(f"seed {seed}")
    rng = random.Random(seed)
    values = sorted(rng.lognormvariate(-4, 1) for _ in range(5000))
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    sample = histogram.sample({})
    for q in (0.1, 0.5, 0.9, 0.99):
        truth = values[math.ceil(q * len(values)) - 1]
        low = max((b for b in SECONDS_BOUNDS if b < truth), default=0.0)
        high = min(b for b in SECONDS_BOUNDS if b >= truth)
        assert low <= quantile(sample, q) <= high


def test_a_quantile_of_nothing_is_nan_and_one_beyond_the_bounds_is_the_last_bound():
    histogram = Histogram((1.0, 2.0))
    assert math.isnan(quantile(histogram.sample({}), 0.5))
    histogram.observe(50.0)
    assert quantile(histogram.sample({}), 0.5) == 2.0


def test_a_quantile_skips_empty_buckets():
    histogram = Histogram((1.0, 2.0, 3.0))
    histogram.observe(2.5)
    assert 2.0 < quantile(histogram.sample({}), 0.5) <= 3.0
    assert 2.0 <= quantile(histogram.sample({}), 0.0) <= 3.0


def test_prometheus_reads_back_what_was_counted():
    answers = Counter("hotpool_answers_total", "Answers by outcome.", "outcome")
    answers[('a "quoted"\nname\\',)] += 3
    waits = Histograms("hotpool_queue_seconds", "Wait in the queue.", "model", bounds=(0.001, 0.5))
    waits["default",].observe(0.2)
    waits["default",].observe(0.7)
    length = gauge("hotpool_queue_requests", "Requests in the queue.", [((), 4)])
    families = {
        f.name: f for f in text_string_to_metric_families(to_prometheus([answers.family(), waits.family(), length]))
    }
    assert families["hotpool_answers"].type == "counter"
    assert [(s.labels, s.value) for s in families["hotpool_answers"].samples] == [
        ({"outcome": 'a "quoted"\nname\\'}, 3)
    ]
    wait = {(s.name, s.labels.get("le")): s.value for s in families["hotpool_queue_seconds"].samples}
    assert wait["hotpool_queue_seconds_bucket", "0.5"] == 1
    assert wait["hotpool_queue_seconds_bucket", "+Inf"] == 2
    assert wait["hotpool_queue_seconds_count", None] == 2
    assert wait["hotpool_queue_seconds_sum", None] == pytest.approx(0.9)
    assert families["hotpool_queue_requests"].samples[0].value == 4
