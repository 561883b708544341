"""Pure: the page that a rollout leaves: one file, without script, that reads nothing from elsewhere."""

import hashlib
from collections.abc import Iterable, Sequence
from functools import partial

import msgspec

from hotpool.states import Phase, Strategy

from .charts import clock, proportions
from .chronicle import VERIFY, Chronicle, Mark, WorkerStep, chronicle
from .events import Event, EventKind
from .markup import Markup, about, chip, join, many, table, tag, text
from .render import duration, short
from .render_rollouts import event_details, event_versions
from .report_gates import gates
from .report_pictures import arms, picture, serving, timeline, versions
from .report_style import CSS, patterns
from .rollout import Kind, Outcome, Part
from .samples import Sample

_ENDINGS = {
    Phase.SUCCEEDED: ("good", "✓ succeeded"),
    Phase.REJECTED: ("warn", "⊘ rejected"),
    Phase.ROLLED_BACK: ("warn", "↩ rolled back"),
    Phase.ROLLBACK_FAILED: ("bad", "✕ rollback failed"),
}
_ORDERS = {
    EventKind.PAUSED: "paused",
    EventKind.RESUMED: "resumed",
    EventKind.PROMOTED: "promoted",
    EventKind.ABORT_REQUESTED: "aborted",
    EventKind.CONTROLLER_STARTED: "the controller started",
}
_OUTCOMES = {Outcome.FINISHED: ("good", "✓ finished"), Outcome.FAILED: ("bad", "✕ failed")}
_PARTS = (Part.DRAIN, Part.LOAD, VERIFY, Part.REJOIN)


def render(number: int, events: Sequence[Event], samples: Sequence[Sample]) -> str:
    """The page of rollout `number`, over or under way.

    events: of the rollout, in their order, and starts of controllers between them. samples: may be none.
    """
    told = chronicle(number, events, max((sample.at for sample in samples), default=0.0))
    sections = (
        _timeline(told, samples),
        _serving(told, samples),
        _arms(told, samples),
        gates(told),
        _steps(told),
        _events(told),
    )
    body = tag("body", patterns(), _header(told), tag("main", *sections), _footer(told, samples))
    return f"<!doctype html>\n{tag('html', _head(told), body, lang='en')}\n"


def _head(told: Chronicle) -> Markup:
    """The policy allows this one style sheet, by its hash, and nothing else: whatever came through would not run."""
    digest = msgspec.to_builtins(hashlib.sha256(CSS.encode()).digest())
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = f"Rollout {told.number} of {told.model}: {told.stable} → {told.target}, {told.phase.replace('_', ' ')}"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", text(title)),
        tag("style", Markup(CSS)),
    )


# ---- the header


def _header(told: Chronicle) -> Markup:
    style, word = _ENDINGS.get(told.phase, ("calm", f"… {told.phase.replace('_', ' ')}"))
    kind = "Undo" if told.kind == Kind.UNDO else "Rollout"
    arrow = tag("span", text("→"), class_="arrow")
    return tag(
        "header",
        tag("p", text(f"{kind} {told.number} of "), tag("b", text(told.model)), class_="over"),
        tag("h1", text(told.stable), text(" "), arrow, text(" "), text(told.target)),
        tag("p", chip(style, word), tag("span", text(sentence(told))), class_="ending"),
        tag("dl", *_facts(told)),
    )


def sentence(told: Chronicle) -> str:
    """How it ended, for people."""
    why = told.ending or told.cause or "no reason was written down"
    match told.phase:
        case Phase.SUCCEEDED:
            return f"{told.target} is stable{' again' if told.kind == 'undo' else ''}."
        case Phase.REJECTED:
            return f"{told.target} was not let in: {why}. The service was not touched."
        case Phase.ROLLED_BACK:
            return f"All workers are back on {told.stable}: {why}."
        case Phase.ROLLBACK_FAILED:
            return f"Not all workers came back to {told.stable}: {why}. The pool serves with those that are ready."
        case _:
            return f"Under way for {duration(told.seconds)} when this page was written."


