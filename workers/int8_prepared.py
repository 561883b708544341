"""Shell: int8 engine for ResNets whose every operation is made once: `int8.Int8ResNet` without what torch does around oneDNN.

Every activation is the same. What it has more of is state: activations lie in one piece of memory that each pass writes anew.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from . import onednn
from .activations import Place, Step, plan_activations
from .batch import AT_ONCE
from .int8 import beside, in_steps_of, read_quantised, read_scale
from .layout import INPUT, Layout
from .onednn import BIAS, DST, SCALES, SRC, WEIGHTS, ZERO_POINTS, Memory, Operation, Owned, Program
from .prepared import PackedConv, activation, allocate, pooling, split
from .resnet import Tensors


class _Pass(NamedTuple):
    """For one number of pictures."""

    input: Memory
    program: Program
    output: torch.Tensor


def _pack(step: Step, tensors: Tensors) -> PackedConv:
    conv = step.conv
    q, x, y = read_quantised(tensors, conv.name), read_scale(tensors, step.x_of), read_scale(tensors, conv.name)
    scales = {WEIGHTS: onednn.PER_OUTPUT_CHANNEL if conv.groups == 1 else onednn.PER_OUTPUT_CHANNEL_OF_GROUPS}
    zero_points = {role: scale.zero_point for role, scale in ((SRC, x), (DST, y)) if scale.zero_point}
    memories = {ZERO_POINTS + role: _zero_point_memory(zero_point) for role, zero_point in zero_points.items()}
    if step.residual:
        residual = read_scale(tensors, step.residual)
        factor, bias = beside(residual, q, x)
        scales[DST] = onednn.PER_TENSOR
        memories[SCALES + DST] = Memory(torch.tensor([y.scale / residual.scale]))
    else:
        factor, bias = in_steps_of(y, q, x)
    attributes = onednn.attributes(
        scales, tuple(zero_points), adds=step.residual is not None, is_rectified=conv.is_rectified
    )
    memories |= {BIAS: Memory(bias), SCALES + WEIGHTS: Memory(factor)}
    return PackedConv(conv, q.weight, _describe_one(step.x), _describe_one(step.y), attributes, memories)


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
        self._stem = _pack(self._plan.stem, tensors)
        self._convs = [_pack(step, tensors) for step in self._plan.steps]
        self._last = read_scale(tensors, self._plan.steps[-1].conv.name)
        self._fc = tensors["fc.weight"] * tensors["fc.weight_scale"][:, None], tensors["fc.bias"]
        self._activations = allocate(self._plan, AT_ONCE, torch.uint8)  # what no pass writes to takes no memory
        # For one picture now: which order of the weights has a kernel depends on how many threads this one may use.
        picture = self._plan.stem.x
        one = torch.Size((1, picture.channels, picture.side, picture.side))
        self._passes = {one: self._make_pass(one)}

    @torch.inference_mode()
    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        means = [self._means(part) for part in torch.split(batch, AT_ONCE)]
        return F.linear(means[0] if len(means) == 1 else torch.cat(means), *self._fc)

    def _means(self, batch: torch.Tensor) -> torch.Tensor:
        """(n, channels) float32: of each picture, of what the last block gives."""
        batch = batch.float().contiguous(memory_format=torch.channels_last)
        if batch.shape not in self._passes:
            self._passes[batch.shape] = self._make_pass(batch.shape)
        ready = self._passes[batch.shape]
        ready.input.point_to(batch)
        ready.program.run()
        # Behind a rectifier the zero point is 0.
        return ready.output.mean((2, 3), dtype=torch.float32).mul_(self._last.scale)

    def _make_pass(self, shape: torch.Size) -> _Pass:
        """All passes share memory.

        Raises:
            RuntimeError: pictures have another shape than the network was made for.
        """
        n, plan = shape[0], self._plan
        slots = split(self._activations, plan, n)

        def at(place: Place) -> torch.Tensor:
            return activation(place, n, slots)

        picture, stem, pooled = map(at, (plan.stem.x, plan.stem.y, plan.pooled))
        given = Memory(torch.empty(shape, device="meta", memory_format=torch.channels_last))
        operations = [
            self._quantise(given, Memory(picture)),
            *self._stem.operations(picture, stem),
            pooling(Memory(stem), Memory(pooled)),
        ]
        for conv, step in zip(self._convs, plan.steps, strict=True):
            operations += conv.operations(at(step.x), at(step.y))
        return _Pass(given, Program(operations), at(plan.steps[-1].y))

    def _quantise(self, real: Memory, stored: Memory) -> Operation:
        attr = onednn.attributes({DST: onednn.PER_TENSOR}, (DST,))
        return Operation(onednn.reorder(real, stored, attr), {**self._input, SRC: real, DST: stored})


def _describe_one(place: Place) -> Owned:
    """For one picture."""
    shape = 1, place.channels, place.side, place.side
    return onednn.describe(torch.empty(shape, dtype=torch.uint8, device="meta", memory_format=torch.channels_last))


def _zero_point_memory(zero_point: int) -> Memory:
    return Memory(torch.tensor([zero_point], dtype=torch.int32))
