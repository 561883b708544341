"""Pure: a rollout, rebuilt from its events. The phase table says which event may come when and where it leads.

What to do next is not here: `decide.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any

from hotpool.states import FINAL_PHASES, Phase, Strategy

from .events import Event, EventKind
from .settings import OnInconclusive, Settings
from .verdicts import GateResult, Labelled

P, K = Phase, EventKind

_ORDERS = (K.PAUSED, K.RESUMED, K.ABORT_REQUESTED, K.PROMOTED)
_STEP_GOES_ON = (K.STEP_WITHDRAWN, K.STEP_DRAINED, K.STEP_LOADED, K.STEP_FINISHED, K.STEP_FAILED)


def _stay(phase: Phase, *kinds: EventKind) -> dict[EventKind, Phase]:
    return dict.fromkeys(kinds, phase)


TRANSITIONS: dict[Phase, dict[EventKind, Phase]] = {
    P.PENDING: {K.PREFLIGHT_STARTED: P.PREFLIGHT, K.REJECTED: P.REJECTED, **_stay(P.PENDING, *_ORDERS)},
    P.PREFLIGHT: {
        K.PREFLIGHT_PASSED: P.ROLLING,
        K.CANARY_STARTED: P.CANARY,
        K.REJECTED: P.REJECTED,
        **_stay(P.PREFLIGHT, K.EVALUATED, *_ORDERS),
    },
    P.CANARY: {
        K.ANALYSIS_STARTED: P.ANALYZING,
        K.ROLL_STARTED: P.ROLLING,
        K.ROLLBACK_STARTED: P.ROLLING_BACK,
        **_stay(P.CANARY, K.STEP_STARTED, *_STEP_GOES_ON, *_ORDERS),
    },
    P.ANALYZING: {
        K.STEP_STARTED: P.CANARY,  # a canary worker was lost and booted the stable version
        K.ROLL_STARTED: P.ROLLING,
        K.ROLLBACK_STARTED: P.ROLLING_BACK,
        **_stay(P.ANALYZING, K.ANALYSIS_STARTED, K.JUDGED, *_ORDERS),
    },
    P.ROLLING: {
        K.BAKE_STARTED: P.BAKING,
        K.ROLLBACK_STARTED: P.ROLLING_BACK,
        **_stay(P.ROLLING, K.STEP_STARTED, K.JUDGED, *_STEP_GOES_ON, *_ORDERS),
    },
    P.BAKING: {
        K.STEP_STARTED: P.ROLLING,  # a worker was lost and booted the stable version: it needs its step again
        K.COMMIT_STARTED: P.COMMITTING,
        K.ROLLBACK_STARTED: P.ROLLING_BACK,
        **_stay(P.BAKING, K.JUDGED, *_ORDERS),
    },
    P.COMMITTING: {K.SUCCEEDED: P.SUCCEEDED},  # the point of no return: no order, no fault, no deadline leads back
    P.ROLLING_BACK: {
        K.ROLLED_BACK: P.ROLLED_BACK,
        K.ROLLBACK_FAILED: P.ROLLBACK_FAILED,
        **_stay(P.ROLLING_BACK, K.STEP_STARTED, *_STEP_GOES_ON),
    },
    **{phase: {} for phase in sorted(FINAL_PHASES)},
    P.ROLLBACK_FAILED: {K.ROLLBACK_STARTED: P.ROLLING_BACK},  # by an operator alone: `retry`
}


class IllegalTransition(Exception):
    """A bug in hotpool: an event came in a phase that has no row for it. Never caught."""


class Kind(StrEnum):
    """Of a rollout: to another version, or back to the stable version before this one."""

    START = "start"
    UNDO = "undo"


class Part(StrEnum):
    """Of a step, in this order. One with the strategy `beside` begins with the load."""

    DRAIN = "drain"
    LOAD = "load"
    REJOIN = "rejoin"


class Fault(StrEnum):
    """What failed a step. A version fault would come again on every worker; a worker's may not."""

    VERSION = "version"
    WORKER = "worker"


class PauseCause(StrEnum):
    USER = "user"
    INCONCLUSIVE = "inconclusive"  # a step of the canary ended without enough evidence


