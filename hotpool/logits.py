"""Pure: whether outputs are the golden ones of a version, but for the rounding that its precision allows.

Workers ask it of what they have loaded, the controller of what workers answer.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What rounding alone may change, as parts of the largest golden logit.

    difference: of any logit; typical: the median over the inputs, of the largest in each; tied_margin: between the two best.
    """

    difference: float
    typical: float
    tied_margin: float


# Float32 sums taken in another order (other threads, batch, CPU) moved logits of size 9 by 4e-6; a wrong weight moves them
# by far more. In int8 the ways to compute round alike, but kernels that did otherwise (as earlier ways did) would put a few
# values between two steps on different sides, and later layers add to it: in one picture of twenty, by 0.002 in a trained
# ResNet-18, by 0.03 in a ResNeXt-50 of random weights. The others are alike, which they are not when a weight is wrong.
TOLERANCES = {"fp32": Tolerance(1e-3, 1e-3, 1e-4), "int8": Tolerance(0.05, 0.002, 0.05)}


@dataclass(frozen=True, slots=True)
class Verdict:
    """reason: empty when the outputs are the golden ones. max_difference is NaN when the outputs can't be compared."""

    passed: bool
    max_difference: float
    allowed: float
    reason: str = ""


def compare_logits(golden: NDArray[np.float32], got: NDArray[np.float32], tolerance: Tolerance) -> Verdict:
    """Whether `got` are the golden logits, (n, classes) each, but for rounding.

    The tolerance is a part of the largest golden logit, or of 1 if that is larger; the best class of each input must be the
    same unless the golden two best are tied.
    """
    scale = max(1.0, float(np.abs(golden).max(initial=0.0)))
    allowed = tolerance.difference * scale
    if got.shape != golden.shape:
        return Verdict(
            False, float("nan"), allowed, f"outputs have shape {got.shape}, the golden logits {golden.shape}"
        )
    if n_bad := int(np.count_nonzero(~np.isfinite(got))):
        return Verdict(False, float("nan"), allowed, f"{n_bad} of {got.size} outputs are NaN or infinite")
    differences = np.abs(got.astype(np.float64) - golden).max(axis=1)
    worst = int(differences.argmax())
    difference = float(differences[worst])
    typical, allowed_typical = float(np.median(differences)), tolerance.typical * scale
    reason = ""
    if difference > allowed:
        reason = f"golden logits differ by up to {difference:.3g} at input {worst}, allowed {allowed:.3g}"
    elif typical > allowed_typical:
        reason = f"golden logits differ in the median by {typical:.3g}, allowed {allowed_typical:.3g}"
    if reason:
        return Verdict(False, difference, allowed, f"{reason}; the weights are not those that were added")
    reason = _changed_class(golden, got, tolerance.tied_margin * scale)
    return Verdict(not reason, difference, allowed, reason)


def _changed_class(golden: NDArray[np.float32], got: NDArray[np.float32], tied: float) -> str:
    for i, (before, after) in enumerate(zip(golden, got, strict=True)):
        best, now = int(before.argmax()), int(after.argmax())
        margin = float(before[best]) - float(before[now])
        if margin > tied:
            return f"the best class of golden input {i} is {now}, it was {best} by a margin of {margin:.3g}"
    return ""
