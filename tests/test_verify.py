"""Golden logits, digests and tensor tables compared."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hotpool.logits import TOLERANCES, compare_logits
from workers.verify import compare_digests, find_misfit, find_not_finite

SEED = 22
FP32, INT8 = TOLERANCES["fp32"], TOLERANCES["int8"]


def golden(scale=1.0):
    logits = np.random.default_rng(SEED).uniform(-1, 1, (8, 10)).astype(np.float32)
    logits[0, 0] = 1.0
    return logits * np.float32(scale)


def changed(at, by, scale=1.0):
    logits = golden(scale)
    logits[at] += by
    return logits


def test_the_same_logits_pass_with_difference_zero():
    verdict = compare_logits(golden(), golden(), FP32)
    assert (verdict.passed, verdict.max_difference, verdict.allowed, verdict.reason) == (True, 0.0, 0.001, "")


@pytest.mark.parametrize(
    ("scale", "by", "passed"), [(1, 9e-4, True), (1, 1.1e-3, False), (20, 0.019, True), (20, 0.021, False)]
)
def test_what_is_allowed_grows_with_the_largest_golden_logit(scale, by, passed):
    verdict = compare_logits(golden(scale), changed((4, 3), -by, scale), FP32)
    assert verdict.passed is passed
    assert verdict.max_difference == pytest.approx(by, rel=1e-2)


def test_small_logits_are_not_held_to_less_than_a_thousandth():
    assert compare_logits(golden(0.01), changed((4, 3), -9e-4, 0.01), FP32).allowed == 0.001


def test_the_reason_names_the_input_and_the_numbers():
    verdict = compare_logits(golden(), changed((4, 3), 3.2), FP32)
    assert verdict.reason == (
        "golden logits differ by up to 3.2 at input 4, allowed 0.001; the weights are not those that were added"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_fail(value):
    logits = golden()
    logits[2, 2] = value
    assert compare_logits(golden(), logits, FP32).reason == "1 of 80 outputs are NaN or infinite"


@pytest.mark.parametrize("other", [golden()[:7], golden()[:, :9], golden()[0]])
def test_outputs_of_another_shape_fail(other):
    verdict = compare_logits(golden(), other, FP32)
    assert not verdict.passed
    assert "the golden logits (8, 10)" in verdict.reason


def two_best(margin):
    logits = np.zeros((1, 3), dtype=np.float32)
    logits[0, 1] = margin
    return logits


def test_another_best_class_fails_although_the_difference_is_allowed():
    verdict = compare_logits(two_best(4e-4), two_best(-4e-4), FP32)
    assert verdict.max_difference < verdict.allowed
    assert verdict.reason == "the best class of golden input 0 is 0, it was 1 by a margin of 0.0004"


def test_another_best_class_passes_when_the_two_were_tied():
    assert compare_logits(two_best(5e-5), two_best(-5e-5), FP32).passed


def test_digests_are_equal_or_both_are_named():
    assert compare_digests("a" * 64, "a" * 64) == ""
    assert "digest bbbbbbbbbbbb, the manifest says aaaaaaaaaaaa" in compare_digests("a" * 64, "b" * 64)


EXPECTED = {"conv.weight": ((4, 3), "float32"), "fc.bias": ((2,), "float32"), "fc.weight": ((2, 4), "float32")}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"fc.bias": None}, "tensor fc.bias is missing: net needs 3 tensors, 2 of them are here"),
        (
            {"fc.bias": None, "fc.weight": None},
            "tensors fc.bias, fc.weight are missing: net needs 3 tensors, 1 of them are here",
        ),
        ({"aux": ((1,), "float32")}, "tensor aux is unexpected: net has no such tensor"),
        ({f"aux{i}": ((1,), "float32") for i in range(5)}, "tensors aux0, aux1, aux2 and 2 more are unexpected"),
        ({"fc.weight": ((3, 4), "float32")}, "tensor fc.weight has shape (3, 4), net expects (2, 4)"),
        ({"fc.weight": ((2, 4), "float64")}, "tensor fc.weight has dtype float64, net expects float32"),
    ],
)
def test_a_misfit_names_the_tensor_and_what_was_expected(change, said):
    got = {name: spec for name, spec in (EXPECTED | change).items() if spec}
    assert find_misfit(EXPECTED, got, "net").startswith(said)
    assert bool(find_misfit(EXPECTED, got, "net")) == bool(said)


def test_the_first_tensor_that_is_not_finite_is_named_with_how_many():
    tensors: dict[str, NDArray[Any]] = {
        "a": np.arange(3),
        "b": np.array([1, np.nan, np.inf, 0], dtype=np.float32),
        "c": np.array([np.nan]),
    }
    assert find_not_finite(tensors) == "tensor b has 2 of 4 values that are NaN or infinite"
    assert find_not_finite({"a": np.arange(3)}) == ""


def test_int8_may_differ_in_a_few_inputs_and_not_a_little_in_most():
    got = golden()
    got[:, 3] += 0.003
    verdict = compare_logits(golden(), got, INT8)
    assert not verdict.passed
    assert "differ in the median by 0.003, allowed 0.002" in verdict.reason


def test_int8_is_allowed_fifty_times_the_difference_that_fp32_is():
    got = changed((4, 3), -0.049)
    assert not compare_logits(golden(), got, FP32).passed
    assert compare_logits(golden(), got, INT8).passed
    assert not compare_logits(golden(), changed((4, 3), -0.051), INT8).passed
