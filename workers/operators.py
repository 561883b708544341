"""Shell: whether oneDNN's operators are there, on this CPU, and compute what torch's public ones do.

Those inside torch come without a promise to stay as they are, those of oneDNN's own library from a package that may be missing.
So they are tried once in each process, on two dozen channels, before anything is built on them.
"""

import functools
import logging
from collections.abc import Callable, Iterable
from enum import StrEnum

import torch

from .batch import one_line
from .fp32 import FusedConv, PlainConv
from .int8 import FusedInt8Conv, Int8ResNet, PlainInt8Conv, Quantised, Scale, expected_int8
from .int8_prepared import PreparedInt8ResNet
from .layout import Block, Conv, Layout

log = logging.getLogger("hotpool.workers")

CHANNELS = 24  # not a multiple of 16, so that the operators' handling of rests is tried too
SIDE = 9
_CONV = Conv("trial", "", 0.0, (CHANNELS, CHANNELS, 3, 3), [1, 1], [1, 1], [1, 1], 1, SIDE, is_rectified=True)
# What torch raises where an operator is missing, takes other arguments, or can't do this on this CPU.
_ERRORS = (AttributeError, RuntimeError, NotImplementedError, TypeError, ValueError)

Pair = tuple[torch.Tensor, torch.Tensor]  # what came of it, and what should have


class Way(StrEnum):
    """How a ResNet in int8 computes, the fastest first. They differ where a value lies between two steps."""

    PREPARED = "prepared"  # by oneDNN's own library
    FUSED = "fused"  # by the oneDNN inside torch
    PLAIN = "plain"  # by public operators, in float32


@functools.cache
def fastest_int8() -> Way:
    """That works here. Of each that does not, the log says so, once."""
    if _works("int8", Way.PREPARED, _prepared_int8, allowed=0.01):
        return Way.PREPARED
    if _works("int8", Way.FUSED, _fused_int8, allowed=1):  # what lies just between two steps may be rounded to either
        return Way.FUSED
    return Way.PLAIN


@functools.cache
def fused_fp32_works() -> bool:
    """Says so in the log, once, if not."""
    return _works("fp32", Way.FUSED, _fused_fp32, allowed=1e-4)


@torch.inference_mode()
def _works(precision: str, way: Way, compute: Callable[[], Iterable[Pair]], allowed: float) -> bool:
    try:
        differences = [float((got.float() - expected.float()).abs().max()) for got, expected in compute()]
    except _ERRORS as error:
        reason = one_line(error)
    else:
        off = [difference for difference in differences if not difference <= allowed]  # NaN is not
        reason = f"it differs from the public operators by {off[0]:.3g}" if off else ""
    if reason:
        log.warning(
            "event=fallback precision=%s without=%s torch=%s reason=%r", precision, way, torch.__version__, reason
        )
    return not reason


def _fused_fp32() -> list[Pair]:
    weight, bias = _values(CHANNELS, CHANNELS, 3, 3), _values(CHANNELS)
    fused, plain = FusedConv(_CONV, weight, bias), PlainConv(_CONV, weight, bias)
    x = _values(1, CHANNELS, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    return [(fused(x), plain(x)), (fused.add(x, x.clone()), plain.add(x, x.clone()))]


def _fused_int8() -> list[Pair]:
    weight = (_values(CHANNELS, CHANNELS, 3, 3) * 127).to(torch.int8)
    quantised = Quantised(weight, torch.full((CHANNELS,), 0.01), _values(CHANNELS))
    scales = Scale(0.01, 128), Scale(0.05, 0), Scale(0.02, 5)
    fused, plain = FusedInt8Conv(_CONV, quantised, *scales), PlainInt8Conv(_CONV, quantised, *scales)
    x = (_values(1, CHANNELS, SIDE, SIDE) * 127 + 128).to(torch.uint8).contiguous(memory_format=torch.channels_last)
    return [(fused(x), plain(x)), (fused.add(x, x.clone()), plain.add(x, x.clone()))]


def _prepared_int8() -> list[Pair]:
    """Of a network with one block, for one picture and for two."""
    stem = Conv("stem", "", 0.0, (CHANNELS, 3, 7, 7), [2, 2], [3, 3], [1, 1], 1, 4 * SIDE, is_rectified=True)
    down = Conv("down", "", 0.0, (CHANNELS, CHANNELS, 1, 1), [1, 1], [0, 0], [1, 1], 1, SIDE, is_rectified=False)
    layout = Layout(stem, (Block((_CONV,), down),))
    tensors = {
        name: (_values(*shape) * 127).to(torch.int8) if dtype == "int8" else _values(*shape).abs() * 0.01
        for name, (shape, dtype) in expected_int8(layout, CHANNELS).items()
    }
    # No factor is 1 by chance, and a negative sum would show: below zero point 5 there are values left.
    scales = {"input": (0.01, 128), "stem": (0.03, 0), "down": (0.07, 100), "trial": (0.1, 5)}
    for name, (scale, zero_point) in scales.items():
        tensors[f"{name}.scale"], tensors[f"{name}.zero_point"] = torch.tensor([scale]), torch.tensor([zero_point])
    prepared, plain = PreparedInt8ResNet(layout, tensors), Int8ResNet(layout, tensors, PlainInt8Conv)
    return [(prepared(batch), plain(batch)) for batch in (_values(n, 3, 4 * SIDE, 4 * SIDE) for n in (1, 2))]


def _values(*shape: int) -> torch.Tensor:
    """Between -1 and 1, the same each time, no two neighbours alike."""
    n = torch.Size(shape).numel()
    return (torch.arange(n, dtype=torch.float32) * 0.7).sin().reshape(shape)
