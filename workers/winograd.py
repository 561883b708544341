"""Shell: convolutions of 3 x 3 in half the multiplications, by Winograd's F(4, 3) along the height.

Six rows of the input give a band of four rows of the output: they are combined in six ways (each belongs to a point at which
polynomials are evaluated), of each a convolution of 1 x 3 is taken, and the six results are combined to four rows. These are
six multiplications where a direct convolution has twelve. Both combinations are products of a small matrix with whole rows. In
both directions at once a quarter of the multiplications would be left, for twice as much memory again for weights and more to
combine.
Source: A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks, 2015 (arXiv:1509.09308).
"""

from collections.abc import Iterator
from dataclasses import replace

import torch

from . import onednn
from .layout import Conv, Layout
from .onednn import BIAS, DST, SRC, WEIGHTS, Memory, Operation, Owned
from .prepared import PackedConv

ROWS, TAPS = 4, 3  # of the output in a band; of the kernel
POINTS = ROWS + TAPS - 1  # and as many rows of the input
LEAST_SIDE = 12  # below, it takes as long as a direct convolution or longer, unless there are very many channels
MORE_WEIGHTS = 0.1  # of all convolutions' weights: so much memory may weights take more

# Not tensors: the template imports this, and runs no torch operator.
_INPUT = (
    (4.0, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_KERNEL = ((6.0, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))  # in 24ths
_OUTPUT = ((1.0, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
_BIASED = 1  # the point whose result is a part of each row of the output, once


def choose(layout: Layout, more_weights: float) -> frozenset[str]:
    """The names of the convolutions that are computed so. more_weights: see `MORE_WEIGHTS`.

    The time that it saves grows with the area of what is convolved, the memory that its weights take more, once as much as they
    have, does not: so the first ones of a network come first.
    """
    left = more_weights * sum(map(_n_weights, layout.convs()))
    chosen = set()
    for conv in layout.convs():
        if _is_possible(conv) and conv.side >= LEAST_SIDE and _n_weights(conv) <= left:
            left -= _n_weights(conv)
            chosen.add(conv.name)
    return frozenset(chosen)


class Workspace:
    """Memory for what lies between the steps of a convolution: a slot more than there are points, since the result of each
    takes the place of what the one before came of. Convolutions that run one after another share it."""

    def __init__(self, convs: list[Conv]) -> None:
        n = max((_n_bands(conv) * conv.side * max(conv.weight_shape[:2]) for conv in convs), default=0)
        memory = onednn.aligned((POINTS + 1) * n * torch.float32.itemsize)
        self._slots = memory.view(torch.float32).view(POINTS + 1, n)

    def combined(self, n_bands: int, n_values: int) -> torch.Tensor:
        """(points, bands, values of a row)."""
        return self._slots[1:, : n_bands * n_values].view(POINTS, n_bands, n_values)

    def convolved(self, n_bands: int, n_values: int) -> torch.Tensor:
        """(points, bands, values of a row). To write to [i] destroys combined[i - 1]."""
        return self._slots[:-1, : n_bands * n_values].view(POINTS, n_bands, n_values)


def convolve(
    conv: Conv, weight: torch.Tensor, bias: torch.Tensor, attributes: Owned, x: Memory, y: Memory, space: Workspace
) -> Iterator[Operation]:
    """What computes y, one picture in channels_last as x is. attributes: as of a direct convolution."""
    x_rows, y_rows = (memory.tensor[0].permute(1, 2, 0).view(conv.side, -1) for memory in (x, y))
    combined = space.combined(_n_bands(conv), x_rows.shape[1])
    convolved = space.convolved(_n_bands(conv), y_rows.shape[1])
    yield from _combine_input(x_rows, combined)
    along = replace(conv, weight_shape=(*conv.weight_shape[:2], 1, TAPS), padding=[0, 1])
    for point, kernel in enumerate(_combine_kernel(weight)):
        before, behind = _picture(conv, combined[point]), _picture(conv, convolved[point])
        memories = {BIAS: Memory(bias)} if point == _BIASED else {}
        packed = PackedConv(along, kernel, before.described, behind.described, onednn.attributes({}), memories)
        yield packed.operation(before, behind)
    yield from _combine_output(conv, convolved, y_rows, attributes)


def _is_possible(conv: Conv) -> bool:
    is_plain = conv.weight_shape[2:] == (TAPS, TAPS) and conv.groups == 1
    return is_plain and (conv.stride, conv.padding, conv.dilation) == ([1, 1], [1, 1], [1, 1])


def _n_weights(conv: Conv) -> int:
    return torch.Size(conv.weight_shape).numel()


def _n_bands(conv: Conv) -> int:
    return -(-conv.side // ROWS)


def _picture(conv: Conv, rows: torch.Tensor) -> Memory:
    """(1, channels, rows, side) in channels_last."""
    return Memory(rows.view(1, len(rows), conv.side, -1).permute(0, 3, 1, 2))


def _combine_kernel(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """(channels out, channels in, 1, 3) for each point."""
    rows = weight.double().unbind(2)
    for factors in _KERNEL:
        parts = [factor / 24 * row for factor, row in zip(factors, rows, strict=True)]
        yield torch.stack(parts).sum(0).float().unsqueeze(2)


def _combine_input(rows: torch.Tensor, combined: torch.Tensor) -> Iterator[Operation]:
    """rows: (side, values of a row). combined: (points, bands, values of a row). Around the picture there are zeros."""
    table = torch.tensor(_INPUT)
    for band in range(combined.shape[1]):
        above = band * ROWS - 1
        first, end = max(above, 0), min(above + POINTS, len(rows))
        factors = table[:, first - above : end - above].contiguous()
        yield _product(factors, rows[first:end], combined[:, band], onednn.attributes({}))


def _combine_output(conv: Conv, convolved: torch.Tensor, rows: torch.Tensor, attributes: Owned) -> Iterator[Operation]:
    """convolved: (points, bands, values of a row). rows: (side, values of a row)."""
    table, n_whole = torch.tensor(_OUTPUT), conv.side // ROWS
    whole, rest = rows[: n_whole * ROWS].view(n_whole, ROWS, rows.shape[1]), rows[n_whole * ROWS :].unsqueeze(0)
    for bands, y in ((slice(n_whole), whole), (slice(n_whole, None), rest)):
        if y.numel():
            factors = table[: y.shape[1]].unsqueeze(0)
            yield _product(factors, convolved[:, bands].transpose(0, 1), y, attributes)


def _product(left: torch.Tensor, right: torch.Tensor, y: torch.Tensor, attributes: Owned) -> Operation:
    memories = {SRC: Memory(left), WEIGHTS: Memory(right), DST: Memory(y)}
    return Operation(onednn.product(memories[SRC], memories[WEIGHTS], memories[DST], attributes), memories)
