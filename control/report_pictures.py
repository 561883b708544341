"""Pure: the pictures of a rollout's report. Each is drawn for a width; the page carries a wide and a narrow one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby

from hotpool.states import WorkerState

from .charts import (
    Frame,
    Points,
    area,
    bars,
    block,
    clock,
    fitting,
    label,
    line,
    nice_ceiling,
    shades,
    stairs,
    svg,
    time_axis,
    value_axis,
)
from .chronicle import Band, Chronicle
from .markup import Markup, join, tag, text
from .rollout import Outcome
from .samples import Sample, Served, thin

WIDE, NARROW = 960.0, 380.0
_ROW, _AXIS = 26.0, 24.0
_OUT_OF_SERVICE = (WorkerState.DOWN, WorkerState.STARTING)

Spans = Sequence[tuple[float, float, float]]


def picture(draw: Callable[[float], Markup]) -> Markup:
    """For both widths; the style shows one of them."""
    return join((tag("div", draw(WIDE), class_="wide"), tag("div", draw(NARROW), class_="narrow")))


@dataclass(frozen=True, slots=True)
class Panel:
    """One of the fields that stand on each other over the same time. parts: of its value axis."""

    name: str
    high: float
    draw: Callable[[Frame], Markup]
    height: float = 120.0


def panels(told: Chronicle, width: float, name: str, fields: Sequence[Panel]) -> Markup:
    left, top, drawn = _left(width), 42.0, []
    for i, panel in enumerate(fields):
        frame = Frame(left, top, width - left - 10, panel.height, _total(told), nice_ceiling(panel.high))
        title = label(0, top - (24 if i == 0 else 14), panel.name, class_="strong")
        drawn.append(join((shades(frame, told.phases, named=i == 0), value_axis(frame), title, panel.draw(frame))))
        top += panel.height + 40
    drawn.append(time_axis(frame))
    return svg(width, top - 40 + _AXIS, name, *drawn)


# ---- the timeline


def timeline(told: Chronicle, samples: Sequence[Sample], width: float) -> Markup:
    """Phases, orders and pauses, then a row for each worker."""
    left, marks_at = _left(width), 32.0
    rows_at = marks_at + (_ROW if told.marks or told.pauses else 4)
    height = rows_at + _ROW * len(told.workers)
    frame = Frame(left, 0, width - left - 10, height, _total(told))
    rows = [
        _worker_row(told, samples, frame, worker, rows_at + i * _ROW) for i, worker in enumerate(told.workers)
    ]  # fmt: skip
    name = f"Phases over {clock(told.seconds)}: {', '.join(band.name for band in told.phases)}; below a row for each worker"
    return svg(
        width, height + _AXIS, name,
        shades(frame, told.phases), _phase_row(told, frame), _marks_row(told, frame, marks_at), *rows, time_axis(frame),
    )  # fmt: skip


def _phase_row(told: Chronicle, frame: Frame) -> Markup:
    made = [label(0, 18, "phase", class_="quiet")]
    for i, band in enumerate(told.phases):
        title = f"{band.name}: {clock(band.start)} to {clock(band.end)}"
        made.append(block(frame, band, 2, 24, f"phase phase{i % 2}", title))
        words = fitting(band.name, frame.x(band.end) - frame.x(band.start) - 6)
        made.append(label(frame.x(band.start) + 4, 18, words, class_="on-phase"))
    return tag("g", *made)


def _marks_row(told: Chronicle, frame: Frame, y: float) -> Markup:
    """Marks have the numbers of the list below the picture."""
    made = [label(0, y + 15, "orders", class_="quiet")] if told.marks or told.pauses else []
    made += [
        block(frame, band, y + 3, 16, "pause", f"paused: {clock(band.start)} to {clock(band.end)}")
        for band in told.pauses
    ]
    for i, mark in enumerate(told.marks, 1):
        x = min(max(frame.x(mark.at), frame.left + 8), frame.right - 8)
        made.append(tag("line", x1=x, x2=x, y1=y + 11, y2=frame.bottom, class_="mark"))
        made.append(tag("circle", tag("title", text(mark.what)), cx=x, cy=y + 11, r=8, class_="mark"))
        made.append(label(x, y + 15, str(i), anchor="middle", class_="on-mark"))
    return tag("g", *made)


def _worker_row(told: Chronicle, samples: Sequence[Sample], frame: Frame, worker: str, y: float) -> Markup:
    made = [label(0, y + 17, fitting(worker, frame.left - 4, keep_end=True), class_="worker")]
    absent = away(samples, worker)
    for band in held(told, samples, worker):
        made.append(block(frame, band, y + 5, 16, _side(told, band.name), f"{worker} holds {band.name}"))
    for step in told.steps:
        if step.worker == worker:
            made += [
                block(frame, part, y + 2, 22, f"part {part.name}", f"{part.name}: {part.seconds:.2f} s, to {step.goal}")
                for part in step.parts
            ]
            if step.outcome is Outcome.FAILED:
                x = min(frame.x(step.end) + 2, frame.right - 10)
                made.append(label(x, y + 17, "✕", class_="failed"))
    made += [block(frame, band, y + 2, 22, "down", f"{worker} is {band.name}") for band in absent]
    return tag("g", *made)


def held(told: Chronicle, samples: Sequence[Sample], worker: str) -> list[Band]:
    """Which version a worker held when: by its steps, and by the samples for what happened to it in between."""
    changes = [(0.0, told.stable)]
    changes += [
        (step.end, step.goal) for step in told.steps if step.worker == worker and step.outcome is Outcome.FINISHED
    ]
    for band in away(samples, worker):
        back = next(
            (s.workers[worker][1] for s in samples if s.at >= band.end and s.workers.get(worker, ("", ""))[1]), ""
        )
        if back:
            changes.append((band.end, back))
    changes.sort(key=lambda change: change[0])
    ends = [*(at for at, _ in changes[1:]), told.seconds]
    return [Band(version, at, end) for (at, version), end in zip(changes, ends, strict=True)]


def away(samples: Sequence[Sample], worker: str) -> list[Band]:
    """When it was seen without a process that serves."""
    bands: list[Band] = []
    for sample in samples:
        state = sample.workers.get(worker, ("", ""))[0]
        start = sample.at - sample.span_s
        if state not in _OUT_OF_SERVICE:
            continue
        if bands and start <= bands[-1].end + 0.01:
            bands[-1].end = sample.at
        else:
            bands.append(Band(WorkerState.DOWN, start, sample.at))
    return bands


# ---- what was served


def serving(told: Chronicle, samples: Sequence[Sample], width: float) -> Markup:
    """Throughput by version, each on top of the other, and below it the times of answers."""
    parts = runs(thin(samples, int(width / 5)))
    names = versions(told, samples)
    fields = [
        Panel("answers a second", max(map(_rate, _all(parts)), default=0), partial(_stack, told, parts, names), 150)
    ]
    for which, of in (("p50", _p50), ("p99", _p99)):
        high = max((of(one) or 0 for sample in _all(parts) for one in sample.versions.values()), default=0)
        fields.append(Panel(f"{which}, ms", high, partial(_times, told, parts, names, of)))
    return panels(told, width, "Answers a second by version; p50 and p99 from submit to the answer", fields)


def _stack(told: Chronicle, parts: Sequence[Sequence[Sample]], names: Sequence[str], frame: Frame) -> Markup:
    drawn = []
    for part in parts:
        floor = [0.0] * len(part)
        for name in names:
            more = [sample.versions.get(name, Served(0)).answered / _span(sample) for sample in part]
            ceiling = [below + value for below, value in zip(floor, more, strict=True)]
            for at in _stretches(more):
                lower, upper = ([(part[i], values[i]) for i in at] for values in (floor, ceiling))
                drawn.append(area(frame, _steps(lower), _steps(upper), f"area {_side(told, name)}"))
            floor = ceiling
    return tag("g", *drawn)


def _stretches(values: Sequence[float]) -> list[list[int]]:
    """Indices that follow one another and have a value above 0."""
    groups = groupby(range(len(values)), key=lambda i: values[i] > 0)
    return [list(group) for is_there, group in groups if is_there]


def _times(
    told: Chronicle,
    parts: Sequence[Sequence[Sample]],
    names: Sequence[str],
    of: Callable[[Served], float | None],
    frame: Frame,
) -> Markup:
    """A line breaks where a version gave no answer."""
    drawn = []
    for name in names:
        for part in parts:
            values = [(_middle(sample), of(sample.versions.get(name, Served(0)))) for sample in part]
            drawn += [line(frame, run, f"line {_side(told, name)}") for run in _unbroken(values)]
    return tag("g", *drawn)


# ---- the two arms


def arms(told: Chronicle, samples: Sequence[Sample], width: float) -> Markup:
    """Shares, disagreement and errors, as far as there is something to show."""
    points = by_phase(told, samples, int(width / 12))
    asked, measured, differ = asked_shares(samples), _measured(points), disagreement(points)
    failed = [
        (sample.at - sample.span_s, sample.at, sum(sample.failed.values()) / _span(sample))
        for run in points
        for sample in run
    ]
    fields = []
    if asked:
        high = max(value for run in (*asked, *measured) for _, value in run)
        fields.append(Panel("share of the target, %", high, lambda frame: _shares(frame, asked, measured)))
    if differ:
        high = max(value for run in differ for _, value in run)
        fields.append(
            Panel("pairs that differ, % so far", high, lambda frame: _lines(frame, differ, "line target"), 80)
        )
    if any(value for *_, value in failed):
        high = max(value for *_, value in failed)
        fields.append(
            Panel("failed requests a second", high, lambda frame: bars(frame, _some(failed), "bar failed"), 80)
        )
    return panels(told, width, "Share asked for and measured, disagreement, errors", fields) if fields else Markup("")


def asked_shares(samples: Sequence[Sample]) -> list[Points]:
    """One run of stairs for each stretch of time with a policy."""
    found: list[list[tuple[float, float]]] = []
    before: Sample | None = None
    for sample in samples:
        if sample.share is not None:
            if before is None or before.share is None:
                found.append([])
            if found[-1] and found[-1][-1][1] == sample.share:
                found[-1][-1] = (sample.at, sample.share)
            else:
                found[-1] += [(sample.at - sample.span_s, sample.share), (sample.at, sample.share)]
        before = sample
    return [stairs(run) for run in found]


def disagreement(parts: Iterable[Sequence[Sample]]) -> list[Points]:
    """Percent of all pairs so far, of each part: a phase has a run of evidence of its own."""
    found: list[Points] = []
    for part in parts:
        run = [sample for sample in part if sample.pairs]
        pairs, differ = accumulate(s.pairs for s in run), accumulate(s.disagreements for s in run)
        found.append([(s.at, 100 * d / n) for s, n, d in zip(run, pairs, differ, strict=True)])
    return [run for run in found if run]


def _shares(frame: Frame, asked: Sequence[Points], measured: Sequence[Points]) -> Markup:
    dots = (
        tag("circle", cx=frame.x(at), cy=frame.y(value), r=2.5, class_="dot target")
        for run in measured
        for at, value in run
    )
    return tag("g", _lines(frame, measured, "line thin target"), *dots, _lines(frame, asked, "line asked"))


def _measured(parts: Iterable[Sequence[Sample]]) -> list[Points]:
    return [run for part in parts for run in _unbroken([(_middle(s), s.share_measured) for s in part])]


def _lines(frame: Frame, parts: Iterable[Points], class_: str) -> Markup:
    return tag("g", *(line(frame, part, class_) for part in parts))


def _some(spans: Spans) -> Spans:
    return [span for span in spans if span[2]]


# ---- samples as points


def versions(told: Chronicle, samples: Iterable[Sample]) -> list[str]:
    """Stable first, so that it lies at the bottom; then the target, then what callers have named themselves."""
    seen = {name: None for sample in samples for name in sample.versions}
    return [name for name in (told.stable, told.target) if name in seen] + sorted(
        name for name in seen if name not in (told.stable, told.target)
    )


def runs(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Parted where nothing was seen for longer than a sample takes: a line across would be made up."""
    parts: list[list[Sample]] = []
    for sample in samples:
        if parts and sample.at - sample.span_s - parts[-1][-1].at < max(2.0, sample.span_s):
            parts[-1].append(sample)
        else:
            parts.append([sample])
    return parts


