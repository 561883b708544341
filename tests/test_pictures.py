"""Pictures to RGB, and untrusted files to pictures."""

import gc
import io
import random
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from hotpool.errors import BadImage, TooLarge
from hotpool.pictures import to_rgb
from workers import pictures
from workers.pictures import MAX_JPEG_SCANS
from workers.pictures import decode as decode_as_it_lies

SEED = 20
MAX_BYTES, MAX_PIXELS = 1_000_000, 1_000_000
ORIENTATION = 0x0112


def noise(width=32, height=24):
    return Image.fromarray(np.random.default_rng(SEED).integers(0, 256, (height, width, 3), dtype=np.uint8))


def file_of(image, format_name, **options):
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_size(width, height):
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + png_chunk(b"IDAT", b"")
    )


def decode(data, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS, **options):
    return decode_as_it_lies(data, max_bytes, max_pixels, **options).upright()


def reason(data, max_pixels=MAX_PIXELS):
    with pytest.raises(BadImage) as caught:
        decode(data, MAX_BYTES, max_pixels)
    return str(caught.value)


# ---- any mode to RGB

COLOURED = ["P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]
GREY = ["1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"]


@pytest.mark.parametrize("mode", COLOURED + GREY)
def test_every_mode_becomes_rgb_of_the_same_size(mode):
    rgb = to_rgb(Image.new(mode, (3, 2)))
    assert (rgb.mode, rgb.size) == ("RGB", (3, 2))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_ordinary_modes_give_what_convert_gives_so_alpha_is_dropped(mode):
    image = noise().convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    assert to_rgb(image).tobytes() == image.convert("RGB").tobytes()


def test_a_palette_with_transparency_keeps_its_colours():
    image = decode(file_of(noise().quantize(16), "PNG", transparency=bytes(range(16))), MAX_BYTES, MAX_PIXELS)
    assert image.tobytes() == noise().quantize(16).convert("RGB").tobytes()


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_sixteen_bit_grey_loses_its_lower_eight_bits_and_is_not_clipped(mode):
    order = ">" if mode == "I;16B" else "<"
    values = np.array([[0, 255, 256], [32768, 65535, 511]], dtype=f"{order}u2")
    rgb = to_rgb(Image.frombytes(mode, (3, 2), values.tobytes()))
    assert np.asarray(rgb)[..., 0].tolist() == [[0, 0, 1], [128, 255, 1]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 7, 255]], dtype=np.int32), [0, 7, 255]),
        (np.array([[0, 256, 65535]], dtype=np.int32), [0, 1, 255]),
        (np.array([[0, 0.5, 1]], dtype=np.float32), [0, 128, 255]),
        (np.array([[0, 7, 255]], dtype=np.float32), [0, 7, 255]),
        (np.array([[0, 511, 65535]], dtype=np.float32), [0, 1, 255]),
    ],
)
def test_deep_greys_are_scaled_by_the_range_of_their_values(values, expected):
    assert np.asarray(to_rgb(Image.fromarray(values)))[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    "values",
    [
        np.array([[-1, 5]], dtype=np.int32),
        np.array([[0, 70_000]], dtype=np.int32),
        np.array([[0, np.nan]], dtype=np.float32),
        np.array([[0, np.inf]], dtype=np.float32),
    ],
)
def test_deep_greys_without_a_known_scale_are_refused(values):
    with pytest.raises(BadImage, match="expected 0 to 1, 0 to 255 or 0 to 65535"):
        to_rgb(Image.fromarray(values))


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(BadImage, match="0 x 5"):
        to_rgb(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_the_exif_orientation_is_honoured(orientation, format_name):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = file_of(noise(), format_name, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    got = decode(data, MAX_BYTES, MAX_PIXELS)
    assert got.size == ((24, 32) if orientation > 4 else (32, 24))
    assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("exif", [b"Exif\0\0no TIFF at all", b"Exif\0\0MM\0*\0\0", b"Exif\0\0II*\0" + b"\xff" * 40])
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_exif_block_does_not_cost_the_picture(exif, format_name):
    assert decode(file_of(noise(), format_name, exif=exif), MAX_BYTES, MAX_PIXELS).size == (32, 24)


def test_the_picture_given_is_not_changed():
    image = noise().convert("I;16")
    before = image.tobytes()
    to_rgb(image)
    assert (image.mode, image.tobytes()) == ("I;16", before)


# ---- JPEGs decoded at once


def by_pillow(data, least_side=None):
    """What is made of it where Pillow decodes all: its image, or what is said against it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pictures, "_at_once", lambda *_: None)
        return outcome(data, least_side)


def outcome(data, least_side=None):
    try:
        picture = decode_as_it_lies(data, MAX_BYTES, MAX_PIXELS, least_side)
    except BadImage as error:
        return str(error)
    return picture.size, picture.reduction, picture.orientation, picture.image.mode, picture.image.tobytes()


@settings(max_examples=50, deadline=None)
@example(2, 3, None, 90, 0, False, 0, 1)  # at 5/8 it is as large
@given(
    st.integers(1, 90), st.integers(1, 90), st.sampled_from([None, 8, 16]), st.integers(1, 100), st.sampled_from([0, 1, 2]),
    st.booleans(), st.integers(0, 3), st.integers(1, 8),
)  # fmt: skip
def test_a_jpeg_in_colour_is_decoded_without_pillow_to_what_pillow_would_make_of_it(
    width, height, least_side, quality, subsampling, progressive, restart_rows, orientation
):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"quality": quality, "subsampling": subsampling, "progressive": progressive, "exif": exif}
    data = file_of(noise(width, height), "JPEG", restart_marker_rows=restart_rows, **options)
    expected = by_pillow(data, least_side)
    with pytest.MonkeyPatch.context() as patched:
        patched.delattr(ImageFile.ImageFile, "load")
        assert outcome(data, least_side) == expected


def lossless_jpeg(width, height):
    """Of one grey: each difference is 0, and that is one bit, 0."""
    table = b"\xff\xc4" + struct.pack(">HB", 20, 0) + bytes([1] + [0] * 15) + b"\0"
    frame = b"\xff\xc3" + struct.pack(">HBHHB", 17, 8, height, width, 3) + b"\1\x11\0\2\x11\0\3\x11\0"
    scan = b"\xff\xda" + struct.pack(">HB", 12, 3) + b"\1\0\2\0\3\0\1\0\0"
    return b"\xff\xd8" + table + frame + scan + bytes(-(-width * height * 3 // 8)) + b"\xff\xd9"


@pytest.mark.parametrize(
    "begin",
    [b"", b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xd9" * 2, b"\xff\xd8\xff\xfe\0\2\xff\xd9", b"\xff\xd8\xff\xff\xd9"],
)
def test_a_lossless_jpeg_is_decoded_whole_by_pillow(begin):
    """Reduced, libjpeg would write past the memory that is reserved: where it begins, Pillow does not mind an end before it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delattr(simplejpeg, "decode_jpeg")
        patched.delattr(Image.Image, "draft")
        patched.delattr(JpegImageFile, "draft")
        picture = decode_as_it_lies(begin + lossless_jpeg(640, 480), MAX_BYTES, MAX_PIXELS, 8)
    assert (picture.image.size, picture.reduction) == ((640, 480), 1)
    assert picture.image.getcolors() == [(640 * 480, (128, 128, 128))]


def test_no_second_frame_hides_a_lossless_one():
    data, lossless = file_of(noise(), "JPEG"), lossless_jpeg(32, 24)
    frame = lossless[lossless.index(b"\xff\xc3") :][:19]
    at = data.index(b"\xff\xc0")
    for both in (data[:at] + frame + data[at:], data[: at + 19] + frame + data[at + 19 :]):
        assert pictures._frames_of(both) == {0xC0, 0xC3}
        assert isinstance(outcome(both, 8), str)


def test_a_subsampling_that_only_pillow_knows_is_read_all_the_same():
    data = bytearray(file_of(noise(32, 32), "JPEG", subsampling=0))
    at = data.index(b"\xff\xc0") + 10
    assert data[at : at + 3] == b"\1\x11\0"
    data[at + 1] = 0x14  # one pixel of colour for four above each other
    found = outcome(bytes(data))
    assert found == by_pillow(bytes(data))
    assert found[0] == (32, 32)


@pytest.mark.parametrize(("mode", "options"), [("L", {}), ("CMYK", {}), ("RGB", {"keep_rgb": True})])
def test_jpegs_of_other_colours_are_read_as_pillow_reads_them(mode, options):
    data = file_of(noise().convert(mode), "JPEG", **options)
    assert outcome(data) == by_pillow(data)


def test_a_jpeg_of_another_size_than_was_checked_is_not_decoded_at_once(monkeypatch):
    data = file_of(noise(), "JPEG")
    expected = by_pillow(data)
    monkeypatch.setattr(simplejpeg, "decode_jpeg_header", lambda data: (60_000, 60_000, "YCbCr", "420"))
    monkeypatch.delattr(simplejpeg, "decode_jpeg")
    assert outcome(data) == expected


def test_a_damaged_jpeg_is_as_good_or_as_bad_as_pillow_finds_it():
    rng, n_read = random.Random(SEED), 0
    print(f"seed {SEED}")
    originals = [file_of(noise(), "JPEG"), file_of(noise(), "JPEG", progressive=True), file_of(noise(), "MPO")]
    for _ in range(600):
        data, least_side = mutate(rng.choice(originals), rng), rng.choice([None, 8])
        found = outcome(data, least_side)
        assert found == by_pillow(data, least_side)
        n_read += not isinstance(found, str)
    assert 100 < n_read < 500


def test_the_pixels_of_a_decoded_jpeg_stay_when_its_bytes_are_gone():
    data = file_of(noise(200, 100), "JPEG")
    expected = by_pillow(data)[-1]
    image = decode_as_it_lies(data, MAX_BYTES, MAX_PIXELS).image
    others = [decode_as_it_lies(file_of(Image.new("RGB", (200, 100)), "JPEG"), MAX_BYTES, MAX_PIXELS) for _ in range(9)]
    gc.collect()
    assert image.tobytes() == expected
    assert {byte for other in others for byte in other.image.tobytes()} == {0}


# ---- decoded at a fraction of the size


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(8, 64), st.integers(1, 8))
def test_a_jpeg_is_decoded_as_small_as_may_be_and_no_smaller(width, height, least_side, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = file_of(noise(width, height), "JPEG", exif=exif)
    picture = decode_as_it_lies(data, MAX_BYTES, MAX_PIXELS, least_side)
    shorter = min(width, height)
    assert picture.reduction == max([n for n in (1, 2, 4, 8) if shorter >= n * least_side], default=1)
    assert picture.image.size == (-(-width // picture.reduction), -(-height // picture.reduction))
    assert min(picture.image.size) >= min(least_side, shorter)
    assert (picture.size, picture.orientation) == ((width, height), orientation)
    assert picture.upright_size == ((height, width) if orientation > 4 else (width, height))


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "BMP", "GIF"])
def test_formats_without_a_smaller_scale_are_decoded_whole(format_name):
    picture = decode_as_it_lies(file_of(noise(200, 100), format_name), MAX_BYTES, MAX_PIXELS, 8)
    assert (picture.image.size, picture.size, picture.reduction) == ((200, 100), (200, 100), 1)


@pytest.mark.parametrize("format_name", ["JPEG", "MPO"])
def test_the_limits_hold_for_the_size_in_the_file_and_not_for_the_one_it_is_decoded_at(format_name):
    data = file_of(noise(200, 100), format_name)
    assert decode_as_it_lies(data, MAX_BYTES, 20_000, 8).image.size == (25, 13)
    with pytest.raises(BadImage, match="200 x 100 = 20000 pixels, allowed are 19999"):
        decode_as_it_lies(data, MAX_BYTES, 19_999, 8)
    with pytest.raises(BadImage, match=f"the JPEG ends after {len(data) // 2} bytes, it is truncated"):
        decode_as_it_lies(data[: len(data) // 2], MAX_BYTES, MAX_PIXELS, 8)


# ---- files


@pytest.mark.parametrize("format_name", ["PNG", "BMP", "WEBP", "JPEG", "GIF"])
def test_each_format_is_read_as_pillow_reads_it(format_name):
    data = file_of(noise(), format_name)
    assert decode(data, MAX_BYTES, MAX_PIXELS).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "PNG", "MPO"])
def test_of_several_frames_the_first_is_taken(format_name):
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    data = file_of(red, format_name, save_all=True, append_images=[blue, blue])
    r, _, b = np.asarray(decode(data, MAX_BYTES, MAX_PIXELS))[4, 4]
    assert r > 200
    assert b < 50


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty: 0 bytes"),
        (file_of(noise(), "TIFF"), "a TIFF file"),
        (file_of(noise(), "EPS"), "a PostScript file"),
        (file_of(noise(), "ICO"), "an ICO file"),
        (file_of(noise(), "PPM"), "no picture of a known format"),
        (b"%PDF-1.7", "a PDF file"),
        (b'  <?xml version="1.0"?><svg/>', "markup"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "markup"),
        (b"\0\0\0\x20ftypavif", "an AVIF file"),
        (b"\0\0\0\x20ftypheic", "a HEIC file"),
        (b"RIFF\0\0\0\0WAVEfmt ", "no picture of a known format"),
        (b"just text", "no picture of a known format, it starts with b'just tex'"),
    ],
)
def test_other_files_are_refused_by_name(data, said):
    text = reason(data)
    assert said in text
    assert "empty" in text or "accepted are JPEG, PNG, WebP, BMP and GIF" in text


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_a_truncated_file_says_so_and_where_it_ends(format_name):
    data = file_of(noise(200, 200), format_name)
    half = len(data) // 2
    assert reason(data[:half]) == f"the {format_name} ends after {half} bytes, it is truncated"


