"""Pure: real weights and activations to eight bits, and how much is lost by it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

LEVELS = 255  # steps between the 256 values of a byte
# Steps that the largest weight of an output channel reaches; in pairs, the sum of input channels 2i and 2i + 1 (of a group), if
# of one sign. oneDNN puts those side by side, and without VNNI (which sums up in 32 bits) a CPU adds their products in 16 bits
# and cuts off what is more than 32,767. Rounding adds a step: 255 * 128 is 32,640.
MOST = 127
N_BINS = 2048
# How much of the range seen is tried, at each end: from a fifth to all of it. Min-max is one of them, so the result never has a
# larger error than that.
_KEPT = np.linspace(0.2, 1.0, 33)


def quantise_weight(weight: FloatArray, *, in_pairs: bool = False) -> tuple[NDArray[np.int8], FloatArray]:
    """Weights as int8 and the scale of each output channel, the first axis; symmetric, so that 0 stays 0.

    in_pairs: so that `fits_pairs`. A step gets up to twice as long, see "Int8 without VNNI" in docs/performance.md.
    """
    reached = _pairs(weight) if in_pairs else np.abs(weight)
    largest = reached.reshape(len(weight), -1).max(axis=1)
    scale = (np.where(largest > 0, largest, 1) / MOST).astype(np.float32)
    stored = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1)))
    return np.clip(stored, -MOST, MOST).astype(np.int8), scale


def fits_pairs(stored: NDArray[np.int8]) -> bool:
    """Whether a CPU without VNNI computes with these weights what others do, whatever the activations are."""
    return bool(_pairs(stored.astype(np.int16)).max() <= MOST + 1)


def _pairs(weight: NDArray[Any]) -> NDArray[Any]:
    """(output channels, pairs, ...): of input channels 2i and 2i + 1 the larger weight, or their sum if of one sign."""
    if weight.shape[1] % 2:
        weight = np.concatenate([weight, np.zeros_like(weight[:, :1])], axis=1)
    first, second = weight[:, 0::2], weight[:, 1::2]
    above = np.maximum(first, 0) + np.maximum(second, 0)
    below = np.minimum(first, 0) + np.minimum(second, 0)
    either: NDArray[Any] = np.maximum(above, -below)
    return either


def scale_for(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of a byte that holds this range; the real 0 is always one of its values."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / LEVELS or 1.0
    return scale, round(-low / scale)


def best_range(counts: NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """The part of low to high with the least mean square error when stored in a byte, what lies outside being cut off.

    Few values lie at the ends of a range. To cut them off costs them much, and gives all others finer steps.

    Args:
        counts: how many values fell into each of equally wide bins between low and high; without the exact zeros, which
            cost nothing.
    """
    edges = np.linspace(low, high, len(counts) + 1)
    values = (edges[:-1] + edges[1:]) / 2
    lows = low * _KEPT if low < 0 else np.zeros(1)
    highs = high * _KEPT if high > 0 else np.zeros(1)
    ranges = [(float(start), float(end)) for start in lows for end in highs]
    errors = [_square_error(values, counts, *scale_for(*kept)) for kept in ranges]
    return ranges[int(np.argmin(errors))]


def _square_error(values: NDArray[np.float64], counts: NDArray[np.int64], scale: float, zero_point: int) -> float:
    stored = np.clip(np.rint(values / scale) + zero_point, 0, LEVELS)
    return float((counts * (values - (stored - zero_point) * scale) ** 2).sum())
