"""Where a worker waits: what it sees, and that it looks for a moment before it sleeps."""

import os
from collections.abc import Iterator
from time import monotonic

import pytest

from workers import lookout
from workers.lookout import AWAKE_S, AWAKE_SHARE, Lookout

A_MINUTE = 60.0


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    made = [os.pipe() for _ in range(3)]
    yield made
    for end in (end for pipe in made for end in pipe):
        os.close(end)


def test_it_sees_what_can_be_read_of_the_connection_and_of_all_else(pipes):
    (always, tell_always), (first, tell_first), (second, tell_second) = pipes
    looks = Lookout([always])
    looks.watch([first])
    os.write(tell_first, b"x")
    assert looks.wait(monotonic() + A_MINUTE) == {first}
    os.write(tell_always, b"x")
    assert looks.wait(monotonic() + A_MINUTE) == {first, always}
    looks.watch([second])
    os.write(tell_second, b"x")
    assert looks.wait(monotonic() + A_MINUTE) == {second, always}


def test_it_sees_nothing_when_the_time_is_over(pipes):
    looks = Lookout([pipes[0][0]])
    assert looks.wait(monotonic()) == set()
    assert looks.wait(monotonic() + 0.01) == set()


@pytest.fixture
def looks_counted(monkeypatch):
    """The clock goes on by 0.2 ms with each look; a list of when the core was given away."""
    at, given_away = [100.0], []

    def look():
        given_away.append(at[0])
        at[0] += 0.0002

    monkeypatch.setattr(lookout, "monotonic", lambda: at[0])
    monkeypatch.setattr(os, "sched_yield", look)
    return given_away


@pytest.mark.parametrize(("computed_s", "awake_s"), [(0.0001, 0.00001), (0.004, 0.0004), (0.026, 0.001), (5.0, 0.001)])
def test_it_stays_awake_for_a_tenth_of_what_was_computed_and_a_millisecond_at_most(
    pipes, looks_counted, computed_s, awake_s
):
    assert (AWAKE_SHARE, AWAKE_S) == (0.1, 0.001)
    looks = Lookout([pipes[0][0]])
    looks.watch([])
    looks.computed(began_at=100.0 - computed_s)
    assert looks.wait(100.0 + 0.01) == set()
    assert len(looks_counted) == pytest.approx(awake_s / 0.0002, abs=1)


def test_what_comes_while_it_is_awake_is_seen_without_sleep(pipes, monkeypatch):
    arrived, tell = pipes[0]
    looks = Lookout([arrived])
    looks.watch([])
    looks.computed(began_at=monotonic() - A_MINUTE)
    monkeypatch.setattr(os, "sched_yield", lambda: os.write(tell, b"x"))
    monkeypatch.setattr(lookout, "ceil", lambda ms: pytest.fail("it went to sleep"))
    assert looks.wait(monotonic() + A_MINUTE) == {arrived}


def test_it_is_awake_no_longer_than_it_was_to_wait(pipes, looks_counted):
    looks = Lookout([pipes[0][0]])
    looks.watch([])
    looks.computed(began_at=0.0)
    assert looks.wait(100.0003) == set()
    assert len(looks_counted) == 2
