"""A source to a version's files: what is taken, what is refused, and that no code in a file is run."""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision
import hashlib
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision.models
from msgspec import to_builtins
from msgspec.structs import asdict

from control.versions import Prepared
from examples.demo.bad_versions import swap_classes
from hotpool.digest import digest_bytes, digest_tensors
from hotpool.errors import BadVersion
from hotpool.home import Home
from hotpool.manifest import GOLDEN, WEIGHTS, Preprocessing, read_preprocessing, version_folder
from tests.small_versions import ARCH, CLASSES, CROP, SMALL, add_version, make_tensors, save
from workers.engine import make_fp32, map_tensors
from workers.golden import compute_logits, make_inputs, read_golden
from workers.preprocess import Preprocessor
from workers.scratch import build, check


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def built(source, folder, **options):
    return build(str(source), folder, **{"arch": ARCH, "preprocessing": asdict(SMALL), **options})


def refusal(source, folder, **options):
    with pytest.raises(BadVersion) as caught:
        built(source, folder, **options)
    assert not list(folder.iterdir()), "a refused source leaves nothing behind"
    return str(caught.value)


def digest_of(tensors):
    return digest_tensors({name: tensor.numpy() for name, tensor in tensors.items()})


# ---- what is taken


@pytest.mark.parametrize("file", ["v.pth", "v.pt", "v.safetensors"])
def test_a_state_dict_becomes_a_version_with_just_these_tensors(file, tmp_path, folder):
    tensors = make_tensors()
    content = built(save(tensors, tmp_path / file), folder)
    assert (content["arch"], content["classes"], content["labels"]) == (ARCH, CLASSES, ("0", "1", "2", "3", "4"))
    assert content["tensors_sha256"] == digest_of(tensors) == digest_of(safetensors.torch.load_file(folder / WEIGHTS))
    assert content["weights_sha256"] == digest_bytes((folder / WEIGHTS).read_bytes())
    assert content["golden_sha256"] == digest_bytes((folder / GOLDEN).read_bytes())


def test_the_golden_logits_are_those_of_the_network(tmp_path, folder):
    tensors = make_tensors()
    built(save(tensors, tmp_path / "v.pth"), folder)
    inputs, logits = read_golden(folder / GOLDEN, CROP, CLASSES)
    model = torchvision.models.get_model(ARCH, weights=None, num_classes=CLASSES).eval()
    model.load_state_dict(tensors)
    with torch.inference_mode():
        expected = model(Preprocessor(SMALL).normalise(make_inputs(CROP))).numpy()
    assert torch.equal(inputs, make_inputs(CROP))
    # Another number of threads adds up in another order.
    assert np.allclose(logits, expected, rtol=0, atol=1e-4)
    assert np.ptp(logits, axis=0).min() > 0.01, "golden inputs that all give the same logits would show little"


