"""Engines whose operations are made once: what they keep between passes does no harm, and what they made is given back."""

import threading

import psutil
import pytest
import torch

from hotpool.manifest import Preprocessing
from tests.own_onednn import needs_onednn
from tests.seen_network import batch_of, seen_network
from workers import engine as engine_module
from workers import onednn
from workers.batch import AT_ONCE
from workers.calibration import quantise, read_inputs
from workers.engine import make_fp32, make_int8, resnet_layout
from workers.fp32_prepared import PreparedFp32ResNet
from workers.heap import give_back
from workers.operators import Way
from workers.prepared import PackedConv
from workers.winograd import MORE_WEIGHTS

ARCH, CLASSES = "resnet18", 5
# Large enough that float32 goes Winograd's way in the first blocks, with a rest. In int8 each layer of random weights makes
# more of a value that lies between two steps, so there it is small.
CROPS = {"fp32": 90, "int8": 32}
slow = pytest.mark.slow  # a ResNet-18 has 11 million weights
pytestmark = needs_onednn
# What begins so has no kernel for many pictures, in a test: the first convolution and some in the middle.
SPLIT = ("conv1", "layer3")


@pytest.fixture(scope="module")
def makers():
    """Precision -> what makes an engine by a way."""
    _, tensors = seen_network(ARCH)
    fp32, int8 = ((ARCH, CLASSES, CROPS[precision]) for precision in ("fp32", "int8"))
    small = Preprocessing(resize=36, crop=CROPS["int8"])
    stored = quantise(tensors, ARCH, CLASSES, small, read_inputs(None, small).calibration)
    return {
        "fp32": lambda way=Way.PREPARED: make_fp32(tensors, *fp32, way=way),
        "int8": lambda way=Way.PREPARED: make_int8(stored, *int8, way=way),
    }


@pytest.fixture(params=["fp32", "int8"])
def precision(request):
    return request.param


@pytest.fixture
def crop(precision):
    return CROPS[precision]


@pytest.fixture
def make(makers, precision):
    return makers[precision]


@pytest.fixture(scope="module")
def engines(makers):
    return {precision: make() for precision, make in makers.items()}


@pytest.fixture
def engine(engines, precision):
    return engines[precision]


# ---- what is kept between two passes


@slow
def test_batches_of_all_sizes_in_any_order_are_computed_as_each_picture_alone(make, crop):
    engine, batch = make(), batch_of(8, crop)
    alone = torch.cat([engine(batch[i : i + 1]) for i in range(8)])
    for n in (1, 4, 2, 8, 1, 8, 3):
        assert torch.allclose(engine(batch[:n]), alone[:n], atol=1e-5), n  # the last layer adds up in another order


@slow
def test_an_answer_stays_as_it_is_when_the_next_one_is_computed(engine, crop):
    batch = batch_of(2, crop)
    first = engine(batch[:1])
    kept = first.clone()
    assert not torch.equal(engine(batch[1:]), kept)
    assert torch.equal(first, kept)


@slow
@pytest.mark.parametrize("n", [1, 3, AT_ONCE, 2 * AT_ONCE + 1])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_computes_what_torchs_operators_do_whatever_the_batch_looks_like(
    make, engine, precision, crop, n, order, dtype
):
    batch = batch_of(n, crop)
    expected = make(Way.FUSED)(batch)
    got = engine(batch.to(dtype).contiguous(memory_format=order))
    allowed = {"fp32": 3e-5, "int8": 0.01}[precision]  # sums in another order: 1.1e-5 was seen
    assert float((got - expected).abs().max()) < allowed * float(expected.abs().max())


