"""Pure: logits as classes: probabilities, and the most probable ones."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FEW = 8  # so many classes are found one by one


def top_classes(logits: NDArray[np.float32], labels: Sequence[str], top: int) -> tuple[tuple[int, str, float], ...]:
    """(index, label, probability) of the `top` most probable classes; equal ones by index."""
    weights = _weights(logits)
    total = float(weights.sum())
    return tuple((i, labels[i] if i < len(labels) else str(i), weight / total) for i, weight in _best(weights, top))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities, of each row."""
    weights = _weights(logits)
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def _weights(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The probabilities times something; of the largest logit 1, since its exponential could overflow."""
    shifted = np.subtract(logits, logits.max(axis=-1, keepdims=True), dtype=np.float64)
    weights: NDArray[np.float64] = np.exp(shifted, out=shifted)
    return weights


def _best(weights: NDArray[np.float64], n: int) -> list[tuple[int, float]]:
    """Where the n largest are, and they; the largest first, of equal ones the first. Uses `weights` up. Sorting 1,000 classes
    costs three times as much as finding the best of them three times."""
    if n > FEW:
        return [(int(i), float(weights[i])) for i in np.argsort(-weights, kind="stable")[:n]]
    found = []
    for _ in range(min(n, len(weights))):
        best = int(weights.argmax())
        found.append((best, float(weights[best])))
        weights[best] = -1.0  # less than any
    return found
