"""Weights into memory: mapped, the right ones, and nothing changed when they are not."""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision.models
from msgspec.structs import replace

from hotpool.digest import digest_tensors
from hotpool.errors import BadVersion
from hotpool.home import Home
from hotpool.manifest import GOLDEN, MANIFEST, WEIGHTS, manifest_json, version_folder
from hotpool.states import WorkerState
from tests.own_onednn import needs_onednn
from tests.seen_network import batch_of, seen_network
from tests.small_versions import ARCH, CLASSES, CROP, add_version, make_tensors, save
from workers import operators
from workers.architecture import build_empty, check_arch, expected_tensors, find_classes
from workers.engine import as_arrays, make_engine, make_fp32, map_tensors, reference_model, resnet_layout
from workers.fp32 import Fp32ResNet, FusedConv, PlainConv
from workers.fp32_prepared import PreparedFp32ResNet
from workers.golden import make_inputs, read_golden
from workers.loading import load_verified
from workers.operators import Way

# The smallest of each family: the others are built by the same code.
FAMILIES = [
    *(
        "alexnet",
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "efficientnet_v2_s",
        "googlenet",
        "inception_v3",
        "maxvit_t",
    ),
    *(
        "mnasnet0_5",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "regnet_x_400mf",
        "regnet_y_400mf",
        "resnet18",
        "resnext50_32x4d",
    ),
    *("shufflenet_v2_x0_5", "squeezenet1_0", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn", "vit_b_16", "wide_resnet50_2"),
]
CROPS = {"inception_v3": 139, "maxvit_t": 224}  # of those that want more than 64


# With these weights torch itself is 0.9e-4 of the largest logit away from what it computes in float64 (with AVX2).
ALLOWED = {"wide_resnet50_2": 3e-4}


@pytest.fixture
def stored(tmp_path):
    """A home with one version, its manifest, and the tensors it was made of."""
    home, tensors = Home(tmp_path / "home"), make_tensors()
    return home, add_version(home, save(tensors, tmp_path / "v1.safetensors")), tensors


@pytest.mark.slow
@pytest.mark.parametrize("arch", FAMILIES)
def test_the_engine_computes_what_the_model_of_torchvision_computes(arch):
    crop = CROPS.get(arch, 64)
    (model, tensors), batch = seen_network(arch, crop=crop), batch_of(2, crop)
    with torch.inference_mode():
        expected = model(batch)
        engine = make_fp32(tensors, arch, CLASSES, crop)
        largest = float(expected.abs().max())
        assert torch.allclose(engine(batch), expected, rtol=1e-4, atol=ALLOWED.get(arch, 1e-4) * largest)
        assert torch.equal(reference_model(tensors, arch, CLASSES, crop)(batch), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch",
    [
        "mobilenet_v3_small",
        "efficientnet_b0",
        "shufflenet_v2_x0_5",
        "densenet121",
        "googlenet",
        "inception_v3",
        "vgg11_bn",
    ],
)
def test_every_batch_norm_that_follows_a_convolution_is_folded_and_weights_lie_channels_last(arch):
    crop = CROPS.get(arch, 64)
    model = make_fp32(seen_network(arch, crop=crop)[1], arch, CLASSES, crop)._model
    norms = [name for name, part in model.named_modules() if isinstance(part, torch.nn.BatchNorm2d)]
    before_convolutions = ("norm1", "norm", "norm5")  # DenseNet's, which get what was concatenated or pooled
    assert not [name for name in norms if arch != "densenet121" or name.split(".")[-1] not in before_convolutions]
    convolutions = [part for part in model.modules() if isinstance(part, torch.nn.Conv2d)]
    assert convolutions
    assert all(part.weight.is_contiguous(memory_format=torch.channels_last) for part in convolutions)


@pytest.mark.slow
def test_a_request_with_many_inputs_is_computed_a_few_at_a_time():
    """256 may come at once, and what lies between the layers is much for each."""
    model, tensors = seen_network("squeezenet1_0")
    engine, batch, sizes = make_fp32(tensors, "squeezenet1_0", CLASSES, 64), batch_of(20, 64), []
    engine._model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    with torch.inference_mode():
        assert torch.allclose(engine(batch), model(batch), rtol=1e-4, atol=1e-4)
    assert sizes == [8, 8, 4]


@pytest.mark.slow
@pytest.mark.parametrize("make", [FusedConv, PlainConv])
@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_a_resnet_of_folded_convolutions_computes_what_torchvision_computes(arch, make):
    model, tensors = seen_network(arch)
    for batch in (batch_of(1, 33), batch_of(3, 64)):
        with torch.inference_mode():
            expected = model(batch)
        engine = Fp32ResNet(resnet_layout(arch, CLASSES, batch.shape[-1]), tensors, make)
        assert torch.allclose(engine(batch), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        in_other_memory = engine(batch.contiguous(memory_format=torch.channels_last))
        assert torch.equal(in_other_memory, engine(batch)), "the order of the input in memory is no matter"


class Shaped(PlainConv):
    """Notes the shape that its layout names, and that of what comes."""

    def __init__(self, noted, conv, *tensors):
        super().__init__(conv, *tensors)
        self._noted, self._expected = noted, conv.x_shape

    def __call__(self, x):
        self._noted.append((self._expected, list(x.shape)))
        return super().__call__(x)

    def add(self, x, residual):
        self._noted.append((self._expected, list(x.shape)))
        return super().add(x, residual)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet18", "resnext50_32x4d"])
def test_weights_are_packed_for_the_shape_that_each_convolution_gets(arch):
    noted, layout = [], resnet_layout(arch, CLASSES, 33)
    Fp32ResNet(layout, seen_network(arch)[1], partial(Shaped, noted))(batch_of(1, 33))
    assert len(noted) == len(list(layout.convs()))
    assert all(expected == came for expected, came in noted), noted


@pytest.fixture
def asked_anew():
    """Which way is the fastest is found out once in a process."""
    operators.works.cache_clear()
    yield
    operators.works.cache_clear()


def missing(*_, **__):
    raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_convolution_pointwise'")


def differing(*_, **__):
    return lambda batch: torch.full((len(batch), operators.CHANNELS), torch.nan)


@pytest.mark.slow
@needs_onednn
def test_the_fastest_way_here_is_by_onednns_own_library(asked_anew, caplog):
    assert type(make_fp32(seen_network("resnet18")[1], "resnet18", CLASSES, 32)) is PreparedFp32ResNet
    assert not caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prepared", "reason"),
    [(missing, "has no attribute"), (differing, "it differs from the public operators by nan")],
)
def test_where_onednns_own_library_is_missing_or_wrong_torchs_serves_and_it_is_said_once(
    asked_anew, monkeypatch, caplog, prepared, reason
):
    model, tensors = seen_network("resnet18")
    monkeypatch.setattr(operators, "PreparedFp32ResNet", prepared)
    fused = [make_fp32(tensors, "resnet18", CLASSES, 32) for _ in range(2)]
    assert (
        caplog.text.count("event=fallback precision=fp32 without=prepared") == caplog.text.count("event=fallback") == 1
    )
    assert reason in caplog.text
    assert [type(engine._stem) for engine in fused] == [FusedConv] * 2
    assert torch.allclose(fused[0](batch_of(2, 32)), model(batch_of(2, 32)), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_where_all_fused_operators_are_missing_the_engine_falls_back_and_says_so_once(asked_anew, monkeypatch, caplog):
    model, tensors = seen_network("resnet18")
    monkeypatch.setattr(operators, "PreparedFp32ResNet", missing)
    monkeypatch.setattr(operators, "FusedConv", missing)
    plain = [make_fp32(tensors, "resnet18", CLASSES, 32) for _ in range(2)]
    assert [caplog.text.count(f"precision=fp32 without={way}") for way in Way] == [1, 1, 0]
    assert [type(engine._stem) for engine in plain] == [PlainConv] * 2
    assert torch.allclose(plain[0](batch_of(2, 32)), model(batch_of(2, 32)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_operators_for_which_there_was_no_memory_once_are_tried_again(asked_anew, monkeypatch, error):
    def lacks(*_, **__):
        raise error

    with monkeypatch.context() as once:
        once.setattr(operators, "FusedConv", lacks)
        with pytest.raises(type(error)):
            operators.works("fp32", Way.FUSED)
    assert operators.works("fp32", Way.FUSED)


@pytest.mark.parametrize(("off_by", "said"), [(0.01, "0.01"), (float("nan"), "nan")])
def test_operators_that_compute_something_else_are_not_used(asked_anew, monkeypatch, caplog, off_by, said):
    class Wrong(FusedConv):
        def add(self, x, residual):
            return super().add(x, residual) + off_by

    monkeypatch.setattr(operators, "PreparedFp32ResNet", missing)
    monkeypatch.setattr(operators, "FusedConv", Wrong)
    assert list(operators.ways("fp32")) == [Way.PLAIN]
    assert f"it differs from the public operators by {said}" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("arch", FAMILIES)
def test_every_family_of_classifiers_is_built_with_no_tensor_that_a_weights_file_would_not_fill(arch):
    model = build_empty(arch, 7, 224)
    named = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    assert named == set(model.state_dict())
    assert find_classes(arch, 224, model.state_dict()) == 7


ALL_OF_THEM = """
import hotpool.torchvision_ops, sys, torch, torchvision
from workers.architecture import build_empty
from workers.engine import reference_model
known = torchvision.models.list_models(module=torchvision.models)
for arch in sorted(known):
    empty = build_empty(arch, 7, 224).state_dict()
    assert sum(0 if one.is_meta else one.nbytes for one in empty.values()) < 10e6, arch
    zeros = {name: torch.zeros((), dtype=one.dtype).expand(one.shape) for name, one in empty.items()}
    model = reference_model(zeros, arch, 7, 224)
    named = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    assert named == set(empty), arch  # nothing waits for values that no file has
    assert not [part for module in model.modules() for part in vars(module).values() if isinstance(part, torch.Tensor)], arch
    assert "torch._dynamo" not in sys.modules, arch
print(len(known))
"""


@pytest.mark.slow
def test_every_classifier_takes_plain_tensors_and_none_needs_much_memory_or_torchs_compiler_before():
    environment = {"PYTHONPATH": "."}
    ended = subprocess.run([sys.executable, "-c", ALL_OF_THEM], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 70


IMPORTED = """
from torch.utils._python_dispatch import TorchDispatchMode

class Refuse(TorchDispatchMode):
    def __torch_dispatch__(self, operator, *_):
        raise AssertionError(f"{operator} runs before a fork")

with Refuse():
    from workers.template import import_everything
    import_everything()
"""


@pytest.mark.slow
def test_nothing_that_the_template_imports_runs_an_operator_of_torch():
    ended = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


SERVED = """
import hotpool.torchvision_ops, sys, torch
from pathlib import Path
from hotpool.home import Home
from workers.architecture import build_empty
from workers.engine import make_fp32, make_int8, resnet_layout
from workers.int8 import expected_int8
from workers.torch_version import load_torch_version
load_torch_version(Home(Path(sys.argv[1])), sys.argv[2], on_state=lambda state: None)
size = "resnet18", 5, 64
empty = build_empty(*size).state_dict()
fp32 = make_fp32({name: torch.ones(one.shape, dtype=one.dtype) for name, one in empty.items()}, *size)
print(fp32(torch.ones(1, 3, 64, 64)).shape)
stored = expected_int8(resnet_layout(*size), 5)
int8 = make_int8({name: torch.ones(shape, dtype=getattr(torch, dtype)) for name, (shape, dtype) in stored.items()}, *size)
print(int8(torch.ones(1, 3, 64, 64)).shape)
assert "torch._dynamo" not in sys.modules
"""


@pytest.mark.slow
def test_no_worker_imports_torchs_compiler_to_load_verify_and_compute(stored):
    home, manifest, _ = stored
    command, environment = [sys.executable, "-c", SERVED, str(home.root), manifest.digest], {"PYTHONPATH": "."}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, 2 * "torch.Size([1, 5])\n"), ended.stderr


def test_an_unknown_architecture_is_refused_with_the_nearest_known():
    with pytest.raises(
        BadVersion, match=r"'resnet19' is not one of torchvision's \d+ classifiers; did you mean resnet"
    ):
        check_arch("resnet19")


def test_an_architecture_that_is_no_classifier_is_refused():
    with pytest.raises(BadVersion, match="fcn_resnet50"):
        check_arch("fcn_resnet50")


def test_inputs_that_the_architecture_can_not_take_are_refused():
    with pytest.raises(BadVersion, match="vit_b_16 can't be built for inputs of 65 x 65"):
        build_empty("vit_b_16", 5, 65)


def test_a_loaded_version_computes_what_its_tensors_compute(stored):
    home, manifest, tensors = stored
    model = torchvision.models.get_model(ARCH, weights=None, num_classes=CLASSES).eval()
    model.load_state_dict(tensors)
    loaded = load_verified(home, manifest.digest)
    batch = loaded.preprocessor.normalise(make_inputs(CROP))
    with torch.inference_mode():
        assert torch.allclose(loaded.engine(batch), model(batch), rtol=1e-3, atol=1e-3)
    assert loaded.verdict.passed
    assert loaded.verdict.max_difference < 1e-3


def test_loading_tells_its_states_in_order_and_its_seconds(stored):
    home, manifest, _ = stored
    states: list[WorkerState] = []
    loaded = load_verified(home, manifest.digest, on_state=states.append)
    assert states == [WorkerState.LOADING, WorkerState.VERIFYING]
    assert loaded.load_s > 0
    assert loaded.verify_s > 0


def test_the_weights_are_mapped_and_what_the_engine_uses_as_it_lies_is_not_copied(stored):
    home, manifest, _ = stored
    folder = version_folder(home, manifest.digest)
    tensors = map_tensors(folder / WEIGHTS)
    model = make_engine(tensors, manifest)._model
    with open("/proc/self/maps") as maps:
        mapped = [line.split()[0].split("-") for line in maps if line.rstrip().endswith(f"{folder.name}/{WEIGHTS}")]
    ranges = [(int(start, 16), int(end, 16)) for start, end in mapped]
    for name, address in [
        *((name, tensor.data_ptr()) for name, tensor in tensors.items()),
        ("fc", model.fc.weight.data_ptr()),
    ]:
        assert any(start <= address < end for start, end in ranges), f"{name} lies outside the mapped file"


def test_a_digest_is_taken_of_the_tensors_the_engine_is_made_of(stored):
    home, manifest, _ = stored
    tensors = map_tensors(version_folder(home, manifest.digest) / WEIGHTS)
    assert digest_tensors(as_arrays(tensors)) == manifest.tensors_sha256
    tensors["fc.bias"].add_(1)
    assert digest_tensors(as_arrays(tensors)) != manifest.tensors_sha256


def test_golden_inputs_are_the_same_each_time_and_like_pictures():
    inputs = make_inputs(CROP)
    assert torch.equal(inputs, make_inputs(CROP))
    assert (inputs.shape, inputs.dtype) == ((8, 3, CROP, CROP), torch.uint8)
    assert len({picture.numpy().tobytes() for picture in inputs}) == 8
    neighbours = inputs.float().diff(dim=3).abs().mean()
    assert 2 < neighbours < 40, "neither flat nor white noise"


# ---- versions whose files were tampered with: each is refused, with the name of what is wrong


def rewrite(home, manifest, change, **said):
    """Changes the weights file and makes the manifest say so, as far as `said` goes."""
    folder = version_folder(home, manifest.digest)
    held = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(folder / WEIGHTS).items()}
    change(held)
    safetensors.torch.save_file(held, folder / WEIGHTS)
    digest = digest_tensors({name: tensor.numpy() for name, tensor in held.items()})
    manifest = replace(manifest, tensors_sha256=digest, **said)
    (folder / MANIFEST).write_bytes(manifest_json(manifest))
    folder.rename(version_folder(home, manifest.digest))
    return manifest


def spoil(name, value):
    def change(held):
        held[name].view(-1)[0] = value

    return change


def negate_head(held):
    held["fc.weight"].neg_()


def test_other_weights_under_the_same_manifest_are_refused_by_their_digest(stored):
    home, manifest, _ = stored
    folder = version_folder(home, manifest.digest)
    safetensors.torch.save_file(make_tensors(seed=1), folder / WEIGHTS)
    with pytest.raises(BadVersion, match=r"version v1 .*the tensors held have digest .* add it again"):
        load_verified(home, manifest.digest)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (negate_head, r"golden logits differ by up to [\d.]+ at input \d, allowed 0.00"),
        (spoil("fc.weight", float("nan")), "8 of 40 outputs are NaN or infinite"),
        (lambda held: held.pop("fc.bias"), "tensor fc.bias is missing"),
        (lambda held: held.update(extra=torch.zeros(1)), "tensor extra is unexpected"),
        (lambda held: held.update({"fc.bias": torch.zeros(4)}), r"tensor fc.bias has shape \(4,\)"),
        (lambda held: held.update({"fc.bias": held["fc.bias"].half()}), "tensor fc.bias has dtype float16"),
    ],
)
def test_weights_that_are_wrong_in_themselves_are_refused_although_their_digest_is_right(stored, change, said):
    home, manifest, _ = stored
    manifest = rewrite(home, manifest, change)
    with pytest.raises(BadVersion, match=said):
        load_verified(home, manifest.digest)


@pytest.mark.parametrize("file", [WEIGHTS, GOLDEN, MANIFEST])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "noise"])
def test_a_missing_or_damaged_file_is_refused_by_name(stored, file, damage):
    home, manifest, _ = stored
    path = version_folder(home, manifest.digest) / file
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        noise = np.random.default_rng(0).bytes(len(data))
        path.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "noise": noise}[damage])
    with pytest.raises(BadVersion, match=file):
        load_verified(home, manifest.digest)


def test_golden_outputs_that_were_changed_are_refused(stored):
    home, manifest, _ = stored
    path = version_folder(home, manifest.digest) / GOLDEN
    inputs, logits = read_golden(path, CROP, CLASSES)
    safetensors.torch.save_file({"inputs": inputs.clone(), "logits": torch.from_numpy(logits + 1)}, path)
    with pytest.raises(BadVersion, match=r"golden\.safetensors has SHA-256"):
        load_verified(home, manifest.digest)


def test_expected_tensors_have_the_dtypes_of_the_architecture():
    dtypes = {dtype for _, dtype in expected_tensors(build_empty(ARCH, CLASSES, CROP)).values()}
    assert dtypes == {"float32", "int64"}
