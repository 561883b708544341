"""Where the activations of a prepared engine lie: nothing is written over that is still needed, and few slots do."""

import pytest

from workers.activations import plan_activations
from workers.engine import resnet_layout
from workers.onednn import ALIGNMENT


@pytest.mark.parametrize("crop", [33, 224])
@pytest.mark.parametrize("arch", ["resnet18", "resnet152", "resnext50_32x4d", "wide_resnet50_2"])
def test_no_convolution_writes_over_what_a_later_one_reads(arch, crop):
    layout = resnet_layout(arch, 1000, crop)
    plan = plan_activations(layout, ALIGNMENT)
    holds = {plan.stem.x.slot: "input"}
    for step in (plan.stem, *plan.steps):
        if step is plan.steps[0]:
            assert holds.pop(plan.stem.y.slot) == layout.stem.name
            assert plan.pooled.slot != plan.stem.y.slot
            holds[plan.pooled.slot] = layout.stem.name
        assert holds[step.x.slot] == step.x_of
        if step.residual:
            assert holds[step.y.slot] == step.residual
        assert step.y.slot != step.x.slot
        holds[step.y.slot] = step.conv.name
        assert step.y[1:] == (step.conv.weight_shape[0], step.conv.output_side)
        for place in (step.x, step.y):
            assert place.n_values <= plan.sizes[place.slot]
    assert {step.conv.name for step in plan.steps} == {conv.name for conv in layout.convs()} - {layout.stem.name}
    assert holds[plan.steps[-1].y.slot] == layout.blocks[-1].convs[-1].name
    assert not any(size % ALIGNMENT for size in plan.sizes)


@pytest.mark.parametrize(("arch", "slots"), [("resnet18", 3), ("resnet50", 4)])
def test_all_activations_of_a_network_lie_in_few_slots(arch, slots):
    plan = plan_activations(resnet_layout(arch, 1000, 224), ALIGNMENT)
    largest = max(place.n_values for step in (plan.stem, *plan.steps) for place in (step.x, step.y))
    assert len(plan.sizes) == slots
    assert sum(plan.sizes) < 3.1 * largest
