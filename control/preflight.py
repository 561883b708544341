"""Pure: what follows from a preflight whose version is sound: on labelled pictures it must not be worse than stable."""

from dataclasses import asdict
from typing import Any

from hotpool.evidence import Counts

from .actions import Record
from .events import EventKind
from .gates import judge
from .rollout import PauseCause, Rollout
from .settings import OnInconclusive
from .verdicts import Gate, GateResult, Labelled, Verdict
from .view import Finding

K = EventKind


def end(rollout: Rollout, finding: Finding) -> Record | None:
    """The end of the preflight; None: paused, a person must decide."""
    if finding.labelled is None:
        return _go_on(rollout, {"seconds": finding.seconds})
    verdict = judge_labelled(rollout, finding.labelled)
    body = {
        "labelled": asdict(finding.labelled),
        "unreadable": finding.unreadable,
        "result": verdict.result,
        "verdicts": [asdict(verdict)],
        "reason": f"gate {verdict.gate}: {verdict.reason}",
    }
    if rollout.is_unjudged or verdict.result is GateResult.PASS:
        return _go_on(rollout, {"seconds": finding.seconds, **body})
    if verdict.result is GateResult.FAIL:
        return _record(rollout, K.REJECTED, {"cause": "gate", **body})
    # With a canary more will be known of the version; its first step holds the same verdict against it.
    if rollout.settings.steps or rollout.is_promoted:
        return _go_on(rollout, {"seconds": finding.seconds, **body})
    if rollout.settings.on_inconclusive is OnInconclusive.ABORT:
        return _record(rollout, K.REJECTED, {"cause": "gate", **body})
    return None if rollout.paused else _record(rollout, K.PAUSED, {"cause": PauseCause.INCONCLUSIVE, **body})


def judge_labelled(rollout: Rollout, labelled: Labelled) -> Verdict:
    (verdict,) = judge(Counts(), rollout.settings.gates, labelled, gates=[Gate.ACCURACY])
    return verdict


def _go_on(rollout: Rollout, body: dict[str, Any]) -> Record:
    return _record(rollout, K.CANARY_STARTED if rollout.settings.steps else K.PREFLIGHT_PASSED, body)


def _record(rollout: Rollout, kind: EventKind, body: dict[str, Any]) -> Record:
    return Record(kind, body, rollout.number)
