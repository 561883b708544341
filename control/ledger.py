"""Pure: everything the events add up to: versions, stable versions, rollouts."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from hotpool.errors import BadVersion
from hotpool.states import Phase, Strategy

from .events import Event, EventKind
from .rollout import Kind, Rollout, advance, created
from .settings import Settings

K = EventKind

# From the first step until every worker holds one version again, stable and target may serve. A rollback that failed may
# have left workers on the target: taking them out of service too would help nobody.
_BOTH_SERVE = {
    Phase.CANARY,
    Phase.ANALYZING,
    Phase.ROLLING,
    Phase.BAKING,
    Phase.COMMITTING,
    Phase.ROLLING_BACK,
    Phase.ROLLBACK_FAILED,
}


@dataclass(frozen=True, slots=True)
class Repair:
    """The last repair of a worker outside rollouts. count: how many since a rollout was last created."""

    count: int
    at: float
    token: str


@dataclass(frozen=True, slots=True)
class Wrong:
    """A process that answered a probe wrongly, with which version, and by which load of it."""

    incarnation: int
    digest: str
    token: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """State after the event `seq`. epoch: how many controllers have started.

    versions: by model, alias -> digest.
    stables: by model, a stack: its top is the stable version, an undo goes down one.
    wrong: by worker, the last that was found. n_wrong: by model and digest, how many ever. alarms: by model, the reason of one
    that holds.
    """

    seq: int = 0
    epoch: int = 0
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    stables: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rollouts: dict[int, Rollout] = field(default_factory=dict)
    repairs: dict[str, Repair] = field(default_factory=dict)
    wrong: dict[str, Wrong] = field(default_factory=dict)
    n_wrong: dict[tuple[str, str], int] = field(default_factory=dict)
    alarms: dict[str, str] = field(default_factory=dict)

    def stable(self, model: str) -> str | None:
        """The digest of the version a worker boots; None before the first version was added."""
        stack = self.stables.get(model)
        return stack[-1] if stack else None

    def previous_stable(self, model: str) -> str | None:
        """Where an undo would go."""
        stack = self.stables.get(model, ())
        return stack[-2] if len(stack) > 1 else None

    def history(self, model: str) -> list[Rollout]:
        """The rollouts of a model, the oldest first."""
        return [one for one in self.rollouts.values() if one.model == model]

    def last(self, model: str) -> Rollout | None:
        """The newest rollout of a model, under way or over."""
        return next((rollout for rollout in reversed(self.rollouts.values()) if rollout.model == model), None)

    def active(self, model: str) -> Rollout | None:
        """The rollout that is under way; there is never more than one."""
        last = self.last(model)
        return None if last is None or last.is_over else last

    def watched(self, model: str) -> Rollout | None:
        """The rollout that made the stable version stable, while no other is under way; how long it is watched is not said."""
        if self.active(model):
            return None
        known = (one for one in reversed(self.rollouts.values()) if one.model == model)
        succeeded = next((one for one in known if one.phase is Phase.SUCCEEDED), None)
        return succeeded if succeeded and succeeded.target == self.stable(model) else None

    def target(self, model: str) -> str | None:
        """What may serve beside the stable version now."""
        last = self.last(model)
        return last.target if last and last.phase in _BOTH_SERVE else None

    def use(self, model: str, digest: str) -> str:
        """What a version is for now, in words; empty when it is for nothing."""
        uses = {
            self.previous_stable(model): "previous stable",
            self.target(model): "target",
            self.stable(model): "stable",
        }
        return uses.get(digest, "")

    def strategy_undone(self, model: str) -> Strategy | None:
        """Of the rollout that made the stable version stable, if one did."""
        known = (one for one in reversed(self.rollouts.values()) if one.model == model)
        return next((one.settings.strategy for one in known if one.phase is Phase.SUCCEEDED), None)

    def in_use(self, model: str) -> set[str]:
        """Digests that must not be removed: stable, the one before it, and the target of a rollout."""
        active = self.active(model)
        wanted = {self.stable(model), self.previous_stable(model), self.target(model), active and active.target}
        return {digest for digest in wanted if digest}

    def name(self, model: str, digest: str) -> str:
        """The alias of a version; the beginning of its digest when it has none any more."""
        known = self.versions.get(model, {}).items()
        return next((name for name, known_digest in known if known_digest == digest), digest[:12])

    def find(self, model: str, word: str) -> str:
        """The digest of the version meant by an alias, a digest or the beginning of one.

        Raises:
            BadVersion: none or several fit; the message names what there is.
        """
        known = self.versions.get(model, {})
        if word in known:
            return known[word]
        fitting = {digest for digest in known.values() if word and digest.startswith(word)}
        if len(fitting) == 1:
            return fitting.pop()
        problem = "several versions" if fitting else "no version"
        names = ", ".join(known) or "none; add one with: hotpool versions add"
        raise BadVersion(f"{problem} of model {model!r} called {word!r}; known are {names}")


def new_rollout(
    ledger: Ledger, model: str, kind: Kind, target: str, workers: Sequence[str], settings: Settings, reason: str
) -> dict[str, Any]:
    """The body of the event that creates a rollout. Its number is the next one."""
    stable = ledger.stable(model)
    assert stable is not None, "the first version of a model is stable at once"
    return {
        "kind": kind,
        "stable": stable,
        "stable_name": ledger.name(model, stable),
        "target": target,
        "target_name": ledger.name(model, target),
        "workers": list(workers),
        "settings": asdict(settings),
        "reason": reason,
    }


def replay(events: Iterable[Event], now: float, ledger: Ledger = Ledger()) -> Ledger:
    """The ledger after these events too. now: monotonic; clocks of rollouts and steps run from here."""
    for event in events:
        ledger = fold(ledger, event, now)
    return ledger


def fold(ledger: Ledger, event: Event, now: float) -> Ledger:
    """The ledger after one more event.

    Raises:
        IllegalTransition: the event can't follow those before it.
    """
    assert event.seq == ledger.seq + 1, f"event {event.seq} after {ledger.seq}"
    return _apply(replace(ledger, seq=event.seq), event, now)


def _apply(ledger: Ledger, event: Event, now: float) -> Ledger:
    match event.kind:
        case K.CONTROLLER_STARTED:
            return _watched_on(replace(ledger, epoch=ledger.epoch + 1), event, now)
        case K.VERSION_ADDED:
            known = {**ledger.versions.get(event.model, {}), event.body["name"]: event.body["digest"]}
            return replace(ledger, versions={**ledger.versions, event.model: known})
        case K.VERSION_REMOVED:
            known = ledger.versions[event.model]
            left = {name: digest for name, digest in known.items() if name != event.body["name"]}
            return replace(ledger, versions={**ledger.versions, event.model: left})
        case K.STABLE_SET:
            return replace(ledger, stables={**ledger.stables, event.model: (event.body["digest"],)})
        case K.WORKER_REPAIRED:
            return _repaired(ledger, event, now)
        case K.PROBE_FAILED:
            return _found_wrong(ledger, event)
        case K.ALARM_RAISED:
            return replace(ledger, alarms={**ledger.alarms, event.model: event.body["reason"]})
        case K.ALARM_ENDED:
            left = {model: reason for model, reason in ledger.alarms.items() if model != event.model}
            return replace(ledger, alarms=left)
        case K.ROLLOUT_CREATED:
            rollout = created(event, now)
            return replace(ledger, rollouts={**ledger.rollouts, rollout.number: rollout}, repairs={})
        case _:
            return _moved(ledger, event, now)


def _watched_on(ledger: Ledger, event: Event, now: float) -> Ledger:
    """What was committed before this controller started is watched for what is left of its window, by the time of day: other
    clocks do not outlive their process, and begun anew at each start the watch would never be over."""
    last = ledger.watched(event.model)
    if last is None:
        return ledger
    ago_s = (datetime.fromisoformat(event.ts) - datetime.fromisoformat(last.ended_ts)).total_seconds()
    analysis = replace(last.analysis, since=now - max(0.0, ago_s))
    return replace(ledger, rollouts={**ledger.rollouts, last.number: replace(last, analysis=analysis)})


def _moved(ledger: Ledger, event: Event, now: float) -> Ledger:
    assert event.rollout is not None, event
    rollout = advance(ledger.rollouts[event.rollout], event, now)
    ledger = replace(ledger, rollouts={**ledger.rollouts, rollout.number: rollout})
    if event.kind is not K.SUCCEEDED:
        return ledger
    stack = ledger.stables[event.model]
    stack = stack[:-1] if rollout.kind is Kind.UNDO else (*stack, rollout.target)
    assert stack[-1] == rollout.target
    return replace(ledger, stables={**ledger.stables, event.model: stack})


def _repaired(ledger: Ledger, event: Event, now: float) -> Ledger:
    worker = event.body["worker"]
    before = ledger.repairs.get(worker)
    repair = Repair(before.count + 1 if before else 1, now, f"repair-{worker}-{event.seq}")
    return replace(ledger, repairs={**ledger.repairs, worker: repair})


def _found_wrong(ledger: Ledger, event: Event) -> Ledger:
    wrong = Wrong(event.body["incarnation"], event.body["digest"], event.body["token"])
    key = (event.model, wrong.digest)
    n_wrong = {**ledger.n_wrong, key: ledger.n_wrong.get(key, 0) + 1}
    return replace(ledger, wrong={**ledger.wrong, event.body["worker"]: wrong}, n_wrong=n_wrong)
