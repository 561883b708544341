"""Real values in eight bits, and the ranges that lose least."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.quantise import LEVELS, N_BINS, best_range, fits_pairs, quantise_weight, scale_for

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


@pytest.mark.parametrize("n_in", [1, 2, 3, 8])
@given(seed=st.integers(0, 2**31), heavy=st.floats(0, 1))
def test_two_neighbours_products_fit_into_16_bits_and_weights_are_kept_to_half_a_step(n_in, seed, heavy):
    weight = values(6 * n_in * 9, seed).reshape(6, n_in, 3, 3)
    weight[0, :2, 1, 1] = [5 * heavy, 5 - 5 * heavy][:n_in]  # rounds up twice, if anything does
    stored, scale = quantise_weight(weight, in_pairs=True)
    assert fits_pairs(stored)
    extremes = np.array([[0, 0], [0, 255], [255, 0], [255, 255]])
    wide = np.concatenate([stored, np.zeros_like(stored[:, : n_in % 2])], axis=1).astype(np.int64)
    sums = np.einsum("ea,opahw->eophw", extremes, wide.reshape(6, -1, 2, 3, 3))
    assert -(2**15) <= sums.min() <= sums.max() < 2**15
    lost = np.abs(stored * scale.reshape(6, 1, 1, 1) - weight).reshape(6, -1).max(axis=1)
    assert (lost <= scale * 0.5001).all()


def test_a_large_weight_beside_a_small_one_costs_the_others_little():
    weight = np.full((1, 4, 1, 1), 0.01, dtype=np.float32)
    weight[0, 2] = 1
    stored, _ = quantise_weight(weight, in_pairs=True)
    assert stored.flatten().tolist() == [1, 1, 126, 1]


def test_it_is_seen_where_two_neighbours_of_one_sign_are_too_large():
    stored = np.zeros((2, 3, 1, 1), dtype=np.int8)
    stored[1, :, 0, 0] = 127, 1, 127
    assert fits_pairs(stored)
    stored[1, 0] = -127
    stored[1, 1] = 127
    assert fits_pairs(stored), "of two signs"
    stored[1, 1] = -2
    assert not fits_pairs(stored)


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