def test_more_bytes_than_allowed_are_not_looked_at():
    with pytest.raises(TooLarge, match="1000001 bytes, allowed are 1000000"):
        decode(bytes(MAX_BYTES + 1), MAX_BYTES, MAX_PIXELS)


def test_the_limit_of_pixels_is_exact():
    data = file_of(noise(), "PNG")
    assert decode(data, MAX_BYTES, 32 * 24).size == (32, 24)
    assert reason(data, max_pixels=32 * 24 - 1) == "the picture is 32 x 24 = 768 pixels, allowed are 767"


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (100_000, 100_000), (1, 2**31 - 1)])
def test_absurd_sizes_are_refused_from_the_header_alone(size):
    assert "allowed are 1000000" in reason(png_of_size(*size))


def test_a_small_animated_file_with_a_huge_canvas_is_refused():
    frames = {"save_all": True, "append_images": [Image.new("RGB", (4, 4), "blue")]}
    gif = bytearray(file_of(Image.new("RGB", (4, 4)), "GIF", **frames))
    gif[6:10] = b"\xff\xff\xff\xff"
    webp = bytearray(file_of(Image.new("RGB", (4, 4)), "WEBP", **frames))
    webp[24:30] = b"\xff\x3f\0\xff\x3f\0"
    assert "65535 x 65535" in reason(bytes(gif))
    assert "16384 x 16384" in reason(bytes(webp))


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_a_file_without_pixels_is_refused(size):
    assert reason(png_of_size(*size))


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_a_png_whose_text_unpacks_to_a_hundred_megabytes_is_refused(kind):
    data = file_of(noise(), "PNG")
    at = data.index(b"IDAT") - 4
    bomb = png_chunk(kind, b"a\0\0" + zlib.compress(bytes(100_000_000), 1))
    assert "too large" in reason(data[:at] + bomb + data[at:])


