"""Pure: what happened, as it is written down: the kinds of events and the chain that seals them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hotpool.digest import digest_json


class EventKind(StrEnum):
    """What can happen. The comment names what the event's body holds beside `reason`."""

    VERSION_ADDED = "version_added"  # name, digest
    VERSION_REMOVED = "version_removed"  # name, digest
    STABLE_SET = "stable_set"  # digest: the first version of a model needs no rollout
    CONTROLLER_STARTED = "controller_started"  # pid
    WORKER_REPAIRED = "worker_repaired"  # worker, goal
    PROBE_FAILED = "probe_failed"  # worker, incarnation, digest, version, token: of the load before
    ALARM_RAISED = "alarm_raised"
    ALARM_ENDED = "alarm_ended"

    # The undo of a version that failed while it was watched also holds what `judged` holds.
    # kind, stable, stable_name, target, target_name, workers, settings, forced, is_stable_wrong
    ROLLOUT_CREATED = "rollout_created"
    PREFLIGHT_STARTED = "preflight_started"
    EVALUATED = "evaluated"  # pictures: of the labelled ones, so far
    # These and `rejected` hold, where there are labelled pictures, also labelled, unreadable, result, verdicts.
    PREFLIGHT_PASSED = "preflight_passed"  # seconds
    CANARY_STARTED = "canary_started"  # seconds: of the preflight, which has passed
    ANALYSIS_STARTED = "analysis_started"  # step; its seq is the number of this run of evidence
    JUDGED = "judged"  # step, armed, result, verdicts, counts, elapsed_s
    ROLL_STARTED = "roll_started"  # step; its seq is the number of the evidence from here to the end
    STEP_STARTED = "step_started"  # worker, incarnation, goal, attempt, strategy
    STEP_WITHDRAWN = "step_withdrawn"  # worker
    STEP_DRAINED = "step_drained"  # worker, drain_s
    STEP_LOADED = "step_loaded"  # worker, load_s, verify_s, digest
    STEP_FINISHED = "step_finished"  # worker, rejoin_s
    STEP_FAILED = "step_failed"  # worker, part, fault
    BAKE_STARTED = "bake_started"
    COMMIT_STARTED = "commit_started"  # digest
    ROLLBACK_STARTED = "rollback_started"  # cause
    PAUSED = "paused"  # cause: user or inconclusive
    RESUMED = "resumed"
    PROMOTED = "promoted"  # full
    ABORT_REQUESTED = "abort_requested"  # verb: undo, when it was ordered so

    # A rollout ends with one of these; they are named like the phase they lead to.
    SUCCEEDED = "succeeded"  # digest
    REJECTED = "rejected"  # cause
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"  # cause


@dataclass(frozen=True, slots=True)
class Event:
    """One row of the journal.

    rollout: its number, for events of a rollout. ts: UTC, for people; nothing is computed with it.
    """

    seq: int
    ts: str
    epoch: int
    kind: EventKind
    model: str
    rollout: int | None
    operator: str
    body: dict[str, Any]


def seal(event: Event, previous: str) -> str:
    """The hash of an event and of all before it; `previous` is the hash of the event before, empty for the first."""
    fields = (event.ts, event.epoch, event.kind, event.model, event.rollout, event.operator, event.body)
    return digest_json([previous, event.seq, *fields])
