"""Waiting: what is seen, and when who waits is awake. Then a worker's lookout: that it stays awake for a moment."""

import gc
import os
import select
import signal
from collections.abc import Iterator
from math import inf
from time import monotonic
from typing import cast

import pytest

import workers.lookout
from broker.server import Server
from hotpool import lookout
from hotpool.config import Config
from hotpool.home import Home
from hotpool.lookout import Window, wait
from workers.lookout import AWAKE_S, AWAKE_SHARE, Lookout

A_MINUTE = 60.0


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    made = [os.pipe() for _ in range(3)]
    yield made
    for end in (end for pipe in made for end in pipe):
        os.close(end)


class Clock:
    """In place of the system's: a poll sleeps as long as it is told to, a look takes 0.2 ms. arrives_at: from when on something
    can be read. rehearsed: when it began to."""

    def __init__(self, monkeypatch) -> None:
        self.now, self.arrives_at, self.oversleeps_s = 100.0, inf, 0.0
        self.asleep: list[tuple[float, float]] = []  # from when, until when
        self.looks: list[float] = []
        self.rehearsed: list[float] = []
        for module in (lookout, workers.lookout):
            monkeypatch.setattr(module, "monotonic", lambda: self.now)
        monkeypatch.setattr(os, "sched_yield", self.look)

    def look(self) -> None:
        self.looks.append(self.now)
        self.now += 0.0002

    def poll(self, timeout_ms: int) -> list[tuple[int, int]]:
        assert isinstance(timeout_ms, int)
        until = max(self.now, min(self.now + timeout_ms / 1000 + self.oversleeps_s, self.arrives_at))
        if timeout_ms:
            self.asleep.append((self.now, until))
        self.now = until
        return [(7, select.POLLIN)] if self.now >= self.arrives_at else []

    def rehearse(self, now: float) -> None:
        """Takes 0.1 ms."""
        assert now == self.now
        self.rehearsed.append(now)
        self.now += 0.0001

    def wait(self, until: float, awake: Window = lookout.NEVER) -> set[int]:
        return wait(cast(select.poll, self), until, awake, self.rehearse)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def test_who_expects_something_sleeps_until_then_is_awake_until_it_is_over_and_sleeps_on(clock):
    assert clock.wait(100.05, awake=(100.0104, 100.0124)) == set()
    first, second = clock.asleep
    assert first == (100.0, pytest.approx(100.010)), "whole milliseconds, none of them of the window"
    assert clock.rehearsed == [pytest.approx(100.010, abs=1e-6)], "once, as soon as it is awake"
    assert clock.looks[0] == pytest.approx(100.0101, abs=1e-6)
    assert clock.looks[-1] == pytest.approx(100.0123, abs=0.0002)
    assert second[0] == pytest.approx(100.0124, abs=0.0002)
    assert 100.05 <= second[1] < 100.0511


@pytest.mark.parametrize("arrives_at", [100.004, 100.011, 100.03], ids=["before", "in the window", "after"])
def test_what_comes_is_seen_when_it_comes(clock, arrives_at):
    clock.arrives_at = arrives_at
    assert clock.wait(100.05, awake=(100.0104, 100.0124)) == {7}
    assert clock.now == pytest.approx(arrives_at, abs=0.0002)


def test_who_did_not_sleep_does_not_rehearse(clock):
    assert clock.wait(100.05, awake=(100.00129, 100.0124)) == set()
    assert clock.looks
    assert not clock.rehearsed


@pytest.mark.parametrize("begin", [100.00131, 100.0102, 100.0107, 100.0109])
def test_who_has_slept_for_a_millisecond_rehearses_and_is_done_with_it_when_the_window_begins(clock, begin):
    clock.wait(100.05, awake=(begin, begin + 0.002))
    (began,) = clock.rehearsed
    assert 0 <= begin - lookout.REHEARSAL_S - began < 0.001


def test_nobody_rehearses_for_what_has_come_or_is_overdue(clock):
    clock.arrives_at = 100.004
    assert clock.wait(100.05, awake=(100.01, 100.012)) == {7}
    clock.oversleeps_s = 0.0015
    clock.arrives_at = inf
    assert clock.wait(100.1, awake=(100.05, 100.052)) == set()
    assert not clock.rehearsed


@pytest.mark.parametrize("awake", [lookout.NEVER, (90.0, 99.9), (100.02, 100.03)], ids=["never", "over", "later"])
def test_nobody_is_awake_out_of_the_window_and_who_has_to_look_by_then_is_not_late(clock, awake):
    assert clock.wait(100.0104, awake) == set()
    assert not clock.looks
    assert not clock.rehearsed
    assert 100.0104 <= clock.now < 100.0115


def test_nobody_is_awake_longer_than_there_is_to_wait(clock):
    assert clock.wait(100.001, awake=(99.0, 200.0)) == set()
    assert len(clock.looks) == 5
    assert clock.wait(99.0, awake=(98.0, 200.0)) == set()
    assert len(clock.looks) == 5


def test_it_sees_all_that_can_be_read(pipes):
    (first, tell_first), (second, tell_second), (silent, _) = pipes
    looks = Lookout([first, second, silent])
    os.write(tell_first, b"x")
    assert looks.wait(monotonic() + A_MINUTE) == {first}
    os.write(tell_second, b"x")
    assert looks.wait(monotonic() + A_MINUTE) == {first, second}


def test_it_sees_nothing_when_the_time_is_over(pipes):
    looks = Lookout([pipes[0][0]])
    assert looks.wait(monotonic()) == set()
    assert looks.wait(monotonic() + 0.01) == set()


@pytest.mark.parametrize(("computed_s", "awake_s"), [(0.0001, 0.00001), (0.004, 0.0004), (0.026, 0.001), (5.0, 0.001)])
def test_it_stays_awake_for_a_tenth_of_what_was_computed_and_a_millisecond_at_most(pipes, clock, computed_s, awake_s):
    assert (AWAKE_SHARE, AWAKE_S) == (0.1, 0.001)
    looks = Lookout([pipes[0][0]])
    looks.computed(began_at=100.0 - computed_s)
    assert looks.wait(100.0 + 0.01) == set()
    assert len(clock.looks) == pytest.approx(awake_s / 0.0002, abs=1)


def test_what_comes_while_it_is_awake_is_seen_without_sleep(pipes, monkeypatch):
    arrived, tell = pipes[0]
    looks = Lookout([arrived])
    looks.computed(began_at=monotonic() - A_MINUTE)
    monkeypatch.setattr(os, "sched_yield", lambda: os.write(tell, b"x"))
    monkeypatch.setattr(lookout, "ceil", lambda ms: pytest.fail("it went to sleep"))
    assert looks.wait(monotonic() + A_MINUTE) == {arrived}


def test_the_broker_is_awake_when_it_expects_an_answer(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    server, windows = Server(Home(tmp_path), Config()), []

    def note(_poller, until, awake, rehearse):
        windows.append((until, awake, rehearse))
        server.stop()
        return set()

    monkeypatch.setattr("broker.server.wait", note)
    monkeypatch.setattr(server._core.dispatch, "next_answer", lambda: (5.0, 6.0))
    try:
        server.run()
    finally:
        gc.unfreeze()
        server.close()
    assert windows == [(server._core.next_tick(), (5.0, 6.0), server._rehearsal.run)]
    assert signal.set_wakeup_fd(-1) == -1, "its sockets are closed, so nothing may be written to them"
