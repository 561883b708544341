"""Convolutions in half the multiplications: the same values, whatever the size, and only where that pays."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.own_onednn import needs_onednn
from workers import onednn
from workers.engine import resnet_layout
from workers.layout import Block, Conv, Layout
from workers.onednn import Memory, Program
from workers.winograd import LEAST_SIDE, MORE_WEIGHTS, Workspace, choose, convolve

CONV = Conv("conv", "", 0.0, (16, 16, 3, 3), [1, 1], [1, 1], [1, 1], 1, 32, is_rectified=True)


def random(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(conv, weight, bias, x, there, space):
    """The output of one picture. there: what is in its memory before, and added; None: nothing is added."""
    y = torch.zeros(1, conv.weight_shape[0], conv.side, conv.side) if there is None else there.float()
    x, y = (one.float().contiguous(memory_format=torch.channels_last) for one in (x, y))
    attributes = onednn.attributes({}, adds=there is not None, is_rectified=conv.is_rectified)
    Program(list(convolve(conv, weight.float(), bias.float(), attributes, Memory(x), Memory(y), space))).run()
    return y


def expected(conv, weight, bias, x, there):
    y = F.conv2d(x, weight, bias, padding=1)
    y = y if there is None else y + there
    return y.relu() if conv.is_rectified else y


SIZES = st.integers(1, 45), st.integers(1, 40), st.integers(1, 40)


@pytest.mark.slow
@needs_onednn
@settings(deadline=None)
@given(*SIZES, st.booleans(), st.booleans(), st.integers(0, 2**31))
def test_a_convolution_computes_what_a_direct_one_does(side, n_in, n_out, is_rectified, adds, seed):
    conv = replace(CONV, weight_shape=(n_out, n_in, 3, 3), side=side, is_rectified=is_rectified)
    weight, bias = random(n_out, n_in, 3, 3, seed=seed), random(n_out, seed=seed + 1)
    x = random(1, n_in, side, side, seed=seed + 2)
    there = random(1, n_out, side, side, seed=seed + 3) if adds else None
    right = expected(conv, weight, bias, x, there)
    got = run(conv, weight, bias, x, there, Workspace([conv])).double()
    largest = float(F.conv2d(x.abs(), weight.abs(), bias.abs(), padding=1).max())  # what rounding errors go by
    assert float((got - right).abs().max()) < 5e-6 * largest


@needs_onednn
def test_what_others_left_in_the_workspace_does_not_come_into_an_output():
    convs = [replace(CONV, side=side) for side in (45, 22, 33)]
    space = Workspace(convs)
    space._slots.fill_(torch.nan)
    for conv, seed in itertools.product(convs, (1, 2)):
        weight, bias = random(16, 16, 3, 3, seed=seed), random(16, seed=seed)
        x = random(1, 16, conv.side, conv.side, seed=3)
        got, right = run(conv, weight, bias, x, None, space), expected(conv, weight, bias, x, None)
        assert torch.allclose(got.double(), right, atol=1e-4)


@needs_onednn
def test_it_is_off_by_a_few_times_what_a_direct_convolution_is():
    """In a ResNet-18's sizes, by the mean of errors in float32, against float64."""
    conv = replace(CONV, weight_shape=(64, 64, 3, 3), side=56, is_rectified=False)
    weight, bias, x = random(64, 64, 3, 3, seed=1) / 24, random(64, seed=2), random(1, 64, 56, 56, seed=3)
    right = expected(conv, weight, bias, x, None)
    direct = F.conv2d(x.float(), weight.float(), bias.float(), padding=1)
    got = run(conv, weight, bias, x, None, Workspace([conv]))
    assert float((got - right).abs().mean()) < 4 * float((direct - right).abs().mean())


@needs_onednn
def test_memory_in_another_order_is_refused_and_not_copied():
    x = Memory(torch.zeros(1, 16, 32, 32))
    with pytest.raises(RuntimeError, match="view"):
        list(convolve(CONV, torch.zeros(16, 16, 3, 3), torch.zeros(16), onednn.attributes({}), x, x, Workspace([CONV])))


# ---- which convolutions


@pytest.mark.parametrize(
    "off",
    [
        {"weight_shape": (16, 16, 1, 1)},
        {"weight_shape": (16, 16, 5, 5)},
        {"weight_shape": (16, 4, 3, 3), "groups": 4},
        {"stride": [2, 2]},
        {"padding": [0, 0]},
        {"dilation": [2, 2]},
        {"side": LEAST_SIDE - 1},
    ],
)
def test_other_convolutions_are_computed_directly(off):
    conv = replace(CONV, side=LEAST_SIDE)
    assert choose(Layout(conv, ()), more_weights=1) == {"conv"}
    assert choose(Layout(replace(conv, **off), ()), more_weights=1) == set()


def test_as_many_as_there_is_memory_for_and_the_first_ones_first():
    convs = [replace(CONV, name=name) for name in ("first", "second", "third", "fourth")]
    layout = Layout(convs[0], (Block(tuple(convs[1:]), None),))
    assert choose(layout, more_weights=0.5) == {"first", "second"}
    assert choose(layout, more_weights=0.2) == set()


STAGES_1_2 = {f"layer1.{i}.conv{j}" for i in (0, 1) for j in (1, 2)} | {
    "layer2.0.conv2",
    "layer2.1.conv1",
    "layer2.1.conv2",
}


def test_of_a_resnet18_it_is_those_of_the_first_two_stages():
    assert choose(resnet_layout("resnet18", 1000, 224), MORE_WEIGHTS) == STAGES_1_2


@pytest.mark.parametrize("crop", [64, 224, 640])
@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnet152", "resnext50_32x4d", "wide_resnet50_2"])
def test_whatever_the_size_of_pictures_the_weights_take_a_tenth_more_at_most(arch, crop):
    layout = resnet_layout(arch, 1000, crop)
    n_weights = {conv.name: torch.Size(conv.weight_shape).numel() for conv in layout.convs()}
    chosen = choose(layout, MORE_WEIGHTS)
    assert sum(n_weights[name] for name in chosen) <= 0.1 * sum(n_weights.values())
    assert bool(chosen) == (not arch.startswith("resnext"))


def test_without_any_such_convolution_there_is_no_workspace():
    assert Workspace([])._slots.numel() == 0
