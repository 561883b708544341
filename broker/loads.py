"""Pure: from the order to load a version to the worker's serving it.

A drained worker loads in the states `loading` and `verifying`. A ready one may load beside what it serves: it stays ready, and
what it does is a fact beside its state (`Worker.beside`). Both end alike: the worker holds two versions, and `Serve` says which
it goes on with. Messages on one connection keep their order, so every job before `Serve` is for the old version and every one
after it for the new: no answer bears a wrong name, and a request for one version never meets the other.
"""

from math import inf

from hotpool.errors import Conflict, UnknownVersion
from hotpool.messages import Load, LoadEnded, LoadState, LoadVersion, Serve
from hotpool.states import WorkerState

from .actions import Action, ToWorker
from .lifecycle import WorkerEvent
from .roster import Roster, Worker
from .routing import Routing

S, E = WorkerState, WorkerEvent


class Loads:
    """timeout_s: a load that takes longer has failed. A worker that did nothing else meanwhile is taken for hung."""

    def __init__(self, roster: Roster, routing: Routing, timeout_s: float) -> None:
        self._roster, self._routing, self._timeout_s = roster, routing, timeout_s

    def order(self, worker: Worker, order: LoadVersion, now: float) -> list[Action]:
        """Raises Conflict: the worker can't load now, and UnknownVersion: it might come to serve what may not serve."""
        if worker.token == order.token:
            return []  # under way or ended; the report says which
        if worker.is_loading or worker.leaving:
            raise Conflict(f"{worker.name} is {'leaving' if worker.leaving else 'loading'}, it can't load now")
        if worker.state is not (S.READY if order.beside else S.DRAINED):
            who = "a ready worker loads beside what it serves" if order.beside else "a drained worker loads"
            raise Conflict(f"{worker.name} is {worker.state}; only {who}")
        if order.beside and not self._routing.admits(worker.model, order.digest):
            raise UnknownVersion(f"{worker.name} can't load {order.digest[:12]} while it serves: it is not admitted")
        worker.token, worker.load_reason = order.token, ""
        self.begin(worker, now)
        if order.beside:
            self._roster.change_beside(worker, S.LOADING, "ordered beside")
        else:
            self._roster.change(worker, E.LOAD, "ordered")
        return [ToWorker(worker.connection, Load(order.token, order.digest, order.epoch, order.beside))]

    def begin(self, worker: Worker, now: float) -> None:
        """From now on it may take so long: it was ordered, or a worker that was loading has come to a new broker."""
        worker.load_ends_at = now + self._timeout_s

    def note(self, worker: Worker, message: LoadState) -> None:
        if message.token != worker.token or message.state != S.VERIFYING:
            return
        if worker.beside is S.LOADING:
            self._roster.change_beside(worker, S.VERIFYING, "loaded")
        elif worker.state is S.LOADING:
            self._roster.change(worker, E.LOADED, "loaded")

    def expire(self, worker: Worker, now: float) -> None:
        """A load beside that takes too long is lost, and nothing is said against its version; the worker serves on, and no
        request is the worse for it."""
        if worker.beside and now > worker.load_ends_at:
            worker.load_ends_at = inf
            self._roster.change_beside(worker, None, f"the load was not done after {self._timeout_s:g} s")

    def end(self, worker: Worker, ended: LoadEnded) -> list[Action]:
        """The version table may have changed since the order: nothing that may not serve is swapped in under requests."""
        if ended.token != worker.token:
            return []
        if not worker.is_loading:  # it had expired: let go of what was loaded all the same
            return [] if ended.reason else [ToWorker(worker.connection, Serve(ended.token, worker.digest))]
        reason = ended.reason
        if not reason and worker.beside and not self._routing.admits(worker.model, ended.digest):
            reason = f"{ended.version} may not serve any more; {worker.version} was kept"
        if not reason:
            self._roster.set_version(worker, ended.version, ended.digest)
        worker.load_reason = reason
        worker.load_s, worker.verify_s = ended.load_us / 1e6, ended.verify_us / 1e6
        worker.load_ends_at = inf
        if worker.beside:
            self._roster.change_beside(worker, None, reason or "verified")
        else:
            self._roster.change(worker, E.LOAD_ENDED, reason or "verified")
        return [] if ended.reason else [ToWorker(worker.connection, Serve(ended.token, worker.digest))]
