"""Pure: how a rollout went, for the report: its events laid out over time, in seconds since it was created.

Tolerant where `rollout.py` is strict: a report of an old or odd journal is better than none. The machine decides, this tells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .events import Event, EventKind

K = EventKind

# Where an event leads, whatever came before; tests hold this against the table of the machine.
LEADS_TO = {
    "preflight_started": "preflight",
    "preflight_passed": "rolling",
    "canary_started": "canary",
    "analysis_started": "analyzing",
    "roll_started": "rolling",
    "bake_started": "baking",
    "commit_started": "committing",
    "rollback_started": "rolling_back",
    "succeeded": "succeeded",
    "rejected": "rejected",
    "rolled_back": "rolled_back",
    "rollback_failed": "rollback_failed",
}
_STEP_LEADS_BACK = {"baking": "rolling", "analyzing": "canary"}  # a worker was lost and needs its step again
FINAL = ("succeeded", "rejected", "rolled_back", "rollback_failed")
_MARKS = ("paused", "resumed", "promoted", "abort_requested", "controller_started")
_NEXT_PART = {"step_drained": "load", "step_loaded": "rejoin"}
_STEP_ENDS = {"step_finished": "finished", "step_withdrawn": "withdrawn", "step_failed": "failed"}


@dataclass(slots=True)
class Band:
    """A stretch of time and what it was: a phase, a part of a step, a pause."""

    name: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(slots=True)
class WorkerStep:
    """One worker's step. goal: name of the version. parts: drain, load, verify, rejoin. seconds: as they were measured."""

    worker: str
    goal: str
    attempt: int
    start: float
    parts: list[Band]
    end: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    outcome: str = "open"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """An order, or a controller that was started again."""

    at: float
    what: str
    who: str
    why: str


@dataclass(frozen=True, slots=True)
class Judged:
    """Of one step of the canary, or of what came after it. body: of the event."""

    at: float
    step: str
    body: Mapping[str, Any]


@dataclass(slots=True)
class Chronicle:
    """Everything the report tells. phase: the last. seconds: from its creation to its end, or to the last thing known."""

    number: int
    model: str
    kind: str
    stable: str
    target: str
    operator: str
    reason: str
    created: Event
    settings: Mapping[str, Any]
    workers: list[str]
    digests: dict[str, str]
    events: list[tuple[float, Event]]
    phase: str = "pending"
    cause: str = ""
    ending: str = ""
    seconds: float = 0.0
    phases: list[Band] = field(default_factory=list)
    pauses: list[Band] = field(default_factory=list)
    steps: list[WorkerStep] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return self.phase in FINAL

    @property
    def shares(self) -> list[str]:
        """The steps of the canary as people say them: `shadow`, `5 %`."""
        return [_step_name(step) for step in self.settings.get("steps") or ()]


def chronicle(number: int, events: Sequence[Event], until: float = 0.0) -> Chronicle:
    """From the rollout's events in their order; others of the journal between them are starts of a controller.

    until: seconds to which more is known, if it is not over.
    """
    first = next(event for event in events if event.kind is K.ROLLOUT_CREATED and event.rollout == number)
    told = _blank(number, first, [event for event in events if event.seq >= first.seq])
    for at, event in told.events:
        _tell(told, at, event)
    told.seconds = told.events[-1][0] if told.is_over else max(until, told.events[-1][0])
    for band in (*told.phases[-1:], *told.pauses[-1:]):
        band.end = told.seconds if band.end == band.start else band.end
    for step in told.steps:
        if step.outcome == "open":
            _close(step, told.seconds, "open" if not told.is_over else "left")
    return told


def _blank(number: int, first: Event, events: Sequence[Event]) -> Chronicle:
    body = first.body
    return Chronicle(
        number,
        first.model,
        str(body.get("kind", "start")),
        str(body.get("stable_name", "")),
        str(body.get("target_name", "")),
        first.operator,
        str(body.get("reason") or ""),
        first,
        body.get("settings") or {},
        [str(worker) for worker in body.get("workers") or ()],
        {str(body.get("stable", "")): "stable", str(body.get("target", "")): "target"},
        list(zip(_seconds_since(first.ts, events), events, strict=True)),
        phases=[Band("pending", 0.0, 0.0)],
    )


