"""Pure: the canary of a rollout: what the target gets of the requests, which gates are armed, what follows from their verdicts.

A rollout without steps has none of it: its workers answer whatever comes, as they become ready. Only away from a version whose
answers are known to be bad requests are split without a canary too.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from hotpool.evidence import Counts
from hotpool.messages import Policy, WorkerReport
from hotpool.states import Phase, WorkerState

from .actions import Record
from .events import EventKind
from .gates import ARMED, TIMED, judge
from .plan import SHADOW, carried_share, share_of
from .rollout import Kind, PauseCause, Rollout
from .settings import OnInconclusive
from .verdicts import Gate, GateResult, Verdict, counts_to_json, worst

K, S = EventKind, WorkerState
Workers = Mapping[str, WorkerReport]

WHOLE = 100.0  # percent
ABOUT_EVEN = 0.75  # of what the canary workers can carry: then they are about as busy as the others


# ---- the share


def policy(rollout: Rollout, workers: Workers, floor: int) -> Policy | None:
    """How requests are split now; None: any admitted worker answers. floor: workers that must stay ready."""
    shares = _SHARES_AWAY if leaves_bad_answers(rollout) else _SHARES if rollout.settings.steps else {}
    if rollout.phase not in shares:
        return None
    share = shares[rollout.phase](rollout, workers, floor)
    copies = WHOLE if _step_kind(rollout) == SHADOW else 0.0
    return Policy(rollout.analysis.policy, rollout.number, share, copies)


def leaves_bad_answers(rollout: Rollout) -> bool:
    """Whether the version it leads away from is known to answer badly. One that is only slow answers rightly: there fewer
    workers would be slower still."""
    if rollout.phase not in (Phase.ROLLING_BACK, Phase.ROLLBACK_FAILED):
        return rollout.is_stable_wrong
    found = rollout.judged[-1].get("verdicts", ()) if rollout.judged else ()
    failed = {one["gate"] for one in found if one["enforced"] and one["result"] == GateResult.FAIL}
    return rollout.back_cause == "probe" or not failed <= set(TIMED)


def watch_policy(rollout: Rollout) -> Policy:
    """After the commit there is one version, and what it does is counted."""
    return Policy(rollout.analysis.policy, rollout.number, 0.0, 0.0)


def _none(rollout: Rollout, workers: Workers, floor: int) -> float:
    return 0.0


def _of_step(rollout: Rollout, workers: Workers, floor: int) -> float:
    return share_of(rollout.step)


def _by_capacity(rollout: Rollout, workers: Workers, floor: int) -> float:
    """As many requests as workers, of those that are ready and not about to leave. Whole percents: it changes seldom."""
    stable, target = (_staying(rollout, workers, digest) for digest in (rollout.stable, rollout.target))
    return float(round(WHOLE * target / (stable + target))) if target else 0.0


def _back(rollout: Rollout, workers: Workers, floor: int) -> float:
    """Nothing as soon as the stable workers are enough by themselves, and never more than before."""
    if _staying(rollout, workers, rollout.stable) >= floor:
        return 0.0
    return min(_by_capacity(rollout, workers, floor), _last_share(rollout))


def _to_stable(rollout: Rollout, workers: Workers, floor: int) -> float:
    """As soon as one stable worker is there to answer, however much it then has to do."""
    return _back(rollout, workers, floor=1)


def _to_target(rollout: Rollout, workers: Workers, floor: int) -> float:
    """Likewise, where what is bad is the stable version."""
    return WHOLE if _staying(rollout, workers, rollout.target) else 0.0


def _last_share(rollout: Rollout) -> float:
    """That of the step in which the rollback began; any, once all workers were being updated, and where it has failed: then
    those serve that are left."""
    step, steps = rollout.analysis.step, rollout.settings.steps
    if step >= len(steps) or not steps or rollout.phase is Phase.ROLLBACK_FAILED:
        return WHOLE
    return share_of(steps[step]) if step >= 0 else 0.0


def _staying(rollout: Rollout, workers: Workers, digest: str) -> int:
    return sum(
        worker.state is S.READY and worker.digest == digest and (name not in rollout.steps or digest == rollout.goal)
        for name, worker in workers.items()
    )


_SHARES: dict[Phase, Callable[[Rollout, Workers, int], float]] = {
    Phase.CANARY: _none,
    Phase.ANALYZING: _of_step,
    Phase.ROLLING: _by_capacity,
    Phase.BAKING: _by_capacity,
    Phase.COMMITTING: _by_capacity,
    Phase.ROLLING_BACK: _back,
}

# Away from a version whose answers are known to be bad: its answers do more harm than a queue.
_SHARES_AWAY: dict[Phase, Callable[[Rollout, Workers, int], float]] = {
    Phase.ROLLING: _to_target,
    Phase.BAKING: _to_target,
    Phase.COMMITTING: _to_target,
    Phase.ROLLING_BACK: _to_stable,
    Phase.ROLLBACK_FAILED: _to_stable,
}


# ---- the gates


def armed(rollout: Rollout) -> tuple[Gate, ...]:
    """Which gates are looked at now."""
    if rollout.is_unjudged or not rollout.settings.steps:
        return ()
    gates = ARMED.get(_step_kind(rollout), ())
    is_first_step = rollout.phase is Phase.ANALYZING and rollout.analysis.step == 0
    return (*gates, Gate.ACCURACY) if is_first_step and rollout.labelled else gates


def _step_kind(rollout: Rollout) -> str:
    """The key in `ARMED`: of an analysis what its step is, else the phase."""
    if rollout.phase is Phase.SUCCEEDED:
        return "watch"
    if rollout.phase is not Phase.ANALYZING:
        return rollout.phase
    if rollout.step == SHADOW:
        return SHADOW
    carried = carried_share(rollout.settings.canary_workers, len(rollout.workers))
    return "even_share" if share_of(rollout.step) >= ABOUT_EVEN * carried else "share"


def verdicts(rollout: Rollout, counts: Counts | None) -> tuple[Verdict, ...]:
    """Of the armed gates, as the evidence stands now. Evidence of another run counts for nothing."""
    if counts is None or counts.policy != rollout.analysis.policy:
        counts = Counts(rollout.analysis.policy)
    return judge(counts, rollout.settings.gates, rollout.labelled, gates=armed(rollout))


def is_watched(rollout: Rollout, now: float) -> bool:
    """Whether this rollout has succeeded so short a while ago that it is still taken back by itself."""
    judges = bool(rollout.settings.steps) and not rollout.is_unjudged
    return judges and is_recent(rollout, now)


def is_recent(rollout: Rollout, now: float) -> bool:
    """Whether the watch after its commit still lasts. Nothing takes back what goes back."""
    is_new = rollout.phase is Phase.SUCCEEDED and rollout.kind is Kind.START
    return is_new and now - rollout.analysis.since < rollout.settings.watch_s


def watch_failure(rollout: Rollout, counts: Counts | None, now: float) -> dict[str, Any] | None:
    """Why a version that was committed must go back, with what it follows from."""
    judged = catch_failure(rollout, counts, now)
    if judged is None:
        return None
    reason = f"within {rollout.settings.watch_s:g} s after the commit {judged.body['reason']}"
    return {**judged.body, "reason": reason}


def catch_failure(rollout: Rollout, counts: Counts | None, now: float) -> Record | None:
    """A gate that fails is written down in whatever phase, paused or not."""
    found = verdicts(rollout, counts)
    return _judged(rollout, found, counts, now) if worst(found) is GateResult.FAIL else None


def end_step(rollout: Rollout, counts: Counts | None, now: float) -> Record | None:
    """What follows in the phase `analyzing`, when nothing has failed, nobody holds it and no canary worker is missing."""
    analysis, settings = rollout.analysis, rollout.settings
    if _is_left(rollout):
        return _next_step(rollout)
    if analysis.result is GateResult.INCONCLUSIVE:  # and it was resumed: evidence is gathered anew
        return _begin(rollout, analysis.step)
    found, elapsed_s = verdicts(rollout, counts), now - analysis.since
    has_passed = worst(found) is GateResult.PASS and elapsed_s >= settings.step_min_s
    return _judged(rollout, found, counts, now) if has_passed or elapsed_s >= settings.step_max_s else None


def wait_for_workers(rollout: Rollout, counts: Counts | None, now: float) -> Record | None:
    """While a canary worker is missing nothing passes, whatever is counted already."""
    if rollout.paused or now - rollout.analysis.since < rollout.settings.step_max_s:
        return None
    reason = f"not all canary workers ({', '.join(rollout.canary_workers)}) are ready with {rollout.target_name}"
    if rollout.settings.on_inconclusive is OnInconclusive.ABORT:
        return Record(K.ROLLBACK_STARTED, {"cause": "worker", "reason": reason}, rollout.number)
    return Record(K.PAUSED, {"cause": PauseCause.INCONCLUSIVE, "reason": reason}, rollout.number)


def begin(rollout: Rollout) -> Record:
    """All canary workers are ready: the first step, or once more the one that a lost worker has cut short."""
    step = rollout.analysis.step
    return _next_step(rollout) if step < 0 or _is_left(rollout) else _begin(rollout, step)


def gives_up(rollout: Rollout) -> bool:
    """Whether what was judged ends the rollout."""
    result = rollout.analysis.result
    return result is GateResult.FAIL or (
        result is GateResult.INCONCLUSIVE and rollout.settings.on_inconclusive is OnInconclusive.ABORT
    )


def _is_left(rollout: Rollout) -> bool:
    """Whether nothing more is to be learned in this step."""
    return rollout.is_unjudged or rollout.is_promoted or rollout.analysis.result is GateResult.PASS


def _next_step(rollout: Rollout) -> Record:
    step = rollout.analysis.step + 1
    return _roll(rollout) if rollout.is_unjudged or step >= len(rollout.settings.steps) else _begin(rollout, step)


def _begin(rollout: Rollout, step: int) -> Record:
    return Record(K.ANALYSIS_STARTED, {"step": step}, rollout.number)


def _roll(rollout: Rollout) -> Record:
    return Record(K.ROLL_STARTED, {"step": len(rollout.settings.steps)}, rollout.number)


def _judged(rollout: Rollout, found: tuple[Verdict, ...], counts: Counts | None, now: float) -> Record:
    """With all that is needed to come to the same verdicts again."""
    result = worst(found)
    deciding = next((one for one in found if one.enforced and one.result is result), None)
    body = {
        "step": rollout.analysis.step,
        "phase": rollout.phase,
        "result": result,
        "reason": f"gate {deciding.gate}: {deciding.reason}" if deciding else "no gate is armed",
        "verdicts": [asdict(one) for one in found],
        "counts": counts_to_json(counts or Counts(rollout.analysis.policy)),
        "elapsed_s": round(now - rollout.analysis.since, 3),
    }
    return Record(K.JUDGED, body, rollout.number)