@slow
@pytest.mark.parametrize(("most", "part"), [(1, 1), (2, 2), (3, 2)])
def test_what_has_no_kernel_for_so_many_pictures_is_computed_in_parts_and_the_rest_together(
    makers, monkeypatch, most, part
):
    batch, operation = batch_of(AT_ONCE + 1, CROPS["int8"]), PackedConv.operation
    allowed = AT_ONCE
    made: dict[str, list[int]] = {}

    def not_for_many(self, x, y):
        name, n = self._conv.name, len(x.tensor)
        if n > allowed and name.startswith(SPLIT):
            raise onednn.NoKernelError("no kernel")
        done = operation(self, x, y)
        made.setdefault(name, []).append(n)
        return done

    monkeypatch.setattr(PackedConv, "operation", not_for_many)
    engine = makers["int8"]()
    made.clear()
    engine(batch[:AT_ONCE])
    before, made, allowed = made, {}, most
    engine = makers["int8"]()
    alone = torch.cat([engine(batch[i : i + 1]) for i in range(len(batch))])
    made.clear()
    assert torch.allclose(engine(batch[:AT_ONCE]), alone[:AT_ONCE], atol=1e-5)
    assert len(made) == len(engine._convs) + 1
    for name, got in made.items():
        at_once = min(part, before[name][0])
        assert got == ([at_once] * (AT_ONCE // at_once) if name.startswith(SPLIT) else before[name]), name
    for n in (7, 5, 3, AT_ONCE + 1):
        assert torch.allclose(engine(batch[:n]), alone[:n], atol=1e-5), n


@slow
def test_where_one_picture_has_no_kernel_there_is_no_engine(make, monkeypatch):
    def none_at_all(*_):
        raise onednn.NoKernelError("no kernel")

    monkeypatch.setattr(PackedConv, "operation", none_at_all)
    with pytest.raises(onednn.NoKernelError, match="no kernel"):
        make()


@slow
def test_batches_of_tiny_pictures_are_not_computed_by_reference_code(monkeypatch):
    """With two threads, on several processors, oneDNN has kernels for one picture of this network, and for more not always."""
    made, convolution = [], onednn.convolution

    def noted(*arguments):
        description = convolution(*arguments)
        made.append(onednn.implementation(description))
        return description

    monkeypatch.setattr(onednn, "convolution", noted)
    _, tensors = seen_network("resnet50")
    size, tiny = ("resnet50", CLASSES, 32), Preprocessing(resize=36, crop=32)
    stored = quantise(tensors, "resnet50", CLASSES, tiny, read_inputs(None, tiny).calibration)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        engine, batch = make_int8(stored, *size, way=Way.PREPARED), batch_of(3, 32)
        alone = torch.cat([engine(batch[i : i + 1]) for i in range(3)])
        assert torch.allclose(engine(batch), alone, atol=1e-5)
    finally:
        torch.set_num_threads(before)
    assert made
    assert not [name for name in made if name.startswith("ref")]


@slow
def test_of_batches_of_many_sizes_no_more_is_kept_than_of_a_few():
    """Who asks chooses how many rows a tensor has."""
    _, tensors = seen_network(ARCH)
    size, small = (ARCH, CLASSES, 64), Preprocessing(resize=64, crop=64)
    stored = quantise(tensors, ARCH, CLASSES, small, read_inputs(None, small).calibration)
    engine = make_int8(stored, *size, way=Way.PREPARED)
    for n in (*range(1, 2 * AT_ONCE), *range(2 * AT_ONCE, 0, -1)):
        engine(batch_of(n, 64))
    assert sorted(shape[0] for shape in engine._passes) == list(range(1, AT_ONCE + 1))
    activations = engine._activations.untyped_storage().data_ptr()
    assert {ready.output.untyped_storage().data_ptr() for ready in engine._passes.values()} == {activations}
    assert all(ready.input.tensor.is_meta for ready in engine._passes.values())


@slow
def test_operations_that_run_one_after_another_have_one_scratchpad_large_enough_for_each(make, precision, crop):
    engine = make()
    engine(batch_of(3, crop))
    for program in [ready.program for ready in engine._passes.values()] if precision == "int8" else [engine._program]:
        pads = [one[onednn.SCRATCHPAD] for one in program._memories if onednn.SCRATCHPAD in one]
        assert len({pad.tensor.data_ptr() for pad in pads}) <= 1
        assert all(onednn._LIBRARY.dnnl_memory_desc_get_size(pad.described) <= len(pad.tensor) for pad in pads)


@slow
@pytest.mark.parametrize("off", [(3, 1, 1), (3, 0, -1), (1, 0, 0)])
def test_pictures_of_another_size_are_refused_and_the_next_ones_computed(engine, precision, crop, off):
    channels, *sides = off[0], crop + off[1], crop + off[2]
    said = {
        "fp32": rf"this engine computes pictures of \(3, {crop}, {crop}\), not of \({channels}, {sides[0]}, {sides[1]}\)",
        "int8": "oneDNN: reorder_primitive_desc_create gave status",
    }
    expected = engine(batch_of(2, crop))
    with pytest.raises(RuntimeError, match=said[precision]):
        engine(torch.zeros(2, channels, *sides))
    assert torch.equal(engine(batch_of(2, crop)), expected)


@slow
def test_an_engine_made_in_one_thread_computes_the_same_in_another(make, engine, crop):
    batch, made, threads = batch_of(3, crop), [], torch.get_num_threads()

    def load() -> None:
        torch.set_num_threads(
            threads
        )  # as in a worker, whose environment says so; oneDNN packs weights for their number
        made.append(make())

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    assert torch.equal(made[0](batch), engine(batch))


@slow
def test_what_an_engine_made_is_given_back_with_it(make, crop):
    """Its weights alone are 11 or 47 MB, and with each rollout there is another engine."""

    def load_and_drop(times: int) -> int:
        for _ in range(times):
            make()(batch_of(2, crop))
        give_back()
        return psutil.Process().memory_info().rss

    before = load_and_drop(5)
    assert load_and_drop(30) - before < 15e6


@slow
@pytest.mark.parametrize("are_fused_there", [True, False])
def test_a_network_with_a_convolution_without_a_kernel_is_computed_by_torchs_operators_and_it_is_said_once(
    precision, are_fused_there, monkeypatch, caplog
):
    """Those that are tried first may all have one."""
    _, tensors = seen_network(ARCH)
    crop = CROPS["int8"]
    size, small = (ARCH, CLASSES, crop), Preprocessing(resize=36, crop=crop)
    if precision == "int8":
        tensors = quantise(tensors, ARCH, CLASSES, small, read_inputs(None, small).calibration)
    make = {"fp32": make_fp32, "int8": make_int8}[precision]
    monkeypatch.setattr(
        engine_module, "ways", lambda _: (way for way in Way if are_fused_there or way is not Way.FUSED)
    )

    def none_at_all(*_):
        raise onednn.NoKernelError("no kernel")

    monkeypatch.setattr(PackedConv, "operation", none_at_all)
    engine_module._note_once.cache_clear()
    batch = batch_of(2, crop)
    engine, _ = (make(tensors, *size) for _ in range(2))  # as in two rollouts
    said = f"event=fallback precision={precision} without=prepared torch={torch.__version__} reason='no kernel'"
    assert caplog.text.count(said) == 1
    way = Way.FUSED if are_fused_there else Way.PLAIN
    assert torch.equal(engine(batch), make(tensors, *size, way=way)(batch))


# ---- Winograd's convolutions in a network


@slow
@pytest.mark.parametrize("more_weights", [0, MORE_WEIGHTS, 1])
@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d"])
def test_a_network_computes_what_torchvision_computes_however_many_are_in_half_the_multiplications(arch, more_weights):
    model, tensors = seen_network(arch)
    crop = CROPS["fp32"]
    batch = batch_of(2, crop)
    with torch.inference_mode():
        expected = model(batch)
    engine = PreparedFp32ResNet(resnet_layout(arch, CLASSES, crop), tensors, more_weights)
    assert torch.allclose(engine(batch), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


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
def test_without_the_library_an_engine_says_why_it_can_not_be_made(monkeypatch, make):
    monkeypatch.setattr(onednn, "_LIBRARY", None)
    monkeypatch.setattr(onednn, "why_missing", "the package is not installed")
    with pytest.raises(RuntimeError, match="the package is not installed"):
        make()


def test_what_onednn_refuses_is_named():
    x = onednn.describe(torch.zeros(1, 8, 5, 5, dtype=torch.uint8))
    weight = onednn.describe(torch.zeros(8, 4, 3, 3, dtype=torch.int8))  # for 4 channels, not for 8
    bias = onednn.describe(torch.zeros(8))
    with pytest.raises(RuntimeError, match=r"oneDNN: convolution_forward_primitive_desc_create gave status \d"):
        onednn.convolution(x, weight, bias, x, [1, 1], [1, 1], [1, 1], onednn.attributes({}))


def test_what_onednn_would_compute_value_by_value_is_refused():
    """With gaps between its values there is no kernel for it."""
    x = onednn.describe(torch.zeros(1, 8, 5, 10)[..., ::2])
    weight, y = onednn.describe(torch.zeros(8, 8, 3, 3)), onednn.describe(torch.zeros(1, 8, 5, 5))
    with pytest.raises(
        onednn.NoKernelError, match="convolution_forward_primitive_desc_create finds no kernel on this CPU, only ref"
    ):
        onednn.convolution(x, weight, None, y, [1, 1], [1, 1], [1, 1], onednn.attributes({}))
