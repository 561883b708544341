"""Shell: what an operator may order of a rollout. Each order is checked and written to the journal in one transaction.

The journal is the mailbox: the controller finds the order there and carries it out, now or when it is back.
"""

from collections.abc import Sequence
from dataclasses import asdict
from time import monotonic
from typing import Any

from hotpool.errors import BadRollout, BadVersion, Conflict, NothingToDo
from hotpool.messages import WorkerReport
from hotpool.states import Phase, Strategy

from .events import EventKind
from .journal import Journal
from .ledger import Ledger, fold, replay
from .rollout import TRANSITIONS, Kind, Rollout, Settings

K = EventKind


def start(
    journal: Journal,
    *,
    model: str,
    version: str,
    workers: Sequence[WorkerReport],
    settings: Settings,
    operator: str,
    reason: str = "",
) -> Rollout | None:
    """Orders a rollout to a version (alias, digest or the beginning of one). None: it is stable already, nothing was ordered.

    workers: as the broker reports them now.

    Raises:
        BadVersion: no such version.
        BadRollout: the settings leave no worker serving while one is updated.
        Conflict: another rollout is under way, or the last one left workers on its target.
    """
    with journal.transaction():
        ledger = read(journal)
        target = ledger.find(model, version)
        _refuse_if_busy(ledger, model, workers)
        if target == ledger.stable(model):
            return None
        return _create(journal, ledger, model, Kind.START, target, workers, settings, operator, reason)


def undo(
    journal: Journal,
    *,
    model: str,
    workers: Sequence[WorkerReport],
    settings: Settings,
    operator: str,
    reason: str = "",
) -> Rollout:
    """Orders a rollout to the version that was stable before this one. Twice in a row goes back two.

    Raises like `start`, and NothingToDo: there is no earlier stable version.
    """
    with journal.transaction():
        ledger = read(journal)
        _refuse_if_busy(ledger, model, workers)
        target = ledger.previous_stable(model)
        if target is None:
            raise NothingToDo(f"model {model!r} has no earlier stable version to go back to")
        if target not in ledger.versions.get(model, {}).values():
            raise BadVersion(
                f"the stable version before, {target[:12]}, was removed; start a rollout to one that is there"
            )
        return _create(journal, ledger, model, Kind.UNDO, target, workers, settings, operator, reason)


def abort(journal: Journal, *, model: str, operator: str, reason: str = "") -> Rollout:
    """Orders the rollout under way back to the stable version. Can't be taken back; ordered twice it counts once.

    Raises:
        NothingToDo: no rollout is under way, or it is past the point of no return.
    """
    with journal.transaction():
        ledger = read(journal)
        rollout = _active(ledger, model)
        if rollout.abort or rollout.phase is Phase.ROLLING_BACK:
            return rollout
        if K.ABORT_REQUESTED not in TRANSITIONS[rollout.phase]:
            raise NothingToDo(f"{_what(rollout)}: nothing to abort, use: hotpool rollout undo")
        return _append(journal, ledger, rollout, K.ABORT_REQUESTED, operator, reason)


def pause(journal: Journal, *, model: str, operator: str, reason: str = "") -> Rollout:
    """Orders the rollout under way to hold; steps that are open end first.

    Raises:
        NothingToDo: no rollout is under way, or it is paused already.
        Conflict: it can't be paused where it is.
    """
    with journal.transaction():
        ledger = read(journal)
        rollout = _active(ledger, model)
        if rollout.paused:
            raise NothingToDo(f"{_what(rollout)} and paused already")
        if rollout.abort or K.PAUSED not in TRANSITIONS[rollout.phase]:
            raise Conflict(f"{_what(rollout)}: it can't be paused now")
        return _append(journal, ledger, rollout, K.PAUSED, operator, reason)


def resume(journal: Journal, *, model: str, operator: str, reason: str = "") -> Rollout:
    """Orders a paused rollout to go on.

    Raises:
        NothingToDo: no rollout is under way, or it is not paused.
    """
    with journal.transaction():
        ledger = read(journal)
        rollout = _active(ledger, model)
        if not rollout.paused:
            raise NothingToDo(f"{_what(rollout)} and not paused")
        return _append(journal, ledger, rollout, K.RESUMED, operator, reason)


def read(journal: Journal) -> Ledger:
    """Everything so far, for one look at it."""
    return replay(journal.events(), monotonic())


def _refuse_if_busy(ledger: Ledger, model: str, workers: Sequence[WorkerReport]) -> None:
    if active := ledger.active(model):
        raise Conflict(f"{_what(active)}; wait for its end, or: hotpool rollout abort")
    last, stable = ledger.last(model), ledger.stable(model)
    if last is None or last.phase is not Phase.ROLLBACK_FAILED:
        return
    # Two versions can serve at a time. A third would take these workers out of service all at once.
    left = [worker.worker for worker in workers if worker.digest not in ("", stable)]
    if left:
        raise Conflict(
            f"rollout {last.number} could not be rolled back: {', '.join(left)} still on {last.target_name}; "
            "restart the pool, every worker then boots the stable version"
        )


def _create(
    journal: Journal,
    ledger: Ledger,
    model: str,
    kind: Kind,
    target: str,
    workers: Sequence[WorkerReport],
    settings: Settings,
    operator: str,
    reason: str,
) -> Rollout:
    stable = ledger.stable(model)
    assert stable is not None, "the first version of a model is stable at once"
    seats = [worker.worker for worker in workers if worker.model == model]
    _refuse_without_floor(model, len(seats), settings)
    body = {
        "kind": kind,
        "stable": stable,
        "stable_name": ledger.name(model, stable),
        "target": target,
        "target_name": ledger.name(model, target),
        "workers": seats,
        "settings": asdict(settings),
        "reason": reason,
    }
    number = len(ledger.rollouts) + 1
    event = journal.append(K.ROLLOUT_CREATED, model=model, rollout=number, operator=operator, body=body)
    return fold(ledger, event, monotonic()).rollouts[number]


def _refuse_without_floor(model: str, n_workers: int, settings: Settings) -> None:
    if n_workers == 0:
        raise BadRollout(f"the pool has no workers of model {model!r}; see: hotpool status")
    if settings.strategy is Strategy.BESIDE:
        return
    if n_workers == 1:
        raise BadRollout(
            "one worker can't be drained without a gap in service (strategy drain); "
            "use two workers or more, or the strategy that keeps it serving: --strategy beside"
        )
    if settings.max_unavailable >= n_workers:
        raise BadRollout(
            f"max_unavailable = {settings.max_unavailable} of {n_workers} workers would leave none serving; "
            f"allowed are 1 to {n_workers - 1}"
        )


def _active(ledger: Ledger, model: str) -> Rollout:
    rollout = ledger.active(model)
    if rollout is None:
        raise NothingToDo(f"no rollout of model {model!r} is under way")
    return rollout


def _what(rollout: Rollout) -> str:
    return f"rollout {rollout.number} ({rollout.stable_name} -> {rollout.target_name}) is {rollout.phase}"


def _append(journal: Journal, ledger: Ledger, rollout: Rollout, kind: EventKind, operator: str, reason: str) -> Rollout:
    body: dict[str, Any] = {"reason": reason}
    event = journal.append(kind, model=rollout.model, rollout=rollout.number, operator=operator, body=body)
    return fold(ledger, event, monotonic()).rollouts[rollout.number]
