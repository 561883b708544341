"""Waiting: what is seen, and when who waits is awake. Then a worker's lookout: that it stays awake for a moment."""

import gc
import os
from collections.abc import Iterator
from time import monotonic

import pytest
import zmq

import workers.lookout
from broker.server import Server
from hotpool import lookout
from hotpool.config import Config
from hotpool.home import Home
from hotpool.lookout import wait
from workers.lookout import AWAKE_S, AWAKE_SHARE, Lookout

A_MINUTE = 60.0


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    made = [os.pipe() for _ in range(3)]
    yield made
    for end in (end for pipe in made for end in pipe):
        os.close(end)


@pytest.fixture
def watched(pipes) -> tuple[zmq.Poller, int, int]:
    """Something to wait at, what it watches, and the other end of that."""
    poller, (end, tell) = zmq.Poller(), pipes[0]
    poller.register(end, zmq.POLLIN)
    return poller, end, tell


def test_who_expects_something_sleeps_until_then_and_is_awake_until_it_is_over(watched, monkeypatch):
    looks: list[float] = []
    monkeypatch.setattr(os, "sched_yield", lambda: looks.append(monotonic()))
    begin = monotonic() + 0.03
    assert wait(watched[0], begin + 0.02, (begin, begin + 0.01)) == {}
    assert monotonic() >= begin + 0.02
    assert looks
    assert looks[0] >= begin - 0.0011, "a poll counts whole milliseconds, so it may be awake one too early"
    assert looks[-1] <= begin + 0.01 + 0.002


def test_what_comes_before_it_is_expected_is_seen_at_once(watched, monkeypatch):
    poller, end, tell = watched
    monkeypatch.setattr(os, "sched_yield", lambda: pytest.fail("it was awake"))
    os.write(tell, b"x")
    assert wait(poller, monotonic() + A_MINUTE, (monotonic() + A_MINUTE, monotonic() + A_MINUTE)) == {end: zmq.POLLIN}


def test_what_comes_when_it_is_expected_is_seen_without_sleep(watched, monkeypatch):
    poller, end, tell = watched
    monkeypatch.setattr(os, "sched_yield", lambda: os.write(tell, b"x"))
    now = monotonic()
    assert wait(poller, now + A_MINUTE, (now, now + A_MINUTE)) == {end: zmq.POLLIN}


@pytest.mark.parametrize("awake", [lookout.NEVER, (0.0, 1.0)], ids=["never", "over"])
def test_what_comes_when_it_is_not_expected_is_waited_for_asleep(watched, monkeypatch, awake):
    monkeypatch.setattr(os, "sched_yield", lambda: pytest.fail("it was awake"))
    assert wait(watched[0], monotonic() + 0.01, awake) == {}
    os.write(watched[2], b"x")
    assert wait(watched[0], monotonic() + A_MINUTE, awake) == {watched[1]: zmq.POLLIN}


def test_nobody_is_awake_longer_than_there_is_to_wait(watched, looks_counted):
    assert wait(watched[0], 100.0003, (99.0, 200.0)) == {}
    assert len(looks_counted) == 2


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

    for module in (lookout, workers.lookout):
        monkeypatch.setattr(module, "monotonic", lambda: at[0])
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


def test_the_broker_is_awake_when_it_expects_an_answer(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    server, windows = Server(Home(tmp_path), Config()), []

    def note(_poller, _until, awake):
        windows.append(awake)
        server.stop()
        return {}

    monkeypatch.setattr("broker.server.wait", note)
    monkeypatch.setattr(server._core.dispatch, "next_answer", lambda: (5.0, 6.0))
    try:
        server.run()
    finally:
        gc.unfreeze()
        server.close()
    assert windows == [(5.0, 6.0)]
