"""Probes at the broker: questions to one certain worker that go after all requests of callers."""

import pytest

from hotpool import messages as m
from hotpool.states import WorkerState
from tests.test_broker_core import LEASE_S, RESULT, WORK, Bench

S = WorkerState
DIGEST = "digest-v1"


def probe(bench: Bench, worker: str = "worker-0", digest: str = DIGEST, timeout_s: float = 5.0, n: int = 1) -> bytes:
    """Sends one and returns its id; its outcome, if there is one, comes last in `bench.to_client`."""
    request_id = b"proberid" + n.to_bytes(8, "big")
    request = m.Request(request_id, None, digest, 2, int(timeout_s * 1e6), WORK, worker=worker)
    bench.from_client(request, b"golden")
    return request_id


def outcomes(bench: Bench, request_id: bytes) -> list[str]:
    return [
        getattr(message, "code", "answered")
        for message in bench.to_client
        if isinstance(message, m.Reply | m.ErrorReply) and message.id == request_id
    ]


def counted(bench: Bench) -> dict[str, int]:
    return {outcome: int(n) for (_, _, outcome), n in bench.core.metrics.probes.items()}


@pytest.mark.parametrize("name", ["worker-0", "worker-1", "worker-2"])
def test_a_probe_reaches_the_worker_it_names_and_the_answer_comes_back(name: str) -> None:
    bench = Bench(workers=3)
    request_id = probe(bench, name)
    assert len(bench.jobs(name)) == 1
    bench.answer(name)
    assert isinstance(bench.last, m.Reply)
    assert (bench.last.id, bench.last.worker, bench.last.digest) == (request_id, name, DIGEST)
    assert counted(bench) == {"answered": 1}
    assert not bench.core.metrics.requests


def test_what_the_worker_says_is_wrong_comes_back_too() -> None:
    bench = Bench()
    request_id = probe(bench)
    bench.from_worker("worker-0", m.Failed(bench.jobs()[0].job, 1, "model_error", "not finite", "yes"))
    assert outcomes(bench, request_id) == ["model_error"]


def test_a_probe_waits_until_its_worker_has_nothing_else_to_do() -> None:
    bench = Bench()
    for _ in range(3):
        bench.submit()
    request_id = probe(bench)
    for n_answered in range(1, 4):
        assert len(bench.jobs()) == n_answered, "a caller's request went first"
        bench.answer()
    assert len(bench.jobs()) == 4
    assert outcomes(bench, request_id) == []
    bench.answer()
    assert outcomes(bench, request_id) == ["answered"]


def test_a_request_that_comes_later_still_goes_before_a_parked_probe() -> None:
    bench = Bench()
    bench.submit()
    probe(bench)
    late = bench.submit()
    bench.answer()
    bench.answer()
    assert isinstance(bench.last, m.Reply)
    assert bench.last.id == late


def test_a_probe_whose_worker_is_never_free_ends_at_its_deadline_and_the_request_does_not() -> None:
    bench = Bench()
    bench.submit()
    request_id = probe(bench, timeout_s=1.0)
    bench.at(1.1)
    assert outcomes(bench, request_id) == ["deadline_exceeded"]
    bench.answer()
    assert len(bench.jobs()) == 1
    assert isinstance(bench.last, m.Reply)


@pytest.mark.parametrize(("worker", "digest"), [("worker-9", DIGEST), ("worker-0", "digest-v2"), ("worker-0", "v1")])
def test_a_probe_for_what_the_worker_does_not_serve_is_refused(worker: str, digest: str) -> None:
    bench = Bench()
    assert outcomes(bench, probe(bench, worker, digest)) == ["conflict"]
    assert counted(bench) == {"conflict": 1}


def test_a_probe_of_a_drained_worker_is_refused_and_one_that_is_parked_ends_with_the_drain() -> None:
    bench = Bench(workers=2)
    bench.order(m.SetVersions, 1, "shapes", DIGEST, None, {"v1": DIGEST})
    bench.submit()
    holder = "worker-0" if bench.jobs("worker-0") else "worker-1"
    parked = probe(bench, holder)
    bench.order(m.Drain, 1, holder)
    assert outcomes(bench, parked) == ["conflict"]
    assert outcomes(bench, probe(bench, holder, n=2)) == ["conflict"]


def test_a_drain_lets_a_probe_that_is_computed_end() -> None:
    bench = Bench(workers=2)
    request_id = probe(bench)
    bench.order(m.Drain, 1, "worker-0")
    assert bench.state() is S.DRAINING
    bench.answer()
    assert (bench.state(), outcomes(bench, request_id)) == (S.DRAINED, ["answered"])


def test_a_worker_has_one_probe_at_a_time_and_the_same_one_again_is_no_other() -> None:
    bench = Bench()
    first = probe(bench)
    assert outcomes(bench, probe(bench, n=2)) == ["conflict"]
    probe(bench)
    bench.answer()
    assert outcomes(bench, first) == ["answered"]
    assert len(bench.jobs()) == 1


