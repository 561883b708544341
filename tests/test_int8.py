"""Versions in int8: made from pictures, compared with float32, stored, verified and served alike by both ways to compute."""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from PIL import Image

from hotpool.digest import digest_tensors
from hotpool.errors import BadVersion
from hotpool.home import Home
from hotpool.logits import TOLERANCES
from hotpool.manifest import GOLDEN, MANIFEST, WEIGHTS, Preprocessing, manifest_json, version_folder
from tests import small_versions
from tests.own_onednn import HAS_ONEDNN, needs_onednn
from tests.seen_network import batch_of, seen_network
from workers import calibration, engine, operators
from workers.architecture import specs
from workers.calibration import Wish, choose, quantise, read_inputs
from workers.engine import as_arrays, make_engine, make_fp32, make_int8, map_tensors, resnet_layout
from workers.heap import give_back
from workers.int8 import (
    FusedInt8Conv,
    Int8ResNet,
    PlainInt8Conv,
    Quantised,
    Scale,
    expected_int8,
    max_pool,
    nearest_uint8,
)
from workers.int8_prepared import PreparedInt8ResNet
from workers.layout import Conv
from workers.loading import load_verified
from workers.operators import Way
from workers.quantise import LEVELS, fits_pairs, quantise_weight
from workers.scratch import check

pytestmark = pytest.mark.slow  # a ResNet-18 has 11 million weights
ARCH, CLASSES, CROP = "resnet18", 5, 32
SIZE = (ARCH, CLASSES, CROP)
SMALL = Preprocessing(resize=36, crop=CROP)
SEED = 41


@pytest.fixture(scope="module")
def stored():
    """The tensors of an int8 ResNet-18 that was calibrated by drawn pictures."""
    _, tensors = seen_network(ARCH)
    return quantise(tensors, ARCH, CLASSES, SMALL, read_inputs(None, SMALL).calibration)


def pictures(folder, n, size=(60, 50)):
    random = np.random.default_rng(SEED)
    folder.mkdir()
    for i in range(n):
        coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{i:03}.png")
    return folder


def test_the_stored_tensors_are_those_that_an_int8_version_expects(stored):
    assert specs(stored) == expected_int8(resnet_layout(*SIZE), CLASSES)


def test_an_int8_resnet18_of_1000_classes_is_smaller_than_13_mb(stored, tmp_path):
    fc = {
        "fc.weight": torch.zeros(1000, 512, dtype=torch.int8),
        "fc.weight_scale": torch.ones(1000),
        "fc.bias": torch.zeros(1000),
    }
    assert specs({**stored, **fc}) == expected_int8(resnet_layout(ARCH, 1000, 224), 1000)
    safetensors.torch.save_file({**stored, **fc}, tmp_path / WEIGHTS)
    assert (tmp_path / WEIGHTS).stat().st_size < 13_000_000


def scale_of(tensors, name):
    return float(quantise(tensors, ARCH, CLASSES, SMALL, read_inputs(None, SMALL).calibration)[f"{name}.scale"])


def test_a_range_is_cut_where_that_brings_the_logits_nearer_to_float32s(monkeypatch):
    """A channel of large values that no weight looks at: with the whole range, all the others would have coarse steps."""
    tensors = {name: tensor.clone() for name, tensor in seen_network(ARCH)[1].items()}
    tensors["layer1.0.bn1.weight"][0], tensors["layer1.0.bn1.bias"][0] = 5000.0, 0.0
    tensors["layer1.0.conv2.weight"][:, 0] = 0.0
    monkeypatch.setattr(calibration, "best_range", lambda counts, low, high: (low, 10.0 if high > 1000 else high))
    assert scale_of(tensors, "layer1.0.conv1") == pytest.approx(10.0 / LEVELS)


def test_ranges_are_compared_on_other_pictures_than_those_they_were_found_by(monkeypatch):
    """Found by faint pictures, a range is too narrow for the others; one four times as wide is better for those."""
    inputs = read_inputs(None, SMALL).calibration.clone()
    inputs[::2] *= 0.2

    def scale_with_ranges(times: float) -> float:
        monkeypatch.setattr(calibration, "best_range", lambda counts, low, high: (times * low, times * high))
        return float(quantise(seen_network(ARCH)[1], ARCH, CLASSES, SMALL, inputs)["layer1.0.conv1.scale"])

    assert scale_with_ranges(4.0) == pytest.approx(4 * scale_with_ranges(1.0))


