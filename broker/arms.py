"""Pure: where requests that name no version go while a policy splits them between stable and target.

The arm of a request is a matter of its key alone: never of who is free, or slow requests would choose the worker. The
target's arm falls back to stable while no worker of the target is ready; stable's arm waits, whatever happens, until
stable answers.
"""

from dataclasses import dataclass

from hotpool.messages import Policy
from hotpool.states import WorkerState

from .evidence import Run
from .leases import Lease, Pending
from .roster import Roster
from .routing import Routing, point


@dataclass(frozen=True, slots=True)
class Split:
    """Of one model's requests, as it is now."""

    policy: Policy
    stable: str
    target: str
    has_target: bool  # a worker is ready with it

    @property
    def key(self) -> tuple[int, str, str]:
        """What one run of evidence is about."""
        return self.policy.number, self.stable, self.target

    def digest_for(self, key: bytes) -> str:
        is_targets = self.has_target and point(key, self.policy.salt) < self.policy.share
        return self.target if is_targets else self.stable


class Arms:
    """splits: by model, derived from the version table and the workers' states whenever they change, since every request asks.
    runs: by model, the evidence of its policy. Both are empty while there is no policy."""

    def __init__(self, routing: Routing, roster: Roster) -> None:
        self._routing, self._roster = routing, roster
        self.splits: dict[str, Split] = {}
        self.runs: dict[str, Run] = {}

    def goes_to(self, pending: Pending) -> str | None:
        """Alias or digest of what may answer this request; None: any that is admitted."""
        split = self.splits.get(pending.model)
        if pending.version is not None or split is None:
            return pending.version
        return split.digest_for(pending.route or pending.id)

    def refresh(self, now: float) -> list[str]:
        """After a change of the table or of workers: the models whose requests may have to go elsewhere."""
        before, self.splits = self.splits, self._derive()
        if before == self.splits:
            return []
        self.runs = {model: self._run(model, split, now) for model, split in self.splits.items()}
        return [model for model in before | self.splits if before.get(model) != self.splits.get(model)]

    def run_of(self, model: str, lease: Lease) -> Run | None:
        """Where the end of this lease counts: what was leased before a policy is no evidence of it."""
        run = self.runs.get(model)
        return run if run and lease.sent_at >= run.began_at else None

    def _derive(self) -> dict[str, Split]:
        ready = {(worker.model, worker.digest) for worker in self._roster if worker.state is WorkerState.READY}
        return {
            model: Split(policy, stable, target, (model, target) in ready)
            for model, policy, stable, target in self._routing.policies()
        }

    def _run(self, model: str, split: Split, now: float) -> Run:
        run = self.runs.get(model)
        return run if run and run.key == split.key else Run(*split.key, now)

    def check(self) -> None:
        """Invariants; tests call this after every event."""
        assert self.splits == self._derive(), "arms were not looked at after a change"
        assert self.splits.keys() == self.runs.keys()
        for model, split in self.splits.items():
            assert split.key == self.runs[model].key
