"""Pure: pictures of ten classes of shapes and textures. The same seed draws the same picture."""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.float32]

SIDE = 96
# Masks are drawn larger and reduced, which gives soft edges.
_OVERSAMPLE = 2
_LEAST_CONTRAST = 90.0  # distance of the two colours in RGB; below it a shape can't be told from its ground


def draw(label: str, seed: int | tuple[int, ...]) -> Image.Image:
    """One RGB picture, SIDE x SIDE, of this class: colours, size, place, rotation and noise vary with the seed.

    Raises:
        KeyError: the label is not one of LABELS.
    """
    rng = np.random.default_rng(seed)
    mask = _MASKS[label](rng)[..., None]
    ground, figure = _two_colours(rng)
    shade = _slope(rng)[..., None] * rng.uniform(0, 40)
    picture = ground + (figure - ground) * mask + shade
    picture += rng.standard_normal(picture.shape, dtype=np.float32) * rng.uniform(3, 30)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def draw_many(n: int, seed: int) -> list[tuple[Image.Image, int]]:
    """n pictures, each with the index of its label; the classes take turns. Picture i depends on (seed, i) only."""
    return [(draw(LABELS[i % len(LABELS)], (seed, i)), i % len(LABELS)) for i in range(n)]


def _two_colours(rng: np.random.Generator) -> tuple[Floats, Floats]:
    while True:
        ground, figure = rng.uniform(20, 235, (2, 3)).astype(np.float32)
        if np.linalg.norm(figure - ground) >= _LEAST_CONTRAST:
            return ground, figure


def _rotated_grid(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Coordinates of every pixel, in pixels, turned by a random angle about a random point."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    across = np.cos(angle) * x + np.sin(angle) * y + rng.uniform(0, SIDE)
    along = np.cos(angle) * y - np.sin(angle) * x + rng.uniform(0, SIDE)
    return across.astype(np.float32), along.astype(np.float32)


def _slope(rng: np.random.Generator) -> Floats:
    """Light that falls off from one side to the other: -0.5 to 0.5."""
    across, _ = _rotated_grid(rng)
    slope: Floats = (across - across.min()) / np.ptp(across) - 0.5
    return slope


def _polygon(*outlines: Floats) -> Callable[[np.random.Generator], Floats]:
    """A shape from outlines of radius 1; the first is filled, the following are holes in it."""
    return partial(_place, outlines)


def _place(outlines: tuple[Floats, ...], rng: np.random.Generator) -> Floats:
    radius = rng.uniform(0.26, 0.44) * SIDE
    centre = rng.uniform(radius, SIDE - radius, 2)
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    stretch = np.array([1.0, rng.uniform(0.75, 1.0)])
    canvas = Image.new("L", (SIDE * _OVERSAMPLE, SIDE * _OVERSAMPLE))
    pen = ImageDraw.Draw(canvas)
    for i, outline in enumerate(outlines):
        corners = ((outline * stretch) @ turn * radius + centre) * _OVERSAMPLE
        pen.polygon([(float(x), float(y)) for x, y in corners], fill=0 if i else 255)
    return np.asarray(canvas.reduce(_OVERSAMPLE), dtype=np.float32) / 255


def _around(*radii: float) -> Floats:
    """Corners at equal angles, one for each radius."""
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    return (np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array(radii)[:, None]).astype(np.float32)


def _cross(arm: float) -> Floats:
    quarter = [(1.0, -arm), (1.0, arm), (arm, arm)]
    corners = [point for k in range(4) for point in _turned_by_quarters(quarter, k)]
    return np.array(corners, dtype=np.float32)


def _turned_by_quarters(points: list[tuple[float, float]], k: int) -> list[tuple[float, float]]:
    for _ in range(k):
        points = [(-y, x) for x, y in points]
    return points


def _heart() -> Floats:
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return (np.stack([x, -y], axis=1) / 17).astype(np.float32)


def _stripes(rng: np.random.Generator) -> Floats:
    across, _ = _rotated_grid(rng)
    return (np.sin(across * (np.pi / rng.uniform(6, 16))) > 0).astype(np.float32)


def _checkers(rng: np.random.Generator) -> Floats:
    across, along = _rotated_grid(rng)
    turns = np.pi / rng.uniform(8, 18)
    return (np.sin(across * turns) * np.sin(along * turns) > 0).astype(np.float32)


def _dots(rng: np.random.Generator) -> Floats:
    across, along = _rotated_grid(rng)
    period = rng.uniform(16, 32)
    distance = np.hypot(across % period - period / 2, along % period - period / 2)
    return (distance < period * rng.uniform(0.2, 0.36)).astype(np.float32)


_CIRCLE = _around(*[1.0] * 48)
_SQUARE = np.array([(-0.75, -0.75), (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75)], dtype=np.float32)

_MASKS: dict[str, Callable[[np.random.Generator], Floats]] = {
    "checkers": _checkers,
    "circle": _polygon(_CIRCLE),
    "cross": _polygon(_cross(0.32)),
    "dots": _dots,
    "heart": _polygon(_heart()),
    "ring": _polygon(_CIRCLE, _CIRCLE * 0.55),
    "square": _polygon(_SQUARE),
    "star": _polygon(_around(*[1.0, 0.42] * 5)),
    "stripes": _stripes,
    "triangle": _polygon(_around(*[1.0] * 3)),
}

LABELS = tuple(_MASKS)
