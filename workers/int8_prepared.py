"""Shell: int8 engine for ResNets whose every operation is made once: `int8.Int8ResNet` without what torch does around oneDNN.

The numbers are the same, but for a value now and then that lies between two steps. What it has more of is state: activations
lie in one piece of memory that each pass writes anew.
"""

from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F

from . import onednn
from .int8 import in_steps_of, read_quantised, read_scale
from .int8_plan import Place, Step, plan_activations
from .layout import INPUT, Layout
from .onednn import BIAS, DST, SCALES, SRC, WEIGHTS, ZERO_POINTS, Memory, Operation, Owned
from .resnet import Tensors

AT_ONCE = 8  # pictures; more would not be faster each, and there is something to keep for each number of them


class _Pass(NamedTuple):
    """For one number of pictures."""

    input: Memory
    operations: tuple[Operation, ...]
    output: torch.Tensor


class _Layer:
    """A convolution with its weights, and what its operations for any number of pictures have in common."""

    def __init__(self, step: Step, tensors: Tensors) -> None:
        self._conv = conv = step.conv
        q, x, y = read_quantised(tensors, conv.name), read_scale(tensors, step.x_scale), read_scale(tensors, conv.name)
        residual = read_scale(tensors, step.residual) if step.residual else None
        factor, bias, residual_factor = in_steps_of(y, q, x, residual or x)
        zero_points = {role: scale.zero_point for role, scale in ((SRC, x), (DST, y)) if scale.zero_point}
        self._attributes = onednn.attributes(
            {WEIGHTS: onednn.PER_OUTPUT_CHANNEL if conv.groups == 1 else onednn.PER_OUTPUT_CHANNEL_OF_GROUPS},
            tuple(zero_points),
            (residual_factor, residual.zero_point) if residual else None,
            is_rectified=conv.is_rectified,
        )
        self._memories = {BIAS: Memory(bias), SCALES + WEIGHTS: Memory(factor)} | {
            ZERO_POINTS + role: _zero_point_memory(zero_point) for role, zero_point in zero_points.items()
        }
        weight = q.weight if conv.groups == 1 else q.weight.view(conv.groups, -1, *conv.weight_shape[1:])
        # In the order for one picture, for which the time matters most; other numbers of pictures make do with it.
        for_one = self._describe(_describe_one(step.x), _describe_one(step.y), onednn.describe_any(weight))
        self._memories[WEIGHTS] = onednn.pack(weight, for_one)

    def operation(self, x: Memory, y: Memory) -> Operation:
        description = self._describe(x.described, y.described, self._memories[WEIGHTS].described)
        return Operation(description, {**self._memories, SRC: x, DST: y})

    def _describe(self, x: Owned, y: Owned, weight: Owned) -> Owned:
        conv, bias = self._conv, self._memories[BIAS].described
        return onednn.convolution(x, weight, bias, y, conv.stride, conv.dilation, conv.padding, self._attributes)


class PreparedInt8ResNet:
    """See `int8.Int8ResNet`. Not for several threads at once."""

    def __init__(self, layout: Layout, tensors: Tensors) -> None:
        """tensors: named and shaped as `int8.expected_int8` says.

        Raises:
            RuntimeError: oneDNN is not there, or can't do this on this CPU.
        """
        self._plan = plan_activations(layout, onednn.ALIGNMENT)
        scale = read_scale(tensors, INPUT)
        self._input = {
            SCALES + DST: Memory(torch.tensor([scale.scale])),
            ZERO_POINTS + DST: _zero_point_memory(scale.zero_point),
        }
        self._stem = _Layer(self._plan.stem, tensors)
        self._layers = [_Layer(step, tensors) for step in self._plan.steps]
        self._last = read_scale(tensors, self._plan.steps[-1].conv.name)
        self._fc = tensors["fc.weight"] * tensors["fc.weight_scale"][:, None], tensors["fc.bias"]
        self._activations = onednn.aligned(0)
        self._passes: dict[torch.Size, _Pass] = {}

    @torch.inference_mode()
    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        means = [self._means(batch[i : i + AT_ONCE]) for i in range(0, len(batch), AT_ONCE)]
        return F.linear(means[0] if len(means) == 1 else torch.cat(means), *self._fc)

    def _means(self, batch: torch.Tensor) -> torch.Tensor:
        """(n, channels) float32: of each picture, of what the last block gives."""
        batch = batch.float().contiguous(memory_format=torch.channels_last)
        ready = self._passes.get(batch.shape) or self._prepare(batch.shape)
        ready.input.point_to(batch)
        for operation in ready.operations:
            operation.run()
        # Behind a rectifier the zero point is 0.
        return ready.output.mean((2, 3), dtype=torch.float32).mul_(self._last.scale)

    def _prepare(self, shape: torch.Size) -> _Pass:
        """For this number of pictures. All passes share the memory of the largest.

        Raises:
            RuntimeError: pictures have another shape than the network was made for.
        """
        n = shape[0]
        if len(self._activations) < n * sum(self._plan.sizes):
            self._passes.clear()
            self._activations = onednn.aligned(n * sum(self._plan.sizes))
        self._passes[shape] = made = self._make_pass(shape)
        return made

    def _make_pass(self, shape: torch.Size) -> _Pass:
        n, plan = shape[0], self._plan
        begins = [n * begin for begin in accumulate(plan.sizes, initial=0)]
        slots = [self._activations[begin:end] for begin, end in pairwise(begins)]

        def memory(place: Place) -> Memory:
            return Memory(_activation(place, n, slots[place.slot]))

        picture, stem, pooled = map(memory, (plan.stem.x, plan.stem.y, plan.pooled))
        given = Memory(torch.empty(shape, device="meta", memory_format=torch.channels_last))
        pooling = Operation(onednn.max_pooling(stem, pooled, kernel=3, stride=2, padding=1), {SRC: stem, DST: pooled})
        first = (self._quantise(given, picture), self._stem.operation(picture, stem), pooling)
        rest = tuple(
            layer.operation(memory(step.x), memory(step.y))
            for layer, step in zip(self._layers, plan.steps, strict=True)
        )
        last = plan.steps[-1].y
        return _Pass(given, first + rest, _activation(last, n, slots[last.slot]))

    def _quantise(self, real: Memory, stored: Memory) -> Operation:
        attr = onednn.attributes({DST: onednn.PER_TENSOR}, (DST,))
        return Operation(onednn.reorder(real, stored, attr), {**self._input, SRC: real, DST: stored})


def _activation(place: Place, n: int, memory: torch.Tensor) -> torch.Tensor:
    """(n, channels, side, side) uint8 in channels_last, at the beginning of this memory."""
    return memory[: n * place.n_bytes].view(n, place.side, place.side, place.channels).permute(0, 3, 1, 2)


def _describe_one(place: Place) -> Owned:
    """For one picture."""
    return onednn.describe(_activation(place, 1, torch.empty(place.n_bytes, dtype=torch.uint8, device="meta")))


def _zero_point_memory(zero_point: int) -> Memory:
    return Memory(torch.tensor([zero_point], dtype=torch.int32))