def test_a_network_that_computes_values_that_are_not_finite_is_refused_in_int8():
    """Each of its weights is finite."""
    tensors = {name: tensor.clone() for name, tensor in seen_network(ARCH)[1].items()}
    tensors["layer1.0.bn1.weight"][:] = tensors["layer1.0.bn2.weight"][:] = 1e25
    with pytest.raises(BadVersion, match="this network computes values that are not finite"):
        quantise(tensors, ARCH, CLASSES, SMALL, read_inputs(None, SMALL).calibration)


def test_the_whole_range_is_kept_where_cutting_it_brings_the_logits_away_from_float32s(monkeypatch):
    tensors = seen_network(ARCH)[1]
    monkeypatch.setattr(calibration, "best_range", lambda counts, low, high: (low, high))
    whole = scale_of(tensors, "layer1.0.conv1")
    monkeypatch.setattr(calibration, "best_range", lambda counts, low, high: (low / 3, high / 3))
    assert scale_of(tensors, "layer1.0.conv1") == whole


@pytest.mark.parametrize("arch", [ARCH, "resnet50", "resnext50_32x4d"])
def test_int8_computes_nearly_what_float32_computes_by_each_way(arch):
    """Crop 33: odd sizes go another way through the pooling."""
    size = (arch, CLASSES, 33)
    _, tensors = seen_network(arch)
    inputs = read_inputs(None, Preprocessing(resize=36, crop=33))
    int8 = quantise(tensors, arch, CLASSES, Preprocessing(resize=36, crop=33), inputs.calibration)
    batch = inputs.held_out[:16]
    real = make_fp32(tensors, *size)(batch)
    ways = [way for way in Way if HAS_ONEDNN or way is not Way.PREPARED]
    by_way = {way: make_int8(int8, *size, way=way)(batch) for way in ways}
    largest = float(real.abs().max())
    for logits in by_way.values():
        assert float((logits - by_way[Way.PLAIN]).abs().max()) < TOLERANCES["int8"].difference * largest
        assert float(F.cosine_similarity(logits, real).min()) > 0.98


