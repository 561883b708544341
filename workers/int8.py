"""Shell: int8 engine for ResNets: convolutions of uint8 activations with int8 weights, as `quantise` made them.

A real value is `scale * (stored - zero_point)`. Weights have a scale for each output channel, activations one for the whole
tensor. What a version stores is plain tensors; their names are those of `expected_int8`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .batch import AT_ONCE
from .layout import INPUT, Conv, Layout
from .resnet import ConvOperator, RunningBlock, Tensors


class Scale(NamedTuple):
    """How the real values of one activation tensor are stored in uint8."""

    scale: float
    zero_point: int


class Quantised(NamedTuple):
    """weight: int8; weight_scale: (output channels,) float32; bias: (output channels,) float32, real values."""

    weight: torch.Tensor
    weight_scale: torch.Tensor
    bias: torch.Tensor


# The operator for a convolution; the scales are those of its input, its output, and the residual that `add` takes.
MakeInt8Conv = Callable[[Conv, Quantised, Scale, Scale, Scale], ConvOperator]


class FusedInt8Conv:
    """See `ConvOperator`. Computes in steps of the output: factor * sums + bias. So oneDNN has no scale of the input or the
    output to apply, which takes it longer. Only with a residual it has one, see `beside`."""

    def __init__(self, conv: Conv, q: Quantised, x: Scale, y: Scale, residual: Scale) -> None:
        factor, bias = in_steps_of(y, q, x)
        options = (conv.stride, conv.padding, conv.dilation, conv.groups)
        # In the order that oneDNN wants for one picture of this size. Without the size it may choose another one and bring the
        # weights into the right order again in each call: a twelfth of the time at batch 1, and nothing lost at larger ones.
        packed = torch.ops.onednn.qconv_prepack(q.weight, factor, 1.0, x.zero_point, *options, conv.x_shape)
        weight_zero_point = torch.zeros(len(q.bias), dtype=torch.int32)
        # All but x and the residual, as the operators want them: nothing is put together for each picture.
        self._before = (1.0, x.zero_point, packed, factor, weight_zero_point)
        self._after = (bias, *options, 1.0, y.zero_point, torch.uint8)
        self._rectifier = "relu" if conv.is_rectified else "none"
        factor, bias = beside(residual, q, x)
        self._before_adding = (1.0, x.zero_point, packed, factor, weight_zero_point)
        self._after_adding = (bias, *options, y.scale / residual.scale, y.zero_point, torch.uint8)
        self._run = torch.ops.onednn.qconv2d_pointwise.default
        self._run_and_add = torch.ops.onednn.qconv2d_pointwise.binary

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self._run(x, *self._before, *self._after, self._rectifier, [], "")
        return y

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self._run_and_add(
            x, *self._before_adding, residual, *self._after_adding, 1.0, 0, "sum", 1.0, "relu", [], ""
        )
        return y


class PlainInt8Conv:
    """See `ConvOperator`: the same numbers by torch's public operators in float32, where the fused ones are missing
    or would cut off sums of an earlier version's weights.

    Slower than a float32 engine; it is there so that a version answers alike on every machine, and to check the fused one.
    """

    def __init__(self, conv: Conv, q: Quantised, x: Scale, y: Scale, residual: Scale) -> None:
        self._options = (conv.stride, conv.padding, conv.dilation, conv.groups)
        self._weight = q.weight.float()
        self._in_steps, self._beside = in_steps_of(y, q, x), beside(residual, q, x)
        self._per_step = torch.tensor(y.scale / residual.scale).reciprocal()
        self._is_rectified = conv.is_rectified
        self._x_zero, self._y_zero = x.zero_point, y.zero_point

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = self._sums(x, *self._in_steps)
        return nearest_uint8(y.relu_() if self._is_rectified else y, self._y_zero)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        y = self._sums(x, *self._beside).add_(residual).relu_()
        return nearest_uint8(y.mul_(self._per_step), self._y_zero)

    def _sums(self, x: torch.Tensor, factor: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        sums = F.conv2d(x.float() - self._x_zero, self._weight, None, *self._options)
        return sums.mul_(factor[:, None, None]).add_(bias[:, None, None])


class Int8ResNet:
    """A ResNet in int8; only the mean over the picture and the last layer compute with real values."""

    def __init__(self, layout: Layout, tensors: Tensors, make: MakeInt8Conv) -> None:
        """tensors: named and shaped as `expected_int8` says. make: `FusedInt8Conv` or `PlainInt8Conv`."""

        def ready(conv: Conv, x: Scale, residual: Scale) -> ConvOperator:
            return make(conv, read_quantised(tensors, conv.name), x, read_scale(tensors, conv.name), residual)

        self._input, x = read_scale(tensors, INPUT), read_scale(tensors, layout.stem.name)
        self._stem = ready(layout.stem, self._input, x)
        self._blocks: list[RunningBlock] = []
        for block in layout.blocks:
            residual = read_scale(tensors, block.downsample.name) if block.downsample else x
            downsample = ready(block.downsample, x, residual) if block.downsample else None
            convs = []
            for conv in block.convs:
                convs.append(ready(conv, x, residual))
                x = read_scale(tensors, conv.name)
            self._blocks.append(RunningBlock(tuple(convs), downsample))
        self._last = x
        self._fc = tensors["fc.weight"] * tensors["fc.weight_scale"][:, None], tensors["fc.bias"]

    @torch.inference_mode()
    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.cat([self._run(part) for part in torch.split(batch, AT_ONCE)])

    def _run(self, batch: torch.Tensor) -> torch.Tensor:
        x = max_pool(self._stem(to_uint8(batch.contiguous(memory_format=torch.channels_last), self._input)))
        for block in self._blocks:
            x = block(x)
        # Behind a rectifier the zero point is 0.
        return F.linear(x.mean((2, 3), dtype=torch.float32).mul_(self._last.scale), *self._fc)


def to_uint8(real: torch.Tensor, to: Scale) -> torch.Tensor:
    """The nearest stored values; what lies outside of the range becomes its end."""
    return nearest_uint8(real.mul(1 / to.scale), to.zero_point)


def nearest_uint8(steps: torch.Tensor, zero_point: int) -> torch.Tensor:
    """As `to_uint8`, of values that are given in steps. Changes them.

    Rounded when the zero point is there already, as oneDNN does it: of values half way the one or the other is even.
    """
    return steps.add_(zero_point).round_().clamp_(0, 255).to(torch.uint8)


def max_pool(x: torch.Tensor) -> torch.Tensor:
    """3x3, stride 2, padding 1, of (n, c, h, w) uint8 in channels_last whose least value is 0, the real 0 too.

    torch has none for uint8 in channels_last. First along the height, then along the width.
    """
    return _halve(_halve(x).transpose(2, 3)).transpose(2, 3)


def _halve(x: torch.Tensor) -> torch.Tensor:
    even, odd = x[:, :, 0::2], x[:, :, 1::2]
    n_odd = odd.shape[2]
    if n_odd == even.shape[2]:
        y = torch.maximum(even, odd)
    else:
        y = even.clone()
        torch.maximum(y[:, :, :n_odd], odd, out=y[:, :, :n_odd])
    torch.maximum(y[:, :, 1:], odd[:, :, : y.shape[2] - 1], out=y[:, :, 1:])
    return y


def expected_int8(layout: Layout, classes: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> (shape, dtype) of every tensor that an int8 version stores."""
    expected: dict[str, tuple[tuple[int, ...], str]] = {}
    shapes = {conv.name: conv.weight_shape for conv in layout.convs()}
    features = layout.blocks[-1].convs[-1].weight_shape[0]
    for name, shape in {**shapes, "fc": (classes, features)}.items():
        expected[f"{name}.weight"] = shape, "int8"
        expected[f"{name}.weight_scale"] = expected[f"{name}.bias"] = shape[:1], "float32"
    for name in (INPUT, *shapes):
        expected[f"{name}.scale"], expected[f"{name}.zero_point"] = ((1,), "float32"), ((1,), "int32")
    return expected


def in_steps_of(y: Scale, q: Quantised, x: Scale) -> tuple[torch.Tensor, torch.Tensor]:
    """What a sum of products and the bias are worth in the output's steps."""
    return q.weight_scale * (x.scale / y.scale), q.bias / y.scale


def beside(residual: Scale, q: Quantised, x: Scale) -> tuple[torch.Tensor, torch.Tensor]:
    """What they are worth in the residual's steps, to which it is then added as it is stored.

    oneDNN can also be told what a step of the residual is worth in the output's, and its zero point. But both become part of
    the code that it makes, and that stays in memory when the version has gone: 0.7 to 2.1 MB of each one.
    """
    factor, bias = in_steps_of(residual, q, x)
    return factor, bias - residual.zero_point


def read_scale(tensors: Tensors, name: str) -> Scale:
    return Scale(float(tensors[f"{name}.scale"]), int(tensors[f"{name}.zero_point"]))


def read_quantised(tensors: Tensors, name: str) -> Quantised:
    return Quantised(tensors[f"{name}.weight"], tensors[f"{name}.weight_scale"], tensors[f"{name}.bias"])