def test_the_answer_to_a_probe_that_was_sent_again_follows_the_new_connection() -> None:
    bench = Bench()
    request_id = probe(bench)
    bench.from_client(m.ClientHello(1, b"proberid"), connection=b"again")
    again = m.Request(request_id, None, DIGEST, 2, 10**6, WORK, 1, worker="worker-0")
    bench.from_client(again, b"golden", connection=b"again")
    actions = bench.core.from_worker(b"worker-0", m.Done(bench.jobs()[0].job, 1, RESULT), None, 0.0)
    assert [action.connection for action in actions if isinstance(action.message, m.Reply)] == [b"again"]


def test_a_worker_that_is_lost_with_its_probe_is_not_asked_again_and_nobody_is_blamed() -> None:
    bench = Bench(workers=2)
    request_id = probe(bench)
    bench.do(bench.core.process_ended(1001, bench.now))
    assert outcomes(bench, request_id) == ["worker_lost"]
    assert not bench.jobs("worker-1")
    assert not bench.core.metrics.redispatched


def test_a_worker_that_hangs_in_a_probe_is_ended_like_any_that_hangs() -> None:
    bench = Bench()
    bench.from_worker("supervisor", m.Seats("shapes", (m.Seat("worker-0", 1, 1001, {}),)))
    request_id = probe(bench, timeout_s=60)
    bench.at(LEASE_S + 1)
    assert m.Kill("worker-0", 1, "hung") in bench.to_worker["supervisor"]
    assert outcomes(bench, request_id) == ["worker_lost"]


def test_a_probe_is_no_evidence_of_a_version() -> None:
    bench = Bench(workers=1)
    bench.hello("worker-1", "v2")
    policy = m.Policy(1, 1, 50.0, 0.0)
    bench.order(m.SetVersions, 1, "shapes", DIGEST, "digest-v2", {"v1": DIGEST, "v2": "digest-v2"}, policy)
    probe(bench)
    bench.answer()
    probe(bench, "worker-1", "digest-v2", n=2)
    bench.do(bench.core.lose(bench.core.roster.workers["worker-1"], "exit", bench.now))
    counts = bench.core.arms.runs["shapes"].counts(bench.now)
    assert (counts.stable.answered, counts.target.errors) == (0, 0)


def test_probes_are_counted_by_the_version_that_was_probed_and_a_name_out_of_the_air_is_no_label() -> None:
    bench = Bench()
    bench.hello("worker-1", "v2")
    probe(bench)
    bench.answer()
    probe(bench, "worker-0", "digest-v2", n=2)
    probe(bench, "worker-0", "whatever", n=3)
    assert bench.core.metrics.probes == {
        ("shapes", "v1", "answered"): 1, ("shapes", "v2", "conflict"): 1, ("shapes", "", "conflict"): 1,
    }  # fmt: skip


# ---- the order to restart


def restart(bench: Bench, incarnation: int = 1, epoch: int = 1) -> str:
    return bench.order(m.Restart, epoch, "worker-0", incarnation)


def drained(workers: int = 2) -> Bench:
    bench = Bench(workers=workers)
    bench.from_worker("supervisor", m.Seats("shapes", (m.Seat("worker-0", 1, 1001, {}),)))
    bench.order(m.Drain, 1, "worker-0")
    return bench


def test_a_drained_worker_is_restarted_by_its_supervisor() -> None:
    bench = drained()
    assert restart(bench) == ""
    assert bench.state() is S.DOWN
    assert bench.to_worker["supervisor"][-1] == m.Kill("worker-0", 1, "wrong")
    bench.hello("worker-0", incarnation=2)
    assert bench.state() is S.READY


def test_the_kill_is_repeated_with_its_cause_to_a_supervisor_that_did_not_hear_it() -> None:
    bench = drained()
    restart(bench)
    bench.to_worker["supervisor"].clear()
    bench.from_worker("supervisor", m.Seats("shapes", (m.Seat("worker-0", 1, 1001, {}),)))
    assert m.Kill("worker-0", 1, "wrong") in bench.to_worker["supervisor"]


def test_an_order_to_restart_may_be_repeated_and_never_ends_the_next_process() -> None:
    bench = drained()
    restart(bench)
    assert restart(bench) == "conflict", "there is no process now"
    bench.hello("worker-0", incarnation=2)
    bench.order(m.Drain, 1, "worker-0")
    assert restart(bench) == ""
    assert bench.state() is S.DRAINED


def test_a_worker_that_serves_is_never_restarted_by_order() -> None:
    bench = Bench()
    assert restart(bench) == "conflict"
    assert bench.state() is S.READY


def test_an_order_of_an_earlier_controller_restarts_nobody() -> None:
    bench = drained()
    bench.order(m.SetVersions, 2, "shapes", DIGEST, None, {"v1": DIGEST})
    assert restart(bench, epoch=1) == "stale_epoch"
