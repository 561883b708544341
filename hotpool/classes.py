"""Pure: logits as classes: probabilities, and the most probable ones."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FEW = 8  # so many classes are found one by one


def top_classes(logits: NDArray[np.float32], labels: Sequence[str], top: int) -> tuple[tuple[int, str, float], ...]:
    """(index, label, probability) of the `top` most probable classes; equal ones by index."""
    probabilities = softmax(logits)
    return tuple(
        (i, labels[i] if i < len(labels) else str(i), float(probabilities[i])) for i in _best(probabilities, top)
    )


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities, of each row."""
    probabilities = logits.astype(np.float64)
    probabilities -= probabilities.max(axis=-1, keepdims=True)  # the exponential of a large logit would overflow
    np.exp(probabilities, out=probabilities)
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    return probabilities


def _best(values: NDArray[np.float64], n: int) -> list[int]:
    """Where the n largest are, the largest first; of equal ones the first. Sorting 1,000 classes costs three times as much as
    finding the best of them three times."""
    if n > FEW:
        return [int(i) for i in np.argsort(-values, kind="stable")[:n]]
    left, found = values.copy(), []
    for _ in range(min(n, len(left))):
        found.append(int(left.argmax()))
        left[found[-1]] = -np.inf
    return found