@pytest.mark.parametrize("operator", [FusedInt8Conv, PlainInt8Conv])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("is_rectified", [True, False])
def test_an_int8_convolution_is_the_nearest_to_the_real_one(operator, groups, is_rectified):
    """Against the definition, in float64: no arithmetic is shared with the operators."""
    generator = torch.Generator().manual_seed(7)
    x, y, residual = Scale(0.02, 3), Scale(0.07, 0 if is_rectified else 11), Scale(0.03, 5)
    conv = Conv("", "", 0.0, (32, 16 // groups, 3, 3), [1, 1], [1, 1], [1, 1], groups, 9, is_rectified)
    random = torch.rand(conv.weight_shape, generator=generator) * 2 - 1
    weight = torch.from_numpy(quantise_weight(random.numpy(), in_pairs=True)[0])
    weight_scale, bias = torch.rand(32, generator=generator) * 0.003 + 0.001, torch.rand(32, generator=generator) - 0.5
    stored = torch.randint(0, 256, (3, 16, 9, 9), dtype=torch.uint8, generator=generator)
    added = torch.randint(0, 256, (3, 32, 9, 9), dtype=torch.uint8, generator=generator)
    stored, added = (one.contiguous(memory_format=torch.channels_last) for one in (stored, added))
    made = operator(conv, Quantised(weight, weight_scale, bias), x, y, residual)

    real_x = (stored.double() - x.zero_point) * x.scale
    real_weight = weight.double() * weight_scale.double()[:, None, None, None]
    real = F.conv2d(real_x, real_weight, bias.double(), padding=1, groups=groups)
    with_added = (real + (added.double() - residual.zero_point) * residual.scale).relu()
    pairs = [(made(stored), real.relu() if is_rectified else real)]
    pairs += [(made.add(stored, added.clone()), with_added)] if is_rectified else []
    for got, expected in pairs:
        steps = ((expected / y.scale).round() + y.zero_point).clamp(0, 255)
        differ = (got.double() - steps).abs()
        assert float(differ.max()) <= 1  # what lies just between two steps may be rounded to either
        assert float((differ > 0).double().mean()) < 0.001
        assert float(got.double().std()) > 5


def test_rows_of_a_batch_do_not_mix_and_the_order_in_memory_is_no_matter(stored):
    computed, batch = make_int8(stored, *SIZE), batch_of(4, CROP)
    together = computed(batch)
    for i in range(4):
        assert float((computed(batch[i : i + 1]) - together[i]).abs().max()) < 0.01 * float(together.abs().max())
    assert torch.equal(computed(batch.contiguous(memory_format=torch.channels_last)), together)


def test_values_half_way_are_rounded_when_the_zero_point_is_there_as_onednn_does_it():
    assert nearest_uint8(torch.tensor([0.5, 1.5, 2.5, -9.0, 300.0]), 1).tolist() == [2, 2, 4, 0, 255]


@needs_onednn
@pytest.mark.parametrize("way", [Way.PREPARED, Way.FUSED])
def test_versions_that_are_loaded_once_each_leave_nothing_behind(stored, way):
    """Each has scales of its own. Where these are in oneDNN's code, a version leaves a megabyte of that."""
    random = torch.Generator().manual_seed(5)

    def fresh(name, tensor):
        return tensor * (1 + 0.1 * torch.rand(1, generator=random)) if name.endswith(".scale") else tensor

    def load_and_drop(times):
        for _ in range(times):
            computed = make_int8({name: fresh(name, tensor) for name, tensor in stored.items()}, *SIZE, way=way)
            for n in (1, 2, 3, 4):
                computed(batch_of(n, CROP))
            del computed
        give_back()
        return psutil.Process().memory_info().rss

    before = load_and_drop(10)
    grown = load_and_drop(30) - before
    print(f"{grown / 1e6:.1f} MB")
    assert grown < 10e6


def test_weights_are_stored_so_that_a_cpu_without_vnni_adds_their_products_rightly(stored):
    names = [conv.name for conv in resnet_layout(*SIZE).convs()]
    assert all(fits_pairs(stored[f"{name}.weight"].numpy()) for name in names)
    assert stored["fc.weight"].abs().amax(1).tolist() == [127] * CLASSES, "computed in float32"


x86 = pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="VNNI is of x86-64")


@x86
@needs_onednn
@pytest.mark.skipif("ONEDNN_MAX_CPU_ISA" in os.environ, reason="oneDNN is told not to use all that the CPU has")
def test_whether_this_cpu_cuts_sums_off_is_found_by_trying():
    assert [way for way in Way if operators.works("int8", way)] == list(Way)
    has_vnni = {"avx512_vnni", "avx_vnni"} & set(Path("/proc/cpuinfo").read_text().split())
    assert operators.cuts_sums() == (not has_vnni)


WITHOUT_VNNI = """
import sys, safetensors.torch, torch
from workers import engine, operators
from workers.operators import Way

torch.set_num_threads(1)
file, arch = sys.argv[1:]
tensors = safetensors.torch.load_file(file)
batch = torch.randn(9, 3, 32, 32, generator=torch.Generator().manual_seed(1))
made = {way: engine.make_int8(tensors, arch, 5, 32, way=way) for way in operators.ways("int8")}
plain = made[Way.PLAIN](batch)
allowed = 1e-5 * float(plain.abs().max())
print("right:", *(way for way in made if torch.allclose(made[way](batch), plain, rtol=0, atol=allowed)))

tensors["conv1.weight"][3, :2, 0, 0] = 127
for without in "", "PreparedInt8ResNet", "FusedInt8Conv":
    if without:
        setattr(operators, without, None)
        operators.works.cache_clear()
        operators.cuts_sums.cache_clear()
    served = type(engine.make_int8(tensors, arch, 5, 32)._stem).__name__
    print(next(operators.ways("int8")), operators.cuts_sums(), served)
"""


@x86
@needs_onednn
@pytest.mark.skipif("amx_int8" in Path("/proc/cpuinfo").read_text(), reason="its kernels have not been tried")
@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_all_ways_round_every_activation_alike(arch):
    """One that were rounded otherwise would move logits by a thousandth and more; the last layer adds up real numbers."""
    batch = batch_of(9, CROP)
    stored = quantise(seen_network(arch)[1], arch, CLASSES, SMALL, read_inputs(None, SMALL).calibration)
    prepared, fused, plain = (make_int8(stored, arch, CLASSES, CROP, way=way)(batch) for way in Way)
    allowed = 1e-5 * float(plain.abs().max())
    assert torch.allclose(prepared, plain, rtol=0, atol=allowed)
    assert torch.allclose(fused, plain, rtol=0, atol=allowed)


@x86
@needs_onednn
@pytest.mark.parametrize(("instructions", "arch"), [("AVX2", ARCH), ("AVX512_CORE", ARCH), ("AVX2", "resnext50_32x4d")])
def test_without_vnni_stored_weights_are_computed_rightly_by_each_way_and_larger_ones_by_public_operators(
    tmp_path, instructions, arch
):
    """oneDNN uses no newer instructions than it is told, in a process that has not asked it yet."""
    tensors, inputs = seen_network(arch)[1], read_inputs(None, SMALL)
    stored = quantise(tensors, arch, CLASSES, SMALL, inputs.calibration)
    safetensors.torch.save_file(stored, tmp_path / WEIGHTS)
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
    command = [sys.executable, "-c", WITHOUT_VNNI, str(tmp_path / WEIGHTS), arch]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert ran.stdout.splitlines() == [
        "right: prepared fused plain",
        "prepared True PlainInt8Conv",
        "fused True PlainInt8Conv",
        "plain False PlainInt8Conv",
    ], ran.stderr


@pytest.mark.parametrize("name", ["conv1", "layer2.0.downsample.0", "layer4.1.conv2"])
def test_larger_weights_are_computed_by_public_operators_where_the_others_cut_sums_off(
    stored, monkeypatch, caplog, name
):
    monkeypatch.setattr(engine, "cuts_sums", lambda: True)
    large = {name: tensor.clone() for name, tensor in stored.items()}
    large[f"{name}.weight"][3, :2, 0, 0] = 127
    make_int8(stored, *SIZE)
    assert "cuts off" not in caplog.text
    made = make_int8(large, *SIZE)
    assert type(made._stem) is PlainInt8Conv
    assert f"cuts off sums of {name}.weight: int8 is slow until the version is added anew" in caplog.text
    make_int8(large, *SIZE)
    assert caplog.text.count("cuts off") == 2, "it may be another version: each is to be added anew"
    monkeypatch.setattr(engine, "cuts_sums", lambda: False)
    assert not HAS_ONEDNN or type(make_int8(large, *SIZE)) is PreparedInt8ResNet


@given(st.integers(1, 3), st.integers(1, 5), st.integers(2, 17), st.integers(2, 17), st.integers(0, 2**31))
def test_max_pooling_of_bytes_is_that_of_torch(n, channels, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=generator)
    expected = F.max_pool2d(x.float(), 3, 2, 1)
    assert torch.equal(max_pool(x.contiguous(memory_format=torch.channels_last)).float(), expected)


@pytest.fixture
def asked_anew():
    """Which way is the fastest is found out once in a process."""
    caches = operators.works, operators.cuts_sums
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def missing(*_):
    raise NotImplementedError("onednn::qconv_prepack is not there on this CPU")


def differing(*_):
    return lambda batch: torch.full((len(batch), operators.CHANNELS), torch.nan)


@needs_onednn
def test_the_fastest_way_here_is_by_onednns_own_library(stored, asked_anew, caplog):
    assert type(make_int8(stored, *SIZE)) is PreparedInt8ResNet
    assert not caplog.text


@needs_onednn
@pytest.mark.parametrize("prepared", [missing, differing])
def test_where_onednns_own_library_is_missing_or_wrong_torchs_serves_and_it_is_said_once(
    stored, asked_anew, monkeypatch, caplog, prepared
):
    expected, batch = make_int8(stored, *SIZE, way=Way.PREPARED), batch_of(2, CROP)
    monkeypatch.setattr(operators, "PreparedInt8ResNet", prepared)
    fused = [make_int8(stored, *SIZE) for _ in range(2)]
    assert (
        caplog.text.count("event=fallback precision=int8 without=prepared") == caplog.text.count("event=fallback") == 1
    )
    assert [type(one._stem) for one in fused] == [FusedInt8Conv] * 2
    assert float((fused[0](batch) - expected(batch)).abs().max()) < 0.01 * float(expected(batch).abs().max())


def test_where_all_fused_operators_are_missing_the_same_answers_come_more_slowly_and_it_is_said_once(
    stored, asked_anew, monkeypatch, caplog
):
    expected, batch = make_int8(stored, *SIZE, way=Way.FUSED)(batch_of(2, CROP)), batch_of(2, CROP)
    monkeypatch.setattr(operators, "PreparedInt8ResNet", missing)
    monkeypatch.setattr(operators, "FusedInt8Conv", missing)
    plain = [make_int8(stored, *SIZE) for _ in range(2)]
    assert [caplog.text.count(f"precision=int8 without={way}") for way in Way] == [1, 1, 0]
    assert [type(one._stem) for one in plain] == [PlainInt8Conv] * 2
    assert float((plain[0](batch) - expected).abs().max()) < 0.01 * float(expected.abs().max())


# ---- which precision a version gets


def chosen(precision, least, **wish):
    _, tensors = seen_network(ARCH)
    return choose(tensors, ARCH, CLASSES, SMALL, Wish(precision, min_agreement=least, **wish))


def test_auto_takes_int8_where_it_agrees_often_enough_and_else_keeps_float32_and_both_tell_the_figure():
    taken, kept = chosen("auto", 0.9), chosen("auto", 1.0)
    assert (taken.precision, kept.precision) == ("int8", "fp32")
    assert taken.agreement == kept.agreement
    assert 0.9 < taken.agreement.top1 < 1
    assert (taken.agreement.pictures, taken.agreement.source) == (400, "drawn")
    assert specs(kept.tensors) == specs(seen_network(ARCH)[1])


def test_int8_that_agrees_too_rarely_is_refused_with_the_figure():
    with pytest.raises(BadVersion, match=r"same class as fp32 for only 0\.\d+ of 400 .* 1 is needed; .*--calibrate"):
        chosen("int8", 1.0)


def test_the_pictures_it_is_compared_on_are_not_those_it_is_calibrated_by(tmp_path):
    folder = pictures(tmp_path / "pictures", 40)
    (folder / "deeper").mkdir()
    (folder / "deeper" / "notes.txt").write_text("no picture")
    (folder / "deeper" / "cut.png").write_bytes((folder / "000.png").read_bytes()[:100])
    inputs = read_inputs(folder, SMALL)
    assert (len(inputs.calibration), len(inputs.held_out), inputs.source) == (10, 30, str(folder))
    rows = [row.numpy().tobytes() for part in (inputs.calibration, inputs.held_out) for row in part]
    assert len(set(rows)) == 40


def test_files_of_other_kinds_beside_the_pictures_take_no_ones_place(tmp_path):
    folder = pictures(tmp_path / "pictures", 500, size=(36, 36))
    for i in range(500):
        (folder / f"{i:03}.json").write_text("{}")
    inputs = read_inputs(folder, SMALL)
    assert (len(inputs.calibration), len(inputs.held_out)) == (64, 400)


def test_a_network_whose_outputs_are_not_finite_does_not_become_one_in_int8_that_hides_it(tmp_path):
    tensors = {name: tensor.clone() for name, tensor in seen_network(ARCH)[1].items()}
    tensors["bn1.running_var"][0] = -1
    safetensors.torch.save_file(tensors, tmp_path / "v1.safetensors")
    with pytest.raises(BadVersion, match=r"tensor conv1.weight with its batch norm has \d+ of \d+ values that are NaN"):
        small_versions.add_version(
            Home(tmp_path), tmp_path / "v1.safetensors", arch=ARCH, wish=Wish("int8", min_agreement=0)
        )


def test_too_few_pictures_are_refused_with_how_many_there_are(tmp_path):
    with pytest.raises(BadVersion, match="19 pictures found, at least 20 are needed"):
        chosen("int8", 0.9, calibrate=pictures(tmp_path / "pictures", 19))


def test_int8_is_refused_for_what_is_no_resnet_and_auto_keeps_float32():
    arch, tensors = small_versions.ARCH, small_versions.make_tensors()
    with pytest.raises(BadVersion, match="int8 is there for torchvision's ResNets, and shufflenet_v2_x0_5 is none"):
        choose(tensors, arch, CLASSES, SMALL, Wish("int8"))
    assert choose(tensors, arch, CLASSES, SMALL, Wish("auto")).precision == "fp32"


# ---- stored


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    source = folder / "v1.safetensors"
    safetensors.torch.save_file({name: tensor.clone() for name, tensor in seen_network(ARCH)[1].items()}, source)
    home = Home(folder / "home")
    manifest = small_versions.add_version(home, source, arch=ARCH, wish=Wish("int8", min_agreement=0.9))
    return home, manifest


def test_a_version_in_int8_is_loaded_verified_and_says_what_it_is(home):
    home, manifest = home
    assert manifest.precision == "int8"
    assert manifest.agreement.top1 > 0.9
    loaded = load_verified(home, manifest.digest)
    assert type(loaded.engine) is (PreparedInt8ResNet if HAS_ONEDNN else Int8ResNet)
    assert loaded.verdict.passed
    assert check(version_folder(home, manifest.digest))["tensors"] == len(expected_int8(resnet_layout(*SIZE), CLASSES))


def test_the_agreement_is_no_part_of_what_a_version_is(home):
    _, manifest = home
    assert replace(manifest, agreement=None).digest == manifest.digest
    assert replace(manifest, precision="fp32").digest != manifest.digest


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("layer3.1.conv2.weight_scale", lambda t: t * 1.3, "golden logits differ|best class of golden input"),
        ("layer1.0.conv1.weight", lambda t: t.flip(0), "golden logits differ|best class of golden input"),
        ("layer2.1.conv2.weight", lambda t: t.index_fill(0, torch.tensor([3]), 0), "golden logits differ"),
        ("layer4.0.conv1.weight_scale", lambda t: t * 1.1, "golden logits differ"),
        ("fc.weight", lambda t: t.float(), "tensor fc.weight has dtype float32, resnet18 in int8 expects int8"),
        ("conv1.scale", lambda t: t * 0, "tensor conv1.scale is 0; a scale is above 0 and finite"),
        ("layer1.0.conv1.scale", lambda t: t * torch.nan, "tensor layer1.0.conv1.scale is nan; a scale is above 0"),
    ],
)
def test_wrong_int8_tensors_are_refused_although_their_digest_is_right(home, tmp_path, name, change, said):
    home, manifest = home
    tensors = {
        key: tensor.clone() for key, tensor in map_tensors(version_folder(home, manifest.digest) / WEIGHTS).items()
    }
    tensors[name] = change(tensors[name]).contiguous()
    manifest = replace(manifest, tensors_sha256=digest_tensors(as_arrays(tensors)))
    bad = Home(tmp_path)
    folder = version_folder(bad, manifest.digest)
    folder.mkdir(parents=True)
    safetensors.torch.save_file(tensors, folder / WEIGHTS)
    (folder / GOLDEN).write_bytes((version_folder(home, home_digest(home)) / GOLDEN).read_bytes())
    (folder / MANIFEST).write_bytes(manifest_json(manifest))
    with pytest.raises(BadVersion, match=said):
        load_verified(bad, manifest.digest)


def home_digest(home):
    (folder,) = home.versions.iterdir()
    return folder.name


def test_the_engine_is_chosen_by_the_precision_in_the_manifest(home):
    home, manifest = home
    tensors = map_tensors(version_folder(home, manifest.digest) / WEIGHTS)
    with pytest.raises(BadVersion, match=r"tensors bn1\.bias, bn1\.num_batches_tracked, .* missing"):
        make_engine(tensors, replace(manifest, precision="fp32"))
