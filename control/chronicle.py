"""Pure: how a rollout went, for the report: its events laid out over time, in seconds since it was created.

Tolerant where `rollout.py` is strict: a report of an old or odd journal is better than none. The machine decides, this tells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hotpool.states import FINAL_PHASES, Phase, Strategy

from .events import Event, EventKind
from .plan import SHADOW
from .rollout import TRANSITIONS, Kind, Outcome, Part

K, P = EventKind, Phase

_MARKS = (K.PAUSED, K.RESUMED, K.PROMOTED, K.ABORT_REQUESTED, K.CONTROLLER_STARTED)
_ENDS = (K.SUCCEEDED, K.REJECTED, K.ROLLED_BACK, K.ROLLBACK_FAILED)
_UNPAUSES = (K.RESUMED, K.PROMOTED, K.ABORT_REQUESTED, K.ROLLBACK_STARTED, *_ENDS)
_NEXT_PART = {K.STEP_DRAINED: Part.LOAD, K.STEP_LOADED: Part.REJOIN}
_STEP_ENDS = {
    K.STEP_FINISHED: Outcome.FINISHED,
    K.STEP_WITHDRAWN: Outcome.WITHDRAWN,
    K.STEP_FAILED: Outcome.FAILED,
}
VERIFY = "verify"  # the second half of a load, with seconds of its own


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
    outcome: Outcome = Outcome.OPEN
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """An order, or a controller that was started again."""

    at: float
    what: EventKind
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
    phase: Phase = P.PENDING
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
        return self.phase in FINAL_PHASES

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
        if step.outcome is Outcome.OPEN:
            _close(step, told.seconds, Outcome.LEFT if told.is_over else Outcome.OPEN)
    return told


def _blank(number: int, first: Event, events: Sequence[Event]) -> Chronicle:
    body = first.body
    return Chronicle(
        number,
        first.model,
        str(body.get("kind", Kind.START)),
        str(body.get("stable_name", "")),
        str(body.get("target_name", "")),
        first.operator,
        str(body.get("reason") or ""),
        first,
        body.get("settings") or {},
        [str(worker) for worker in body.get("workers") or ()],
        {str(body.get("stable", "")): "stable", str(body.get("target", "")): "target"},
        list(zip(_seconds_since(first.ts, events), events, strict=True)),
        phases=[Band(P.PENDING, 0.0, 0.0)],
    )


def _seconds_since(ts: str, events: Sequence[Event]) -> list[float]:
    """A clock that was set back in between must not make a picture run backwards."""
    begin, seconds = datetime.fromisoformat(ts), [0.0]
    for event in events:
        seconds.append(max(seconds[-1], (datetime.fromisoformat(event.ts) - begin).total_seconds()))
    return seconds[1:]


def _tell(told: Chronicle, at: float, event: Event) -> None:
    kind, body = event.kind, event.body
    _enter(told, kind, body, at)
    if kind in _MARKS:
        told.marks.append(Mark(at, kind, event.operator, str(body.get("reason") or "")))
    if kind is K.JUDGED:
        told.judged.append(Judged(at, _judged_step(told, body), body))
    if kind is K.STEP_STARTED:
        _start_step(told, body, at)
    elif kind in (*_NEXT_PART, *_STEP_ENDS):
        _go_on(told, kind, body, at)
    if kind is K.PAUSED:
        told.pauses.append(Band(kind, at, at))
    elif kind in _UNPAUSES:
        _unpause(told, at)
    if kind in (K.ROLLBACK_STARTED, *_ENDS):
        told.cause, told.ending = str(body.get("cause") or told.cause), str(body.get("reason") or told.ending)


def _enter(told: Chronicle, kind: EventKind, body: Mapping[str, Any], at: float) -> None:
    """Analyses follow one another in one phase; each is a band of its own, named by its step."""
    phase = TRANSITIONS[told.phase].get(kind, told.phase)
    if phase is told.phase and kind is not K.ANALYSIS_STARTED:
        return
    if not told.is_over:
        told.phases[-1].end = at
    told.phase = phase
    if phase is P.ROLLING_BACK:
        for step in told.steps:
            if step.outcome is Outcome.OPEN:
                _close(step, at, Outcome.LEFT)
    if not told.is_over:
        told.phases.append(Band(_share_name(told, body) if phase is P.ANALYZING else phase, at, at))


def _unpause(told: Chronicle, at: float) -> None:
    if told.pauses and told.pauses[-1].end == told.pauses[-1].start:
        told.pauses[-1].end = at


def _start_step(told: Chronicle, body: Mapping[str, Any], at: float) -> None:
    worker = str(body.get("worker", ""))
    goal = told.stable if told.digests.get(str(body.get("goal"))) == "stable" else told.target
    strategy = body.get("strategy", told.settings.get("strategy"))
    part = Part.LOAD if strategy == Strategy.BESIDE else Part.DRAIN
    told.steps.append(WorkerStep(worker, goal, int(body.get("attempt", 1)), at, [Band(part, at, at)]))
    if worker not in told.workers:
        told.workers.append(worker)


def _go_on(told: Chronicle, kind: EventKind, body: Mapping[str, Any], at: float) -> None:
    worker = str(body.get("worker", ""))
    step = next((step for step in told.steps if step.worker == worker and step.outcome is Outcome.OPEN), None)
    if step is None:
        return
    step.seconds |= {key.removesuffix("_s"): float(value) for key, value in body.items() if key.endswith("_s")}
    if kind in _NEXT_PART:
        _next_part(step, at, _NEXT_PART[kind])
    else:
        _close(step, at, _STEP_ENDS[kind], str(body.get("reason") or ""))


def _next_part(step: WorkerStep, at: float, part: Part) -> None:
    """What was loaded was verified at the end of that time."""
    last = step.parts[-1]
    last.end = at
    if last.name == Part.LOAD and (verify_s := step.seconds.get(VERIFY)):
        last.end = max(last.start, at - verify_s)
        step.parts.append(Band(VERIFY, last.end, at))
    step.parts.append(Band(part, at, at))


def _close(step: WorkerStep, at: float, outcome: Outcome, reason: str = "") -> None:
    step.parts[-1].end = step.end = at
    step.outcome, step.reason = outcome, reason


def _judged_step(told: Chronicle, body: Mapping[str, Any]) -> str:
    return _share_name(told, body) if told.phase is P.ANALYZING else told.phase


def _share_name(told: Chronicle, body: Mapping[str, Any]) -> str:
    step, shares = body.get("step"), told.shares
    return shares[step] if isinstance(step, int) and 0 <= step < len(shares) else P.ANALYZING


def _step_name(step: object) -> str:
    return str(step) if str(step) == SHADOW else f"{str(step).removesuffix('%').strip()} %"
