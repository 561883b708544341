"""Shell: what engines whose operations are made once have in common: convolutions by oneDNN, activations in few slots."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import torch

from . import onednn
from .activations import Place, Plan
from .layout import Conv
from .onednn import BIAS, DST, SRC, WEIGHTS, Memory, NoKernelError, Operation, Owned


class PackedConv:
    """A convolution with its weights, and what its operations for any number of pictures have in common."""

    def __init__(
        self, conv: Conv, weight: torch.Tensor, x: Owned, y: Owned, attributes: Owned, memories: Mapping[int, Memory]
    ) -> None:
        """weight: shaped as conv says. memories: by their roles; what the operations read besides.

        x, y: what they are for one picture. Its time matters most, so the weight gets the order that suits it.
        """
        self._conv, self._attributes = conv, attributes
        self._bias = memories[BIAS].described if BIAS in memories else None
        grouped = weight if conv.groups == 1 else weight.view(conv.groups, -1, *weight.shape[1:])
        self._memories = {**memories, WEIGHTS: onednn.pack(grouped, self._describe(x, y, onednn.describe_any(grouped)))}

    def operations(self, x: torch.Tensor, y: torch.Tensor) -> list[Operation]:
        """One for all pictures, or for each half of them, and so on: weights lie as suits one picture, and for many pictures at
        once there may be no kernel that takes them so (none for four in a ResNet-18's third stage with AMX).

        Raises NoKernelError: there is none for one picture.
        """
        try:
            return [self.operation(Memory(x), Memory(y))]
        except NoKernelError:
            if len(x) <= 1:
                raise
        half = len(x) // 2
        return self.operations(x[:half], y[:half]) + self.operations(x[half:], y[half:])

    def operation(self, x: Memory, y: Memory) -> Operation:
        """Raises NoKernelError."""
        description = self._describe(x.described, y.described, self._memories[WEIGHTS].described)
        return Operation(description, {**self._memories, SRC: x, DST: y})

    def _describe(self, x: Owned, y: Owned, weight: Owned) -> Owned:
        conv = self._conv
        window = conv.stride, conv.dilation, conv.padding
        return onednn.convolution(x, weight, self._bias, y, *window, self._attributes)


def pooling(stem: Memory, pooled: Memory) -> Operation:
    """What follows the stem of a ResNet."""
    return Operation(onednn.max_pooling(stem, pooled, kernel=3, stride=2, padding=1), {SRC: stem, DST: pooled})


def allocate(plan: Plan, n: int, dtype: torch.dtype) -> torch.Tensor:
    """Memory for the activations of n pictures."""
    return onednn.aligned(n * sum(plan.sizes) * dtype.itemsize).view(dtype)


def split(memory: torch.Tensor, plan: Plan, n: int) -> list[torch.Tensor]:
    """The slots for n pictures, from the beginning of this memory."""
    begins = [n * begin for begin in accumulate(plan.sizes, initial=0)]
    return [memory[begin:end] for begin, end in pairwise(begins)]


def activation(place: Place, n: int, slots: Sequence[torch.Tensor]) -> torch.Tensor:
    """(n, channels, side, side) in channels_last, at the beginning of its slot."""
    values = slots[place.slot][: n * place.n_values]
    return values.view(n, place.side, place.side, place.channels).permute(0, 3, 1, 2)
