"""Shell: torchvision's ResNets as a list of convolutions, each with the batch norm and the rectifier that follow it."""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

Tensors = Mapping[str, torch.Tensor]
Ints = list[int]


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution and its batch norm, by their names in the state dict.

    side: height and width of its input for a picture. is_rectified: negative outputs become 0; in the last one of a block after
    the residual was added.
    """

    name: str
    norm: str
    norm_eps: float
    weight_shape: tuple[int, ...]
    stride: Ints
    padding: Ints
    dilation: Ints
    groups: int
    side: int
    is_rectified: bool

    @property
    def output_side(self) -> int:
        reach = self.dilation[0] * (self.weight_shape[2] - 1)
        return (self.side + 2 * self.padding[0] - reach - 1) // self.stride[0] + 1


@dataclass(frozen=True, slots=True)
class Block:
    """convs: one after the other; what came into the block, through `downsample` if there is one, is added to the last."""

    convs: tuple[Conv, ...]
    downsample: Conv | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Stem, 3x3 max pooling, blocks, mean over the picture, and one linear layer named `fc`."""

    stem: Conv
    blocks: tuple[Block, ...]

    def convs(self) -> Iterator[Conv]:
        yield self.stem
        for block in self.blocks:
            yield from block.convs
            if block.downsample:
                yield block.downsample


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
