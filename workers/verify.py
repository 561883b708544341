"""Pure: whether tensors are those of the version they claim to be; every answer carries its numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]


def compare_digests(expected: str, got: str) -> str:
    """Empty, or what is wrong with the tensors that are held."""
    if expected == got:
        return ""
    return (
        f"the tensors held have digest {got[:12]}, the manifest says {expected[:12]}: they are not those that were added; "
        "remove this version and add it again"
    )


def find_misfit(expected: Mapping[str, tuple[Shape, str]], got: Mapping[str, tuple[Shape, str]], arch: str) -> str:
    """Empty, or which tensors (name -> shape, dtype) do not fit: missing, unexpected, of another shape or dtype."""
    if missing := sorted(expected.keys() - got.keys()):
        n_here = len(expected) - len(missing)
        return f"{_list(missing)} missing: {arch} needs {len(expected)} tensors, {n_here} of them are here"
    if unexpected := sorted(got.keys() - expected.keys()):
        return f"{_list(unexpected)} unexpected: {arch} has no such tensor"
    for name in sorted(expected):
        (shape, dtype), (got_shape, got_dtype) = expected[name], got[name]
        if shape != got_shape:
            return f"tensor {name} has shape {got_shape}, {arch} expects {shape}"
        if dtype != got_dtype:
            return f"tensor {name} has dtype {got_dtype}, {arch} expects {dtype}"
    return ""


def find_not_finite(tensors: Mapping[str, NDArray[Any]]) -> str:
    """Empty, or the first tensor that holds NaN or infinite values, and how many."""
    for name in sorted(tensors):
        if n_bad := int(np.count_nonzero(~np.isfinite(tensors[name]))):
            return f"tensor {name} has {n_bad} of {tensors[name].size} values that are NaN or infinite"
    return ""


def _list(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    if len(names) == 1:
        return f"tensor {shown} is"
    return f"tensors {shown} are" if len(names) <= 3 else f"tensors {shown} and {len(names) - 3} more are"
