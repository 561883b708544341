"""Pure: parts of pictures over time, as SVG: axes, bands, lines, areas, bars. Colours are classes: report_style.py."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10

from .chronicle import Band
from .markup import Markup, join, number, tag, text

Points = Sequence[tuple[float, float]]

CHAR = 7.4  # width of a letter at the font size of the pictures: enough to know whether a label fits
_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)


@dataclass(frozen=True, slots=True)
class Frame:
    """A field to draw in: `total_s` of time from left to right, and from 0 at the bottom to `high` at the top."""

    left: float
    top: float
    width: float
    height: float
    total_s: float
    high: float = 1.0

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def bottom(self) -> float:
        return self.top + self.height

    def x(self, at: float) -> float:
        return self.left + self.width * min(max(at / self.total_s, 0.0), 1.0)

    def y(self, value: float) -> float:
        return self.bottom - self.height * min(max(value / self.high, 0.0), 1.0)


def svg(width: float, height: float, label: str, *children: Markup) -> Markup:
    """label: what it shows, for those who do not see it."""
    size = f"0 0 {number(width)} {number(height)}"
    return tag("svg", *children, viewBox=size, role="img", aria_label=label)


def nice_ceiling(value: float) -> float:
    """The least of 1, 2, 2.5, 4, 5, 8, 10 times a power of ten that is not below; 1 for nothing."""
    if not isfinite(value) or value <= 0:
        return 1.0
    size = 10.0 ** floor(log10(value))
    return next(m * size for m in (1, 2, 2.5, 4, 5, 8, 10, 20) if m * size >= value * (1 - 1e-9))


def time_ticks(total_s: float, n: int) -> list[float]:
    """At most about n instants from 0, at distances that people count in."""
    step = next((step for step in _STEPS_S if total_s / step <= n), 86400 * (total_s // (86400 * n) + 1))
    return [step * i for i in range(int(total_s / step + 1e-9) + 1)]


def clock(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:30`; below ten seconds with tenths where they matter: `0:00.5`."""
    whole = int(seconds + 1e-9)
    rest = f".{round(10 * (seconds - whole))}" if 0.05 <= seconds - whole < 0.95 else ""
    hours, minutes = divmod(whole // 60, 60)
    head = f"{hours}:{minutes:02d}" if hours else str(minutes)
    return f"{head}:{whole % 60:02d}{rest}"


def time_axis(frame: Frame) -> Markup:
    """Below the frame."""
    ticks = time_ticks(frame.total_s, max(2, int(frame.width / 90)))
    return tag(
        "g",
        *(_vertical(frame.x(at), frame.bottom, frame.bottom + 4, "axis") for at in ticks),
        *(label(frame.x(at), frame.bottom + 17, clock(at), anchor="middle") for at in ticks),
        class_="ticks",
    )


def value_axis(frame: Frame, parts: int = 2) -> Markup:
    """Lines across the frame with their values on the left."""
    values = [frame.high * i / parts for i in range(parts + 1)]
    lines = (tag("line", x1=frame.left, x2=frame.right, y1=frame.y(v), y2=frame.y(v), class_="grid") for v in values)
    names = (label(frame.left - 6, frame.y(v) + 4, f"{v:,.4g}", anchor="end") for v in values)
    return tag("g", *lines, *names, class_="ticks")


def label(x: float, y: float, words: str, *, anchor: str | None = None, class_: str | None = None) -> Markup:
    return tag("text", text(words), x=float(x), y=float(y), text_anchor=anchor, class_=class_)


def fitting(words: str, width: float, *, keep_end: bool = False) -> str:
    """The words, or as much of them as fits, or nothing when not even three letters do. keep_end: of numbered names."""
    n = int(width / CHAR)
    if len(words) <= n:
        return words
    if n <= 3:
        return ""
    return f"…{words[1 - n :]}" if keep_end else f"{words[: n - 1]}…"


def shades(frame: Frame, bands: Iterable[Band], *, named: bool = False) -> Markup:
    """Behind a picture: every other band is darker and each begins with a line, so that they are told apart without colour."""
    made = []
    for i, band in enumerate(bands):
        x, width = frame.x(band.start), frame.x(band.end) - frame.x(band.start)
        shade = tag("rect", x=x, y=frame.top, width=width, height=frame.height, class_=f"shade{i % 2}")
        name = fitting(band.name, width - 6) if named else ""
        name_at = label(x + 4, frame.top - 5, name, class_="quiet") if name == band.name else Markup("")
        made.append(join((shade, _vertical(x, frame.top, frame.bottom, "edge"), name_at)))
    return tag("g", *made)


def block(frame: Frame, band: Band, y: float, height: float, class_: str, title: str = "") -> Markup:
    """A bar along time, never too narrow to be seen. title: shown by a browser when the pointer rests on it."""
    width = max(1.5, frame.x(band.end) - frame.x(band.start))
    x = min(frame.x(band.start), frame.right - width)
    note = tag("title", text(title)) if title else Markup("")
    return tag("rect", note, x=x, y=y, width=width, height=height, class_=class_)


def line(frame: Frame, points: Points, class_: str) -> Markup:
    """Through the points; a single one is a dot, or it would not be seen."""
    if len(points) == 1:
        ((at, value),) = points
        return tag("circle", cx=frame.x(at), cy=frame.y(value), r=2, class_=f"{class_} dot")
    return tag("polyline", points=_coordinates(frame, points), class_=class_)


def stairs(points: Points) -> list[tuple[float, float]]:
    """For a value that holds until the next one."""
    made = list(points[:1])
    for at, value in points[1:]:
        made += [(at, made[-1][1]), (at, value)]
    return made


def area(frame: Frame, lower: Points, upper: Points, class_: str) -> Markup:
    """Between two lines over the same instants."""
    outline = [*upper, *reversed(lower)]
    return tag("polygon", points=_coordinates(frame, outline), class_=class_)


def bars(frame: Frame, spans: Iterable[tuple[float, float, float]], class_: str) -> Markup:
    """spans: (from, to, value)."""
    made = []
    for start, end, value in spans:
        x, y = frame.x(start), frame.y(value)
        width = max(1.0, frame.x(end) - x - 0.5)
        made.append(tag("rect", x=x, y=y, width=width, height=frame.bottom - y, class_=class_))
    return tag("g", *made)


def proportions(bands: Sequence[Band], total_s: float) -> Markup:
    """Bands one after the other, of a length that `total_s` fills."""
    made, at = [], 0.0
    for band in bands:
        share = 100 * band.seconds / total_s if total_s else 0.0
        rect = {"x": f"{at:.1f}%", "width": f"{share:.1f}%", "height": "100%", "class_": f"part {band.name}"}
        made.append(tag("rect", **rect))
        at += share
    return tag("svg", *made, class_="parts", aria_hidden="true")


def meter(share: float, class_: str) -> Markup:
    """How far something has come: a bar that fills its line of text. Its value stands beside it as text."""
    width = f"{100 * min(max(share, 0.0), 1.0):.0f}%"
    return tag(
        "svg",
        tag("rect", width="100%", height="100%", rx=3, class_="meter"),
        tag("rect", width=width, height="100%", rx=3, class_=class_),
        class_="meter",
        aria_hidden="true",
    )


def _vertical(x: float, y1: float, y2: float, class_: str) -> Markup:
    return tag("line", x1=x, x2=x, y1=float(y1), y2=float(y2), class_=class_)


def _coordinates(frame: Frame, points: Points) -> str:
    return " ".join(f"{number(frame.x(at))},{number(frame.y(value))}" for at, value in points)
