"""The fast path from a picture to an input, beside the reference transforms.

Equality bit for bit is promised of `exact` only. `fast` takes the same pixels, but Pillow rounds to whole levels twice on the
way (across, then down), at other places: hence bounds in levels of 255.
"""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

import io

import numpy as np
import pytest
import torch
from hotpool.errors import BadImage
from hotpool.manifest import Preprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as transforms
from workers.crop import resized
from workers.pictures import Picture, decode
from workers.preprocess import Preprocessor

SEED = 22
MAX = 10_000_000
MEAN, STD = (0.1, 0.5, 0.4), (0.2, 0.3, 1.0)
ORIENTATION = 0x0112


def noise(width, height):
    """Not black, not white: bicubic overshoots, and what is cut off at 0 and 255 depends on which way is resized first."""
    return Image.fromarray(np.random.default_rng(SEED).integers(64, 192, (height, width, 3), dtype=np.uint8))


def soft(width, height):
    """Photo-like: structure that a reduced picture still has, and a ramp that tells where each pixel came from."""
    rng = np.random.default_rng(SEED)
    coarse = Image.fromarray(rng.integers(60, 190, (6, 6, 3), dtype=np.uint8))
    array = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.float32)
    array[..., 0] = np.linspace(0, 255, width)
    array[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray((array + rng.normal(0, 3, array.shape)).clip(0, 255).astype(np.uint8))


def file_of(image, format_name, **options):
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def jpeg(image, orientation=1, **options):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return file_of(image, "JPEG", exif=exif, **{"quality": 92, **options})


def both(data_or_picture, **fields):
    """(crop, crop, 3) levels of 255 by the fast and by the exact path; each begins with memory full of NaN."""
    preprocessing = Preprocessing(mean=MEAN, std=STD, **fields)
    found = []
    for way in ("fast", "exact"):
        preprocessor = Preprocessor(preprocessing, way)
        picture = data_or_picture
        if isinstance(picture, bytes):
            picture = decode(picture, MAX, MAX, preprocessor.least_side)
        row = np.full((preprocessing.crop, preprocessing.crop, 3), np.nan, np.float32)
        preprocessor.write(picture, row)
        found.append((row * STD + MEAN) * 255)
    return found


sides, orientations = st.integers(1, 120), st.integers(1, 8)


@settings(max_examples=100, deadline=None)
@given(sides, sides, st.integers(8, 72), st.integers(8, 72), orientations, st.sampled_from(["bilinear", "bicubic"]))
def test_the_same_part_of_any_picture_is_taken_as_by_the_reference(w, h, resize, crop, orientation, interpolation):
    image = noise(w, h)
    picture = Picture(image, image.size, orientation=orientation)
    fast, exact = both(picture, resize=resize, crop=crop, interpolation=interpolation)
    assert np.abs(fast - exact).max() < 3.01  # neighbouring pixels of noise differ by 43 on average


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.integers(8, 2048))
def test_the_resized_size_is_that_of_torchvision(width, height, resize):
    expected = transforms._compute_resized_output_size((height, width), [resize])
    assert list(resized((width, height), resize)) == expected[::-1]


