"""Shell: whether oneDNN's fused operators are in this torch, on this CPU, and compute what the public ones do.

They are torch's own inner operators, without a promise to stay as they are. So they are tried once in each process, on a
convolution of two dozen channels, before anything is built on them.
"""

import functools
import logging
from collections.abc import Callable

import torch

from .batch import one_line
from .fp32 import FusedConv, PlainConv
from .int8 import FusedInt8Conv, PlainInt8Conv, Quantised, Scale
from .resnet import Conv, ConvOperator

log = logging.getLogger("hotpool.workers")

CHANNELS = 24  # not a multiple of 16, so that the operators' handling of rests is tried too
SIDE = 9
_CONV = Conv("trial", "", 0.0, (CHANNELS, CHANNELS, 3, 3), [1, 1], [1, 1], [1, 1], 1, SIDE, is_rectified=True)
# What torch raises where an operator is missing, takes other arguments, or can't do this on this CPU.
_ERRORS = (AttributeError, RuntimeError, NotImplementedError, TypeError, ValueError)


@functools.cache
def fused_fp32_works() -> bool:
    """Says so in the log, once, if not."""
    weight, bias = _values(CHANNELS, CHANNELS, 3, 3), _values(CHANNELS)
    return _works(
        "fp32",
        lambda: FusedConv(_CONV, weight, bias),
        PlainConv(_CONV, weight, bias),
        _values(1, CHANNELS, SIDE, SIDE),
        allowed=1e-4,
    )


@functools.cache
def fused_int8_works() -> bool:
    """Says so in the log, once, if not."""
    weight = (_values(CHANNELS, CHANNELS, 3, 3) * 127).to(torch.int8)
    quantised = Quantised(weight, torch.full((CHANNELS,), 0.01), _values(CHANNELS))
    scales = Scale(0.01, 128), Scale(0.05, 0), Scale(0.02, 5)
    return _works(
        "int8",
        lambda: FusedInt8Conv(_CONV, quantised, *scales),
        PlainInt8Conv(_CONV, quantised, *scales),
        (_values(1, CHANNELS, SIDE, SIDE) * 127 + 128).to(torch.uint8),
        allowed=1,  # the two may round a value that lies just between two steps to different sides
    )


@torch.inference_mode()
def _works(
    precision: str, make: Callable[[], ConvOperator], plain: ConvOperator, x: torch.Tensor, allowed: float
) -> bool:
    x = x.contiguous(memory_format=torch.channels_last)
    try:
        fused = make()
        pairs = [(fused(x), plain(x)), (fused.add(x, x.clone()), plain.add(x, x.clone()))]
    except _ERRORS as error:
        reason = one_line(error)
    else:
        differences = [float((got.float() - expected.float()).abs().max()) for got, expected in pairs]
        off = [difference for difference in differences if not difference <= allowed]  # NaN is not
        reason = f"they differ from the public operators by {off[0]:.3g}" if off else ""
    if reason:
        log.warning("event=fallback precision=%s torch=%s reason=%r", precision, torch.__version__, reason)
    return not reason


def _values(*shape: int) -> torch.Tensor:
    """Between -1 and 1, the same each time, no two neighbours alike."""
    n = torch.Size(shape).numel()
    return (torch.arange(n, dtype=torch.float32) * 0.7).sin().reshape(shape)