def test_a_jpeg_of_countless_exif_segments_is_refused_before_pillow_joins_them():
    data = file_of(noise(), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 12) + b"Exif\0\0abcd"
    assert "segments" in reason(data[:2] + segment * 60_000 + data[2:])
    # In front of Pillow's parser these lie open; a walk that trusts the length of the unknown segment skips them.
    hidden = b"\xff\xf0\xff\xff" + segment * 4000
    assert "segments" in reason(data[:2] + hidden + bytes(65_535 - len(hidden) + 2) + data[2:])


def test_a_jpeg_of_countless_scans_is_refused_and_one_of_ordinary_scans_is_not():
    data = file_of(noise(), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    n = data.count(b"\xff\xda")
    assert decode(data[:-2] + scan * (MAX_JPEG_SCANS - n) + data[-2:], MAX_BYTES, MAX_PIXELS).size == (32, 24)
    assert "scans" in reason(data[:-2] + scan * (MAX_JPEG_SCANS - n + 1) + data[-2:])


def test_no_scan_is_hidden_behind_an_end_or_a_marker_that_libjpeg_skips():
    data = file_of(noise(), "JPEG", progressive=True, restart_marker_blocks=1)
    scan = data[data.rindex(b"\xff\xda") : -2]
    many = scan * MAX_JPEG_SCANS
    assert "scans" in reason(b"\xff\xd8\xff\xd9" + data[:-2] + many + data[-2:])
    first = data.index(b"\xff\xda")
    at = first + 2 + int.from_bytes(data[first + 2 : first + 4])
    assert "scans" in reason(data[:at] + b"\xff\x02\xff\xff" + data[at:-2] + many + data[-2:])


def test_what_follows_the_end_of_a_jpeg_is_not_counted():
    trailer = b"\0\2" + b"\xff\xda\0\2" * 1000  # phones append films
    assert decode(file_of(noise(), "JPEG") + trailer, MAX_BYTES, MAX_PIXELS).size == (32, 24)


def corpus():
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010E], exif[0x011A] = 6, "text", 72.0
    frames = {"save_all": True, "append_images": [noise().rotate(180), noise()]}
    yield file_of(noise(), "JPEG", exif=exif, icc_profile=b"x" * 300, comment=b"text")
    yield file_of(noise(), "JPEG", progressive=True)
    yield file_of(noise(), "MPO", exif=exif, **frames)
    yield file_of(noise(), "PNG", exif=exif)
    yield file_of(noise(), "BMP")
    yield file_of(noise(), "GIF", comment=b"text", **frames)
    yield file_of(noise(), "WEBP", exif=exif)
    yield file_of(noise(), "WEBP", lossless=True)
    yield file_of(noise(), "WEBP", **frames)
    yield file_of(noise(), "PNG", **frames)
    for mode in ("CMYK", "L"):
        yield file_of(noise().convert(mode), "JPEG")
    for mode in ("P", "LA", "1", "I;16"):
        yield file_of(noise().convert("L").convert(mode) if mode == "I;16" else noise().convert(mode), "PNG")
    for mode in ("P", "1"):
        yield file_of(noise().convert(mode), "BMP")


