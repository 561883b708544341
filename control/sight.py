"""Shell: what can be seen of a rollout at one instant: the journal's part, and the broker's as far as it answers."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import msgspec

from hotpool.errors import BrokerUnreachable, NothingToDo
from hotpool.evidence import Counts
from hotpool.messages import Policy, Report, WorkerReport

from .canary import armed, verdicts
from .facts import Share, rollout_view
from .ledger import Ledger
from .progress import message
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
    """workers: empty when the broker can't be reached. unattended_s: for how long no controller has been running. policy: by
    which the broker splits requests for this rollout. full_disk: what is said of the home's disk, if it is full."""

    rollout: Rollout
    workers: tuple[WorkerReport, ...]
    unattended_s: float
    at: float
    policy: Policy | None = None
    counts: Counts | None = None
    full_disk: str = ""

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Of the gates that are armed now; one that is over is judged while it is watched."""
        is_judged = self.counts is not None or not self.rollout.is_over
        return verdicts(self.rollout, self.counts) if is_judged and armed(self.rollout) else ()

    @property
    def share(self) -> Share | None:
        """None while nothing is split; after the commit there is one version."""
        if self.policy is None or self.rollout.is_over:
            return None
        return Share(self.policy.share, self.counts.share if self.counts else None)

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
            "share": asdict(self.share) if self.share else None,
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
    try:
        report = broker.report(timeout_s)
        policy = _policy(report, rollout)
        counts = broker.evidence(rollout.model, timeout_s) if policy else None
    except BrokerUnreachable:
        return Sight(rollout, (), unattended_s, now, full_disk=full_disk)
    workers = tuple(worker for worker in report.workers if worker.model == rollout.model)
    is_its = counts is not None and counts.policy == rollout.analysis.policy
    return Sight(rollout, workers, unattended_s, now, policy, counts if is_its else None, full_disk)


def _policy(report: Report, rollout: Rollout) -> Policy | None:
    """Its salt tells whose it is."""
    policies = (table.policy for table in report.models if table.model == rollout.model)
    return next((policy for policy in policies if policy and policy.salt == rollout.number), None)
