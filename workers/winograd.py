"""Shell: convolutions of 3 x 3 in half the multiplications, by Winograd's F(4, 3) along the height.

Six rows of the input give four rows of the output: they are combined in six ways (each belongs to a point at which polynomials
are evaluated), of each a convolution of 1 x 3 is taken, and the six results are combined to four rows. These are six
multiplications where a direct convolution has twelve. Both combinations are products of a small matrix with whole rows. Along
both directions a quarter of the multiplications would be left, with twice as much memory again for weights and more to combine.
Source: A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks, 2015 (arXiv:1509.09308).
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from . import onednn
from .layout import Conv
from .onednn import BIAS, DST, SRC, WEIGHTS, Memory, Operation, Owned
from .prepared import PackedConv, describe_one

ROWS, TAPS = 4, 3  # of the output in a group; of the kernel
POINTS = ROWS + TAPS - 1  # and as many rows of the input
# The time that it saves grows with the picture's area, the memory that it costs with the weights alone: where the side is 14, a
# ResNet-18 would take 7 MB more to be 8 % faster, where it is 7 another 28 MB for 6 %.
LEAST_SIDE = 20

_INPUT = torch.tensor(
    [
        [4.0, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_KERNEL = torch.tensor([[6.0, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]).double() / 24
_BIASED = 1  # the point whose result is a part of each row of the output, once
_OUTPUT = torch.tensor([[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


def pays(conv: Conv) -> bool:
    """Whether it can be computed so, and gains what twice the memory for its weights costs."""
    is_plain = conv.weight_shape[2:] == (TAPS, TAPS) and conv.groups == 1
    is_dense = (conv.stride, conv.padding, conv.dilation) == ([1, 1], [1, 1], [1, 1])
    return is_plain and is_dense and conv.side >= LEAST_SIDE


class Room:
    """Memory for what lies between the steps of a convolution. Convolutions that run one after another share it."""

    def __init__(self, convs: Iterable[Conv]) -> None:
        sizes = [POINTS * _n_groups(conv) * conv.side * max(conv.weight_shape[:2]) for conv in convs]
        n_bytes = max(sizes, default=0) * torch.float32.itemsize
        self.combined, self.convolved = (onednn.aligned(n_bytes).view(torch.float32) for _ in range(2))


class WinogradConv:
    """A convolution with its weights, for one picture at a time. See `pays`."""

    def __init__(self, conv: Conv, weight: torch.Tensor, bias: torch.Tensor, attributes: Owned) -> None:
        self._conv, self._attributes = conv, attributes
        n_out, n_in = conv.weight_shape[:2]
        along = replace(conv, weight_shape=(n_out, n_in, 1, TAPS), padding=[0, 1])
        x, y = (describe_one(torch.float32, channels, _n_groups(conv), conv.side) for channels in (n_in, n_out))
        self._convs = [
            PackedConv(along, kernel, x, y, onednn.attributes({}), {BIAS: Memory(bias)} if point == _BIASED else {})
            for point, kernel in enumerate(_combine_kernel(weight))
        ]

    def operations(self, x: Memory, y: Memory, room: Room) -> Iterator[Operation]:
        """x, y: one picture in channels_last."""
        x_rows, y_rows = (memory.tensor[0].permute(1, 2, 0).flatten(1) for memory in (x, y))
        combined, convolved = self._cut(room.combined, x_rows), self._cut(room.convolved, y_rows)
        yield from _combine_input(x_rows, combined)
        for conv, before, behind in zip(self._convs, combined, convolved, strict=True):
            yield conv.operation(self._picture(before), self._picture(behind))
        yield from self._combine_output(convolved, y_rows)

    def _cut(self, memory: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """(points, groups, values of a row), from the beginning of this memory."""
        shape = torch.Size((POINTS, _n_groups(self._conv), rows.shape[1]))
        return memory[: shape.numel()].view(shape)

    def _picture(self, rows: torch.Tensor) -> Memory:
        """(1, channels, rows, side) in channels_last."""
        return Memory(rows.view(1, len(rows), self._conv.side, -1).permute(0, 3, 1, 2))

    def _combine_output(self, convolved: torch.Tensor, rows: torch.Tensor) -> Iterator[Operation]:
        """convolved: (points, groups, values of a row). rows: (side, values of a row)."""
        n_whole = self._conv.side // ROWS
        whole, rest = rows[: n_whole * ROWS].view(n_whole, ROWS, rows.shape[1]), rows[n_whole * ROWS :].unsqueeze(0)
        for groups, y in ((slice(n_whole), whole), (slice(n_whole, None), rest)):
            if y.numel():
                factors = _OUTPUT[: y.shape[1]].unsqueeze(0)
                yield _product(factors, convolved[:, groups].transpose(0, 1), y, self._attributes)


def _n_groups(conv: Conv) -> int:
    return -(-conv.side // ROWS)


def _combine_kernel(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """(channels out, channels in, 1, 3) for each point."""
    rows = weight.double().unbind(2)
    for factors in _KERNEL:
        yield torch.stack([factor * row for factor, row in zip(factors, rows, strict=True)]).sum(0).float().unsqueeze(2)


def _combine_input(rows: torch.Tensor, combined: torch.Tensor) -> Iterator[Operation]:
    """rows: (side, values of a row). combined: (points, groups, values of a row). Around the picture there are zeros."""
    for group in range(combined.shape[1]):
        above = group * ROWS - 1
        first, end = max(above, 0), min(above + POINTS, len(rows))
        factors = _INPUT[:, first - above : end - above].contiguous()
        yield _product(factors, rows[first:end], combined[:, group], onednn.attributes({}))


def _product(left: torch.Tensor, right: torch.Tensor, y: torch.Tensor, attributes: Owned) -> Operation:
    memories = {SRC: Memory(left), WEIGHTS: Memory(right), DST: Memory(y)}
    return Operation(onednn.product(memories[SRC], memories[WEIGHTS], memories[DST], attributes), memories)
