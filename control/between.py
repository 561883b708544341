"""Pure: what to do while no rollout is under way: take back what was committed and is bad, bring idle workers back."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hotpool.messages import WorkerReport
from hotpool.states import WorkerState, is_spare

from . import canary
from .actions import Action, Load, Record, Undrain
from .events import EventKind
from .ledger import Ledger, Repair, new_rollout
from .rollout import Kind
from .view import View

K, S = EventKind, WorkerState

REPAIR_DOUBLINGS = 12  # of one second: in the end about once an hour


def take_back(ledger: Ledger, model: str, view: View, now: float) -> Action | None:
    """The undo of a rollout that has succeeded, when what it brought turns out to be bad."""
    watched = ledger.watched(model)
    if watched is None or not canary.is_watched(watched, now):
        return None
    judged = canary.watch_failure(watched, view.counts, now)
    return undo_of(ledger, model, view, judged["reason"], judged) if judged else None


def undo_of(ledger: Ledger, model: str, view: View, reason: str, judged: Mapping[str, Any] = {}) -> Action | None:
    """Back to the stable version before. None: there is none any more. judged: what the reason follows from, for the audit."""
    last, previous = ledger.watched(model), ledger.previous_stable(model)
    if last is None or previous is None or previous not in ledger.versions.get(model, {}).values():
        return None
    settings = replace(last.settings, steps=(), eval_folder="", eval_pictures=0)
    workers = [worker for worker in sorted(view.workers) if not is_spare(worker)]
    body = new_rollout(ledger, model, Kind.UNDO, previous, workers, settings, reason)
    return Record(K.ROLLOUT_CREATED, {**judged, **body, "is_stable_wrong": True}, len(ledger.rollouts) + 1)


def repair(ledger: Ledger, stable: str, view: View, now: float) -> Action | None:
    """A worker that a restart of the broker or a failed rollback has left drained is brought back to the stable version."""
    ordinary = (worker for name, worker in view.workers.items() if not is_spare(name))
    drained = (worker for worker in ordinary if worker.state is S.DRAINED and not worker.beside)
    actions = (_repair_worker(worker, ledger.repairs.get(worker.worker), stable, now) for worker in drained)
    return next((action for action in actions if action), None)


def _repair_worker(worker: WorkerReport, last: Repair | None, stable: str, now: float) -> Action | None:
    if last is not None and worker.token == last.token and worker.digest == stable:
        return Undrain(worker.worker)
    if last is None or now - last.at >= 2.0 ** min(last.count - 1, REPAIR_DOUBLINGS):
        reason = f"drained with version {worker.version} outside a rollout"
        return Record(K.WORKER_REPAIRED, {"worker": worker.worker, "goal": stable, "reason": reason})
    return None if worker.token == last.token else Load(worker.worker, stable, last.token)
