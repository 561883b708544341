"""Shell: the controller: reads the journal and the pool, decides, writes down, acts. If it is down, nothing changes."""

import logging
import os
from collections.abc import Callable, Sequence
from threading import Event as Flag
from time import monotonic
from typing import Protocol

from hotpool import messages
from hotpool.errors import BrokerUnreachable, RemoteProtocolError, StaleEpoch, Unwritable
from hotpool.evidence import Counts
from hotpool.home import Home
from hotpool.messages import Ack, Changed, Evidence, FromAdmin, Report, WorkerReport
from hotpool.stable import read_stable, write_stable
from hotpool.states import Phase

from .actions import (
    Action,
    CheckWeights,
    Drain,
    Load,
    PointStable,
    Record,
    Restart,
    RunPreflight,
    RunProbes,
    SetSpares,
    SetTable,
    Undrain,
)
from .canary import armed, is_watched
from .checks import check_weights
from .decide import decide
from .events import Event, EventKind
from .journal import Journal
from .ledger import Ledger, fold, replay
from .recorder import Recorder, report_path
from .rollout import PauseCause
from .settings import Settings
from .view import Evaluating, Finding, Round, View

LOOK_S = 0.05  # how often the journal is asked for orders, and during a rollout the broker for news
LOOK_IDLE_S = 0.5
HOLD_S = 1.0  # how often a journal that can't be written is tried again

log = logging.getLogger("hotpool.control")


class Broker(Protocol):
    """What the controller needs of `Admin`."""

    def report(self) -> Report: ...
    def request(self, make: Callable[[int], FromAdmin]) -> Ack | Report | Evidence: ...
    def evidence(self, model: str) -> Counts | None: ...
    def changes(self, timeout_s: float) -> list[Changed]: ...


class Preflight(Protocol):
    """What the controller needs of `Scratch`."""

    def start(self, digest: str, settings: Settings, stable: str) -> None: ...
    def poll(self) -> Finding | Evaluating | None: ...
    def stop(self) -> None: ...


class Prober(Protocol):
    """What the controller needs of `prober.Prober`."""

    def is_due(self, now: float) -> bool: ...
    def start(self, workers: Sequence[WorkerReport], now: float) -> None: ...
    def poll(self) -> Round | None: ...


class NoProbes:
    """Asks nobody."""

    def is_due(self, now: float) -> bool:
        return False

    def start(self, workers: Sequence[WorkerReport], now: float) -> None:
        raise AssertionError("never due")

    def poll(self) -> Round | None:
        return None


NO_PROBES = NoProbes()


