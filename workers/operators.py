"""Shell: whether oneDNN's operators are there, on this CPU, and compute what torch's public ones do.

Those inside torch come without a promise to stay as they are, those of oneDNN's own library from a package that may be missing.
So they are tried once in each process, on two dozen channels, before anything is built on them.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import StrEnum

import torch

from hotpool.manifest import Precision

from .batch import one_line
from .fp32 import Fp32ResNet, FusedConv, PlainConv
from .fp32_prepared import PreparedFp32ResNet
from .int8 import FusedInt8Conv, Int8ResNet, PlainInt8Conv, Quantised, Scale, expected_int8
from .int8_prepared import PreparedInt8ResNet
from .layout import Block, Conv, Layout
from .quantise import quantise_weight
from .room import ran_out
from .winograd import LEAST_SIDE

log = logging.getLogger("hotpool.workers")

CHANNELS = 24  # not a multiple of 16, so that the operators' handling of rests is tried too
SIDE = LEAST_SIDE + 2  # so that float32 goes Winograd's way too, with a rest
_CONV = Conv("trial", "norm", 0.0, (CHANNELS, CHANNELS, 3, 3), [1, 1], [1, 1], [1, 1], 1, SIDE, is_rectified=True)
_STEM = Conv("stem", "stem_norm", 0.0, (CHANNELS, 3, 7, 7), [2, 2], [3, 3], [1, 1], 1, 4 * SIDE, is_rectified=True)
_LAST = replace(_CONV, name="last", norm="last_norm")
_DOWN = Conv("down", "down_norm", 0.0, (CHANNELS, CHANNELS, 1, 1), [1, 1], [0, 0], [1, 1], 1, SIDE, is_rectified=False)
_LAYOUT, _PICTURE = Layout(_STEM, (Block((_CONV, _LAST), _DOWN),)), (3, _STEM.side, _STEM.side)
# What torch raises where an operator is missing, takes other arguments, or can't do this on this CPU.
_ERRORS = (AttributeError, RuntimeError, NotImplementedError, TypeError, ValueError)

Pair = tuple[torch.Tensor, torch.Tensor]  # what came of it, and what should have


class Way(StrEnum):
    """How a ResNet computes, the fastest first. In int8 all round alike on the CPUs tried so far (AMX was not)."""

    PREPARED = "prepared"  # by oneDNN's own library
    FUSED = "fused"  # by the oneDNN inside torch
    PLAIN = "plain"  # by public operators, int8 in float32 too


def ways(precision: Precision) -> Iterator[Way]:
    """Those that work here, the fastest first. Of each that does not, the log says so, once."""
    return (way for way in Way if works(precision, way))


@functools.cache
@torch.inference_mode()
def works(precision: Precision, way: Way) -> bool:
    """Tried when it is first asked for, and once. What is raised for want of memory goes on."""
    if way is Way.PLAIN:
        return True
    compute, allowed = _TRIALS[precision, way]
    try:
        off = _beyond(allowed, compute())
    except _ERRORS as error:
        if ran_out(error):
            raise  # that is no fault of the operators: whoever loads is told, and it is tried again
        reason = one_line(error)
    else:
        reason = f"it differs from the public operators by {off[0]:.3g}" if off else ""
    if reason:
        note_fallback(precision, way, reason)
    return not reason


@functools.cache
@torch.inference_mode()
def cuts_sums() -> bool:
    """Whether int8's fastest way computes wrongly with weights that don't `quantise.fits_pairs`: without VNNI it does."""
    fastest = next(ways("int8"))
    if fastest is Way.PLAIN:
        return False
    compute, allowed = _TRIALS["int8", fastest]
    return bool(_beyond(allowed, compute(in_pairs=False)))


def _beyond(allowed: float, pairs: list[Pair]) -> list[float]:
    """Differences that are larger."""
    differences = [float((got.float() - expected.float()).abs().max()) for got, expected in pairs]
    return [difference for difference in differences if not difference <= allowed]  # NaN is not


def note_fallback(precision: Precision, way: Way, reason: str) -> None:
    log.warning("event=fallback precision=%s without=%s torch=%s reason=%r", precision, way, torch.__version__, reason)


def _fused_fp32() -> list[Pair]:
    weight, bias = _values(CHANNELS, CHANNELS, 3, 3), _values(CHANNELS)
    fused, plain = FusedConv(_CONV, weight, bias), PlainConv(_CONV, weight, bias)
    x = _values(1, CHANNELS, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    return [(fused(x), plain(x)), (fused.add(x, x.clone()), plain.add(x, x.clone()))]


def _fused_int8(in_pairs: bool = True) -> list[Pair]:
    """in_pairs: as for `quantise_weight`."""
    weight = _whole(in_pairs, CHANNELS, CHANNELS, 3, 3)
    quantised = Quantised(weight, torch.full((CHANNELS,), 0.01), _values(CHANNELS))
    scales = Scale(0.01, 128), Scale(0.05, 0), Scale(0.02, 5)
    fused, plain = FusedInt8Conv(_CONV, quantised, *scales), PlainInt8Conv(_CONV, quantised, *scales)
    x = (_values(1, CHANNELS, SIDE, SIDE) * 127 + 128).to(torch.uint8).contiguous(memory_format=torch.channels_last)
    return [(fused(x), plain(x)), (fused.add(x, x.clone()), plain.add(x, x.clone()))]


def _prepared_fp32() -> list[Pair]:
    """Of a network with one block, for two pictures."""
    tensors = {"fc.weight": _values(CHANNELS, CHANNELS), "fc.bias": _values(CHANNELS)}
    for conv in _LAYOUT.convs():
        n_out = conv.weight_shape[0]
        tensors |= {f"{conv.name}.weight": _values(*conv.weight_shape), f"{conv.norm}.running_var": torch.ones(n_out)}
        for part in ("running_mean", "weight", "bias"):
            tensors[f"{conv.norm}.{part}"] = _values(n_out)
    prepared = PreparedFp32ResNet(_LAYOUT, tensors, more_weights=1.0)
    plain = Fp32ResNet(_LAYOUT, tensors, PlainConv)
    batch = _values(2, *_PICTURE)
    return [(prepared(batch), plain(batch))]


def _prepared_int8(in_pairs: bool = True) -> list[Pair]:
    """Of a network with one block, for one picture and for two. in_pairs: as for `quantise_weight`."""
    tensors = {
        name: _whole(in_pairs, *shape) if dtype == "int8" else _values(*shape).abs() * 0.01
        for name, (shape, dtype) in expected_int8(_LAYOUT, CHANNELS).items()
    }
    # No factor is 1 by chance, and a negative sum would show: below zero point 5 there are values left.
    scales = {"input": (0.01, 128), "stem": (0.03, 0), "down": (0.07, 100), "trial": (0.09, 0), "last": (0.1, 5)}
    for name, (scale, zero_point) in scales.items():
        tensors[f"{name}.scale"], tensors[f"{name}.zero_point"] = torch.tensor([scale]), torch.tensor([zero_point])
    prepared, plain = PreparedInt8ResNet(_LAYOUT, tensors), Int8ResNet(_LAYOUT, tensors, PlainInt8Conv)
    return [(prepared(batch), plain(batch)) for batch in (_values(n, *_PICTURE) for n in (1, 2))]


def _whole(in_pairs: bool, *shape: int) -> torch.Tensor:
    return torch.from_numpy(quantise_weight(_values(*shape).numpy(), in_pairs=in_pairs)[0])


def _values(*shape: int) -> torch.Tensor:
    """Between -1 and 1, the same each time, no two neighbours alike."""
    n = torch.Size(shape).numel()
    return (torch.arange(n, dtype=torch.float32) * 0.7).sin().reshape(shape)


# What is tried, and how much its results may differ.
_TRIALS: dict[tuple[Precision, Way], tuple[Callable[..., list[Pair]], float]] = {
    ("fp32", Way.PREPARED): (_prepared_fp32, 1e-3),
    ("fp32", Way.FUSED): (_fused_fp32, 1e-4),
    ("int8", Way.PREPARED): (_prepared_int8, 0.01),
    ("int8", Way.FUSED): (_fused_int8, 1),  # a step
}