def _facts(told: Chronicle) -> Iterable[Markup]:
    begin, last = told.created.ts, told.events[-1][1].ts
    at_once = told.settings.get("max_unavailable")
    strategy = str(told.settings.get("strategy", Strategy.DRAIN)) + (f", {at_once} at a time" if at_once else "")
    yield _fact("ordered by", text(told.operator))
    yield _fact("began", _time(begin))
    yield _fact("ended", _time(last) if told.is_over else text("not yet"))
    yield _fact("took", text(duration(told.seconds)))
    yield _fact("workers", text(len(told.workers)))
    yield _fact("strategy", text(strategy))
    yield _fact("steps", text(_shares(told)))
    yield _fact("reason", text(told.reason or "none was given"), broad=True)


def _shares(told: Chronicle) -> str:
    return " → ".join((*told.shares, "all")).replace(" %", "\u00a0%") if told.shares else "no canary"


def _fact(name: str, value: Markup, *, broad: bool = False) -> Markup:
    return tag("div", tag("dt", text(name)), tag("dd", value), class_="broad" if broad else None)


# ---- pictures


def _timeline(told: Chronicle, samples: Sequence[Sample]) -> Markup:
    legend = _legend(
        ("stable", f"holds {told.stable}"), ("target", f"holds {told.target}"), *((f"part {part}", part) for part in _PARTS),
        ("down", "no process that serves"), *([("pause", "paused")] if told.pauses else []),
    )  # fmt: skip
    marks = tag("ol", *map(_mark_item, told.marks), class_="marks") if told.marks else Markup("")
    phases = table(
        ("phase", "began at", "took"),
        ((text(band.name), text(clock(band.start)), text(duration(band.seconds))) for band in told.phases),
        numeric=("began at", "took"),
    )
    return tag(
        "section",
        tag("h2", text("Timeline")),
        about(
            "Times count from the order, in minutes and seconds. A worker's steps stand on the version that it holds."
        ),
        tag("figure", legend, picture(partial(timeline, told, samples)), marks),
        tag("details", tag("summary", text(f"{len(told.phases)} phases as a table")), phases),
    )


def _mark_item(mark: Mark) -> Markup:
    why = f": {mark.why}" if mark.why else ""
    return tag("li", text(f"{clock(mark.at)} {_ORDERS[mark.what]}, {mark.who}{why}"))


def _serving(told: Chronicle, samples: Sequence[Sample]) -> Markup:
    if not samples:
        return tag("section", tag("h2", text("Serving")), about(_no_samples(told)))
    legend = _legend(*((f"area {_side(told, name)}", name) for name in versions(told, samples)))
    return tag(
        "section",
        tag("h2", text("Serving")),
        about(
            "Answers of each version stand on each other. Times are from submit to the answer, at the broker, read from "
            "histograms. Bands are the phases; where nothing was seen there is a gap."
        ),
        tag("figure", legend, picture(partial(serving, told, samples))),
    )


def _no_samples(told: Chronicle) -> str:
    if told.phase is Phase.REJECTED:
        return "No samples: it ended before there was anything to compare."
    return "No samples: the file is missing, or the rollout was over before the first one was taken."


def _arms(told: Chronicle, samples: Sequence[Sample]) -> Markup:
    drawn = picture(partial(arms, told, samples))
    if "<svg" not in drawn:
        return Markup("")
    failed = sum(n for sample in samples for n in sample.failed.values())
    codes = sorted({code for sample in samples for code in sample.failed})
    said = (
        f"{many(failed)} requests failed ({', '.join(codes)})."
        if failed
        else "No request failed by a fault of the service."
    )
    items = (
        [("line asked", "asked for"), ("dot target", "measured")] if any(s.share is not None for s in samples) else []
    )
    return tag(
        "section",
        tag("h2", text("Share, agreement, errors")),
        about(
            f"The target's share of the requests that name no version. {_pairs(samples)}{_errors(told, samples)}{said}"
        ),
        tag("figure", _legend(*items) if items else Markup(""), drawn),
    )