def by_phase(told: Chronicle, samples: Sequence[Sample], n: int) -> list[list[Sample]]:
    """About n samples in all, none of which reaches from one phase into another."""
    parts = []
    for band in told.phases:
        within = [sample for sample in samples if band.start < _middle(sample) <= band.end]
        if within:
            parts.append(thin(within, max(1, round(n * band.seconds / _total(told)))))
    return parts


def _unbroken(values: Iterable[tuple[float, float | None]]) -> list[Points]:
    found: list[list[tuple[float, float]]] = [[]]
    for at, value in values:
        if value is not None:
            found[-1].append((at, value))
        elif found[-1]:
            found.append([])
    return [run for run in found if run]


def _steps(values: Iterable[tuple[Sample, float]]) -> list[tuple[float, float]]:
    """A rate is of all the time that a sample covers."""
    return [point for sample, value in values for point in ((sample.at - sample.span_s, value), (sample.at, value))]


def _all(parts: Iterable[Sequence[Sample]]) -> Iterable[Sample]:
    return (sample for part in parts for sample in part)


def _rate(sample: Sample) -> float:
    return sum(one.answered for one in sample.versions.values()) / _span(sample)


def _span(sample: Sample) -> float:
    return max(sample.span_s, 1e-3)


def _middle(sample: Sample) -> float:
    return sample.at - sample.span_s / 2


def _p50(served: Served) -> float | None:
    return served.p50_ms


def _p99(served: Served) -> float | None:
    return served.p99_ms


def _side(told: Chronicle, version: str) -> str:
    """The class that a version is drawn with."""
    return {told.stable: "stable", told.target: "target"}.get(version, "other")


def _total(told: Chronicle) -> float:
    return max(told.seconds, 0.1)


def _left(width: float) -> float:
    """Room on the left for names or values: the same in all pictures, so that one can be read above the other."""
    return 84.0 if width > NARROW else 66.0
