"""Pure: what follows from probes: the workers were asked what they must know, and some were wrong.

A wrong worker is taken out and restarted. When all that serve the stable version are wrong it is the version, and taking them
out would help nobody: within the watch after its rollout the version is taken back, else an alarm says that a person is needed.
When all that serve a target are wrong its rollout goes back. What was found is in the journal before anything is done about it.
"""

from dataclasses import asdict

from hotpool.messages import WorkerReport
from hotpool.states import Phase, WorkerState

from .actions import Action, Drain, Record, Restart, RunProbes
from .between import undo_of
from .canary import is_recent
from .events import EventKind
from .ledger import Ledger
from .rollout import TRANSITIONS, Kind, Rollout
from .view import Probed, View

K, S = EventKind, WorkerState

_IS_OUT = (S.DRAINING, S.DRAINED)


def begin(rollout: Rollout | None, view: View) -> Action | None:
    """Another round, when it is time. Not while a rollout moves workers: each is verified in its step."""
    is_quiet = rollout is None or (not rollout.steps and (rollout.paused or rollout.phase is Phase.ANALYZING))
    ready = tuple(worker for worker in view.workers.values() if worker.state is S.READY)
    return RunProbes(ready) if view.is_probe_due and is_quiet and ready else None


def follow(ledger: Ledger, model: str, view: View, floor: int, now: float) -> Action | None:
    """What the last round and those before it ask for. floor: workers that must stay ready."""
    return (
        _write_down(ledger, view)
        or _restart(ledger, model, view)
        or _judge_version(ledger, model, view, now)
        or _end_alarm(ledger, model, view)
        or _take_out(ledger, model, view, floor)
    )


def taken_out(ledger: Ledger, model: str, view: View) -> frozenset[str]:
    """Workers that are out of service because they were wrong. One in a step is not: the step verifies what it holds."""
    rollout = ledger.active(model)
    in_step = rollout.steps if rollout else {}
    return frozenset(
        name
        for name, worker in view.workers.items()
        if worker.state in _IS_OUT and _is_wrong(ledger, worker) and name not in in_step
    )


# ---- one worker


def _write_down(ledger: Ledger, view: View) -> Action | None:
    for probed in _wrong_now(view):
        if not _is_wrong(ledger, view.workers[probed.worker]):
            return Record(K.PROBE_FAILED, asdict(probed))
    return None


def _restart(ledger: Ledger, model: str, view: View) -> Action | None:
    for name in taken_out(ledger, model, view):
        if view.workers[name].state is S.DRAINED:
            return Restart(name, view.workers[name].incarnation)
    return None


def _take_out(ledger: Ledger, model: str, view: View, floor: int) -> Action | None:
    """One after the other, so that a restart that is all it needed has helped before the next leaves."""
    rollout = ledger.active(model)
    in_step = rollout.steps if rollout else {}
    n_ready = sum(worker.state is S.READY for worker in view.workers.values())
    if n_ready - 1 < max(1, floor) or _is_one_coming_back(ledger, view):
        return None
    for probed in _wrong_now(view):
        worker = view.workers[probed.worker]
        if worker.state is S.READY and probed.worker not in in_step and not _all_wrong(view, probed.digest):
            return Drain(probed.worker, max(1, floor))
    return None


def _is_one_coming_back(ledger: Ledger, view: View) -> bool:
    """One with a note is waited for no longer: its seat has trouble of another kind."""
    for name, wrong in ledger.wrong.items():
        worker = view.workers.get(name)
        if worker is None or worker.note or worker.incarnation not in (wrong.incarnation, wrong.incarnation + 1):
            continue
        if worker.state in (S.DOWN, S.STARTING) or (worker.state in _IS_OUT and _is_wrong(ledger, worker)):
            return True
    return False


# ---- a whole version


def _judge_version(ledger: Ledger, model: str, view: View, now: float) -> Action | None:
    rollout, stable = ledger.active(model), ledger.stable(model)
    if rollout and (found := _all_wrong(view, rollout.target)) and K.ROLLBACK_STARTED in TRANSITIONS[rollout.phase]:
        return Record(K.ROLLBACK_STARTED, {"cause": "probe", "reason": _reason(found)}, rollout.number)
    trouble = view.round.trouble if view.round else ""
    found = _all_wrong(view, stable) if stable else ()
    if not found and not trouble:
        return None
    last = ledger.watched(model)
    if found and last and is_recent(last, now):
        why = f"within {last.settings.watch_s:g} s after the commit {_reason(found)}"
        if undo := undo_of(ledger, model, view, why):
            return undo
    if model in ledger.alarms or (rollout and rollout.kind is Kind.UNDO):
        return None  # it is said already, or the version is on its way out
    return Record(K.ALARM_RAISED, {"reason": _reason(found) if found else trouble})


def _end_alarm(ledger: Ledger, model: str, view: View) -> Action | None:
    """No answers are no good ones."""
    if model not in ledger.alarms or view.round is None or view.round.trouble:
        return None
    asked = [probed for probed in view.round.probed if probed.digest == ledger.stable(model)]
    if not asked or any(probed.reason for probed in asked):
        return None
    return Record(K.ALARM_ENDED, {"reason": f"{len(asked)} workers answer the golden inputs as they should"})


def _all_wrong(view: View, digest: str) -> tuple[Probed, ...]:
    """What was found, if it was wrong in every worker that was asked, and none is ready with this version that was not."""
    asked = tuple(probed for probed in view.round.probed if probed.digest == digest) if view.round else ()
    ready = [worker for worker in view.workers.values() if worker.state is S.READY and worker.digest == digest]
    known = {(probed.worker, probed.incarnation, probed.token) for probed in asked if probed.reason}
    is_all = bool(ready) and len(known) == len(asked) and {(w.worker, w.incarnation, w.token) for w in ready} <= known
    return asked if is_all else ()


def _reason(found: tuple[Probed, ...]) -> str:
    who = "the only ready worker" if len(found) == 1 else f"all {len(found)} workers"
    return f"{who} of {found[0].version} answered golden inputs wrongly; {found[0].worker}: {found[0].reason}"


def _wrong_now(view: View) -> list[Probed]:
    """Of the last round, what is still there as it was asked."""
    if view.round is None:
        return []
    return [
        probed
        for probed in view.round.probed
        if probed.reason
        and (worker := view.workers.get(probed.worker)) is not None
        and (worker.incarnation, worker.digest, worker.token) == (probed.incarnation, probed.digest, probed.token)
    ]


def _is_wrong(ledger: Ledger, worker: WorkerReport) -> bool:
    """Whether this process with this version was found wrong, and it is in the journal."""
    wrong = ledger.wrong.get(worker.worker)
    if wrong is None:
        return False
    return (wrong.incarnation, wrong.digest, wrong.token) == (worker.incarnation, worker.digest, worker.token)
