"""Real values in eight bits, and the ranges that lose least."""

import numpy as np
import pytest

from workers.quantise import LEVELS, N_BINS, best_range, quantise_weight, scale_for

SEED = 31


def values(n, seed=SEED):
    return np.random.default_rng(seed).normal(size=n).astype(np.float32)


def test_a_weight_is_kept_to_half_a_step_of_its_own_output_channel():
    weight = values(4 * 3 * 5 * 5).reshape(4, 3, 5, 5) * np.array([1, 10, 0.01, 100], dtype=np.float32).reshape(
        4, 1, 1, 1
    )
    stored, scale = quantise_weight(weight)
    assert (stored.dtype, stored.shape, scale.dtype, scale.shape) == (np.int8, weight.shape, np.float32, (4,))
    lost = np.abs(stored * scale.reshape(4, 1, 1, 1) - weight).reshape(4, -1).max(axis=1)
    assert (lost <= scale * 0.5001).all()
    assert np.abs(stored).reshape(4, -1).max(axis=1).tolist() == [127] * 4, "all of the range is used"


def test_a_channel_of_zeros_stays_zero():
    stored, scale = quantise_weight(np.zeros((2, 3), dtype=np.float32))
    assert not stored.any()
    assert (scale > 0).all()


@pytest.mark.parametrize(("low", "high"), [(0, 6), (-2.1, 2.6), (1, 3), (-3, -1), (0, 0)])
def test_the_real_zero_is_a_stored_value_and_the_range_fits(low, high):
    scale, zero_point = scale_for(low, high)
    assert scale > 0
    assert 0 <= zero_point <= LEVELS
    assert (0 - zero_point) * scale <= min(low, 0) + scale / 2
    assert (LEVELS - zero_point) * scale >= max(high, 0) - scale / 2


def square_error(real, kept):
    scale, zero_point = scale_for(*kept)
    stored = np.clip(np.rint(real / scale) + zero_point, 0, LEVELS)
    return float(((stored - zero_point) * scale - real).astype(np.float64).__pow__(2).mean())


def histogram(real):
    low, high = min(0.0, float(real.min())), max(0.0, float(real.max()))
    return np.histogram(real[real != 0], N_BINS, (low, high))[0], low, high


@pytest.mark.parametrize("rectified", [True, False])
def test_one_far_value_in_a_million_is_cut_off_so_that_all_others_have_finer_steps(rectified):
    real = np.append(values(1_000_000), np.float32(10))
    real = np.maximum(real, 0) if rectified else real
    counts, low, high = histogram(real)
    kept = best_range(counts, low, high)
    assert kept[1] - kept[0] < 0.8 * (high - low)
    assert square_error(real, kept) < 0.7 * square_error(real, (low, high))
    assert (kept[0] == 0) is rectified


def test_where_nothing_is_won_by_cutting_the_whole_range_is_kept():
    real = np.random.default_rng(SEED).uniform(0, 1, 100_000).astype(np.float32)
    counts, low, high = histogram(real)
    low_kept, high_kept = best_range(counts, low, high)
    assert low_kept == 0
    assert high_kept == pytest.approx(high, rel=0.03)


def test_an_activation_that_is_always_zero_has_a_range_all_the_same():
    assert best_range(np.zeros(N_BINS, dtype=np.int64), 0.0, 0.0) == (0.0, 0.0)
