"""Pure: the states of a worker as a table. Whoever changes a worker's state asks here first."""

from enum import StrEnum

from hotpool.states import WorkerState


class WorkerEvent(StrEnum):
    """What can happen to a worker."""

    FORKED = "forked"  # the supervisor started a process in the seat
    JOINED = "joined"  # its process said hello with a version that may serve
    STOOD_BY = "stood_by"  # its process said hello with a version that may not serve
    DRAIN = "drain"  # ordered, or its version may no longer serve, or its process is about to stop
    IDLE = "idle"  # its last open lease closed
    UNDRAIN = "undrain"
    LOAD = "load"  # a load was ordered
    LOADED = "loaded"  # the new weights are in memory beside the old ones
    LOAD_ENDED = "load_ended"  # verified and swapped, or refused and the old ones kept
    LOST = "lost"  # process exit, silence, hung


S, E = WorkerState, WorkerEvent

TRANSITIONS: dict[WorkerState, dict[WorkerEvent, WorkerState]] = {
    S.DOWN: {E.FORKED: S.STARTING, E.JOINED: S.READY, E.STOOD_BY: S.DRAINED},
    S.STARTING: {E.JOINED: S.READY, E.STOOD_BY: S.DRAINED, E.LOST: S.DOWN},
    S.READY: {E.DRAIN: S.DRAINING, E.LOST: S.DOWN},
    S.DRAINING: {E.IDLE: S.DRAINED, E.UNDRAIN: S.READY, E.LOST: S.DOWN},
    S.DRAINED: {E.UNDRAIN: S.READY, E.LOAD: S.LOADING, E.LOST: S.DOWN},
    S.LOADING: {E.LOADED: S.VERIFYING, E.LOAD_ENDED: S.DRAINED, E.LOST: S.DOWN},
    S.VERIFYING: {E.LOAD_ENDED: S.DRAINED, E.LOST: S.DOWN},
}


class IllegalTransition(Exception):
    """A bug in hotpool: an event reached a state that has no row for it. Never caught."""


def next_state(worker: str, state: WorkerState, event: WorkerEvent) -> WorkerState:
    """Raises IllegalTransition."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(f"{worker}: {event} is not allowed in state {state}") from None