def mutate(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 8])):
        at = rng.randrange(len(data)) if rng.random() < 0.4 else rng.randrange(min(len(data), 120))
        match rng.randrange(6):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                del data[at : at + rng.choice([1, 2, 4, 16, 400])]
            case 3:
                data[at:at] = rng.randbytes(rng.choice([1, 2, 4, 16]))
            case 4:
                data[at : at + 4] = rng.choice(
                    [bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\x01", b"\x01\0\0\0"]
                )
            case 5:
                other = rng.randrange(len(data))
                data[at : at + 16] = data[other : other + 16]
        if not data:
            return b"\0"
    return bytes(data)


def with_right_checksums(png):
    """Else most damage to a PNG is stopped by its checksums and never reaches what reads the chunk."""
    out, at = bytearray(png[:8]), 8
    while at + 12 <= len(png):
        n = int.from_bytes(png[at : at + 4])
        out += png_chunk(png[at + 4 : at + 8], png[at + 8 : at + 8 + n])
        at += 12 + n
    return bytes(out)


def decode_mutations(n, seed):
    print(f"seed {seed}")
    rng, originals, n_read = random.Random(seed), list(corpus()), 0
    for _ in range(n):
        data = mutate(rng.choice(originals), rng)
        if data.startswith(b"\x89PNG\r\n\x1a\n") and rng.random() < 0.7:
            data = with_right_checksums(data)
        try:
            image = decode(data, MAX_BYTES, MAX_PIXELS, least_side=rng.choice([None, 8]))
        except BadImage:
            continue
        n_read += 1
        assert image.mode == "RGB"
        assert 0 < image.width * image.height <= MAX_PIXELS
    return n_read


def test_any_damage_to_a_file_gives_a_picture_or_bad_image_and_nothing_else():
    n_read = decode_mutations(2000, SEED)
    assert 200 < n_read < 1500  # the mutations neither miss everything nor break everything


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_much_damage_to_a_file_gives_a_picture_or_bad_image_and_nothing_else(seed):
    decode_mutations(20_000, seed)