class Outcome(StrEnum):
    """How a step ended. `left`: the rollback began first."""

    OPEN = "open"
    FINISHED = "finished"
    WITHDRAWN = "withdrawn"
    FAILED = "failed"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Step:
    """One worker on its way to `goal`.

    token: names its load. since: monotonic, when its part began. strategy: on the way back it may differ from the rollout's.
    seconds: by part that has ended.
    """

    worker: str
    incarnation: int
    goal: str
    attempt: int
    token: str
    since: float
    part: Part = Part.DRAIN
    strategy: Strategy = Strategy.DRAIN
    seconds: dict[str, float] = field(default_factory=dict)
    outcome: Outcome = Outcome.OPEN
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Analysis:
    """Where the judging of a rollout stands.

    step: index into the settings' steps, -1 before the first. policy: names the present run of evidence, 0 before the first.
    since: monotonic, when that run began. result, reason: of this run once it was judged; reason is that of the worst gate.
    """

    step: int = -1
    policy: int = 0
    since: float = 0.0
    result: GateResult | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One attempt to move the pool from stable to target.

    workers: the seats when it was created; more may come. reason: why the operator wants it.
    cause, ending: why it went back or was rejected; the cause is abort, preflight, version, worker, gate, probe or
    deadline.
    since: monotonic, when its last event was seen. attempts: steps by worker since rolling or rolling back began.
    is_promoted: the operator wants this step of the canary left. is_unjudged: and all that follow; no gate is armed any more.
    judged: the bodies of all `judged` events. evaluated: labelled pictures, so far. labelled: what came of them.
    """

    number: int
    model: str
    kind: Kind
    stable: str
    stable_name: str
    target: str
    target_name: str
    workers: tuple[str, ...]
    settings: Settings
    operator: str
    reason: str
    created_ts: str
    since: float
    is_stable_wrong: bool = False  # an undo, because what is stable was found to answer badly
    phase: Phase = Phase.PENDING
    paused: bool = False
    pause_cause: PauseCause | None = None
    analysis: Analysis = Analysis()
    is_promoted: bool = False
    is_unjudged: bool = False
    judged: tuple[Mapping[str, Any], ...] = ()
    evaluated: int = 0
    labelled: Labelled | None = None
    abort: str = ""  # who ordered it and why; an abort is never taken back
    version_fault: str = ""
    steps: dict[str, Step] = field(default_factory=dict)  # open ones, by worker
    ended_steps: tuple[Step, ...] = ()
    attempts: dict[str, int] = field(default_factory=dict)
    cause: str = ""
    ending: str = ""
    ended_ts: str = ""
    failed_rollbacks: int = 0
    back_cause: str = ""  # why it first began to go back; `cause` may later be that of a failed rollback

    @property
    def is_over(self) -> bool:
        return self.phase in FINAL_PHASES

    @property
    def canary_workers(self) -> tuple[str, ...]:
        """The seats that get the target first."""
        return self.workers[: self.settings.canary_workers]

    @property
    def step(self) -> str:
        """The step of the canary that is under way: `shadow` or a share."""
        return self.settings.steps[self.analysis.step]

    @property
    def goal(self) -> str:
        """The digest every worker is to hold: the target, or on the way back the stable version."""
        return self.stable if self.phase in (P.ROLLING_BACK, P.ROLLED_BACK, P.ROLLBACK_FAILED) else self.target


def next_phase(phase: Phase, kind: EventKind) -> Phase:
    """Raises IllegalTransition."""
    try:
        return TRANSITIONS[phase][kind]
    except KeyError:
        raise IllegalTransition(f"{kind} is not allowed in phase {phase}") from None


def created(event: Event, now: float) -> Rollout:
    """The rollout that a `rollout_created` event begins."""
    assert event.rollout is not None
    body = event.body
    return Rollout(
        number=event.rollout,
        model=event.model,
        kind=Kind(body["kind"]),
        stable=body["stable"],
        stable_name=body["stable_name"],
        target=body["target"],
        target_name=body["target_name"],
        workers=tuple(body["workers"]),
        settings=_once(Settings(**body["settings"])),
        is_stable_wrong=body.get("is_stable_wrong", False),
        operator=event.operator,
        reason=body["reason"],
        created_ts=event.ts,
        since=now,
    )


@lru_cache
def _once(settings: Settings) -> Settings:
    """The same object for all rollouts that have equal ones, as most have: ledgers keep every rollout."""
    return settings


def advance(rollout: Rollout, event: Event, now: float) -> Rollout:
    """The rollout after one more of its events.

    Raises:
        IllegalTransition: the event has no row in the phase table, or names a step that is not open.
    """
    labelled = Labelled(**event.body["labelled"]) if "labelled" in event.body else rollout.labelled
    moved = replace(rollout, phase=next_phase(rollout.phase, event.kind), since=now, labelled=labelled)
    return _EFFECTS.get(event.kind, _nothing)(moved, event, now)


# ---- what an event changes beside the phase


def _nothing(rollout: Rollout, event: Event, now: float) -> Rollout:
    return rollout


def _evaluated(rollout: Rollout, event: Event, now: float) -> Rollout:
    return replace(rollout, evaluated=event.body["pictures"])


def _step_started(rollout: Rollout, event: Event, now: float) -> Rollout:
    body = event.body
    worker = body["worker"]
    if worker in rollout.steps:
        raise IllegalTransition(f"the step of {worker} is already open")
    token = f"{rollout.number}-{worker}-{event.seq}"
    strategy = Strategy(body.get("strategy", rollout.settings.strategy))  # not named in older journals
    part = Part.LOAD if strategy is Strategy.BESIDE else Part.DRAIN
    step = Step(worker, body["incarnation"], body["goal"], body["attempt"], token, now, part, strategy)
    attempts = {**rollout.attempts, worker: rollout.attempts.get(worker, 0) + 1}
    return replace(rollout, steps={**rollout.steps, worker: step}, attempts=attempts)


def _step_withdrawn(rollout: Rollout, event: Event, now: float) -> Rollout:
    """It had no effect, so it does not count as an attempt."""
    worker = event.body["worker"]
    attempts = {**rollout.attempts, worker: rollout.attempts[worker] - 1}
    return _end_step(replace(rollout, attempts=attempts), event, Outcome.WITHDRAWN)


def _step_drained(rollout: Rollout, event: Event, now: float) -> Rollout:
    return _next_part(rollout, event, now, Part.LOAD, "drain")


def _step_loaded(rollout: Rollout, event: Event, now: float) -> Rollout:
    return _next_part(rollout, event, now, Part.REJOIN, "load", "verify")


def _step_finished(rollout: Rollout, event: Event, now: float) -> Rollout:
    return _end_step(rollout, event, Outcome.FINISHED, "rejoin")


def _step_failed(rollout: Rollout, event: Event, now: float) -> Rollout:
    body = event.body
    if Fault(body["fault"]) is Fault.VERSION:
        rollout = replace(rollout, version_fault=f"{body['worker']}: {body['reason']}")
    return _end_step(rollout, event, Outcome.FAILED)


def _rollback_started(rollout: Rollout, event: Event, now: float) -> Rollout:
    """The budget of attempts is full again: going back must not fail for what going forward has cost."""
    left = tuple(replace(step, outcome=Outcome.LEFT) for step in rollout.steps.values())
    rollout = replace(
        rollout, steps={}, ended_steps=(*rollout.ended_steps, *left), attempts={}, paused=False, pause_cause=None
    )
    cause, reason = event.body["cause"], event.body["reason"]
    return replace(rollout, cause=cause, ending=reason, ended_ts="", back_cause=rollout.back_cause or cause)


def _paused(rollout: Rollout, event: Event, now: float) -> Rollout:
    cause = PauseCause(event.body.get("cause", PauseCause.USER))
    reason = event.body["reason"] if cause is PauseCause.INCONCLUSIVE else rollout.analysis.reason
    return replace(rollout, paused=True, pause_cause=cause, analysis=replace(rollout.analysis, reason=reason))


def _resumed(rollout: Rollout, event: Event, now: float) -> Rollout:
    """The time of a step does not run while it is paused; what was counted meanwhile counts."""
    return replace(rollout, paused=False, pause_cause=None, analysis=replace(rollout.analysis, since=now))


def _promoted(rollout: Rollout, event: Event, now: float) -> Rollout:
    return replace(
        _resumed(rollout, event, now), is_promoted=True, is_unjudged=rollout.is_unjudged or event.body["full"]
    )


def _analysis_started(rollout: Rollout, event: Event, now: float) -> Rollout:
    return replace(rollout, analysis=Analysis(event.body["step"], event.seq, now), is_promoted=False)


def _judged(rollout: Rollout, event: Event, now: float) -> Rollout:
    result, reason = GateResult(event.body["result"]), event.body["reason"]
    analysis = replace(rollout.analysis, result=result, reason=reason)
    rollout = replace(rollout, analysis=analysis, judged=(*rollout.judged, event.body))
    if result is GateResult.INCONCLUSIVE and rollout.settings.on_inconclusive is OnInconclusive.PAUSE:
        return replace(rollout, paused=True, pause_cause=PauseCause.INCONCLUSIVE)
    return rollout


def _abort_requested(rollout: Rollout, event: Event, now: float) -> Rollout:
    why = event.body.get("reason")
    abort = f"aborted by {event.operator}{f': {why}' if why else ''}"
    return replace(rollout, paused=False, pause_cause=None, abort=abort)


def _over(rollout: Rollout, event: Event, now: float) -> Rollout:
    """What was said when the rollback began stays, unless the end has its own to say."""
    body = event.body
    cause, ending = body.get("cause") or rollout.cause, body.get("reason") or rollout.ending
    return replace(rollout, paused=False, pause_cause=None, cause=cause, ending=ending, ended_ts=event.ts)


def _rollback_failed(rollout: Rollout, event: Event, now: float) -> Rollout:
    return replace(_over(rollout, event, now), failed_rollbacks=rollout.failed_rollbacks + 1)


def _succeeded(rollout: Rollout, event: Event, now: float) -> Rollout:
    """From here on it is watched: another run of evidence."""
    return replace(_over(rollout, event, now), analysis=Analysis(rollout.analysis.step, event.seq, now))


_EFFECTS: dict[EventKind, Callable[[Rollout, Event, float], Rollout]] = {
    K.EVALUATED: _evaluated,
    K.STEP_STARTED: _step_started,
    K.STEP_WITHDRAWN: _step_withdrawn,
    K.STEP_DRAINED: _step_drained,
    K.STEP_LOADED: _step_loaded,
    K.STEP_FINISHED: _step_finished,
    K.STEP_FAILED: _step_failed,
    K.ROLLBACK_STARTED: _rollback_started,
    K.ANALYSIS_STARTED: _analysis_started,
    K.ROLL_STARTED: _analysis_started,
    K.JUDGED: _judged,
    K.PROMOTED: _promoted,
    K.PAUSED: _paused,
    K.RESUMED: _resumed,
    K.ABORT_REQUESTED: _abort_requested,
    K.SUCCEEDED: _succeeded,
    K.REJECTED: _over,
    K.ROLLED_BACK: _over,
    K.ROLLBACK_FAILED: _rollback_failed,
}


def _next_part(rollout: Rollout, event: Event, now: float, part: Part, *measured: str) -> Rollout:
    step = _open_step(rollout, event)
    step = replace(step, part=part, since=now, seconds=step.seconds | _seconds(event.body, measured))
    return replace(rollout, steps={**rollout.steps, step.worker: step})


def _end_step(rollout: Rollout, event: Event, outcome: Outcome, *measured: str) -> Rollout:
    step = _open_step(rollout, event)
    reason, seconds = event.body.get("reason", ""), step.seconds | _seconds(event.body, measured)
    step = replace(step, outcome=outcome, reason=reason, seconds=seconds)
    others = {worker: other for worker, other in rollout.steps.items() if worker != step.worker}
    return replace(rollout, steps=others, ended_steps=(*rollout.ended_steps, step))


def _seconds(body: dict[str, Any], measured: tuple[str, ...]) -> dict[str, float]:
    """`load_s` of a body becomes `load`."""
    return {name: body[f"{name}_s"] for name in measured}


def _open_step(rollout: Rollout, event: Event) -> Step:
    try:
        return rollout.steps[event.body["worker"]]
    except KeyError:
        raise IllegalTransition(f"{event.kind}: no step of {event.body.get('worker')} is open") from None
