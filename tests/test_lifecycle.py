"""The table of a worker's states."""

import pytest

from broker.lifecycle import TRANSITIONS, IllegalTransition, WorkerEvent, next_state
from hotpool.states import WorkerState

S, E = WorkerState, WorkerEvent


def test_every_state_has_a_row_is_reachable_and_can_be_lost():
    seen, todo = set[WorkerState](), [S.DOWN]
    while todo:
        if (state := todo.pop()) not in seen:
            seen.add(state)
            todo += TRANSITIONS[state].values()
    assert seen == set(TRANSITIONS) == set(S)
    assert all(E.LOST in row for state, row in TRANSITIONS.items() if state is not S.DOWN)


def test_every_event_has_a_use():
    assert {event for row in TRANSITIONS.values() for event in row} == set(E)


def test_only_undrain_and_a_hello_make_a_worker_ready():
    ways = {event for row in TRANSITIONS.values() for event, state in row.items() if state is S.READY}
    assert ways == {E.UNDRAIN, E.JOINED}


def test_a_load_is_possible_only_when_drained():
    assert [state for state, row in TRANSITIONS.items() if E.LOAD in row] == [S.DRAINED]


def test_an_event_without_a_row_is_a_bug_and_says_so():
    with pytest.raises(IllegalTransition, match="worker-3: load is not allowed in state ready"):
        next_state("worker-3", S.READY, E.LOAD)
