"""Pictures and arrays to inputs, equal to torchvision's reference."""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hotpool.errors import BadImage, BadInput
from hotpool.manifest import Preprocessing
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification
from workers.preprocess import Preprocessor, check_tensor

SEED = 21


def pixels(width, height):
    return np.random.default_rng(SEED).integers(0, 256, (height, width, 3), dtype=np.uint8)


def reference(preprocessing):
    return ImageClassification(
        crop_size=preprocessing.crop,
        resize_size=preprocessing.resize,
        mean=preprocessing.mean,
        std=preprocessing.std,
        interpolation=InterpolationMode(preprocessing.interpolation),
    )


@pytest.mark.parametrize("size", [(100, 75), (30, 300), (64, 64), (5, 9), (65, 64)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize(("resize", "crop"), [(72, 64), (64, 64), (33, 50)])
def test_inputs_equal_those_of_the_reference_transforms(size, interpolation, resize, crop):
    preprocessing = Preprocessing(
        resize=resize, crop=crop, interpolation=interpolation, mean=(0.1, 0.5, 0.4), std=(0.2, 0.3, 1.0)
    )
    array = pixels(*size)
    expected = reference(preprocessing)(Image.fromarray(array))
    for got in (
        Preprocessor(preprocessing).picture(Image.fromarray(array)),
        Preprocessor(preprocessing).pixels(array),
    ):
        assert torch.equal(got, expected)
        assert (got.shape, got.dtype, got.is_contiguous()) == ((3, crop, crop), torch.float32, True)


def test_the_defaults_equal_those_of_torchvisions_own_weights():
    from torchvision.models import ResNet18_Weights

    image = Image.fromarray(pixels(300, 260))
    expected = ResNet18_Weights.IMAGENET1K_V1.transforms()(image)
    assert torch.equal(Preprocessor(Preprocessing()).picture(image), expected)


def test_pixels_that_are_a_view_with_strides_are_taken_as_they_look():
    array, preprocessor = pixels(40, 30), Preprocessor(Preprocessing(resize=36, crop=32))
    assert torch.equal(preprocessor.pixels(array[::-1]), preprocessor.pixels(array[::-1].copy()))


@pytest.mark.parametrize(
    "array",
    [
        pixels(4, 4).astype(np.float32),
        pixels(4, 4)[..., 0],
        pixels(4, 4)[..., :2],
        pixels(4, 4)[:0],
        pixels(4, 4)[:, :0],
        pixels(4, 4)[None],
        pixels(4, 4).transpose(2, 0, 1),
    ],
)
def test_pixels_of_another_shape_or_dtype_are_refused_by_name(array):
    with pytest.raises(BadInput) as caught:
        Preprocessor(Preprocessing()).pixels(array)
    assert str(caught.value) == f"expected pixels as uint8 (h, w, 3), got {array.dtype} {array.shape}"


def test_a_picture_so_narrow_that_resizing_it_would_fill_the_memory_is_refused():
    with pytest.raises(BadImage, match="1 x 1000, too narrow"):
        Preprocessor(Preprocessing(resize=256)).picture(Image.new("RGB", (1, 1000)))
    assert Preprocessor(Preprocessing(resize=32, crop=32)).picture(Image.new("RGB", (1, 1000))).shape == (3, 32, 32)


@pytest.mark.parametrize("n", [1, 256])
def test_tensors_of_the_right_shape_pass(n):
    check_tensor(np.zeros((n, 3, 32, 32), dtype=np.float32), Preprocessing(resize=32, crop=32))


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.zeros((0, 3, 32, 32), dtype=np.float32), "got shape (0, 3, 32, 32)"),
        (np.zeros((257, 3, 32, 32), dtype=np.float32), "got shape (257, 3, 32, 32)"),
        (np.zeros((3, 32, 32), dtype=np.float32), "got shape (3, 32, 32)"),
        (np.zeros((1, 1, 32, 32), dtype=np.float32), "got shape (1, 1, 32, 32)"),
        (np.zeros((1, 3, 32, 31), dtype=np.float32), "got shape (1, 3, 32, 31)"),
        (np.zeros((1, 3, 32, 32), dtype=np.float64), "got dtype float64"),
        (np.zeros((1, 3, 32, 32), dtype=np.uint8), "got dtype uint8"),
    ],
)
def test_tensors_of_another_shape_or_dtype_are_refused_by_name(array, got):
    with pytest.raises(BadInput) as caught:
        check_tensor(array, Preprocessing(resize=32, crop=32))
    assert str(caught.value) == f"expected float32 (n, 3, 32, 32) with 1 <= n <= 256, {got}"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tensors_that_are_not_finite_are_refused(value):
    array = np.zeros((2, 3, 32, 32), dtype=np.float32)
    array[1, 2, 3, 4] = value
    with pytest.raises(BadInput, match="got 1 of 6144 that are NaN or infinite"):
        check_tensor(array, Preprocessing(resize=32, crop=32))


IMPORT = """
import os
before = len(os.listdir("/proc/self/task"))
from torch.utils._python_dispatch import TorchDispatchMode
class Refuse(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        raise SystemExit(f"{function} ran during the import")
with Refuse():
    import workers.loading, workers.pictures, workers.preprocess
print(before, len(os.listdir("/proc/self/task")))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_importing_starts_no_thread_and_runs_no_torch_operation():
    # numpy's own threads are the business of whoever starts the process.
    environment = {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": "."}
    ended = subprocess.run([sys.executable, "-c", IMPORT], env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.split()) == (0, ["1", "1"]), ended.stderr


OPERATORS = """
import hotpool.torchvision_ops as ops
declared = list(ops._declared)
import torch, torchvision
ops.declare_missing_operators()
assert ops._declared == declared
assert torch.ops.torchvision.nms and torchvision.models.resnet18
"""


@pytest.mark.slow
def test_torchvision_can_be_imported_after_its_missing_operators_were_declared_and_declaring_twice_is_harmless():
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", OPERATORS], env={"PYTHONPATH": "."}, capture_output=True
    )
    assert ended.returncode == 0, ended.stderr.decode()


WITHOUT_COMPILER = """
import sys
import hotpool.torchvision_ops, workers.torch_version, workers.scratch
roi_align = sys.modules["torchvision.ops.roi_align"]
assert "torch._dynamo" not in sys.modules
assert roi_align.is_compile_supported("meta") is False
assert sys.modules["torch._dynamo.utils"].is_compile_supported("cpu") is roi_align.is_compile_supported("cpu")
"""


@pytest.mark.slow
def test_a_torchvision_that_wants_more_of_the_compiler_gets_torchs_own(tmp_path):
    """An invented one, which asks for two names."""
    folder = tmp_path / "torchvision" / "ops"
    folder.mkdir(parents=True)
    for file in (folder.parent / "__init__.py", folder / "__init__.py"):
        file.touch()
    (folder / "roi_align.py").write_text("from torch._dynamo.utils import is_compile_supported, istype\n")
    code = """
import sys
import hotpool.torchvision_ops
from torchvision.ops import roi_align
from torch._dynamo import utils
assert roi_align.istype is utils.istype
assert roi_align.is_compile_supported("meta") is False
assert sys.modules["torch._dynamo.utils"] is utils
"""
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), "."])}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_torchs_compiler_is_imported_by_who_asks_it_and_not_with_torchvision():
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER], env={"PYTHONPATH": "."}, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