@pytest.mark.parametrize("size", [(100, 75), (30, 300), (5, 9), (65, 64)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize(("resize", "crop"), [(72, 64), (33, 50)])
def test_exact_is_the_reference_bit_for_bit_from_the_file_on(size, interpolation, resize, crop):
    preprocessing = Preprocessing(resize=resize, crop=crop, interpolation=interpolation)
    preprocessor, data = Preprocessor(preprocessing, "exact"), jpeg(noise(*size))
    assert preprocessor.least_side is None
    row = np.empty((crop, crop, 3), np.float32)
    preprocessor.write(decode(data, MAX, MAX, preprocessor.least_side), row)
    expected = preprocessor.picture(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(row.transpose(2, 0, 1), expected.numpy())


@pytest.mark.parametrize("size", [(400, 300), (1001, 1003), (803, 601), (301, 900), (1999, 333)])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_a_reduced_jpeg_gives_nearly_the_same_input_at_the_same_place(size, orientation):
    data = jpeg(soft(*size), orientation)
    fast, exact = both(data, resize=36, crop=32)
    difference = fast - exact
    # The ramps rise by 7 or more levels from pixel to pixel: a tenth of a pixel beside the right place is 0.7.
    assert abs(difference.mean(axis=(0, 1))).max() < 0.35
    assert abs(difference).mean() < 1.0
    assert abs(difference).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_that_was_held_otherwise_is_turned_after_it_was_cut(orientation):
    fast, exact = both(jpeg(noise(65, 40), orientation), resize=33, crop=28)
    assert np.abs(fast - exact).max() < 3.01
    fast, exact = both(jpeg(soft(645, 402), orientation), resize=33, crop=28)
    assert np.abs(fast - exact).max() < 12


@pytest.mark.parametrize(
    ("mode", "format_name"),
    [("L", "JPEG"), ("CMYK", "JPEG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("1", "PNG"),
     ("I;16", "PNG"), ("RGBA", "WEBP"), ("P", "GIF")],
)  # fmt: skip
def test_pictures_of_every_mode_take_the_fast_path(mode, format_name):
    image = soft(300, 200)
    deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
    data = file_of(Image.fromarray(deep) if mode == "I;16" else image.convert(mode), format_name)
    fast, exact = both(data, resize=36, crop=32)
    assert np.abs(fast - exact).max() < (12 if format_name == "JPEG" else 3.01)


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"quality": 30}])
def test_jpegs_of_every_make_take_the_fast_path(options):
    fast, exact = both(jpeg(soft(640, 480), **options), resize=36, crop=32)
    assert np.abs(fast - exact).mean() < 1.5


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 1), (7, 9)])
@pytest.mark.parametrize(("resize", "crop"), [(36, 32), (32, 36)])
def test_tiny_pictures_are_enlarged_as_by_the_reference(size, resize, crop):
    fast, exact = both(file_of(noise(*size), "PNG"), resize=resize, crop=crop)
    assert np.abs(fast - exact).max() < 3.01


@pytest.mark.parametrize("way", ["fast", "exact"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_picture_so_narrow_that_resizing_it_would_fill_the_memory_is_refused_by_both(way, orientation):
    preprocessor, image = Preprocessor(Preprocessing(resize=256), way), Image.new("RGB", (1, 1000))
    with pytest.raises(BadImage, match="too narrow"):
        preprocessor.input(Picture(image, image.size, orientation=orientation))


def test_a_reduced_picture_is_as_narrow_as_its_file_says():
    data = jpeg(noise(64, 8000), quality=50)
    for way in ("fast", "exact"):
        preprocessor = Preprocessor(Preprocessing(resize=700, crop=8), way)
        picture = decode(data, MAX, MAX, 8 if way == "fast" else None)
        with pytest.raises(BadImage, match="64 x 8000, too narrow"):
            preprocessor.input(picture)


def test_nearest_takes_single_pixels_so_it_is_always_exact():
    fast, exact = both(jpeg(noise(640, 480)), resize=36, crop=32, interpolation="nearest")
    assert np.array_equal(fast, exact)


def test_every_level_is_scaled_and_shifted_as_the_reference_does_it():
    image = Image.fromarray(np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3))
    preprocessor = Preprocessor(Preprocessing(resize=16, crop=16))
    got = preprocessor.input(Picture(image, image.size))
    torch.testing.assert_close(got[0], preprocessor.picture(image), rtol=0, atol=5e-7)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_only_its_own_row_of_a_batch_is_written():
    batch = np.full((3, 40, 40, 3), 7.0, np.float32)
    for image in (noise(100, 80), noise(9, 9)):
        Preprocessor(Preprocessing(resize=36, crop=40)).write(Picture(image, image.size), batch[1])
    assert (batch[[0, 2]] == 7).all()
    assert not (batch[1] == 7).any()
