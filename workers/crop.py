"""Pure: which part of a picture is left once its shorter side is resized and the centre cropped: no other need be resized."""

from dataclasses import dataclass

Size = tuple[int, int]  # width, height
Box = tuple[float, float, float, float]  # left, top, right, bottom

# EXIF orientation: (are x and y swapped, is the x axis of the file turned round, is its y axis).
_AS_IT_LIES = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


@dataclass(frozen=True, slots=True)
class Span:
    """One axis: from `start` to `stop` in the picture, `n` pixels of the input, the first of them at `at`."""

    start: float
    stop: float
    n: int
    at: int


@dataclass(frozen=True, slots=True)
class Crop:
    """across, down: of the upright picture. An input of which they leave something out is black there."""

    across: Span
    down: Span


def centre_crop(size: Size, resize: int, crop: int) -> Crop:
    """Exactly what torchvision's Resize(resize) and CenterCrop(crop) keep of an upright picture of this size."""
    width, height = resized(size, resize)
    return Crop(_keep(size[0], width, crop), _keep(size[1], height, crop))


def resized(size: Size, resize: int) -> Size:
    """The size after the shorter side became `resize`. The longer one is rounded down, as torchvision does."""
    width, height = size
    longer = int(resize * max(size) / min(size))
    return (resize, longer) if width <= height else (longer, resize)


def _keep(length: int, n_resized: int, crop: int) -> Span:
    if crop > n_resized:
        return Span(0.0, float(length), n_resized, (crop - n_resized) // 2)
    first = round((n_resized - crop) / 2)  # a half goes to the even number, as in torchvision
    return Span(first * length / n_resized, (first + crop) * length / n_resized, crop, 0)


def in_file(crop: Crop, size: Size, reduction: int, orientation: int) -> tuple[Box, Size]:
    """The part to resize and the size to resize it to, in the pixels of a file that is not upright and was decoded reduced.

    size: the whole picture's, upright.
    """
    is_swapped, turns_x, turns_y = _AS_IT_LIES[orientation]
    spans = [(crop.across, size[0]), (crop.down, size[1])]
    (x, width), (y, height) = reversed(spans) if is_swapped else spans
    left, right = _turn(x, width) if turns_x else (x.start, x.stop)
    top, bottom = _turn(y, height) if turns_y else (y.start, y.stop)
    return (left / reduction, top / reduction, right / reduction, bottom / reduction), (x.n, y.n)


def _turn(span: Span, length: int) -> tuple[float, float]:
    return length - span.stop, length - span.start
