"""Convolutions in half the multiplications: the same values, whatever the size, and only where that pays."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tests.own_onednn import needs_onednn
from workers import onednn
from workers.engine import resnet_layout
from workers.layout import Conv
from workers.onednn import Memory
from workers.winograd import Room, WinogradConv, pays

CONV = Conv("conv", "", 0.0, (16, 16, 3, 3), [1, 1], [1, 1], [1, 1], 1, 32, is_rectified=True)


def random(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(conv, weight, bias, x, there, room):
    """The output of one picture; `there`: what is in its memory before, and added if it is not None."""
    y = torch.zeros(1, conv.weight_shape[0], conv.side, conv.side) if there is None else there.float()
    y = y.contiguous(memory_format=torch.channels_last)
    attributes = onednn.attributes({}, (), None if there is None else (1.0, 0), is_rectified=conv.is_rectified)
    made = WinogradConv(conv, weight.float(), bias.float(), attributes)
    x = x.float().contiguous(memory_format=torch.channels_last)
    for operation in list(made.operations(Memory(x), Memory(y), room)):
        operation.run()
    return y


def expected(conv, weight, bias, x, there):
    y = F.conv2d(x, weight, bias, padding=1)
    y = y if there is None else y + there
    return y.relu() if conv.is_rectified else y


@needs_onednn
@given(st.integers(1, 45), st.integers(1, 40), st.integers(1, 40), st.booleans(), st.booleans(), st.integers(0, 2**31))
def test_a_convolution_computes_what_a_direct_one_does(side, n_in, n_out, is_rectified, adds, seed):
    conv = replace(CONV, weight_shape=(n_out, n_in, 3, 3), side=side, is_rectified=is_rectified)
    weight, bias = random(n_out, n_in, 3, 3, seed=seed), random(n_out, seed=seed + 1)
    x = random(1, n_in, side, side, seed=seed + 2)
    there = random(1, n_out, side, side, seed=seed + 3) if adds else None
    right = expected(conv, weight, bias, x, there)
    got = run(conv, weight, bias, x, there, Room([conv])).double()
    largest = float(F.conv2d(x.abs(), weight.abs(), bias.abs(), padding=1).max())  # what rounding errors go by
    assert float((got - right).abs().max()) < 5e-6 * largest


@needs_onednn
def test_what_others_left_in_the_room_does_not_come_into_an_output():
    convs = [replace(CONV, side=side) for side in (45, 22, 33)]
    room = Room(convs)
    for memory in (room.combined, room.convolved):
        memory.fill_(torch.nan)
    for conv, seed in itertools.product(convs, (1, 2)):
        weight, bias, x = (
            random(16, 16, 3, 3, seed=seed),
            random(16, seed=seed),
            random(1, 16, conv.side, conv.side, seed=3),
        )
        got, right = run(conv, weight, bias, x, None, room), expected(conv, weight, bias, x, None)
        assert torch.allclose(got.double(), right, atol=1e-4)


@needs_onednn
def test_it_is_off_by_a_few_times_what_a_direct_convolution_is():
    """In a ResNet-18's sizes, by the mean of errors in float32, against float64."""
    conv = replace(CONV, weight_shape=(64, 64, 3, 3), side=56, is_rectified=False)
    weight, bias, x = random(64, 64, 3, 3, seed=1) / 24, random(64, seed=2), random(1, 64, 56, 56, seed=3)
    right = expected(conv, weight, bias, x, None)
    direct = F.conv2d(x.float(), weight.float(), bias.float(), padding=1)
    got = run(conv, weight, bias, x, None, Room([conv]))
    assert float((got - right).abs().mean()) < 4 * float((direct - right).abs().mean())


@pytest.mark.parametrize(
    "off",
    [
        {"weight_shape": (16, 16, 1, 1)},
        {"weight_shape": (16, 16, 5, 5)},
        {"weight_shape": (16, 4, 3, 3), "groups": 4},
        {"stride": [2, 2]},
        {"padding": [0, 0]},
        {"dilation": [2, 2]},
        {"side": 14},
    ],
)
def test_other_convolutions_are_computed_directly(off):
    assert pays(CONV)
    assert not pays(replace(CONV, **off))


@pytest.mark.parametrize(
    ("arch", "n"), [("resnet18", 7), ("resnet50", 6), ("resnext50_32x4d", 0), ("wide_resnet50_2", 6)]
)
def test_it_pays_in_the_first_two_stages_of_a_resnet(arch, n):
    convs = [conv for conv in resnet_layout(arch, 1000, 224).convs() if pays(conv)]
    assert len(convs) == n
    assert {conv.name.split(".")[0] for conv in convs} <= {"layer1", "layer2"}


def test_without_any_such_convolution_there_is_no_room():
    assert Room([]).combined.numel() == Room([]).convolved.numel() == 0
