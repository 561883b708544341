"""Who answers while the controller has not told a new broker anything: neither which versions may serve nor a policy."""

import pytest

from broker.arms import WAIT_FOR_STABLE_S
from broker.core import SWEEP_S
from hotpool import messages as m
from hotpool.states import WorkerState
from tests.test_arms import NAMES, STABLE, TARGET
from tests.test_broker_core import Bench

AFTER_THE_WAIT = WAIT_FOR_STABLE_S + SWEEP_S


def untold(*versions: str, **fields) -> Bench:
    """Workers v1-0, v2-1, ...; the stable version is v1."""
    bench = Bench(0, **fields)
    for n, version in enumerate(versions):
        bench.hello(f"{version}-{n}", version)
    return bench


def tell(bench: Bench, policy: m.Policy | None = None, stable: str = STABLE) -> None:
    assert bench.order(m.SetVersions, 1, "shapes", stable, TARGET, NAMES, policy) == ""


def asked(bench: Bench) -> dict[str, int]:
    """How many jobs each worker was sent."""
    return {name: n for name in sorted(bench.to_worker) if (n := len(bench.jobs(name)))}


def test_only_a_worker_with_the_stable_version_answers_who_names_none():
    bench = untold("v2", "v1", "v2")
    for n in range(3):
        bench.submit(route=b"caller-%d" % n)
        bench.answer("v1-1")
    bench.submit()
    bench.submit()
    assert asked(bench) == {"v1-1": 4}
    assert bench.core.dispatch.queued == 1


@pytest.mark.parametrize("version", ["v2", TARGET])
def test_who_names_a_version_gets_it(version):
    bench = untold("v1", "v2")
    bench.submit(version=version)
    assert asked(bench) == {"v2-1": 1}


def test_a_request_waits_until_a_worker_with_the_stable_version_says_hello():
    bench = untold("v2")
    bench.submit()
    bench.at(WAIT_FOR_STABLE_S - SWEEP_S)
    assert asked(bench) == {}
    bench.hello("v1-1")
    assert asked(bench) == {"v1-1": 1}


def test_when_none_has_come_in_the_time_for_it_others_answer():
    bench = untold("v2")
    waited = bench.submit()
    bench.at(WAIT_FOR_STABLE_S - SWEEP_S)
    assert asked(bench) == {}
    bench.at(AFTER_THE_WAIT)
    bench.answer("v2-0")
    assert (bench.last.id, bench.last.version) == (waited, "v2")
    bench.submit()
    assert asked(bench) == {"v2-0": 2}


def test_however_long_nothing_is_told_stable_answers_alone_while_a_worker_is_ready_with_it():
    bench = untold("v1", "v2")
    bench.at(60.0)
    bench.submit()
    bench.submit()
    assert asked(bench) == {"v1-0": 1}
    bench.do(bench.core.lose(bench.core.roster.workers["v1-0"], "exit", bench.now))
    assert asked(bench) == {"v1-0": 1, "v2-1": 1}
    bench.hello("v1-0", incarnation=2)
    bench.answer("v2-1")
    assert asked(bench) == {"v1-0": 2, "v2-1": 1}


def test_a_worker_that_swaps_is_taken_for_what_it_serves_now():
    bench = untold("v1")
    bench.order(m.LoadVersion, 1, "v1-0", TARGET, "token", beside=True)
    bench.from_worker("v1-0", m.LoadEnded("token", "v2", TARGET, 1, 1))
    bench.submit()
    assert (asked(bench), bench.state("v1-0")) == ({}, WorkerState.READY)
    bench.hello("v1-1")
    assert asked(bench) == {"v1-1": 1}


def test_what_a_lost_worker_held_waits_for_another_with_the_stable_version():
    bench = untold("v1", "v2")
    bench.submit()
    bench.do(bench.core.lose(bench.core.roster.workers["v1-0"], "exit", bench.now))
    assert asked(bench) == {"v1-0": 1}
    bench.hello("v1-2")
    assert asked(bench) == {"v1-0": 1, "v1-2": 1}


def test_the_table_is_the_rule_from_the_moment_it_comes():
    bench = untold("v2")
    bench.submit()
    tell(bench)
    assert asked(bench) == {"v2-0": 1}


def test_a_share_that_is_told_holds_when_the_wait_is_over():
    bench = untold("v2")
    bench.submit()
    tell(bench, m.Policy(1, 1, 0, 0))
    bench.at(60.0)
    assert asked(bench) == {}


def test_the_table_counts_not_what_was_stable_at_the_start():
    bench = untold("v1", "v2")
    tell(bench, m.Policy(1, 1, 0, 0), stable=TARGET)
    bench.submit()
    assert asked(bench) == {"v2-1": 1}


def test_when_it_is_not_known_what_is_stable_nobody_answers_until_the_wait_is_over():
    bench = untold("v1", "v2", stable="")
    bench.submit()
    assert asked(bench) == {}
    bench.at(AFTER_THE_WAIT)
    assert sum(asked(bench).values()) == 1


def test_before_a_model_has_a_stable_version_any_worker_answers():
    bench = untold("v2", stable=None)
    bench.submit()
    assert asked(bench) == {"v2-0": 1}


def test_the_table_of_one_model_says_nothing_of_another():
    bench = untold("v2")
    bench.order(m.SetVersions, 1, "cats", "digest-c1", None, {})
    bench.submit()
    assert asked(bench) == {}


def test_a_pause_of_the_broker_s_own_is_no_time_to_say_hello():
    bench = untold("v2")
    bench.now += 60.0
    bench.do(bench.core.tick(bench.now))
    bench.submit()
    assert asked(bench) == {}
    bench.at(bench.now + AFTER_THE_WAIT)
    assert asked(bench) == {"v2-0": 1}
