"""Shell: what can be seen of a rollout at one instant: the journal's part, and the broker's as far as it answers."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import msgspec

from hotpool.errors import BrokerUnreachable, NothingToDo
from hotpool.evidence import Counts
from hotpool.messages import Report, WorkerReport
from hotpool.states import Phase

from .canary import armed, verdicts
from .facts import rollout_view
from .ledger import Ledger
from .plan import share_of
from .progress import message
from .render_rollouts import share_text
from .rollout import Rollout
from .verdicts import Verdict, counts_to_json

# `hotpool up` starts a lost controller again within seconds: short absences are not worth a line.
CONTROLLER_MISSED_S = 3.0


class Broker(Protocol):
    """What is asked of `Admin`."""

    def report(self, timeout_s: float) -> Report: ...
    def evidence(self, model: str, timeout_s: float) -> Counts | None: ...


@dataclass(frozen=True, slots=True)
class Sight:
    """workers: empty when the broker can't be reached. unattended_s: for how long no controller has been running.
    full_disk: what is said of the home's disk, if it is full."""

    rollout: Rollout
    workers: tuple[WorkerReport, ...]
    unattended_s: float
    at: float
    counts: Counts | None = None
    full_disk: str = ""

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Of the gates that are armed now; one that is over is judged while it is watched."""
        is_judged = self.counts is not None or not self.rollout.is_over
        return verdicts(self.rollout, self.counts) if is_judged and armed(self.rollout) else ()

    @property
    def share(self) -> str:
        asked = share_of(self.rollout.step) if self.rollout.phase is Phase.ANALYZING else 0.0
        return share_text(asked, self.counts) if self.counts else ""

    @property
    def message(self) -> str:
        text = message(self.rollout, self.workers)
        if self.rollout.is_over:
            return text
        if self.unattended_s >= CONTROLLER_MISSED_S:
            return f"no controller is running, nothing changes until it is back; {text}"
        return f"{self.full_disk}, nothing changes until there is room; {text}" if self.full_disk else text

    def view(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "message": self.message,
            "rollout": rollout_view(self.rollout),
            "workers": msgspec.to_builtins(self.workers),
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "counts": counts_to_json(self.counts) if self.counts else None,
        }


def find(ledger: Ledger, model: str, number: int | None) -> Rollout:
    """The rollout with this number, or the newest.

    Raises:
        NothingToDo: there is no such rollout of this model.
    """
    one = ledger.last(model) if number is None else ledger.rollouts.get(number)
    if one is None or one.model != model:
        which = f"rollout of model {model}" if number is None else f"rollout {number} of model {model}"
        raise NothingToDo(f"there is no {which}; see: hotpool rollout history")
    return one


def see(rollout: Rollout, broker: Broker, unattended_s: float, now: float, timeout_s: float, full_disk: str) -> Sight:
    """timeout_s: for each question to the broker. full_disk: see `Sight`."""
    workers, counts = _workers(broker, rollout.model, timeout_s), _counts(broker, rollout, timeout_s)
    return Sight(rollout, workers, unattended_s, now, counts, full_disk)


def _counts(broker: Broker, rollout: Rollout, timeout_s: float) -> Counts | None:
    if not armed(rollout):
        return None
    try:
        counts = broker.evidence(rollout.model, timeout_s)
    except BrokerUnreachable:
        return None
    return counts if counts and counts.policy == rollout.analysis.policy else None


def _workers(broker: Broker, model: str, timeout_s: float) -> tuple[WorkerReport, ...]:
    try:
        report = broker.report(timeout_s)
    except BrokerUnreachable:
        return ()
    return tuple(worker for worker in report.workers if worker.model == model)
