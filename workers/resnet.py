"""Shell: the layout of torchvision's ResNets, read from its modules, and what runs by one."""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

from .layout import Block, Conv, Layout

Tensors = Mapping[str, torch.Tensor]


class ConvOperator(Protocol):
    """A convolution with its weights, ready to run; inputs and outputs are (n, channels, h, w) in channels_last."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """The convolution plus `residual`, whose memory may be written to, then the rectifier."""


@dataclass(frozen=True, slots=True)
class RunningBlock:
    """A block whose convolutions are ready to run."""

    convs: tuple[ConvOperator, ...]
    downsample: ConvOperator | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.downsample(x) if self.downsample else x
        for conv in self.convs[:-1]:
            x = conv(x)
        return self.convs[-1].add(x, residual)


def read_layout(model: ResNet, side: int) -> Layout:
    """Of a network as `architecture.build_empty` gives it; no value is read. side: height and width of a picture's input."""
    stem = _conv(model.conv1, "conv1", model.bn1, "bn1", side, is_rectified=True)
    side = (stem.output_side + 2 - 3) // 2 + 1  # after the pooling
    blocks = []
    for i, stage in enumerate((model.layer1, model.layer2, model.layer3, model.layer4), start=1):
        for j, block in enumerate(stage):
            blocks.append(_block(f"layer{i}.{j}", block, side))
            side = blocks[-1].convs[-1].output_side
    return Layout(stem, tuple(blocks))


def fold(conv: Conv, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the one convolution that does what this one and its batch norm do."""
    norm = {part: tensors[f"{conv.norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")}
    weight, bias = fuse_conv_bn_weights(
        tensors[f"{conv.name}.weight"], None, norm["running_mean"], norm["running_var"], conv.norm_eps,
        norm["weight"], norm["bias"],
    )  # fmt: skip
    return weight.detach(), bias.detach()


def _block(name: str, block: BasicBlock | Bottleneck, side: int) -> Block:
    convs: list[Conv] = []
    for i in range(1, 4 if isinstance(block, Bottleneck) else 3):
        conv, norm = getattr(block, f"conv{i}"), getattr(block, f"bn{i}")
        input_side = convs[-1].output_side if convs else side
        convs.append(_conv(conv, f"{name}.conv{i}", norm, f"{name}.bn{i}", input_side, is_rectified=True))
    if block.downsample is None:
        return Block(tuple(convs), None)
    conv, norm = block.downsample
    downsample = _conv(conv, f"{name}.downsample.0", norm, f"{name}.downsample.1", side, is_rectified=False)
    return Block(tuple(convs), downsample)


def _conv(conv: Any, name: str, norm: Any, norm_name: str, side: int, *, is_rectified: bool) -> Conv:
    return Conv(
        name,
        norm_name,
        norm.eps,
        tuple(conv.weight.shape),
        list(conv.stride),
        list(conv.padding),
        list(conv.dilation),
        conv.groups,
        side,
        is_rectified,
    )