def _pairs(samples: Sequence[Sample]) -> str:
    pairs, differ = sum(s.pairs for s in samples), sum(s.disagreements for s in samples)
    return f"{many(differ)} of {many(pairs)} pairs differ ({100 * differ / pairs:.3g} %). " if pairs else ""


def _errors(told: Chronicle, samples: Sequence[Sample]) -> str:
    """By arm: the broker knows whose an error was only where it counts evidence."""
    by_arm = [
        (told.target, [s.target for s in samples if s.target]),
        (told.stable, [s.stable for s in samples if s.stable]),
    ]
    said = [
        f"{many(sum(arm.errors for arm in all_))} of {many(sum(arm.answered for arm in all_))} replies of {name} were errors"
        for name, all_ in by_arm
        if all_
    ]
    return f"{' and '.join(said)}. " if said else ""


def _legend(*items: tuple[str, str]) -> Markup:
    """items: (class, name)."""
    return tag("ul", *(tag("li", _swatch(class_), text(name)) for class_, name in items), class_="legend")


def _swatch(class_: str) -> Markup:
    shape = {
        "line": tag("line", x1=0, x2=26, y1=7, y2=7, class_=class_),
        "dot": tag("circle", cx=13, cy=7, r=3, class_=class_),
    }.get(class_.partition(" ")[0], tag("rect", x=1, y=1, width=24, height=12, class_=class_))
    return tag("svg", shape, viewBox="0 0 26 14", aria_hidden="true")


def _side(told: Chronicle, version: str) -> str:
    return {told.stable: "stable", told.target: "target"}.get(version, "other")


# ---- tables


def _steps(told: Chronicle) -> Markup:
    if not told.steps:
        return tag("section", tag("h2", text("Workers")), about("No worker left its version."))
    headers = ("worker", "to", "began at", *(f"{part}, s" for part in _PARTS), "all, s", "parts", "outcome")
    longest = max(step.end - step.start for step in told.steps)
    rows = (_step_row(step, longest) for step in told.steps)
    numeric = headers[2:-2]
    return tag(
        "section",
        tag("h2", text("Workers")),
        about("Each step of a worker, with the seconds that its parts took."),
        tag("div", table(headers, rows, numeric=numeric, class_="steps cards"), class_="scroll"),
    )


def _step_row(step: WorkerStep, longest: float) -> tuple[Markup, ...]:
    style, word = _OUTCOMES.get(step.outcome, ("calm", str(step.outcome)))
    again = f", attempt {step.attempt}" if step.attempt > 1 else ""
    note = tag("span", text(step.reason), class_="note") if step.reason else Markup("")
    parts = (text(f"{step.seconds[part]:.2f}") if part in step.seconds else text("") for part in _PARTS)
    return (
        text(f"{step.worker}{again}"),
        text(step.goal),
        text(clock(step.start)),
        *parts,
        text(f"{step.end - step.start:.2f}"),
        proportions(step.parts, longest),
        join((tag("span", text(word), class_=style), note)),
    )


def _events(told: Chronicle) -> Markup:
    headers = ("seq", "at", "time", "who", "what", "details")
    made = table(headers, (_event_row(at, event) for at, event in told.events), numeric=("seq", "at"), class_="cards")
    summary = tag("summary", text(f"{len(told.events)} events of the journal, with who and why"))
    return tag("section", tag("h2", text("Events")), tag("details", summary, made))


def _event_row(at: float, event: Event) -> tuple[Markup, ...]:
    details = "; ".join(filter(None, (event_versions(event.body), event_details(event.body))))
    when = tag("time", text(event.ts[11:23]), datetime=event.ts)
    return (text(event.seq), text(clock(at)), when, text(event.operator), text(event.kind), text(details))


def _footer(told: Chronicle, samples: Sequence[Sample]) -> Markup:
    digests = ", ".join(f"{getattr(told, side)} is {short(digest)}" for digest, side in told.digests.items())
    said = f"Made from {len(told.events)} events and {len(samples)} samples. {digests}. hotpool rollout report {told.number}"
    return tag("footer", text(said))


# ---- small things


def _time(ts: str) -> Markup:
    return tag("time", text(f"{ts[:19].replace('T', ' ')} UTC"), datetime=ts)
