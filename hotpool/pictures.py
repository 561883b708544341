"""Pure: any picture to upright 8-bit RGB, the way torchvision's default loader does it (`convert("RGB")`), and more carefully.

Two things `convert` gets wrong are put right: the EXIF orientation is honoured, and 16-bit and floating-point greys are scaled
(Pillow clips them, which turns a 16-bit picture white). Alpha is dropped, as torchvision does.
"""

import struct
import zlib
from typing import TYPE_CHECKING

from .errors import BadImage

if TYPE_CHECKING:
    from PIL import Image

# What Pillow lets escape on damaged files: the first four came out of fuzzing its five plugins here, the others are raised
# or provoked in its source. Its UnidentifiedImageError is an OSError.
PILLOW_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    struct.error,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    RuntimeError,
    zlib.error,
)

_ORIENTATION_TAG = 0x0112
_DEEP_MODES = {"I", "I;16", "I;16L", "I;16B", "I;16N", "F"}
# convert() has no direct way from premultiplied alpha to RGB, and warns of palettes with alpha on the direct one.
_STEPS_TO_RGB = {"P": ("RGBA", "RGB"), "La": ("LA", "RGB"), "RGBa": ("RGBA", "RGB"), "PA": ("RGBA", "RGB")}


def to_rgb(image: "Image.Image") -> "Image.Image":
    """The picture in mode RGB, turned upright; the one given is not changed, and returned if it is that already.

    Grey of 16 bits loses its lower 8. Modes I and F say nothing of their range, so it is taken from the values: up to 255 as
    they are (what Pillow itself means by them), up to 65535 as 16 bits, and for F up to 1 as fractions.

    Raises:
        BadImage: it has no pixels, its file is damaged (a `PIL.Image` reads it late), or its values have no known scale.
    """
    return upright(as_rgb(image), orientation(image))


def as_rgb(image: "Image.Image") -> "Image.Image":
    """As `to_rgb`, but as it lies in its file."""
    if 0 in image.size:
        raise BadImage(f"the picture has no pixels: it is {image.width} x {image.height}")
    try:
        image.load()
        if image.mode == "RGB":
            return image  # convert() would copy it: 3 ms for a phone photo of 12 megapixels
        rgb = _deep_to_grey(image) if image.mode in _DEEP_MODES else image
        for mode in _STEPS_TO_RGB.get(rgb.mode, ("RGB",)):
            rgb = rgb.convert(mode)
        return rgb
    except PILLOW_ERRORS as error:
        raise BadImage(f"the picture can't be read: {error or type(error).__name__}") from None


def orientation(image: "Image.Image") -> int:
    """What EXIF says of how it was held, 1 to 8; 1 is upright, and what is taken where EXIF says nothing that makes sense."""
    # EXIF blocks are often damaged in pictures that are otherwise fine: then the picture is taken as it lies.
    try:
        found = image.getexif().get(_ORIENTATION_TAG, 1)
    except PILLOW_ERRORS:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def upright(image: "Image.Image", orientation: int) -> "Image.Image":
    """Turned as its EXIF orientation asks for."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def _deep_to_grey(image: "Image.Image") -> "Image.Image":
    import numpy as np
    from PIL import Image

    sixteen_bits = image.mode.startswith("I;16")
    values = np.asarray(image.convert("I") if sixteen_bits else image)
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 65535:  # false for NaN as well
        raise BadImage(f"values of mode {image.mode} from {low:g} to {high:g}: expected 0 to 1, 0 to 255 or 0 to 65535")
    if sixteen_bits or high > 255:
        values = values / 256 if image.mode == "F" else values >> 8
    elif image.mode == "F" and high <= 1:
        values = np.rint(values * 255)
    return Image.fromarray(values.astype(np.uint8))
