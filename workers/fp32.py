"""Shell: float32 engines. ResNets by oneDNN's fused operators, everything else folded by torch's own.

A fused operator does convolution, bias, residual and rectifier in one pass over memory, with weights that were brought into
oneDNN's own order once at load.
"""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.densenet import _DenseLayer
from torchvision.models.googlenet import BasicConv2d as GoogLeNetConv
from torchvision.models.inception import BasicConv2d as InceptionConv

from .batch import AT_ONCE
from .layout import Block, Conv, Layout
from .resnet import ConvOperator, RunningBlock, Tensors, fold

MakeConv = Callable[[Conv, torch.Tensor, torch.Tensor], ConvOperator]


class FusedConv:
    """See `ConvOperator`."""

    def __init__(self, conv: Conv, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self._options = (conv.padding, conv.stride, conv.dilation, conv.groups)
        # Without the size of a picture oneDNN may choose an order of the weights that it doesn't compute with, and bring them
        # into the right one again in each call: with AVX2 a ResNet-18 took 260 instead of 47 ms.
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *self._options, conv.x_shape)
        self._bias = bias
        self._rectifier = "relu" if conv.is_rectified else "none"
        # Looked up once: finding an overload costs more than a microsecond, and there are 20 calls for a picture.
        self._run = torch.ops.mkldnn._convolution_pointwise.default
        self._run_and_add = torch.ops.mkldnn._convolution_pointwise_.binary

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self._run(x, self._weight, self._bias, *self._options, self._rectifier, [], "")
        return y

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self._run_and_add(
            residual, x, self._weight, self._bias, *self._options, "add", 1.0, "relu", [], ""
        )
        return y


class PlainConv:
    """See `ConvOperator`: the same by torch's public operators, where the fused ones are missing."""

    def __init__(self, conv: Conv, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self._options = (conv.stride, conv.padding, conv.dilation, conv.groups)
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        self._bias, self._is_rectified = bias, conv.is_rectified

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = F.conv2d(x, self._weight, self._bias, *self._options)
        return y.relu_() if self._is_rectified else y

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return residual.add_(F.conv2d(x, self._weight, self._bias, *self._options)).relu_()


class Fp32ResNet:
    """A ResNet whose batch norms are folded into its convolutions."""

    def __init__(self, layout: Layout, tensors: Tensors, make: MakeConv) -> None:
        """tensors: torchvision's state dict. make: `FusedConv` or `PlainConv`."""

        def ready(conv: Conv) -> ConvOperator:
            return make(conv, *fold(conv, tensors))

        def ready_block(block: Block) -> RunningBlock:
            return RunningBlock(tuple(map(ready, block.convs)), ready(block.downsample) if block.downsample else None)

        self._stem = ready(layout.stem)
        self._blocks = [ready_block(block) for block in layout.blocks]
        self._fc = tensors["fc.weight"], tensors["fc.bias"]

    @torch.inference_mode()
    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        # Row by row: four at once take 0.95 of the time, and 30 MB more in every worker, which malloc keeps.
        return torch.cat([self._run(row) for row in torch.split(batch, 1)])

    def _run(self, batch: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self._stem(batch.contiguous(memory_format=torch.channels_last)), 3, 2, 1)
        for block in self._blocks:
            x = block(x)
        return F.linear(x.mean((2, 3)), *self._fc)


class FoldedModule:
    """Any classifier: batch norms folded where one directly follows a convolution, convolutions in channels_last."""

    def __init__(self, model: torch.nn.Module) -> None:
        """Changes the model."""
        _fold(model)
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._model = model

    @torch.inference_mode()
    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        parts = torch.split(batch.contiguous(memory_format=torch.channels_last), AT_ONCE)
        return torch.cat([self._model(part) for part in parts])


def _fold(model: torch.nn.Module) -> None:
    for module in list(model.modules()):
        for at, behind in _neighbours(module):
            conv, norm = getattr(module, at), getattr(module, behind)
            if isinstance(conv, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                setattr(module, at, fuse_conv_bn_eval(conv, norm))
                setattr(module, behind, torch.nn.Sequential())  # without parts it passes on what it gets


def _neighbours(module: torch.nn.Module) -> list[tuple[str, str]]:
    """Names of parts of which the second gets just what the first gives. Outside of a Sequential the order of the parts
    does not say what flows where, but in these of torchvision's own it is known."""
    if isinstance(module, torch.nn.Sequential):
        return list(pairwise(name for name, _ in module.named_children()))
    if isinstance(module, GoogLeNetConv | InceptionConv):
        return [("conv", "bn")]
    return [("conv1", "norm2")] if isinstance(module, _DenseLayer) else []
