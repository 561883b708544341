"""Shell: what an operator may order of a rollout. Each order is checked and written to the journal in one transaction.

The journal is the mailbox: the controller finds the order there and carries it out, now or when it is back.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Any, TypeVar

from hotpool.errors import BadRollout, BadVersion, Conflict, NothingToDo
from hotpool.messages import WorkerReport
from hotpool.states import Phase, Strategy, WorkerState, is_spare

from .events import EventKind
from .journal import Journal
from .ledger import Ledger, fold, new_rollout, replay
from .plan import resolve_steps
from .rollout import TRANSITIONS, Kind, PauseCause, Rollout
from .settings import Settings

K = EventKind
T = TypeVar("T")


def start(
    journal: Journal,
    *,
    model: str,
    version: str,
    workers: Sequence[WorkerReport],
    settings: Settings,
    operator: str,
    reason: str = "",
    force: bool = False,
) -> Rollout | None:
    """Orders a rollout to a version (alias, digest or the beginning of one). None: it is stable already, nothing was ordered.

    workers: as the broker reports them now. force: although the stable version is not healthy.

    Raises:
        BadVersion: no such version.
        BadRollout: the settings leave no worker serving while one is updated.
        Conflict: another rollout is under way, the last one left workers on its target, or the stable version is not healthy.
    """
    with journal.transaction():
        ledger = read(journal)
        target = ledger.find(model, version)
        _refuse_if_busy(ledger, model, workers)
        if target == ledger.stable(model):
            return None
        return _create(journal, ledger, model, Kind.START, target, workers, settings, operator, reason, force=force)


def undo(
    journal: Journal,
    *,
    model: str,
    workers: Sequence[WorkerReport],
    settings: Settings,
    operator: str,
    reason: str = "",
    number: int | None = None,
) -> Rollout:
    """Orders a rollout to the version that was stable before this one. Twice in a row goes back two.

    While a rollout to another version is under way, that one is aborted and returned: its target has not become stable.

    number: of the last rollout, as the caller knows it; None: whichever it is.

    Raises like `start`, and NothingToDo: there is no earlier stable version; Conflict: `number` is not the last one.
    """
    with journal.transaction():
        ledger = read(journal)
        _refuse_unless_last(ledger, model, number)
        active = ledger.active(model)
        if active and active.kind is Kind.START and active.phase is not Phase.COMMITTING:
            return _abort(journal, ledger, active, operator, reason, verb="undo")
        _refuse_if_busy(ledger, model, workers)
        target = ledger.previous_stable(model)
        if target is None:
            raise NothingToDo(f"model {model!r} has no earlier stable version to go back to")
        if target not in ledger.versions.get(model, {}).values():
            raise BadVersion(
                f"the stable version before, {target[:12]}, was removed; start a rollout to one that is there"
            )
        return _create(journal, ledger, model, Kind.UNDO, target, workers, settings, operator, reason)


def retry(journal: Journal, *, model: str, workers: Sequence[WorkerReport], operator: str, reason: str = "") -> Rollout:
    """Orders once more what has failed: the last rollout from its beginning, to the same target by the same settings, or its
    rollback, if that is what has failed.

    Raises like `start`, and NothingToDo: the last rollout did not fail, or there is none.
    """
    with journal.transaction():
        ledger = read(journal)
        last = ledger.last(model)
        if last and last.phase is Phase.ROLLBACK_FAILED:
            again = f"rollback retried by {operator}{f': {reason}' if reason else ''}"
            return _append(journal, ledger, last, K.ROLLBACK_STARTED, operator, again, cause=last.back_cause)
        _refuse_if_busy(ledger, model, workers)
        if last is None or last.phase is Phase.SUCCEEDED:
            raise NothingToDo(f"model {model!r} has no failed rollout to try again; see: hotpool rollout history")
        target = ledger.find(model, last.target)
        try:
            return _create(
                journal, ledger, model, last.kind, target, workers, last.settings, operator, reason,
                is_stable_wrong=last.is_stable_wrong,
            )  # fmt: skip
        except BadRollout as error:  # the pool has changed, and a retry takes no options
            raise BadRollout(f"{error}; order it anew with: hotpool rollout start") from None


def preview(journal: Journal, order: Callable[[], T]) -> T:
    """What an order would give. It is checked and carried out in full, and nothing of it remains."""
    made: list[T] = []
    with suppress(_NotMeant), journal.transaction():
        made.append(order())
        raise _NotMeant
    return made[0]


class _NotMeant(Exception):
    """Rolls back a transaction."""


def abort(journal: Journal, *, model: str, operator: str, reason: str = "", number: int | None = None) -> Rollout:
    """Orders the rollout under way back to the stable version. Can't be taken back; ordered twice it counts once.

    Raises:
        NothingToDo: no rollout is under way, or it is past the point of no return.
    """
    with journal.transaction():
        ledger = read(journal)
        rollout = _active(ledger, model, number)
        return _abort(journal, ledger, rollout, operator, reason)


def pause(journal: Journal, *, model: str, operator: str, reason: str = "", number: int | None = None) -> Rollout:
    """Orders the rollout under way to hold; steps that are open end first.

    Raises:
        NothingToDo: no rollout is under way, or it is paused already.
        Conflict: it can't be paused where it is.
    """
    with journal.transaction():
        ledger = read(journal)
        rollout = _active(ledger, model, number)
        if rollout.paused:
            raise NothingToDo(f"{_what(rollout)} and paused already")
        if rollout.abort or K.PAUSED not in TRANSITIONS[rollout.phase]:
            raise Conflict(f"{_what(rollout)}: it can't be paused now")
        return _append(journal, ledger, rollout, K.PAUSED, operator, reason, cause=PauseCause.USER)


def resume(journal: Journal, *, model: str, operator: str, reason: str = "", number: int | None = None) -> Rollout:
    """Orders a paused rollout to go on.

    Raises:
        NothingToDo: no rollout is under way, or it is not paused.
    """
    with journal.transaction():
        ledger = read(journal)
        rollout = _active(ledger, model, number)
        if not rollout.paused:
            raise NothingToDo(f"{_what(rollout)} and not paused")
        return _append(journal, ledger, rollout, K.RESUMED, operator, reason)


def promote(
    journal: Journal,
    *,
    model: str,
    operator: str,
    reason: str = "",
    number: int | None = None,
    full: bool = False,
    step: str | None = None,
) -> Rollout:
    """Orders the rollout under way to leave its pause, and in the canary also the present step, whatever the gates say.

    full: all steps that are left too; no gate is armed from then on.
    step: the one that is meant, an empty text where there is none; None: whichever it is.

    Raises:
        NothingToDo: no rollout is under way, or there is nothing to leave.
        Conflict: it is on its way back, past the point of no return, or at another step.
    """
    with journal.transaction():
        ledger = read(journal)
        rollout = _active(ledger, model, number)
        if rollout.abort or K.PROMOTED not in TRANSITIONS[rollout.phase]:
            raise Conflict(f"{_what(rollout)}: it can't be promoted now")
        in_step = rollout.phase in (Phase.CANARY, Phase.ANALYZING) and rollout.analysis.step >= 0
        present = rollout.step if in_step else ""
        if step not in (None, present):
            raise Conflict(
                f"{_what(rollout)}, at {_step(present)} and not at {_step(step)}; look again before you promote it"
            )
        if not (rollout.paused or in_step or (full and rollout.settings.steps)):
            raise NothingToDo(f"{_what(rollout)} and not paused: there is no step to leave")
        return _append(journal, ledger, rollout, K.PROMOTED, operator, reason, full=full)


def read(journal: Journal) -> Ledger:
    """Everything so far, for one look at it."""
    return replay(journal.events(), monotonic())


def _refuse_if_busy(ledger: Ledger, model: str, workers: Sequence[WorkerReport]) -> None:
    if active := ledger.active(model):
        or_abort = ", or: hotpool rollout abort" if K.ABORT_REQUESTED in TRANSITIONS[active.phase] else ""
        raise Conflict(f"{_what(active)}; wait for its end{or_abort}")
    last, stable = ledger.last(model), ledger.stable(model)
    if last is None or last.phase is not Phase.ROLLBACK_FAILED:
        return
    # Two versions can serve at a time. A third would take these workers out of service all at once.
    left = [worker.worker for worker in workers if worker.digest not in ("", stable)]
    if left:
        raise Conflict(
            f"rollout {last.number} could not be rolled back: {', '.join(left)} still on {last.target_name}; "
            "try the rollback again with: hotpool rollout retry, or restart the pool: every worker boots the stable version"
        )


def _require_health(ledger: Ledger, model: str, workers: Sequence[WorkerReport], *, force: bool) -> str:
    """Of the stable version: a rollout is judged beside it and goes back to it. Gives what was passed over by force."""
    stable = ledger.stable(model)
    assert stable is not None
    serves = any(worker.state is WorkerState.READY and worker.digest == stable for worker in workers)
    why = ledger.alarms.get(model) or ("" if serves else "no worker is ready with it")
    if why and not force:
        raise Conflict(
            f"the stable version {ledger.name(model, stable)} is not healthy: {why}; a rollout is judged beside it, and goes "
            "back to it. See: hotpool status. Start nevertheless with: hotpool rollout start --force"
        )
    return why


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
    *,
    force: bool = False,
    is_stable_wrong: bool = False,
) -> Rollout:
    seats = [worker.worker for worker in workers if worker.model == model and not is_spare(worker.worker)]
    _refuse_without_floor(model, len(seats), settings)
    forced = _require_health(ledger, model, workers, force=force) if kind is Kind.START else ""
    if kind is Kind.UNDO:  # back to what served before: nothing is compared
        settings = replace(settings, eval_folder="", eval_pictures=0)
    steps = resolve_steps(settings.steps, settings.canary_workers, len(seats)) if kind is Kind.START else ()
    body = new_rollout(ledger, model, kind, target, seats, replace(settings, steps=steps), reason)
    if forced:
        body["forced"] = forced
    if is_stable_wrong:
        body["is_stable_wrong"] = True
    number = len(ledger.rollouts) + 1
    event = journal.append(K.ROLLOUT_CREATED, model=model, rollout=number, operator=operator, body=body)
    return fold(ledger, event, monotonic()).rollouts[number]


def _refuse_without_floor(model: str, n_workers: int, settings: Settings) -> None:
    if n_workers == 0:
        raise BadRollout(f"the pool has no workers of model {model!r}; see: hotpool status")
    if settings.strategy is Strategy.SURGE and settings.max_surge > n_workers:
        raise BadRollout(
            f"max_surge = {settings.max_surge}: allowed are 1 to {n_workers}, as many as there are workers"
        )
    if settings.strategy in (Strategy.BESIDE, Strategy.SURGE):
        return
    if n_workers == 1:
        raise BadRollout(
            "one worker can't be drained without a gap in service (strategy drain); "
            "use two workers or more, or a strategy that keeps it serving: --strategy beside or --strategy surge"
        )
    if settings.max_unavailable >= n_workers:
        raise BadRollout(
            f"max_unavailable = {settings.max_unavailable} of {n_workers} workers would leave none serving; "
            f"allowed are 1 to {n_workers - 1}"
        )


def _abort(journal: Journal, ledger: Ledger, rollout: Rollout, operator: str, reason: str, **more: Any) -> Rollout:
    if rollout.abort or rollout.phase is Phase.ROLLING_BACK:
        return rollout
    if K.ABORT_REQUESTED not in TRANSITIONS[rollout.phase]:
        raise NothingToDo(f"{_what(rollout)}: nothing to abort, use: hotpool rollout undo")
    return _append(journal, ledger, rollout, K.ABORT_REQUESTED, operator, reason, **more)


def _refuse_unless_last(ledger: Ledger, model: str, number: int | None) -> None:
    last = ledger.last(model)
    if number is not None and last and last.number != number:
        raise Conflict(f"rollout {number} is not the last one, {_what(last)}; look at it before you undo")


def _active(ledger: Ledger, model: str, number: int | None) -> Rollout:
    """number: of the one that is meant; None: whichever it is."""
    rollout = ledger.active(model)
    if rollout is None:
        raise NothingToDo(f"no rollout of model {model!r} is under way")
    if number not in (None, rollout.number):
        raise Conflict(f"rollout {number} is not under way, rollout {rollout.number} is")
    return rollout


def _what(rollout: Rollout) -> str:
    return f"rollout {rollout.number} ({rollout.stable_name} -> {rollout.target_name}) is {rollout.phase}"


def _step(step: str) -> str:
    return f"step {step}" if step else "no step"


def _append(
    journal: Journal, ledger: Ledger, rollout: Rollout, kind: EventKind, operator: str, reason: str, **more: Any
) -> Rollout:
    body = {"reason": reason, **more}
    event = journal.append(kind, model=rollout.model, rollout=rollout.number, operator=operator, body=body)
    return fold(ledger, event, monotonic()).rollouts[rollout.number]
