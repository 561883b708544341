"""Pure: a ResNet as a list of convolutions, each with the batch norm and the rectifier that follow it."""

from collections.abc import Iterator
from dataclasses import dataclass

INPUT = "input"  # in int8, whose scale is that of the network's input; others are named after convolutions

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
    def x_shape(self) -> Ints:
        """Of its input for one picture."""
        return [1, self.weight_shape[1] * self.groups, self.side, self.side]

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
