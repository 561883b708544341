"""When to start a process again, and when to give up."""

from itertools import accumulate, pairwise

import pytest

from hotpool.restart import BACK_OFF_S, Exit, GiveUp, Restart, decide_restart


def lives(*lived_s, cause="exit code 1", is_fault=True):
    """Exits of these lives, one after the other without pauses, and the time after the last."""
    ends = list(accumulate(lived_s, initial=100.0))
    return [Exit(a, b, cause, is_fault) for a, b in pairwise(ends)], ends[-1]


def test_a_process_that_never_ran_starts_now():
    assert decide_restart([], now=7.0) == Restart(7.0)


@pytest.mark.parametrize("n", range(1, 8))
def test_short_lives_wait_longer_and_longer(n):
    exits, now = lives(*[0.1] * n)
    assert decide_restart(exits, now) == Restart(now + BACK_OFF_S[n - 1])
    assert BACK_OFF_S[:7] == (1, 1, 2, 3, 5, 8, 13)


def test_a_wait_that_has_passed_is_over():
    exits, now = lives(0.1)
    assert decide_restart(exits, now + 5) == Restart(now + 5)


def test_the_eighth_short_life_is_a_crash_loop_and_names_the_last_cause():
    exits, now = lives(*[0.1] * 8, cause="signal 11 (SIGSEGV)")
    assert decide_restart(exits, now) == GiveUp("crash loop: gave up after 8 exits, last: signal 11 (SIGSEGV)")


def test_a_life_of_a_minute_starts_the_sequence_anew():
    exits, now = lives(*[0.1] * 7, 60.0, 0.1)
    assert decide_restart(exits, now) == Restart(now + BACK_OFF_S[0])
    exits, now = lives(*[0.1] * 7, 59.0, 0.1)
    assert isinstance(decide_restart(exits, now), GiveUp)


@pytest.mark.parametrize("lived_s", [10.0, 59.0, 60.0, 1e6])
def test_a_process_that_was_well_starts_at_once(lived_s):
    exits, now = lives(0.1, 0.1, lived_s)
    assert decide_restart(exits, now) == Restart(now)


def test_lives_of_half_a_minute_are_a_crash_loop_too():
    exits, now = lives(*[30.0] * 8)
    assert isinstance(decide_restart(exits, now), GiveUp)


def test_ends_without_fault_wait_but_never_give_up():
    exits, now = lives(*[0.1] * 40, is_fault=False)
    assert decide_restart(exits, now) == Restart(now + BACK_OFF_S[-1])


def test_ends_without_fault_do_not_hide_a_crash_loop():
    blameless, now = lives(0.1, is_fault=False)
    faults = [Exit(now + i, now + i + 0.1, "exit code 1") for i in range(8)]
    assert isinstance(decide_restart([*faults[:4], *blameless, *faults[4:]], now + 9), GiveUp)