class Controller:
    """Carries out rollouts of one model. Whoever makes one holds the home's control lock."""

    def __init__(
        self,
        home: Home,
        model: str,
        journal: Journal,
        broker: Broker,
        preflight: Preflight,
        operator: str,
        prober: Prober = NO_PROBES,
    ) -> None:
        """operator: who its own events are signed by."""
        self._home, self._model, self._journal, self._operator = home, model, journal, operator
        self._broker, self._preflight, self._prober = broker, preflight, prober
        self._ledger = Ledger()
        self._weights: Finding | None = None
        self._recorder: Recorder | None = None
        self._held_by: Exception | None = None
        self._epoch = 0

    def start(self, now: float) -> None:
        """Begins a new epoch. What was under way goes on from the journal.

        Raises:
            JournalCorrupt: nothing was changed.
        """
        self._journal.verify()
        body = {"pid": os.getpid()}
        started = self._journal.append(
            EventKind.CONTROLLER_STARTED, model=self._model, operator=self._operator, body=body
        )
        self._epoch, self._weights = started.epoch, None
        self._ledger = replay(self._journal.events(), now)
        last = self._ledger.last(self._model)
        if last and last.is_over and not report_path(self._home, last.number).exists():  # whoever ended it had no time
            Recorder(self._home, self._model, last.number, last.created_ts).finish(self._journal)
        log.info("started epoch=%d events=%d model=%s", self._epoch, self._ledger.seq, self._model)

    def run(self, stopping: Flag) -> None:
        """Until `stopping` is set, which is noticed within `LOOK_S`, or within seconds while the broker does not answer.

        While the journal can't be written it holds, and then begins as if it had just been started: what it knew of events that
        may not have got there is gone.
        """
        try:
            while not stopping.is_set():
                self._lead(stopping)
        finally:
            self._preflight.stop()

    def _lead(self, stopping: Flag) -> None:
        try:
            self.start(monotonic())
            while not stopping.is_set():
                if not self._try_step(monotonic()):
                    self._wait(stopping)
        except Unwritable as error:
            self._hold(error)
            stopping.wait(HOLD_S)

    def step(self, now: float) -> bool:
        """Does at most one thing. False: there is nothing more to do before something happens.

        Raises:
            BrokerUnreachable: nothing was done; the next step tries again.
            StaleEpoch: another controller has taken over; this one must end.
        """
        for event in self._journal.events(after=self._ledger.seq):
            self._fold(event, now)
            _log_event(event)
        if self._ledger.epoch != self._epoch:
            raise StaleEpoch(f"a newer controller has started: epoch {self._ledger.epoch}, ours is {self._epoch}")
        rollout = self._ledger.active(self._model)
        if rollout is None or rollout.phase is not Phase.PREFLIGHT:
            self._preflight.stop()
        action = decide(self._ledger, self._model, self._look(now), now)
        return action is not None and self.carry_out(action, now)

    def carry_out(self, action: Action, now: float) -> bool:
        """False: its effect takes a while; look again when the pool has changed."""
        epoch, model = self._epoch, self._model
        match action:
            case Record():
                self._record(action, now)
                return True
            case SetTable(stable, target, names, policy):
                return self._send(lambda seq: messages.SetVersions(seq, epoch, model, stable, target, names, policy))
            case PointStable(digest):
                write_stable(self._home, model, digest)
                return True
            case CheckWeights(digest):
                self._weights = check_weights(self._home, digest)
                return True
            case RunPreflight(digest, settings, stable):
                self._preflight.start(digest, settings, stable)
            case Drain(worker, floor):
                self._send(lambda seq: messages.Drain(seq, epoch, worker, floor))
            case Load(worker, digest, token, beside):
                self._send(lambda seq: messages.LoadVersion(seq, epoch, worker, digest, token, beside))
            case Undrain(worker):
                self._send(lambda seq: messages.Undrain(seq, epoch, worker))
            case Restart(worker, incarnation):
                self._send(lambda seq: messages.Restart(seq, epoch, worker, incarnation))
            case SetSpares(n):
                self._send(lambda seq: messages.SetSpares(seq, epoch, model, n))
            case RunProbes(workers):
                self._prober.start(workers, now)
        return False

    def _look(self, now: float) -> View:
        report, counts = self._broker.report(), self._counts(now)
        self._sample(report, counts, now)
        return View(
            workers={worker.worker: worker for worker in report.workers if worker.model == self._model},
            table=next((table for table in report.models if table.model == self._model), None),
            pointer=read_stable(self._home, self._model),
            preflight=self._preflight.poll(),
            weights=self._weights,
            counts=counts,
            round=self._prober.poll(),
            is_probe_due=self._prober.is_due(now),
        )

    def _sample(self, report: Report, counts: Counts | None, now: float) -> None:
        """What the page of a rollout is made of, and the page itself when it is over."""
        rollout = self._ledger.last(self._model)
        if self._recorder and (rollout is None or rollout.is_over or rollout.number != self._recorder.number):
            self._recorder.finish(self._journal)
            self._recorder = None
        if rollout and not rollout.is_over:
            self._recorder = self._recorder or Recorder(self._home, self._model, rollout.number, rollout.created_ts)
            self._recorder.note(report, counts, now)

    def _counts(self, now: float) -> Counts | None:
        rollout, watched = self._ledger.active(self._model), self._ledger.watched(self._model)
        is_asked = bool(armed(rollout)) if rollout else watched is not None and is_watched(watched, now)
        if not is_asked:
            return None
        return self._broker.evidence(self._model)

    def _record(self, record: Record, now: float) -> None:
        """Unless an order came in since we read the journal: then what was decided may be wrong, and is decided anew."""
        with self._journal.transaction():
            if self._journal.last_seq() != self._ledger.seq:
                return
            event = self._journal.append(
                record.kind, model=self._model, rollout=record.rollout, operator=self._operator, body=record.body
            )
            self._fold(event, now)  # inside: an event that can't follow must not stay in the journal
        _log_event(event)  # outside: one that could not be written down has not happened

    def _fold(self, event: Event, now: float) -> None:
        rollout = self._ledger.active(self._model)
        if event.kind is EventKind.RESUMED and rollout and rollout.pause_cause is PauseCause.INCONCLUSIVE:
            self._preflight.stop()  # what it has found did not decide: it is asked anew
        self._ledger = fold(self._ledger, event, now)
        self._weights = None  # a finding holds for the moment only

    def _send(self, make: Callable[[int], FromAdmin]) -> bool:
        answer = self._broker.request(make)
        assert isinstance(answer, Ack), answer
        if answer.code == StaleEpoch.code:
            raise StaleEpoch(answer.message)
        if answer.code:
            log.warning("refused command=%r code=%s reason=%s", make(answer.seq), answer.code, answer.message)
        return not answer.code

    def _try_step(self, now: float) -> bool:
        try:
            is_busy = self.step(now)
        except (BrokerUnreachable, RemoteProtocolError, OSError) as error:
            self._hold(error)  # an OSError: such as the pointer to stable on a full disk
            return False
        if self._held_by:  # with the reason: on a full disk the log may have lost it
            log.info("going on after=%s", self._held_by)
        self._held_by = None
        return is_busy

    def _hold(self, error: Exception) -> None:
        if type(error) is not type(self._held_by):
            log.warning("holding reason=%s", error)
        self._held_by = error

    def _wait(self, stopping: Flag) -> None:
        """Until there is an order, a change in the pool, or it is time to look anyway."""
        until = monotonic() + (LOOK_S if self._ledger.active(self._model) else LOOK_IDLE_S)
        while not stopping.is_set() and monotonic() < until and self._journal.last_seq() == self._ledger.seq:
            if self._broker.changes(LOOK_S):
                return


def _log_event(event: Event) -> None:
    details = " ".join(f"{key}={value!r}" for key, value in event.body.items())
    log.info("event seq=%d kind=%s rollout=%s %s", event.seq, event.kind, event.rollout, details)
