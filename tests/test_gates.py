"""The gates: known numbers, what must hold for any counts, and that no evidence is never a pass."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from statistics import NormalDist
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.gates import ARMED, CHI_SQUARE_99, judge
from control.statistics import (
    at_quantile,
    at_rank,
    binomial_at_least,
    equal_bins,
    larger_shares,
    log_evidence,
    median_interval,
    paired_difference,
    share_of_events,
    stability_index,
    upper_rank,
    wilson,
)
from control.verdicts import Gate, GateResult, GateSettings, Labelled, Verdict, counts_from_json, counts_to_json, worst
from hotpool.errors import ConfigError
from hotpool.evidence import Arm, Counts, bucket, bucket_us, log_percent, tail_rank

G = Gate
PASS, FAIL, INCONCLUSIVE = GateResult.PASS, GateResult.FAIL, GateResult.INCONCLUSIVE
DEFAULTS = GateSettings()
QUICK = settings(max_examples=40, deadline=None)
SPREAD = {400 + i: 1 for i in range(30)}  # of service times: 30 buckets, 80 % from the fastest to the slowest
BELL = {p: round(1000 * NormalDist(60, 15).pdf(p)) for p in range(100)}  # of confidence


def times(histogram: dict[int, int], by: int) -> dict[int, int]:
    return {key: count * by for key, count in histogram.items()}


def moved(histogram: dict[int, int], by: int) -> dict[int, int]:
    return {key + by: count for key, count in histogram.items()}


def of_one(gate: Gate, counts: Counts, held_to: GateSettings = DEFAULTS) -> Verdict:
    (verdict,) = judge(counts, held_to, gates=[gate])
    return verdict


def replies(target: int, errors: int = 0, stable: int = 0, errors_stable: int = 0) -> Counts:
    return Counts(stable=Arm(answered=stable, errors=errors_stable), target=Arm(answered=target, errors=errors))


def classes(stable: dict[int, int], target: dict[int, int]) -> Counts:
    return Counts(stable=Arm(classes=stable), target=Arm(classes=target))


def service(
    stable: dict[int, dict[int, int]], target: dict[int, dict[int, int]], tails: dict[int, dict[int, int]] | None = None
) -> Counts:
    return Counts(stable=Arm(service=stable), target=Arm(service=target), tails=tails or {})


def confidence(stable: dict[int, int], target: dict[int, int]) -> Counts:
    return Counts(stable=Arm(confidence=stable), target=Arm(confidence=target))


GOOD_ARM = Arm(1000, 1000, 0, {1: 400, 2: 600}, BELL, {1: times(SPREAD, 30)})
GOOD = Counts(1, GOOD_ARM, GOOD_ARM, 200, 0, {-5: 20, 0: 20, 5: 20})


# ---- what each gate says, by known numbers


@pytest.mark.parametrize(
    ("counts", "result"),
    [
        (replies(199), INCONCLUSIVE),
        (replies(200), PASS),
        (replies(200, 5), PASS),
        (replies(2, 2), FAIL),
        (replies(1, 1), INCONCLUSIVE),
        (replies(14, 3), FAIL),
        (replies(117, 7), FAIL),
        (replies(117, 6), INCONCLUSIVE),
        (replies(10_000, 100), PASS),
        (replies(10_000, 200), FAIL),
    ],
)
def test_errors_fail_above_one_percent_as_soon_as_it_is_proven(counts: Counts, result: GateResult) -> None:
    assert of_one(G.ERRORS, counts).result is result


@pytest.mark.parametrize(
    ("counts", "result"),
    [
        (replies(100, 4, 900, 0), FAIL),
        (replies(100, 3, 900, 0), INCONCLUSIVE),
        (replies(1000, 4, 9000, 36), PASS),
        (replies(1000, 6, 9000, 36), PASS),
        (replies(1000, 24, 9000, 36), FAIL),
        (replies(200, 0, 199, 0), INCONCLUSIVE),
        (replies(199, 0, 200, 0), INCONCLUSIVE),
        (replies(200, 0, 200, 0), PASS),
        (replies(50, 50, 0, 0), INCONCLUSIVE),  # without stable replies there is no share to compare with
        (replies(0, 0, 500, 5), INCONCLUSIVE),
    ],
)
def test_errors_are_held_against_those_of_stable(counts: Counts, result: GateResult) -> None:
    assert of_one(G.ERRORS_RELATIVE, counts).result is result


@pytest.mark.parametrize(
    ("pairs", "differ", "result"),
    [
        (96, 0, INCONCLUSIVE),
        (97, 0, PASS),
        (126, 1, INCONCLUSIVE),
        (127, 1, PASS),
        (5, 5, FAIL),
        (4, 4, INCONCLUSIVE),
        (100, 9, FAIL),
        (100, 8, INCONCLUSIVE),
    ],
)
def test_agreement_decides_between_two_and_five_percent(pairs: int, differ: int, result: GateResult) -> None:
    assert of_one(G.AGREEMENT, Counts(pairs=pairs, disagreements=differ)).result is result


@pytest.mark.parametrize(("pairs", "result"), [(329, INCONCLUSIVE), (330, PASS)])
def test_agreement_of_the_same_weights_needs_330_clean_pairs(pairs: int, result: GateResult) -> None:
    held_to = GateSettings(disagreement_ok=0.001, disagreement_bad=0.01)
    assert of_one(G.AGREEMENT, Counts(pairs=pairs), held_to).result is result


@pytest.mark.parametrize(
    ("stable", "target", "result"),
    [
        ({1: 100, 2: 100}, {1: 100, 2: 99}, INCONCLUSIVE),
        ({1: 100, 2: 99}, {1: 100, 2: 100}, INCONCLUSIVE),
        ({1: 100, 2: 100}, {1: 139, 2: 61}, PASS),
        ({1: 100, 2: 100}, {1: 141, 2: 59}, FAIL),
        ({1: 100, 2: 100}, {3: 141, 2: 59}, FAIL),  # whichever class it is
        ({1: 900, 2: 100}, {1: 200}, FAIL),  # above no margin, but it has forgotten the other class
        ({1: 900, 2: 100}, {1: 190, 2: 10}, PASS),
        ({1: 995, 2: 5}, {1: 200}, PASS),  # 200 in a row are no wonder there
        ({1: 995, 2: 5}, {3: 200}, FAIL),  # another one is
        ({1: 300}, {1: 200}, PASS),
        ({1: 50, 2: 50}, {1: 99}, INCONCLUSIVE),
    ],
)
def test_collapse_is_one_class_in_place_of_many(
    stable: dict[int, int], target: dict[int, int], result: GateResult
) -> None:
    assert of_one(G.COLLAPSE, classes(stable, target)).result is result


@pytest.mark.parametrize(
    ("windows", "result"),
    [
        ({0: 19}, INCONCLUSIVE),
        ({0: 20}, PASS),
        ({-70: 20}, PASS),
        ({13: 20}, PASS),  # 13.9 % slower
        ({14: 20}, FAIL),  # 15.0 % slower
        ({26: 9}, FAIL),
        ({26: 8}, INCONCLUSIVE),
        ({0: 30, 26: 30}, INCONCLUSIVE),
        ({0: 40, 26: 20}, INCONCLUSIVE),
        ({0: 44, 26: 16}, PASS),
        ({0: 16, 26: 44}, FAIL),
    ],
)
def test_latency_fails_when_most_windows_are_slow_and_passes_when_few_are(
    windows: dict[int, int], result: GateResult
) -> None:
    assert of_one(G.LATENCY, Counts(windows=windows)).result is result


def tail(target: int, slow: int, stable: int = 300, seconds: tuple[int, int] = (5, 0)) -> Counts:
    """Stable's p95 is in bucket 428 or 429. 1.3 times as much is 14 buckets more. seconds: with many slow replies, with few."""
    many, few = seconds
    return service({1: times(SPREAD, stable // 30)}, {1: {410: target - slow, 445: slow}}, {1: {445: many, 410: few}})


@pytest.mark.parametrize(
    ("counts", "result"),
    [
        (tail(90, 0), PASS),
        (tail(89, 0), INCONCLUSIVE),
        (tail(90, 4), PASS),
        (tail(90, 5), INCONCLUSIVE),  # more than 5 %, which is not yet proven
        (tail(90, 12), INCONCLUSIVE),
        (tail(90, 15), FAIL),
        (tail(30, 10), FAIL),
        (tail(200, 0, stable=60), INCONCLUSIVE),
        (tail(200, 0, stable=90), PASS),
        (tail(900, 150, seconds=(4, 0)), INCONCLUSIVE),  # a neighbour of the core for four seconds
        (tail(900, 150, seconds=(4, 56)), INCONCLUSIVE),
        (tail(900, 150, seconds=(0, 60)), INCONCLUSIVE),
        (tail(900, 150, seconds=(15, 45)), INCONCLUSIVE),
        (tail(900, 150, seconds=(25, 35)), FAIL),
        (tail(900, 45, seconds=(25, 35)), PASS),  # no more than 5 % after all
    ],
)
def test_the_tail_is_what_stable_exceeds_once_in_twenty_times(counts: Counts, result: GateResult) -> None:
    assert of_one(G.LATENCY_TAIL, counts).result is result


@pytest.mark.parametrize(("slow_bucket", "result"), [(442, PASS), (443, FAIL)])
def test_a_reply_is_slow_when_its_whole_bucket_is(slow_bucket: int, result: GateResult) -> None:
    counts = service({1: {428: 1000}}, {1: {410: 100, slow_bucket: 100}}, {1: {443: 5}})
    assert of_one(G.LATENCY_TAIL, counts).result is result
    a_second = service({1: {428: 1000}}, {1: {443: 200}}, {1: {slow_bucket: 5}})
    assert (of_one(G.LATENCY_TAIL, a_second).result is FAIL) is (result is FAIL)
    limit_us = 1.3 * math.exp(429 / 50)
    assert (math.exp(slow_bucket / 50) >= limit_us) is (result is FAIL)


def test_the_tail_begins_beyond_stable_s_p95_not_its_median_nor_its_slowest() -> None:
    stable = {1: {410: 940, 425: 45, 900: 15}}
    for slow_bucket, result in ((439, PASS), (440, FAIL)):
        counts = service(stable, {1: {410: 80, slow_bucket: 20}}, {1: {slow_bucket: 5}})
        assert of_one(G.LATENCY_TAIL, counts).result is result


def test_the_tail_is_that_of_the_batch_size_both_have_most_of() -> None:
    counts = service({1: {400: 1000}, 4: {500: 200}, 8: {520: 9}}, {4: {500: 100}, 1: {600: 20}, 8: {999: 500}})
    verdict = of_one(G.LATENCY_TAIL, counts)
    assert (verdict.numbers["batch"], verdict.result) == (4, PASS)


def test_seconds_that_compared_another_batch_size_say_nothing_of_the_tail() -> None:
    counts = service(
        {1: {400: 1000}, 4: {500: 200}}, {1: {400: 20}, 4: {500: 50, 600: 50}}, {1: {600: 60}, 4: {600: 4}}
    )
    verdict = of_one(G.LATENCY_TAIL, counts)
    assert (verdict.numbers["windows"], verdict.numbers["slow_windows"], verdict.result) == (4, 4, INCONCLUSIVE)


@pytest.mark.parametrize(
    ("n", "rank"), [(1, 1), (3, 1), (4, 1), (5, 2), (16, 2), (17, 3), (30, 3), (31, 4), (60, 5), (200, 14), (5000, 264)]
)
def test_as_many_slow_replies_as_the_rank_are_in_one_window_of_five_at_most(n: int, rank: int) -> None:
    assert tail_rank(n) == rank
    assert binomial_at_least(rank, n, 0.05) <= 0.2
    assert rank == 1 or binomial_at_least(rank - 1, n, 0.05) > 0.2


@pytest.mark.parametrize(
    ("target", "result"),
    [
        (times(BELL, 1), PASS),
        (moved(BELL, -3), PASS),
        (moved(BELL, -10), FAIL),
        ({60: 499}, INCONCLUSIVE),
    ],
)
def test_drift_is_more_than_chance_moves_the_confidence(target: dict[int, int], result: GateResult) -> None:
    verdict = of_one(G.DRIFT, confidence(BELL, target))
    assert (verdict.result, verdict.enforced) == (result, False)


@pytest.mark.parametrize(("more", "result"), [(55, PASS), (60, FAIL)])
def test_drift_is_held_against_its_distribution_by_chance(more: int, result: GateResult) -> None:
    """Two bins: chance stays below (1/1000 + 1/1000) * 6.63 = 0.0133; moved by d, the index is about 4 d^2."""
    counts = confidence({10: 500, 90: 500}, {10: 500 - more, 90: 500 + more})
    assert of_one(G.DRIFT, counts).result is result


def test_drift_has_nothing_to_compare_where_stable_is_always_as_confident() -> None:
    assert of_one(G.DRIFT, confidence({99: 1000}, {20: 1000})).result is INCONCLUSIVE


@pytest.mark.parametrize(
    ("labelled", "result"),
    [
        (Labelled(300, 300, 0, 0), INCONCLUSIVE),
        (Labelled(330, 330, 0, 0), PASS),
        (Labelled(2000, 1900, 20, 20), PASS),
        (Labelled(2000, 1900, 40, 20), INCONCLUSIVE),  # 1 point is not more than 1 point
        (Labelled(2000, 1900, 46, 20), FAIL),
        (Labelled(100, 90, 4, 0), INCONCLUSIVE),  # 4 points worse, by chance in 1 of 16
        (Labelled(100, 90, 7, 0), FAIL),
        (Labelled(2000, 1900, 0, 90), PASS),
    ],
)
def test_accuracy_may_be_a_point_worse_and_not_more(labelled: Labelled, result: GateResult) -> None:
    (verdict,) = judge(Counts(), DEFAULTS, labelled, gates=[G.ACCURACY])
    assert verdict.result is result


# ---- the arithmetic


@pytest.mark.parametrize(("n", "bound"), [(52, 0.95), (88, 0.97), (133, 0.98), (268, 0.99)])
def test_so_many_agree_without_exception_for_a_lower_bound(n: int, bound: float) -> None:
    assert wilson(n, n, 1.645)[0] >= bound > wilson(n - 1, n - 1, 1.645)[0]


def test_wilson_s_interval_is_the_textbook_s() -> None:
    assert wilson(10, 100, 1.96) == pytest.approx((0.0552, 0.1744), abs=1e-4)


@pytest.mark.parametrize(
    ("quantile", "alpha", "n"), [(0.95, 0.05, 59), (0.99, 0.05, 299), (0.95, 0.01, 90), (0.99, 0.01, 459)]
)
def test_the_largest_of_so_many_bounds_a_quantile(quantile: float, alpha: float, n: int) -> None:
    assert (upper_rank(n - 1, quantile, alpha), upper_rank(n, quantile, alpha)) == (None, n)


@pytest.mark.parametrize("n", [100, 2000, 10**7])
def test_the_rank_of_a_bound_is_where_the_binomial_tail_ends(n: int) -> None:
    rank = upper_rank(n, 0.95, 0.01)
    assert rank is not None
    assert binomial_at_least(rank, n, 0.95) <= 0.01 < binomial_at_least(rank - 1, n, 0.95)


def test_a_binomial_tail_is_the_sum_of_its_terms() -> None:
    assert binomial_at_least(8, 10, 0.5) == pytest.approx(56 / 1024)
    assert (binomial_at_least(0, 10, 0.5), binomial_at_least(10, 10, 0.5)) == pytest.approx((1, 1 / 1024))
    assert binomial_at_least(0, 0, 0.5) == 1.0


def test_the_median_s_interval_is_that_of_the_sign_test() -> None:
    assert median_interval(dict.fromkeys(range(1, 7), 1), 0.01) is None
    assert median_interval(dict.fromkeys(range(1, 8), 1), 0.01) == (1, 7)  # 2 / 2^7 is 1.6 %
    assert median_interval(dict.fromkeys(range(1, 101), 1), 0.01) == (38, 63)


def test_an_entry_is_found_by_its_rank_and_its_quantile() -> None:
    histogram = {7: 3, 1: 2, 4: 5}
    assert [at_rank(histogram, rank) for rank in (1, 2, 3, 7, 8, 10)] == [1, 1, 4, 4, 7, 7]
    assert (at_quantile(histogram, 0.5), at_quantile(histogram, 0.95), at_quantile(histogram, 0.0)) == (4, 7, 1)


def test_evidence_is_the_mean_of_likelihood_ratios() -> None:
    expected = sum((p / 0.01) ** 2 * ((1 - p) / 0.99) ** 3 for p in (0.02, 0.04, 0.08, 0.16, 0.32)) / 5
    assert log_evidence(2, 5, 0.01, larger_shares(0.01)) == pytest.approx(math.log(expected))
    assert larger_shares(0.2) == (0.4, 0.8, 0.99, 0.99, 0.99)


def test_the_share_of_events_of_an_arm() -> None:
    assert share_of_events(0.1, 1.5) == pytest.approx(1 / 7)
    assert share_of_events(0.5, 1.0) == 0.5


def test_bins_hold_equal_parts_and_are_fewer_where_one_key_holds_more() -> None:
    assert equal_bins(dict.fromkeys(range(100), 5), 10) == tuple(range(9, 99, 10))
    assert equal_bins({1: 10, 2: 10, 50: 10, 99: 70}, 10) == (1, 2, 50)
    assert equal_bins({99: 100}, 10) == equal_bins({}, 10) == ()
    assert len(equal_bins(BELL, 10)) <= max(CHI_SQUARE_99)


def test_the_index_of_nothing_moved_is_zero_and_of_an_empty_bin_is_finite() -> None:
    assert stability_index({1: 10, 2: 10}, {1: 100, 2: 100}, (1,)) == pytest.approx(0.0)
    assert stability_index({1: 10, 2: 10}, {2: 20}, (1,)) == pytest.approx(1.77, abs=0.01)


def test_an_interval_of_pairs_without_a_difference_has_a_width() -> None:
    low, high = paired_difference(0, 0, 100, 2.326)
    assert (low, high) == pytest.approx((-0.0323, 0.0323), abs=1e-3)


def test_a_bucket_is_two_percent_wide_and_its_middle_lies_in_it() -> None:
    assert [bucket(us) for us in (0, 1, 2, 1000, 10_000)] == [0, 0, 34, 345, 460]
    assert all(bucket(bucket_us(number)) == number for number in range(1200))
    assert bucket_us(461) / bucket_us(460) == pytest.approx(math.exp(0.02))
    assert [log_percent(ratio) for ratio in (1.0, 1.15, 1 / 1.15)] == [0, 14, -14]


# ---- what must hold whatever the counts are


@pytest.mark.parametrize("gate", [gate for gate in Gate if gate is not G.ACCURACY])
def test_no_evidence_is_never_a_pass(gate: Gate) -> None:
    for counts in (Counts(), Counts(stable=GOOD_ARM), Counts(target=Arm(routed=1000))):
        verdict = of_one(gate, counts)
        assert (verdict.result, verdict.progress) == (INCONCLUSIVE, 0.0), counts


def test_no_labels_give_no_verdict_and_empty_ones_give_no_pass() -> None:
    assert judge(GOOD, DEFAULTS, gates=[G.ACCURACY]) == ()
    assert [one.result for one in judge(GOOD, DEFAULTS, Labelled(0, 0, 0, 0), gates=[G.ACCURACY])] == [INCONCLUSIVE]


def test_enough_good_evidence_passes_every_gate() -> None:
    verdicts = judge(GOOD, DEFAULTS, Labelled(2000, 2000, 0, 0))
    assert [one.gate for one in verdicts] == list(Gate)
    assert {one.gate: one.reason for one in verdicts if one.result is not PASS} == {}


def test_the_worst_verdict_counts_and_none_at_all_is_inconclusive() -> None:
    verdicts = {result: replace(of_one(G.ERRORS, GOOD), result=result) for result in GateResult}
    assert worst([]) is INCONCLUSIVE
    assert worst([verdicts[PASS]]) is PASS
    assert worst([verdicts[PASS], verdicts[INCONCLUSIVE]]) is INCONCLUSIVE
    assert worst([verdicts[FAIL], verdicts[INCONCLUSIVE], verdicts[PASS]]) is FAIL
    assert worst([verdicts[PASS], replace(verdicts[FAIL], enforced=False)]) is PASS
    assert worst([replace(verdicts[PASS], enforced=False)]) is INCONCLUSIVE


def test_agreement_is_armed_only_while_there_are_pairs() -> None:
    assert {key for key, gates in ARMED.items() if G.AGREEMENT in gates} == {"shadow"}
    assert {key for key, gates in ARMED.items() if G.LATENCY in gates} == {"even_share", "rolling"}
    assert all(G.ERRORS in gates for gates in ARMED.values())
    assert ARMED["baking"] == ARMED["watch"] == (G.ERRORS,)


def test_ten_million_replies_are_no_overflow() -> None:
    n = 10**7
    arm = Arm(n, n, 0, {1: n, 2: n}, {10: n, 90: n}, {1: times(SPREAD, n)})
    broken = Arm(n, n, n, {1: n}, {10: n}, {1: {900: n}})
    for stable, target in ((arm, arm), (arm, broken), (broken, arm), (broken, broken)):
        for windows in ({0: n}, {99: n}):
            verdicts = judge(Counts(1, stable, target, n, n // 2, windows), DEFAULTS, Labelled(n, 0, n, 0))
            assert all(math.isfinite(number) for verdict in verdicts for number in verdict.numbers.values())
            assert worst(verdicts) is FAIL


def test_one_reply_beside_all_others_is_no_division_by_zero() -> None:
    for n, m in ((1, 2**53), (2**53, 1)):
        assert of_one(G.ERRORS_RELATIVE, replies(n, 1, m, 1)).result is not PASS


small = st.integers(0, 400)
histograms = st.dictionaries(st.integers(0, 99), st.integers(0, 300), max_size=6)
arms = st.builds(
    lambda answered, errors, classes, confidence, service: Arm(
        answered, answered, min(errors, answered), classes, confidence, {1: service}
    ),
    small, st.integers(0, 40), histograms, histograms, histograms,
)  # fmt: skip
everything = st.builds(
    lambda stable, target, pairs, differ, windows, tails: Counts(
        7, stable, target, pairs, min(pairs, differ), windows, {1: tails}
    ),
    arms, arms, small, st.integers(0, 40), st.dictionaries(st.integers(-60, 60), st.integers(0, 60), max_size=6), histograms,
)  # fmt: skip
RANK = {PASS: 0, INCONCLUSIVE: 1, FAIL: 2}


def never_better(gate: Gate, before: Counts, after: Counts) -> None:
    """A failure stays one. An undecided gate may come to fail, never to pass."""
    old, new = of_one(gate, before).result, of_one(gate, after).result
    assert RANK[new] >= RANK[old] or (old, new) == (FAIL, FAIL)


@QUICK
@given(counts=everything, more=st.integers(1, 20))
def test_more_errors_never_help(counts: Counts, more: int) -> None:
    target = counts.target
    worse = msgspec.structs.replace(target, errors=min(target.answered, target.errors + more))
    for gate in (G.ERRORS, G.ERRORS_RELATIVE):
        never_better(gate, counts, msgspec.structs.replace(counts, target=worse))


@QUICK
@given(counts=everything, more=st.integers(1, 20))
def test_more_disagreement_never_helps(counts: Counts, more: int) -> None:
    worse = min(counts.pairs, counts.disagreements + more)
    never_better(G.AGREEMENT, counts, msgspec.structs.replace(counts, disagreements=worse))


@QUICK
@given(counts=everything, slower=st.integers(1, 50))
def test_slower_never_helps(counts: Counts, slower: int) -> None:
    target = msgspec.structs.replace(counts.target, service={1: moved(counts.target.service[1], slower)})
    tails = {1: moved(counts.tails[1], slower)}
    worse = msgspec.structs.replace(counts, target=target, windows=moved(counts.windows, slower), tails=tails)
    for gate in (G.LATENCY, G.LATENCY_TAIL):
        never_better(gate, counts, worse)


@QUICK
@given(worse=st.integers(0, 60), better=st.integers(0, 60), both=st.integers(0, 2000), more=st.integers(1, 20))
def test_more_that_only_stable_got_right_never_helps(worse: int, better: int, both: int, more: int) -> None:
    n = both + worse + better + more
    before, after = (
        judge(Counts(), DEFAULTS, Labelled(n, both, k, better), gates=[G.ACCURACY])[0].result
        for k in (worse, worse + more)
    )
    assert RANK[after] >= RANK[before]


@QUICK
@given(counts=everything)
def test_a_verdict_is_taken_again_from_what_the_journal_holds(counts: Counts) -> None:
    stored = json.loads(json.dumps({"evidence": counts_to_json(counts), "settings": asdict(DEFAULTS)}))
    assert stored["evidence"] == counts_to_json(counts)
    again = counts_from_json(stored["evidence"])
    assert again == counts
    assert judge(again, GateSettings(**stored["settings"])) == judge(counts, DEFAULTS)


@QUICK
@given(counts=everything)
def test_a_verdict_can_be_written_down_and_says_why(counts: Counts) -> None:
    for verdict in judge(counts, DEFAULTS):
        json.dumps(asdict(verdict), allow_nan=False)
        assert verdict.reason.isprintable()
        assert (verdict.progress == 1.0) is (verdict.result is not INCONCLUSIVE)
        assert ("; undecided: " in verdict.reason) is (verdict.result is INCONCLUSIVE)


@QUICK
@given(counts=everything)
def test_the_number_of_the_run_and_what_was_routed_change_nothing(counts: Counts) -> None:
    target = msgspec.structs.replace(counts.target, routed=counts.target.routed + 1000)
    other = msgspec.structs.replace(counts, policy=counts.policy + 1, target=target)
    assert judge(other, DEFAULTS) == judge(counts, DEFAULTS)


@pytest.mark.parametrize(
    ("counts", "gate", "reason"),
    [
        (
            replies(31),
            G.ERRORS,
            "0 of 31 replies were errors (0 %); evidence 0.245 of 100 for more than 1 %; undecided: 31 of 200 replies",
        ),
        (
            replies(100, 4, 900, 0),
            G.ERRORS_RELATIVE,
            "4 of 4 errors came from the target, which gave 10 % of the replies; evidence 250 of 100 for more than 1.5 times "
            "stable's share of errors",
        ),
        (
            Counts(pairs=50, disagreements=2),
            G.AGREEMENT,
            "2 of 50 pairs differ (4 %, 98 % interval 0.897 % to 16.1 %); score +0.34, passes at -2.99 as 2 %, fails at +4.55 "
            "as 5 %; undecided: 50 of at least 157 pairs",
        ),
        (
            classes({1: 900, 2: 100}, {1: 200}),
            G.COLLAPSE,
            "class 1 is 100 % of 200 answers, the most frequent of stable's 1000 is 90 %; fails above 110 %, or alone when at "
            "most 92 % of stable's",
        ),
        (
            tail(900, 150, seconds=(4, 8)),
            G.LATENCY_TAIL,
            "150 of 900 replies in batches of 1 (16.7 %) took over 7.19 ms, 1.3 times stable's p95; evidence over 1e+13 of 100 "
            "for more than 5 %; in 4 of 12 seconds they were many, evidence 0.914 of 100 that it is more than chance (p95 "
            "ratio 1.40, p99 ratio 1.38); undecided: over 5 % that slow in 900 of at least 3000 replies",
        ),
    ],
)
def test_a_reason_is_a_line_of_numbers_and_bounds(counts: Counts, gate: Gate, reason: str) -> None:
    assert of_one(gate, counts).reason == reason


def pairs(n: int, n_bad: int) -> Counts:
    return Counts(pairs=n, disagreements=n_bad)


def windows(n: int, n_bad: int) -> Counts:
    return Counts(windows={0: n - n_bad, 26: n_bad})


@pytest.mark.parametrize(
    ("counted", "gate", "n", "n_bad", "least"),
    [
        (pairs, G.AGREEMENT, 0, 0, 97),
        (pairs, G.AGREEMENT, 31, 0, 97),
        (pairs, G.AGREEMENT, 50, 2, 157),
        (pairs, G.AGREEMENT, 500, 18, 645),
        (windows, G.LATENCY, 0, 0, 20),
        (windows, G.LATENCY, 7, 0, 20),
        (windows, G.LATENCY, 15, 5, 23),
        (windows, G.LATENCY, 100, 45, 124),
        (tail, G.LATENCY_TAIL, 90, 5, 100),
        (tail, G.LATENCY_TAIL, 95, 12, 240),
    ],
)
def test_what_would_decide_is_named_and_that_many_without_a_fault_do(
    counted: Callable[[int, int], Counts], gate: Gate, n: int, n_bad: int, least: int
) -> None:
    assert f"{n} of at least {least} " in of_one(gate, counted(n, n_bad)).reason
    assert of_one(gate, counted(least - 1, n_bad)).result is INCONCLUSIVE
    assert of_one(gate, counted(least, n_bad)).result is PASS


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": 0.0},
        {"beta": 0.5},
        {"error_limit": 1.0},
        {"latency_ratio": 1.0},
        {"tail_ratio": math.nan},
        {"min_replies": 0},
        {"min_windows": -1},
        {"disagreement_ok": 0.05},
    ],
)
def test_settings_that_hold_a_version_against_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))} is .*must be"):
        replace(DEFAULTS, **wrong)
