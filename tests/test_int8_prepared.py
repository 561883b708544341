"""The int8 engine whose operations are made once: what it keeps between passes does no harm, and what it made is given back."""

import threading

import psutil
import pytest
import torch

from hotpool.manifest import Preprocessing
from tests.own_onednn import needs_onednn
from tests.seen_network import batch_of, seen_network
from workers import onednn
from workers.calibration import quantise, read_inputs
from workers.engine import make_int8, resnet_layout
from workers.int8_plan import plan_activations
from workers.int8_prepared import AT_ONCE
from workers.onednn import ALIGNMENT
from workers.operators import Way

ARCH, CLASSES, CROP = "resnet18", 5, 32
SIZE = (ARCH, CLASSES, CROP)
SMALL = Preprocessing(resize=36, crop=CROP)
slow = pytest.mark.slow  # a ResNet-18 has 11 million weights
pytestmark = needs_onednn


@pytest.fixture(scope="module")
def stored():
    _, tensors = seen_network(ARCH)
    return quantise(resnet_layout(*SIZE), tensors, SMALL, read_inputs(None, SMALL).calibration)


@pytest.fixture(scope="module")
def engine(stored):
    return make_int8(stored, *SIZE, way=Way.PREPARED)


# ---- where activations lie


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
            holds[plan.pooled.slot] = layout.stem.name  # pooling keeps the scale
        assert holds[step.x.slot] == step.x_scale
        if step.residual:
            assert holds[step.y.slot] == step.residual
        assert step.y.slot != step.x.slot
        holds[step.y.slot] = step.conv.name
        assert step.y[1:] == (step.conv.weight_shape[0], step.conv.output_side)
        for place in (step.x, step.y):
            assert place.n_bytes <= plan.sizes[place.slot]
    assert {step.conv.name for step in plan.steps} == {conv.name for conv in layout.convs()} - {layout.stem.name}
    assert holds[plan.steps[-1].y.slot] == layout.blocks[-1].convs[-1].name
    assert not any(size % ALIGNMENT for size in plan.sizes)


@pytest.mark.parametrize(("arch", "slots"), [("resnet18", 3), ("resnet50", 4)])
def test_all_activations_of_a_network_lie_in_few_slots(arch, slots):
    plan = plan_activations(resnet_layout(arch, 1000, 224), ALIGNMENT)
    assert len(plan.sizes) == slots
    assert sum(plan.sizes) < 3.1 * max(place.n_bytes for step in (plan.stem, *plan.steps) for place in (step.x, step.y))


# ---- what is kept between two passes


@slow
def test_batches_of_all_sizes_in_any_order_are_computed_as_each_picture_alone(stored):
    engine, batch = make_int8(stored, *SIZE, way=Way.PREPARED), batch_of(8, CROP)
    alone = torch.cat([engine(batch[i : i + 1]) for i in range(8)])
    for n in (1, 4, 2, 8, 1, 8, 3):
        assert torch.allclose(engine(batch[:n]), alone[:n], atol=1e-5), n  # the last layer adds up in another order


@slow
def test_an_answer_stays_as_it_is_when_the_next_one_is_computed(engine):
    batch = batch_of(2, CROP)
    first = engine(batch[:1])
    kept = first.clone()
    assert not torch.equal(engine(batch[1:]), kept)
    assert torch.equal(first, kept)


@slow
@pytest.mark.parametrize("n", [1, 3, AT_ONCE, 2 * AT_ONCE + 1])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_computes_what_torchs_operators_do_whatever_the_batch_looks_like(stored, engine, n, order, dtype):
    batch = batch_of(n, CROP).to(dtype).contiguous(memory_format=order)
    expected = make_int8(stored, *SIZE, way=Way.FUSED)(batch)
    assert float((engine(batch) - expected).abs().max()) < 0.01 * float(expected.abs().max())


@slow
def test_of_batches_of_many_sizes_no_more_is_kept_than_of_a_few(stored):
    """Who asks chooses how many rows a tensor has."""
    engine = make_int8(stored, *SIZE, way=Way.PREPARED)
    for n in (*range(1, 2 * AT_ONCE), *range(2 * AT_ONCE, 0, -1)):
        engine(batch_of(n, CROP))
    assert len(engine._passes) == AT_ONCE
    activations = engine._activations.untyped_storage().data_ptr()
    assert {ready.output.untyped_storage().data_ptr() for ready in engine._passes.values()} == {activations}
    assert len(engine._activations) == AT_ONCE * sum(engine._plan.sizes)
    assert all(ready.input.tensor.is_meta for ready in engine._passes.values())


@slow
def test_pictures_of_another_size_are_refused_and_the_next_ones_computed(engine):
    expected = engine(batch_of(2, CROP))
    with pytest.raises(RuntimeError, match="oneDNN: reorder_primitive_desc_create gave status"):
        engine(batch_of(2, CROP + 1))
    assert torch.equal(engine(batch_of(2, CROP)), expected)


@slow
def test_an_engine_made_in_one_thread_computes_the_same_in_another(stored, engine):
    batch, made = batch_of(3, CROP), []
    thread = threading.Thread(target=lambda: made.append(make_int8(stored, *SIZE, way=Way.PREPARED)))
    thread.start()
    thread.join()
    assert torch.equal(made[0](batch), engine(batch))


@slow
def test_what_an_engine_made_is_given_back_with_it(stored):
    """Its weights alone are 11 MB, and with each rollout there is another engine."""

    def load_and_drop(times: int) -> int:
        for _ in range(times):
            make_int8(stored, *SIZE, way=Way.PREPARED)(batch_of(2, CROP))
        return psutil.Process().memory_info().rss

    before = load_and_drop(5)
    assert load_and_drop(30) - before < 15e6


# ---- the library


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(onednn, "PACKAGE", "no-such-onednn")
    with pytest.raises(OSError, match="the package no-such-onednn is not installed"):
        onednn._load()


def test_a_library_of_another_version_is_not_used(monkeypatch):
    monkeypatch.setattr(onednn, "MAJOR", 4)
    with pytest.raises(OSError, match=r"libdnnl.so.3 is oneDNN 3, not 4"):
        onednn._load()


@slow
def test_without_the_library_an_engine_says_why_it_can_not_be_made(monkeypatch, stored):
    monkeypatch.setattr(onednn, "_LIBRARY", None)
    monkeypatch.setattr(onednn, "why_missing", "the package is not installed")
    with pytest.raises(RuntimeError, match="the package is not installed"):
        make_int8(stored, *SIZE, way=Way.PREPARED)


def test_what_onednn_refuses_is_named():
    x = onednn.describe(torch.zeros(1, 8, 5, 5, dtype=torch.uint8))
    weight = onednn.describe(torch.zeros(8, 4, 3, 3, dtype=torch.int8))  # for 4 channels, not for 8
    bias = onednn.describe(torch.zeros(8))
    with pytest.raises(RuntimeError, match=r"oneDNN: convolution_forward_primitive_desc_create gave status \d"):
        onednn.convolution(x, weight, bias, x, [1, 1], [1, 1], [1, 1], onednn.attributes({}))
