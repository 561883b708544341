"""Shell: float32 engine for ResNets whose every operation is made once: `fp32.Fp32ResNet` without what torch does around
oneDNN, and with half the multiplications where that pays (`winograd.py`)."""

from collections.abc import Iterator

import torch

from . import onednn
from .activations import Step, plan_activations
from .layout import Layout
from .onednn import BIAS, Memory, Operation, Program
from .prepared import PackedConv, activation, allocate, pooling, split
from .resnet import Tensors, fold
from .winograd import MORE_WEIGHTS, Workspace, choose, convolve


class PreparedFp32ResNet:
    """See `fp32.Fp32ResNet`. Not for several threads at once."""

    def __init__(self, layout: Layout, tensors: Tensors, more_weights: float = MORE_WEIGHTS) -> None:
        """tensors: torchvision's state dict. more_weights: how much more memory weights may take for convolutions in half the
        multiplications, as a part of that of all convolutions' weights. What lies between their steps comes on top.

        Raises:
            RuntimeError: oneDNN is not there, or can't do this on this CPU.
        """
        plan = plan_activations(layout, onednn.ALIGNMENT)
        # As in `Fp32ResNet` a picture at a time: several at once are a little faster, and take so much more memory.
        self._slots = split(allocate(plan, 1, torch.float32), plan, 1)
        self._halved = choose(layout, more_weights)
        self._space = Workspace([conv for conv in layout.convs() if conv.name in self._halved])
        self._shape = torch.Size((1, layout.stem.weight_shape[1], layout.stem.side, layout.stem.side))
        self._input = Memory(torch.empty(self._shape, device="meta", memory_format=torch.channels_last))
        stem, pooled = (Memory(activation(place, 1, self._slots)) for place in (plan.stem.y, plan.pooled))
        operations = [*self._make(plan.stem, tensors, self._input, stem), pooling(stem, pooled)]
        for step in plan.steps:
            x, y = (Memory(activation(place, 1, self._slots)) for place in (step.x, step.y))
            operations += self._make(step, tensors, x, y)
        self._program = Program(operations)
        self._output = activation(plan.steps[-1].y, 1, self._slots)
        self._fc = tensors["fc.weight"], tensors["fc.bias"]

    def _make(self, step: Step, tensors: Tensors, x: Memory, y: Memory) -> Iterator[Operation]:
        conv = step.conv
        weight, bias = fold(conv, tensors)
        attributes = onednn.attributes({}, adds=step.residual is not None, is_rectified=conv.is_rectified)
        if conv.name in self._halved:
            yield from convolve(conv, weight, bias, attributes, x, y, self._space)
        else:
            memories = {BIAS: Memory(bias)}
            yield PackedConv(conv, weight, x.described, y.described, attributes, memories).operation(x, y)

    @torch.inference_mode()
    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.stack([self._run(row) for row in torch.split(batch, 1)])

    def _run(self, row: torch.Tensor) -> torch.Tensor:
        """(classes,) logits of a batch of one."""
        if row.shape != self._shape:
            raise RuntimeError(
                f"this engine computes pictures of {tuple(self._shape[1:])}, not of {tuple(row.shape[1:])}"
            )
        row = row.float().contiguous(memory_format=torch.channels_last)
        self._input.point_to(row)
        self._program.run()
        # As `F.linear`, for which MKL would keep another 1.4 MB.
        return torch.addmv(self._fc[1], self._fc[0], self._output[0].mean((1, 2)))
