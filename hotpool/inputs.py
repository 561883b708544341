"""Shell: what callers pass to `classify` and `infer`, as the work and payload of a request."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import BadInput
from .messages import Work

if TYPE_CHECKING:
    from PIL.Image import Image

    ImageLike = str | os.PathLike[str] | bytes | Image | NDArray[np.uint8]


def picture_work(image: "ImageLike", top: int) -> tuple[Work, bytes | memoryview]:
    """A picture as its file's bytes where we have them, else as RGB pixels.

    Raises:
        BadInput: not a path, bytes, PIL image or (h, w, 3) uint8 array; the file can't be read; `top` < 1.
    """
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise BadInput(f"top = {top!r}: expected a whole number, at least 1")
    if isinstance(image, (bytes, bytearray, memoryview)):  # first: asking for an os.PathLike takes longer
        return Work("picture", top), bytes(image)
    if isinstance(image, (str, os.PathLike)):
        return Work("picture", top), _read(Path(image))
    if not isinstance(image, np.ndarray) and hasattr(image, "convert"):
        from .pictures import to_rgb  # only who passes PIL images needs Pillow

        image = np.asarray(to_rgb(image))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise BadInput(f"expected an (h, w, 3) uint8 array, got {_describe(image)}")
        return Work("pixels", top, image.shape), _frozen(image)
    raise BadInput(f"expected a path, bytes, a PIL image or an (h, w, 3) uint8 array, got {type(image).__name__}")


def tensor_work(array: NDArray[np.float32]) -> tuple[Work, bytes | memoryview]:
    """An (n, 3, h, w) float32 batch, normalised as the version's manifest says.

    Raises:
        BadInput: anything else.
    """
    if not isinstance(array, np.ndarray):
        raise BadInput(f"expected an (n, 3, h, w) float32 array, got {type(array).__name__}")
    if array.dtype != np.float32 or array.ndim != 4 or array.shape[1] != 3 or 0 in array.shape:
        raise BadInput(f"expected an (n, 3, h, w) float32 array, got {_describe(array)}")
    return Work("tensor", 1, array.shape), _frozen(array.astype("<f4", copy=False))


def _frozen(array: NDArray[Any]) -> bytes:
    """A copy: the caller may change its array while the request waits or is sent again."""
    return array.tobytes()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: can't be read: {error.strerror}") from None


def _describe(array: NDArray[Any]) -> str:
    return f"{array.shape} {array.dtype}"
