"""The broker's rehearsal: what its core does for a real request, over and over, and nothing is left of it."""

import sys
from types import CodeType

from broker.rehearsal import Rehearsal
from hotpool.messages import Done, Reply

from .test_broker_core import RESULT, Bench

A_DAY = 86_400.0


def test_each_time_one_request_is_answered():
    rehearsal = Rehearsal(100.0)
    for n in range(1, 4):
        (reply,) = rehearsal.run(100.0 + n)
        assert isinstance(reply, Reply)
        assert reply.id == n.to_bytes(16, "big")


def test_it_goes_on_after_a_pause_of_any_length():
    rehearsal = Rehearsal(0.0)
    now = 0.0
    for pause_s in (0.01, 10.0, 3_600.0, 4 * 3_600.0 + 1, A_DAY):
        now += pause_s
        (reply,) = rehearsal.run(now)
        assert isinstance(reply, Reply), f"after {pause_s} s"


def test_nothing_grows_however_often_it_is_run():
    rehearsal = Rehearsal(0.0)
    for n in range(5_000):
        rehearsal.run(n / 100)
    core = rehearsal._core
    core.check()
    assert core.dispatch.n_pending == 0
    assert len(core.dispatch._deadlines) == 1
    assert not core.roster.changes
    assert not rehearsal._incoming.has_more


def test_what_a_real_answer_needs_has_been_gone_through():
    bench = Bench()
    bench.submit()
    (job,) = bench.jobs()
    done = Done(job.job, 5_000, RESULT)
    connection = bench.core.roster.workers["worker-0"].connection
    real = called(lambda: bench.core.from_worker(connection, done, None, 0.01)) | called(lambda: bench.core.tick(0.01))
    rehearsal = Rehearsal(0.0)
    assert real <= called(lambda: rehearsal.run(0.01))


def called(doing) -> set[CodeType]:
    """The broker's functions that are called meanwhile."""
    seen: set[CodeType] = set()

    def note(frame, event, _argument):
        if event == "call" and "/broker/" in frame.f_code.co_filename:
            seen.add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        doing()
    finally:
        sys.setprofile(before)
    assert seen
    return seen
