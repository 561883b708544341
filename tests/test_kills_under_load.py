"""Promises 4, 5 and 6 with real processes and real weights: `bench/faults.py` plays them;
here is what must hold of it."""

import pytest

from bench.faults import play

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(240)]


def test_kills_of_workers_and_broker_cost_the_callers_nothing_but_time():
    for losses in play(kills=4, stops=1, broker_kills=4):
        print(losses)
        assert losses.good_again_s, f"{losses.what}: nothing was killed"
        assert losses.history.answered > 20, f"{losses.what}: there was no load"
        assert losses.history.lost == 0, losses.what
        assert not losses.history.errors, losses.history.errors[:3]
        assert not losses.history.wrong, losses.history.wrong[:3]
