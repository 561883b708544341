"""Pure: where requests that name no version go while a policy splits them between stable and target, and before the controller
has said whether one does.

The arm of a request is a matter of its key alone: never of who is free, or slow requests would choose the worker. The
target's arm falls back to stable while no worker of the target is ready; stable's arm waits, whatever happens, until
stable answers.

A broker that the controller has not told anything yet can't know whose arm a request is: all go to stable. Where no worker is
ready with it they go to any, after a wait: all may hold the target of a rollout that was about to end, and serving must go on.
"""

from dataclasses import dataclass

from hotpool.messages import Policy
from hotpool.states import WorkerState

from .evidence import Run
from .leases import Lease, Pending
from .roster import Roster
from .routing import Routing, point

# How long a broker waits for a worker with the stable version to say hello before others may answer. Workers connect again
# within 0.55 s (the longest pause of `hotpool.link`) and what they just compute; a call has 10 s unless it says otherwise.
WAIT_FOR_STABLE_S = 1.0


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
    runs: by model, the evidence of its policy. Both are empty while there is no policy. presumed: by model, the stable version
    while it alone may answer, derived likewise; empty once the controller has spoken."""

    def __init__(self, routing: Routing, roster: Roster, now: float) -> None:
        self._routing, self._roster = routing, roster
        self.splits: dict[str, Split] = {}
        self.runs: dict[str, Run] = {}
        self.wait_ends_at, self._is_waiting = now + WAIT_FOR_STABLE_S, True
        self.presumed = self._presume()

    def goes_to(self, pending: Pending) -> str | None:
        """Alias or digest of what may answer this request; None: any that is admitted."""
        if pending.version is not None:
            return pending.version
        split = self.splits.get(pending.model)
        return split.digest_for(pending.route or pending.id) if split else self.presumed.get(pending.model)

    def refresh(self, now: float) -> list[str]:
        """After a change of the table or of workers, or when the wait is over: the models whose requests may have to go
        elsewhere."""
        before, self._is_waiting = self._rules(), now < self.wait_ends_at
        self.splits, self.presumed = self._derive(), self._presume()
        after = self._rules()
        if before == after:
            return []
        self.runs = {model: self._run(model, split, now) for model, split in self.splits.items()}
        return [model for model in before | after if before.get(model) != after.get(model)]

    def is_due(self, now: float) -> bool:
        """Whether the wait for stable is over, and nobody has looked since."""
        return self._is_waiting and now >= self.wait_ends_at

    def run_of(self, model: str, lease: Lease) -> Run | None:
        """Where the end of this lease counts: what was leased before a policy is no evidence of it."""
        run = self.runs.get(model)
        return run if run and lease.sent_at >= run.began_at else None

    def _rules(self) -> dict[str, Split | str]:
        """By model: none is both split and presumed."""
        return {**self.splits, **self.presumed}

    def _ready(self) -> set[tuple[str, str]]:
        """Model and version of all ready workers."""
        return {(worker.model, worker.digest) for worker in self._roster if worker.state is WorkerState.READY}

    def _presume(self) -> dict[str, str]:
        ready, untold = self._ready(), self._routing.untold()
        return {model: stable for model, stable in untold.items() if self._is_waiting or (model, stable) in ready}

    def _derive(self) -> dict[str, Split]:
        ready = self._ready()
        return {
            model: Split(policy, stable, target, (model, target) in ready)
            for model, policy, stable, target in self._routing.policies()
        }

    def _run(self, model: str, split: Split, now: float) -> Run:
        run = self.runs.get(model)
        return run if run and run.key == split.key else Run(*split.key, self._routing.alias(model, split.target), now)

    def check(self) -> None:
        """Invariants, for tests: they hold after every event."""
        assert self.splits == self._derive(), "arms were not looked at after a change"
        assert self.presumed == self._presume(), "what is presumed was not looked at after a change"
        assert self.splits.keys() == self.runs.keys()
        for model, split in self.splits.items():
            assert split.key == self.runs[model].key