def test_golden_inputs_are_computed_alone_and_a_few_at_a_time():
    """Some engines have operations of their own for each number of pictures, and most requests come alone."""
    sizes = []

    def engine(batch):
        sizes.append(len(batch))
        return batch.mean((2, 3))

    inputs, preprocessor = make_inputs(CROP, 9), Preprocessor(SMALL)
    logits = compute_logits(engine, preprocessor, inputs)
    assert sizes == [1, 3, 4, 1]
    assert np.array_equal(logits, preprocessor.normalise(inputs).mean((2, 3)).numpy())


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module."])
def test_the_usual_wrapping_of_checkpoints_is_taken_off(wrapper, prefix, tmp_path, folder):
    tensors = make_tensors()
    checkpoint = {"epoch": 3, wrapper: {prefix + name: tensor for name, tensor in tensors.items()}}
    assert built(save(checkpoint, tmp_path / "v.pt"), folder)["tensors_sha256"] == digest_of(tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_to_float32_exactly(dtype, tmp_path, folder):
    half = {name: t.to(dtype) if t.is_floating_point() else t for name, t in make_tensors().items()}
    widened = {name: t.float() if t.is_floating_point() else t for name, t in half.items()}
    assert built(save(half, tmp_path / "v.pth"), folder)["tensors_sha256"] == digest_of(widened)


def test_files_from_before_batches_were_counted_are_taken(tmp_path, folder):
    old = {name: t for name, t in make_tensors().items() if not name.endswith("num_batches_tracked")}
    assert built(save(old, tmp_path / "v.pth"), folder)["tensors_sha256"] == digest_of(make_tensors())


def test_tensors_that_share_memory_or_are_strided_are_taken(tmp_path, folder):
    tensors = make_tensors()
    name = "conv1.0.weight"
    strided = {**tensors, name: tensors[name].to(memory_format=torch.channels_last)}
    assert built(save(strided, tmp_path / "v.pth"), folder)["tensors_sha256"] == digest_of(tensors)


def test_the_same_source_gives_the_same_digests_again(tmp_path, folder):
    source = save(make_tensors(), tmp_path / "v.pth")
    other = tmp_path / "other"
    other.mkdir()
    assert built(source, folder) == built(source, other)


def test_labels_are_taken_from_the_file_one_a_line(tmp_path, folder):
    labels = tmp_path / "labels.txt"
    labels.write_text("cercle\ncarré \n三角\nétoile\ncross\n\n")
    content = built(save(make_tensors(), tmp_path / "v.pth"), folder, labels=labels)
    assert content["labels"] == ("cercle", "carré", "三角", "étoile", "cross")


def test_only_the_fields_that_were_set_override_the_usual_preprocessing(tmp_path, folder):
    content = built(save(make_tensors(), tmp_path / "v.pth"), folder, preprocessing={"crop": 64})
    assert content["preprocessing"] == to_builtins(Preprocessing(crop=64))


def test_a_version_is_preprocessed_fast_unless_it_is_to_be_exact(tmp_path, folder):
    source = save(make_tensors(), tmp_path / "v.pth")
    assert built(source, folder)["preprocess"] == "fast"
    assert built(source, folder, preprocess="exact")["preprocess"] == "exact"


def test_both_hashes_of_the_right_file_are_accepted(tmp_path, folder):
    source = save(make_tensors(), tmp_path / "v.pth")
    data = source.read_bytes()
    sha256, md5 = hashlib.sha256(data).hexdigest().upper(), hashlib.md5(data).hexdigest()
    assert built(source, folder, sha256=sha256, md5=md5)["classes"] == CLASSES


# ---- what is refused: bad versions of each kind, with a message that names the tensor or what to do


def without(name):
    def change(tensors):
        del tensors[name]

    return change


def put(name, value):
    def change(tensors):
        tensors[name] = value

    return change


def put_nan(tensors):
    tensors["conv1.0.weight"].view(-1)[5:8] = float("nan")


def put_infinity(tensors):
    tensors["fc.bias"][1] = float("inf")


def make_infinite_outputs(tensors):
    tensors["fc.weight"].fill_(3e38)
    tensors["fc.bias"].fill_(3e38)


BAD_TENSORS = [
    (without("fc.bias"), "tensor fc.bias is missing: shufflenet_v2_x0_5 needs"),
    (without("fc.weight"), "tensor fc.weight is missing"),
    (put("extra.weight", torch.zeros(2)), "tensor extra.weight is unexpected: shufflenet_v2_x0_5 has no such tensor"),
    (put("fc.bias", torch.zeros(CLASSES + 1)), "tensor fc.bias has shape (6,), shufflenet_v2_x0_5 expects (5,)"),
    (put("conv5.0.weight", torch.zeros(1)), "tensor conv5.0.weight has shape (1,)"),
    (put("fc.bias", torch.zeros(CLASSES, dtype=torch.float64)), "tensor fc.bias has dtype float64"),
    (put("fc.bias", torch.zeros(CLASSES, dtype=torch.int32)), "tensor fc.bias has dtype int32"),
    (put_nan, "tensor conv1.0.weight has 3 of 648 values that are NaN or infinite"),
    (put_infinity, "tensor fc.bias has 1 of 5 values that are NaN or infinite"),
]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(("change", "said"), BAD_TENSORS)
def test_a_bad_tensor_is_named(suffix, change, said, tmp_path, folder):
    tensors = make_tensors()
    change(tensors)
    assert said in refusal(save(tensors, tmp_path / f"v{suffix}"), folder)


def test_finite_weights_with_infinite_outputs_are_refused(tmp_path, folder):
    tensors = make_tensors()
    make_infinite_outputs(tensors)
    with pytest.raises(
        BadVersion, match=r"on ordinary inputs tensor logits has \d+ of 40 values that are NaN or infinite"
    ):
        built(save(tensors, tmp_path / "v.pth"), folder)


@pytest.mark.parametrize("file", ["v.pth", "v.safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(file, keep, tmp_path, folder):
    source = save(make_tensors(), tmp_path / file)
    data = source.read_bytes()
    source.write_bytes(data[: int(len(data) * keep)])
    assert "fetch it again" in refusal(source, folder)


@pytest.mark.parametrize(("option", "n"), [("sha256", 64), ("md5", 32)])
def test_a_file_of_another_hash_is_refused_before_it_is_read(option, n, tmp_path, folder):
    source = tmp_path / "v.pth"
    source.write_bytes(b"whatever")
    text = refusal(source, folder, **{option: "0" * n})
    assert f"v.pth has {option} {getattr(hashlib, option)(b'whatever').hexdigest()}, expected {'0' * n}" in text
    assert "fetch it again" in text


class Trap:
    """Pickled, it creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def write_pickle(value, path):
    path.write_bytes(pickle.dumps(value, protocol=2))


def write_old(value, path):
    torch.save(value, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [write_pickle, torch.save, write_old])
def test_a_pickle_with_code_in_it_is_refused_and_its_code_is_not_run(write, tmp_path, folder):
    sprung = tmp_path / "sprung"
    source = tmp_path / "v.pth"
    write({**make_tensors(), "fc.bias": Trap(sprung)}, source)
    text = refusal(source, folder)
    assert not sprung.exists()
    assert "was not run" in text or "nothing in it was run" in text
    assert "torch.save(model.state_dict(), path)" in text


def test_the_trap_of_the_test_above_would_have_sprung(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung"), protocol=2))
    assert (tmp_path / "sprung").exists()


def test_a_whole_model_is_refused_with_what_to_do(tmp_path, folder):
    torch.save(torchvision.models.get_model(ARCH, weights=None), tmp_path / "v.pth")
    text = refusal(tmp_path / "v.pth", folder)
    assert "names the Python object 'torchvision.models.shufflenetv2.ShuffleNetV2'" in text
    assert "save the state dict alone" in text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(3), "holds Tensor, expected a state dict"),
        ({}, "holds dict, expected a state dict"),
        ({"epoch": 3}, "'epoch' is int, expected a tensor"),
        ({3: torch.zeros(3)}, "3 is Tensor"),
        ({"fc.bias": torch.zeros(3).to_sparse()}, "tensor fc.bias is sparse"),
        ({"fc.bias": torch.empty(3, device="meta")}, "tensor fc.bias is sparse, quantised or empty"),
    ],
)
def test_what_is_not_a_state_dict_is_refused(value, said, tmp_path, folder):
    assert said in refusal(save(value, tmp_path / "v.pth"), folder)


def test_a_tensor_that_claims_to_be_huge_costs_nothing_and_is_refused(tmp_path, folder):
    tensors = make_tensors()
    tensors["fc.bias"] = torch.zeros(1).expand(10**13)
    assert "fc.bias has shape (10000000000000,)" in refusal(save(tensors, tmp_path / "v.pth"), folder)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nothing.pth", "no such file"),
        (
            "torchvision:resnet18/IMAGENET1K_V9",
            "torchvision has no weights 'IMAGENET1K_V9' for resnet18; it has IMAGENET1K_V1",
        ),
        ("torchvision:resnet18", "torchvision has no weights ''"),
        ("torchvision:resnet19/IMAGENET1K_V1", "did you mean"),
        ("torchvision:resnet34/IMAGENET1K_V1", "is a resnet34, not a shufflenet_v2_x0_5"),
    ],
)
def test_a_source_that_is_not_there_is_refused(source, said, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("workers.sources._download", lambda url: tmp_path / "never-read.pth")
    assert said in refusal(source, folder)


def test_without_a_network_a_torchvision_source_says_what_to_do(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for variable in ("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    text = refusal("torchvision:resnet18/IMAGENET1K_V1", folder, arch=None)
    assert "can't be downloaded" in text
    assert "add it as a .pth file" in text


def test_a_torchvision_download_that_was_changed_since_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"something else")
    assert "is not the file torchvision published" in refusal("torchvision:resnet18/IMAGENET1K_V1", folder, arch=None)


def test_a_torchvision_source_brings_its_own_labels_and_preprocessing(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = torchvision.models.get_model("mobilenet_v2", weights=None)
    torch.save(model.state_dict(), tmp_path / "downloaded.pth")
    monkeypatch.setattr("workers.sources._download", lambda url: tmp_path / "downloaded.pth")
    source = "torchvision:mobilenet_v2/IMAGENET1K_V2"
    content = build(source, folder, preprocessing={"crop": 64})
    assert (content["arch"], content["classes"], content["labels"][0]) == ("mobilenet_v2", 1000, "tench")
    assert content["preprocessing"] == to_builtins(Preprocessing(resize=232, crop=64))


@pytest.fixture(params=["googlenet", "inception_v3"])
def normalises(request):
    """As torchvision's own weights want it: it normalises its inputs itself, and has auxiliary classifiers for its training."""
    torch.manual_seed(1)
    model = torchvision.models.get_model(request.param, transform_input=True, init_weights=False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # sees data, or the signal dies on its way and no input changes anything
    auxiliary = {name: part for name, part in model.named_children() if name.lower().startswith("aux")}
    for name in auxiliary:  # they want larger pictures
        setattr(model, name, None)
    with torch.no_grad():
        model.train()(Preprocessor(Preprocessing()).normalise(make_inputs(139, 8)))
    for name, part in auxiliary.items():
        setattr(model, name, part)
    return request.param, model.eval()


@pytest.mark.slow
def test_a_network_that_normalises_its_inputs_itself_answers_as_torchvision_has_it(
    normalises, folder, tmp_path, monkeypatch
):
    arch, model = normalises
    torch.save(model.state_dict(), tmp_path / "downloaded.pth")
    monkeypatch.setattr("workers.sources._download", lambda url: tmp_path / "downloaded.pth")
    content = build(f"torchvision:{arch}/IMAGENET1K_V1", folder, preprocessing={"resize": 139, "crop": 139})
    used = read_preprocessing(content["preprocessing"])
    engine, inputs = make_fp32(map_tensors(folder / WEIGHTS), arch, 1000, 139), make_inputs(139, 4)
    with torch.inference_mode():
        ours = engine(Preprocessor(used).normalise(inputs))
        theirs = model(Preprocessor(Preprocessing()).normalise(inputs))
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


@pytest.mark.slow
def test_a_file_that_does_not_say_how_its_inputs_are_normalised_is_refused_until_somebody_does(
    normalises, folder, tmp_path
):
    arch, model = normalises
    source, sized = tmp_path / "own.pth", {"resize": 80, "crop": 80}
    torch.save(model.state_dict(), source)
    said = refusal(source, folder, arch=arch, preprocessing=sized)
    assert "give --mean and --std, both 0.5 0.5 0.5 if the network was made from torchvision's weights" in said
    assert f"--crop {299 if arch == 'inception_v3' else 224}" in said
    given = {"resize": 80, "crop": 80, "mean": (0.1, 0.2, 0.3), "std": (1, 2, 3)}
    assert build(str(source), folder, arch=arch, preprocessing=given)["preprocessing"]["mean"] == (0.1, 0.2, 0.3)


@pytest.mark.parametrize("name", ["v.txt", "v", "v.h5", "v.onnx"])
def test_a_file_of_another_kind_is_refused(name, tmp_path, folder):
    (tmp_path / name).write_bytes(b"x")
    assert "ends in .safetensors, .pth or .pt" in refusal(tmp_path / name, folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\nb\n", "has 2 labels, the weights have 5 classes"),
        ("a\n\nb\nc\nd\n", "line 2 is empty"),
        (None, "labels can't be read"),
    ],
)
def test_labels_that_do_not_fit_are_refused(text, said, tmp_path, folder):
    labels = tmp_path / "labels.txt"
    if text is not None:
        labels.write_text(text)
    assert said in refusal(save(make_tensors(), tmp_path / "v.pth"), folder, labels=labels)


def test_weights_of_another_architecture_are_refused(tmp_path, folder):
    text = refusal(save(make_tensors(), tmp_path / "v.pth"), folder, arch="resnet18")
    assert "is --arch resnet18 right?" in text


def test_a_deviation_of_zero_is_refused():
    with pytest.raises(BadVersion, match=r"std = \(0, 1, 1\): expected 3 values, each a number from 0\.001 up to 10"):
        read_preprocessing({"crop": 32, "std": (0, 1, 1)})


# ---- stored versions


def test_check_gives_the_numbers_of_a_sound_version(tmp_path):
    home = Home(tmp_path)
    manifest = add_version(home, save(make_tensors(), tmp_path / "v.pth"))
    found = check(version_folder(home, manifest.digest))
    assert found["tensors"] == len(make_tensors())
    assert found["max_difference"] < 1e-3 < found["allowed"]


def test_check_notices_one_changed_bit_of_a_stored_file(tmp_path):
    home = Home(tmp_path)
    manifest = add_version(home, save(make_tensors(), tmp_path / "v.pth"))
    path = version_folder(home, manifest.digest) / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadVersion, match=r"weights.safetensors has SHA-256 .* add it again"):
        check(version_folder(home, manifest.digest))


def test_check_notices_classes_in_another_order_than_when_the_golden_logits_were_written(tmp_path):
    """The rows of the last layer are in reverse order and all checksums fit; the outputs that were recorded do not.

    Names in another order are nothing that weights could show: test_evaluate.py.
    """
    home = Home(tmp_path)
    manifest = add_version(home, save(make_tensors(), tmp_path / "v.pth"))
    wrong = swap_classes(Prepared(home, version_folder(home, manifest.digest), manifest))
    folder = wrong.folder.rename(version_folder(home, wrong.manifest.digest))
    with pytest.raises(BadVersion, match=r"golden logits differ by up to .* the weights are not those that were added"):
        check(folder)


# ---- the process


def run(*arguments):
    argv = [sys.executable, "-m", "workers.scratch", *map(str, arguments)]
    ended = subprocess.run(argv, capture_output=True, env={**os.environ, "PYTHONPATH": "."})
    (line,) = ended.stdout.splitlines()
    return ended.returncode, json.loads(line)


@pytest.mark.slow
def test_the_process_prints_one_line_of_json_and_exits_0_for_a_good_source(tmp_path, folder):
    source = save(make_tensors(), tmp_path / "v.pth")
    options = ["--arch", ARCH, "--preprocessing", json.dumps(asdict(SMALL)), "--memory-mb", 500]
    code, answer = run("build", source, folder, *options)
    assert (code, answer["ok"], answer["reason"], answer["classes"]) == (0, True, "", CLASSES)


@pytest.mark.slow
def test_the_process_prints_the_reason_and_exits_1_for_a_bad_source(tmp_path, folder):
    code, answer = run("build", tmp_path / "none.pth", folder)
    assert (code, answer["ok"]) == (1, False)
    assert "no such file" in answer["reason"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="macOS doesn't enforce the limit")
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_larger_than_the_memory_limit_is_refused_with_the_limit_named(suffix, tmp_path, folder):
    source = save({"fc.weight": torch.zeros(100_000_000)}, tmp_path / f"v{suffix}")
    code, answer = run("build", source, folder, "--memory-mb", 300)
    assert (code, answer["ok"]) == (1, False)
    assert "more than the 300 MB of memory" in answer["reason"]