def _seconds_since(ts: str, events: Sequence[Event]) -> list[float]:
    """A clock that was set back in between must not make a picture run backwards."""
    begin, seconds = datetime.fromisoformat(ts), [0.0]
    for event in events:
        seconds.append(max(seconds[-1], (datetime.fromisoformat(event.ts) - begin).total_seconds()))
    return seconds[1:]


def _tell(told: Chronicle, at: float, event: Event) -> None:
    kind, body = str(event.kind), event.body
    _enter(told, kind, body, at)
    if kind in _MARKS:
        told.marks.append(Mark(at, kind, event.operator, str(body.get("reason") or "")))
    if kind == "judged":
        told.judged.append(Judged(at, _judged_step(told, body), body))
    if kind.startswith("step_"):
        _step(told, kind, body, at)
    if kind == "paused":
        told.pauses.append(Band("paused", at, at))
    elif kind in ("resumed", "promoted", "abort_requested", "rollback_started", *FINAL):
        _unpause(told, at)
    if kind in ("rollback_started", *FINAL):
        told.cause, told.ending = str(body.get("cause") or told.cause), str(body.get("reason") or told.ending)


def _enter(told: Chronicle, kind: str, body: Mapping[str, Any], at: float) -> None:
    """Analyses follow one another in one phase; each is a band of its own, named by its step."""
    phase = _STEP_LEADS_BACK.get(told.phase, told.phase) if kind == "step_started" else LEADS_TO.get(kind, told.phase)
    if phase == told.phase and kind != "analysis_started":
        return
    told.phase, told.phases[-1].end = phase, at
    if phase == "rolling_back":
        for step in told.steps:
            if step.outcome == "open":
                _close(step, at, "left")
    if not told.is_over:
        told.phases.append(Band(_share_name(told, body) if kind == "analysis_started" else phase, at, at))


def _unpause(told: Chronicle, at: float) -> None:
    if told.pauses and told.pauses[-1].end == told.pauses[-1].start:
        told.pauses[-1].end = at


def _step(told: Chronicle, kind: str, body: Mapping[str, Any], at: float) -> None:
    worker = str(body.get("worker", ""))
    if kind == "step_started":
        goal = told.stable if told.digests.get(str(body.get("goal"))) == "stable" else told.target
        part = "load" if told.settings.get("strategy") == "beside" else "drain"
        told.steps.append(WorkerStep(worker, goal, int(body.get("attempt", 1)), at, [Band(part, at, at)]))
        if worker not in told.workers:
            told.workers.append(worker)
        return
    step = next((step for step in reversed(told.steps) if step.worker == worker and step.outcome == "open"), None)
    if step is None:
        return
    step.seconds |= {key.removesuffix("_s"): float(value) for key, value in body.items() if key.endswith("_s")}
    if kind in _NEXT_PART:
        _next_part(step, at, _NEXT_PART[kind])
    elif kind in _STEP_ENDS:
        _close(step, at, _STEP_ENDS[kind], str(body.get("reason") or ""))


def _next_part(step: WorkerStep, at: float, name: str) -> None:
    """What was loaded was verified at the end of that time."""
    last = step.parts[-1]
    last.end = at
    if last.name == "load" and (verify_s := step.seconds.get("verify")):
        last.end = max(last.start, at - verify_s)
        step.parts.append(Band("verify", last.end, at))
    step.parts.append(Band(name, at, at))


def _close(step: WorkerStep, at: float, outcome: str, reason: str = "") -> None:
    step.parts[-1].end = step.end = at
    step.outcome, step.reason = outcome, reason


def _judged_step(told: Chronicle, body: Mapping[str, Any]) -> str:
    return _share_name(told, body) if told.phase == "analyzing" else told.phase


def _share_name(told: Chronicle, body: Mapping[str, Any]) -> str:
    step, shares = body.get("step"), told.shares
    return shares[step] if isinstance(step, int) and 0 <= step < len(shares) else "analyzing"


def _step_name(step: object) -> str:
    return str(step) if str(step) == "shadow" else f"{str(step).removesuffix('%').strip()} %"
