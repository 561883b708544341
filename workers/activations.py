"""Pure: where the activations of a ResNet lie: few slots, used again and again, so that they stay in the cache."""

from dataclasses import dataclass
from typing import NamedTuple

from .layout import INPUT, Conv, Layout


class Place(NamedTuple):
    """An activation: (channels, side, side) for each picture, in a slot of the memory for activations."""

    slot: int
    channels: int
    side: int

    @property
    def n_values(self) -> int:
        return self.channels * self.side**2


class Step(NamedTuple):
    """A convolution of `x` into `y`. x_of: whose output x is, maybe pooled. residual: whose output is in y already, if any."""

    conv: Conv
    x: Place
    y: Place
    x_of: str
    residual: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """sizes: of each slot, in values for one picture. pooled: the output of the stem after the pooling."""

    sizes: tuple[int, ...]
    stem: Step
    pooled: Place
    steps: tuple[Step, ...]


class _Slots:
    """Slots for activations, each used again once what was in it is not needed any more."""

    def __init__(self, alignment: int) -> None:
        self._alignment = alignment
        self.sizes: list[int] = []
        self._free: set[int] = set()

    def take(self, channels: int, side: int) -> Place:
        """The smallest free slot that is large enough; else the largest, made larger; else a new one."""
        needed = -(-Place(0, channels, side).n_values // self._alignment) * self._alignment
        if not self._free:
            self._free.add(len(self.sizes))
            self.sizes.append(0)
        enough = [slot for slot in self._free if self.sizes[slot] >= needed]
        slot = min(enough, key=self._size) if enough else max(self._free, key=self._size)
        self._free.remove(slot)
        self.sizes[slot] = max(self.sizes[slot], needed)
        return Place(slot, channels, side)

    def give(self, place: Place) -> None:
        self._free.add(place.slot)

    def _size(self, slot: int) -> tuple[int, int]:
        return self.sizes[slot], slot  # of equal ones always the same


def plan_activations(layout: Layout, alignment: int) -> Plan:
    """Which convolution reads and writes what, in their order. The sizes of slots are multiples of `alignment`, in values."""
    slots = _Slots(alignment)
    stem, side = layout.stem, layout.blocks[0].convs[0].side
    picture = slots.take(stem.weight_shape[1], stem.side)
    first = Step(stem, picture, slots.take(stem.weight_shape[0], stem.output_side), INPUT)
    slots.give(picture)
    pooled = slots.take(stem.weight_shape[0], side)
    slots.give(first.y)
    steps: list[Step] = []
    x, x_of = pooled, stem.name
    for block in layout.blocks:
        residual, residual_of = x, x_of
        if down := block.downsample:
            residual, residual_of = slots.take(down.weight_shape[0], down.output_side), down.name
            steps.append(Step(down, x, residual, x_of))
        between, between_of = x, x_of
        for conv in block.convs:
            is_last = conv is block.convs[-1]
            y = residual if is_last else slots.take(conv.weight_shape[0], conv.output_side)
            steps.append(Step(conv, between, y, between_of, residual_of if is_last else None))
            if between is not x:
                slots.give(between)
            between, between_of = y, conv.name
        if residual is not x:
            slots.give(x)
        x, x_of = between, between_of
    return Plan(tuple(slots.sizes), first, pooled, tuple(steps))
