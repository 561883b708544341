"""Pure: pictures for benchmarks, drawn here: the same seed draws the same file."""

import io

import numpy as np
from PIL import Image

from examples.shapes.pictures import LABELS, draw

_ORIENTATION_TAG = 0x0112


def photo(width: int, height: int, seed: int) -> Image.Image:
    """Photo-like: at every scale from half the picture to two pixels some structure, each finer one a little weaker, as the
    spectra of photographs have it, in soft colours, under the noise of a sensor."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 128, np.float32)
    scale, contrast = max(width, height) / 2, 40.0
    while scale >= 2:
        grid = max(2, round(height / scale)), max(2, round(width / scale))
        picture += contrast * _smooth(rng.standard_normal(grid, np.float32), width, height)[..., None]
        if scale >= 16:  # colour changes more slowly than light
            for channel in range(3):
                colour = _smooth(rng.standard_normal(grid, np.float32), width, height)
                picture[..., channel] += 0.4 * contrast * colour
        scale, contrast = scale / 2, contrast * 0.8
    picture += rng.normal(0, 2, picture.shape)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def _smooth(grid: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


def jpeg(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def varied(i: int, seed: int) -> tuple[str, bytes]:
    """A file of the demo's shapes, and what it is; depends on (seed, i) only.

    They vary in size from 100 to 1,500 pixels, aspect ratio up to 2, noise, format, mode, quality, subsampling, order of scans
    and EXIF orientation.
    """
    rng = np.random.default_rng((seed, i))
    longer, ratio = 10 ** rng.uniform(2, np.log10(1500)), rng.uniform(0.5, 1)
    width, height = round(longer), max(100, round(longer * ratio))
    size = (width, height) if rng.random() < 0.5 else (height, width)
    picture = draw(LABELS[i % len(LABELS)], (seed, i)).resize(size, Image.Resampling.BICUBIC)
    noisy = np.asarray(picture) + rng.normal(0, rng.uniform(0, 20), (picture.height, picture.width, 3))
    return _file(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), rng)


# (format, mode): two thirds are JPEG in colour, as what pools get.
_OTHERS = (("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "LA"), ("PNG", "I;16"),
           ("WEBP", "RGB"), ("BMP", "RGB"), ("GIF", "P"))  # fmt: skip


def _file(picture: Image.Image, rng: np.random.Generator) -> tuple[str, bytes]:
    kind, mode = ("JPEG", "RGB") if rng.random() < 2 / 3 else _OTHERS[rng.integers(len(_OTHERS))]
    options: dict[str, object] = {"compress_level": 1} if kind == "PNG" else {}  # only quicker to write
    if kind == "JPEG":
        quality, subsampling = int(rng.integers(30, 96)), int(rng.integers(3))
        # Pillow's buffer for progressive files is too small for fine ones with much noise.
        options = {"quality": quality, "subsampling": subsampling, "progressive": quality < 50}
        exif = Image.Exif()
        exif[_ORIENTATION_TAG] = int(rng.integers(1, 9))
        options["exif"] = exif
    file = io.BytesIO()
    _in_mode(picture, mode).save(file, kind, **options)
    return f"{kind} {mode} {picture.width} x {picture.height}", file.getvalue()


def _in_mode(picture: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    return picture.convert(mode)
