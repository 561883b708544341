"""Shell: the bytes of an untrusted picture file to a `PIL.Image`, within limits that are checked before anything is decoded."""

import io
import re
import warnings

from PIL import Image, ImageFile, UnidentifiedImageError

from hotpool.errors import BadImage, TooLarge
from hotpool.pictures import PILLOW_ERRORS, to_rgb

FORMATS = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n", "WEBP": b"RIFF", "BMP": b"BM", "GIF": b"GIF8"}

# Not served, but worth naming to whoever sent one: (offset, the bytes there, what it is).
_KNOWN_STRANGERS = (
    (0, b"II*\0", "a TIFF"),
    (0, b"MM\0*", "a TIFF"),
    (0, b"%!PS", "a PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript"),
    (0, b"%PDF", "a PDF"),
    (0, b"8BPS", "a Photoshop"),
    (0, b"\0\0\x01\0", "an ICO"),
    (0, b"\0\0\0\x0cjP", "a JPEG 2000"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (4, b"ftypavif", "an AVIF"),
    (4, b"ftyphei", "a HEIC"),
    (4, b"ftyp", "a video"),
    (0, b"PK\x03\x04", "a ZIP"),
)
_MARKUP = re.compile(rb"\s*<(\?xml|!|svg|html)", re.IGNORECASE)

# Pillow and libjpeg spend time per segment and per scan, not per byte: 14 MB of empty EXIF segments took 134 s, each scan of a
# 49-megapixel progressive JPEG 30 ms whatever its length. Honest files have at most some 300 segments and 12 scans.
MAX_JPEG_SEGMENTS = 4096
MAX_JPEG_SCANS = 64
MAX_EXIF_SEGMENTS = 64
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd7])")  # 01, D0-D7 stand alone; 00 is a stuffed byte, FF a fill

# Pillow's own bomb check warns, or raises a class of its own; here the size is checked against `max_pixels` instead.
Image.MAX_IMAGE_PIXELS = None
ImageFile.LOAD_TRUNCATED_IMAGES = False


def decode(data: bytes, max_bytes: int, max_pixels: int) -> Image.Image:
    """The first frame of a JPEG, PNG, WebP, BMP or GIF file, upright, in mode RGB.

    Raises:
        TooLarge: more than `max_bytes`.
        BadImage: anything else that is wrong with it; the message says what. No other exception, whatever the bytes.
    """
    if len(data) > max_bytes:
        raise TooLarge(f"the picture has {len(data)} bytes, allowed are {max_bytes}")
    format_name = _sniff(data)
    if format_name == "JPEG":
        _check_segments(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of every oddity it works around
        try:
            with Image.open(io.BytesIO(data), formats=[format_name]) as image:
                _check_size(image.size, max_pixels)
                image.load()
                _check_size(image.size, max_pixels)
                return to_rgb(image)
        except PILLOW_ERRORS as error:
            raise BadImage(_explain(format_name, data, error)) from None


def _sniff(data: bytes) -> str:
    if not data:
        raise BadImage("the picture is empty: 0 bytes")
    for name, magic in FORMATS.items():
        if data.startswith(magic) and (name != "WEBP" or data[8:12] == b"WEBP"):
            return name
    accepted = "accepted are JPEG, PNG, WebP, BMP and GIF"
    for offset, magic, stranger in _KNOWN_STRANGERS:
        if data.startswith(magic, offset):
            raise BadImage(f"this is {stranger} file; {accepted}")
    if _MARKUP.match(data):
        raise BadImage(f"this is text with markup (such as SVG or HTML); {accepted}")
    raise BadImage(f"this is no picture of a known format, it starts with {data[:8]!r}; {accepted}")


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise BadImage(f"the picture has no pixels: it is {width} x {height}")
    if width * height > max_pixels:
        raise BadImage(f"the picture is {width} x {height} = {width * height} pixels, allowed are {max_pixels}")


def _check_segments(data: bytes) -> None:
    segments = scans = at = 0
    while (match := _JPEG_MARKER.search(data, at)) and match[1] != b"\xd9":
        is_start = match[1] == b"\xd8"
        at = match.end() + (0 if is_start else int.from_bytes(data[match.end() : match.end() + 2]))
        segments, scans = segments + 1, scans + (match[1] == b"\xda")
        if segments > MAX_JPEG_SEGMENTS or scans > MAX_JPEG_SCANS:
            raise BadImage(f"the JPEG has more than {MAX_JPEG_SEGMENTS} segments or {MAX_JPEG_SCANS} scans")
    if data.count(b"Exif\0\0") > MAX_EXIF_SEGMENTS:
        raise BadImage(f"the JPEG has more than {MAX_EXIF_SEGMENTS} EXIF segments")


def _explain(format_name: str, data: bytes, error: Exception) -> str:
    text = str(error)
    is_cut = isinstance(error, EOFError) or "truncated" in text.lower()
    if format_name == "WEBP":  # its decoder gives no reason, but the file says how long it should be
        is_cut = int.from_bytes(data[4:8], "little") + 8 > len(data)
    if is_cut:
        return f"the {format_name} ends after {len(data)} bytes, it is truncated"
    if isinstance(error, UnidentifiedImageError):
        return f"the {format_name} is damaged: its header can't be read"
    if isinstance(error, MemoryError):
        return f"the {format_name} needs more memory than there is"
    return f"the {format_name} is damaged: {text or type(error).__name__}"
