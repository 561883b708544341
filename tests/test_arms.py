"""Requests between stable and target: who gets which, what is counted of it, and copies that nobody notices."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from broker import shadow
from broker.evidence import WARM_UP, Run
from broker.metrics import Metrics
from broker.routing import point
from hotpool import messages as m
from hotpool.evidence import Counts, bucket, log_percent
from hotpool.states import Priority, WorkerState
from tests.test_broker_core import RESULT, WORK, Bench

STABLE, TARGET = "digest-v1", "digest-v2"
NAMES = {"v1": STABLE, "v2": TARGET}
SALT = 4


def key_at(low: float, high: float, salt: int = SALT) -> bytes:
    """A route key whose point is in [low, high)."""
    return next(key for n in range(100_000) if low <= point(key := b"key-%d" % n, salt) < high)


class Arms(Bench):
    """Workers stable-0, ... with v1 and target-0, ... with v2, and a policy."""

    def __init__(
        self, stable: int = 1, target: int = 1, *, share: float = 50, shadow: float = 0, **fields: Any
    ) -> None:
        super().__init__(0, **fields)
        self.number = 0
        for n in range(stable):
            self.hello(f"stable-{n}")
        for n in range(target):
            self.hello(f"target-{n}", "v2")
        assert self.policy(share, shadow) == ""
        self.to_client.clear()

    def policy(self, share: float, shadow: float = 0, *, number: int | None = None) -> str:
        self.number = self.number + 1 if number is None else number
        return self.table(m.Policy(self.number, SALT, share, shadow))

    def table(self, policy: m.Policy | None, target: str | None = TARGET) -> str:
        return self.order(m.SetVersions, 1, "shapes", STABLE, target, NAMES, policy)

    def stable(self, **fields: Any) -> bytes:
        """Asks as one of the callers that are last to get the target."""
        return self.submit(route=key_at(99, 100), **fields)

    def target(self, **fields: Any) -> bytes:
        """Asks as one of the first."""
        return self.submit(route=key_at(0, 1), **fields)

    def done(
        self, name: str, top1: int = 0, *, us: int = 5_000, batch: int = 1, index: int = -1, cpu_us: int | None = None
    ) -> None:
        cpu_us = us if cpu_us is None else cpu_us
        self.from_worker(name, m.Done(self.jobs(name)[index].job, us, RESULT, top1, 0.905, batch, cpu_us))

    def finish(self, name: str) -> None:
        """It answers what it has held longest."""
        self.from_worker(name, m.Done(next(iter(self.core.roster.workers[name].leases)), 1, RESULT))

    def counts(self) -> Counts:
        evidence, _ = self.core.from_admin(m.GetEvidence(5, "shapes"), self.now)
        assert isinstance(evidence, m.Evidence)
        assert (evidence.seq, evidence.boot) == (5, 7)
        return evidence.counts

    def lose(self, name: str, cause: str = "exit") -> None:
        self.do(self.core.lose(self.core.roster.workers[name], cause, self.now))

    def answered(self) -> list[bytes]:
        """Ids, in the order of their answers."""
        return [reply.id for reply in self.to_client if isinstance(reply, m.Reply)]

    def families(self) -> tuple[m.Family, ...]:
        report, _ = self.core.from_admin(m.GetReport(9), self.now)
        assert isinstance(report, m.Report)
        return report.metrics

    def versions_counted(self) -> set[str]:
        """By those that are counted up, and so would stay for ever."""
        counted = [one for family in self.families() if family.kind != "gauge" for one in family.samples]
        return {one.labels["version"] for one in counted if "version" in one.labels}

    def metric(self, name: str) -> dict[tuple[str, ...], float]:
        family = next(family for family in self.families() if family.name == f"hotpool_{name}")
        return {tuple(sample.labels.values()): sample.value for sample in family.samples}


# ---- where a request goes


def test_points_fill_0_to_100_evenly_and_another_salt_shuffles_them():
    points = [point(b"%d" % n, 1) for n in range(10_000)]
    assert all(0 <= at < 100 for at in points)
    for decile in range(10):
        assert 900 < sum(10 * decile <= at < 10 * decile + 10 for at in points) < 1100
    both = sum(at < 50 and point(b"%d" % n, 2) < 50 for n, at in enumerate(points))
    assert 2300 < both < 2700


@pytest.mark.parametrize("share", [0, 1, 25, 99, 100])
def test_each_request_goes_where_its_point_says(share):
    bench = Arms(share=share)
    to_target = 0
    for n in range(400):
        request_id = bench.submit()
        name = "target-0" if point(request_id, SALT) < share else "stable-0"
        assert len(bench.jobs(name)) == 1, f"request {n}"
        bench.done(name)
        bench.to_worker.clear()
        assert bench.last.id == request_id
        to_target += name == "target-0"
    assert bench.counts().target.routed == to_target
    assert {0: to_target == 0, 100: to_target == 400}.get(share, abs(to_target - 4 * share) < 60)


def test_a_growing_share_only_adds_callers():
    before: set[bytes] = set()
    for share in (0, 5, 25, 60, 100):
        now = {key for key in (b"%d" % n for n in range(1000)) if point(key, SALT) < share}
        assert before <= now
        before = now


def test_a_route_key_decides_in_place_of_the_id():
    bench = Arms(share=50)
    for _ in range(20):
        bench.target()
        bench.done("target-0")
    assert (len(bench.jobs("target-0")), len(bench.jobs("stable-0"))) == (20, 0)


def test_who_is_free_does_not_matter():
    bench = Arms(stable=2, target=1, share=50)
    waiting = [bench.target(), bench.target()]
    assert not bench.jobs("stable-0") + bench.jobs("stable-1")
    bench.done("target-0")
    bench.done("target-0")
    assert bench.answered() == waiting


def test_the_target_s_arm_falls_back_to_stable_while_no_worker_of_the_target_is_ready():
    bench = Arms(target=0, share=100)
    bench.target()
    assert len(bench.jobs("stable-0")) == 1
    assert bench.counts().stable.routed == 1


def test_stable_s_arm_waits_for_stable_whatever_happens():
    bench = Arms(stable=1, target=1, share=99)
    bench.lose("stable-0")
    bench.stable()
    bench.lose("target-0")
    bench.hello("target-0", "v2", incarnation=2)
    assert not bench.jobs("target-0")
    bench.hello("stable-0", incarnation=2)
    assert len(bench.jobs("stable-0")) == 1


def test_a_request_for_a_version_goes_to_it_whatever_its_point():
    bench = Arms(share=0)
    bench.stable(version="v2")
    bench.target(version=STABLE)
    assert (len(bench.jobs("target-0")), len(bench.jobs("stable-0"))) == (1, 1)
    counts = bench.counts()
    assert (counts.stable.routed, counts.target.routed) == (0, 0)


def test_without_a_target_the_policy_counts_what_the_one_version_does():
    bench = Arms(stable=1, target=0)
    policy = m.Policy(9, SALT, 0, 0)
    assert bench.table(policy, target=None) == ""
    bench.submit()
    assert len(bench.jobs("stable-0")) == 1
    bench.answer("stable-0")
    assert (bench.counts().policy, bench.counts().target.answered, bench.counts().stable.answered) == (9, 1, 0)
    report, _ = bench.core.from_admin(m.GetReport(9), 0.0)
    assert report.models == (m.ModelReport("shapes", 1, STABLE, None, NAMES, policy),)


# ---- routed anew


def busy(**fields: Any) -> Arms:
    """Both arms compute something, so that whatever comes waits. Time moves with each request."""
    bench = Arms(**fields)
    for name in ("v1", "v2"):
        for _ in range(sum(worker.version == name for worker in bench.core.roster)):
            bench.submit(version=name)
    bench.to_worker.clear()
    return bench


def later(bench: Arms, ask: Callable[..., bytes], **fields: Any) -> bytes:
    bench.now += 0.001
    return ask(**fields)


def leased(bench: Arms) -> dict[str, list[bytes]]:
    """What each worker holds, in its order."""
    return {
        worker.name: [lease.pending.id for lease in worker.leases.values() if lease.pending]
        for worker in bench.core.roster
        if worker.leases
    }


def test_when_the_last_worker_of_the_target_is_lost_what_waits_for_it_goes_to_stable_in_its_order():
    bench = busy(share=50, max_batch=8)
    ids = [later(bench, ask) for ask in (bench.target, bench.stable, bench.target, bench.stable)]
    lost = leased(bench)["target-0"]
    bench.lose("target-0")
    bench.finish("stable-0")
    assert leased(bench)["stable-0"] == ids
    bench.hello("target-0", "v2", incarnation=2)
    assert leased(bench)["target-0"] == lost, "it named the version"


def test_when_the_last_worker_of_the_target_is_drained_free_workers_of_stable_take_over_at_once():
    bench = Arms(share=50)
    bench.target()
    waiting = bench.target()
    assert bench.order(m.Drain, 1, "target-0") == ""
    assert leased(bench)["stable-0"] == [waiting]


def test_when_a_worker_of_the_target_becomes_ready_it_gets_its_share_of_what_waits():
    bench = busy(stable=1, target=0, share=50, max_batch=8)
    ids = [later(bench, ask) for ask in (bench.target, bench.stable, bench.target, bench.stable)]
    bench.hello("target-0", "v2")
    assert leased(bench)["target-0"] == [ids[0], ids[2]]
    bench.finish("stable-0")
    assert leased(bench)["stable-0"] == [ids[1], ids[3]]


def test_a_worker_that_swaps_beside_becomes_the_first_of_the_target():
    bench = busy(stable=2, target=0, share=50)
    first, waiting = later(bench, bench.target), later(bench, bench.target)
    bench.order(m.LoadVersion, 1, "stable-1", TARGET, "token", True)
    bench.from_worker("stable-1", m.LoadEnded("token", "v2", TARGET, 1, 1))
    bench.finish("stable-0")
    assert "stable-0" not in leased(bench), "what waits is the target's now"
    bench.finish("stable-1")
    assert leased(bench)["stable-1"] == [first]
    bench.done("stable-1")
    assert leased(bench)["stable-1"] == [waiting]


def test_another_policy_routes_what_waits_anew_in_its_order():
    bench = busy(share=0, max_batch=8)
    ids = [later(bench, ask) for ask in (bench.target, bench.stable, bench.target)]
    bench.policy(50)
    bench.finish("target-0")
    assert leased(bench)["target-0"] == [ids[0], ids[2]]
    bench.table(None)
    assert bench.core.dispatch.queued == 1
    bench.finish("target-0")
    bench.done("target-0")
    assert leased(bench)["target-0"] == [ids[1]], "without a policy any worker will do"


def test_priorities_are_kept_when_routed_anew():
    bench = busy(stable=1, target=0, share=100, max_batch=1)
    low = later(bench, bench.target, priority=Priority.LOW)
    normal = later(bench, bench.target)
    high = later(bench, bench.target, priority=Priority.HIGH)
    bench.hello("target-0", "v2")
    for _ in range(3):
        bench.done("target-0")
    assert bench.answered() == [high, normal, low]


def test_a_request_for_a_version_stays_with_it_when_others_are_routed_anew():
    bench = busy(share=100, max_batch=8)
    pinned = [later(bench, bench.submit, version=version) for version in ("v2", TARGET)]
    later(bench, bench.target)
    bench.policy(0)
    bench.finish("target-0")
    assert leased(bench)["target-0"] == pinned
    assert bench.core.dispatch.queued == 1


def test_when_the_target_is_given_up_its_arm_goes_to_stable_and_only_those_that_name_it_are_refused():
    bench = busy(share=50)
    waiting, named = later(bench, bench.target), later(bench, bench.submit, version=TARGET)
    bench.to_client.clear()
    bench.table(None, target=None)
    assert [(reply.id, reply.code) for reply in bench.to_client] == [(named, "unknown_version")]
    bench.finish("stable-0")
    assert leased(bench)["stable-0"] == [waiting]


def test_what_a_lost_worker_held_is_routed_by_the_policy_of_that_moment():
    bench = Arms(stable=1, target=2, share=50)
    request_id = bench.target()
    holder = next(iter(leased(bench)))
    bench.policy(0)
    assert holder in leased(bench)
    bench.lose(holder)
    assert leased(bench) == {"stable-0": [request_id]}


def test_free_workers_of_the_other_arm_do_not_make_a_batch_smaller():
    bench = busy(stable=1, target=3, share=50, max_batch=4)
    for _ in range(4):
        later(bench, bench.stable)
    for n in range(3):
        bench.finish(f"target-{n}")
    bench.finish("stable-0")
    assert len(leased(bench)["stable-0"]) == 4


def version_of(worker: str) -> str:
    return "v1" if worker.startswith("stable") else "v2"


@pytest.mark.parametrize("seed", range(5))
def test_whatever_changes_each_request_is_answered_once_by_an_arm_that_may(seed):
    print(f"seed {seed}")
    rng = random.Random(seed)
    bench = Arms(stable=2, target=2, share=50, shadow=50, max_batch=3)
    n_asked = 0
    for _ in range(400):
        bench.now += 0.001
        working = [worker for worker in bench.core.roster if worker.leases]
        match rng.randrange(8):
            case 0:
                bench.policy(rng.choice([0, 10, 90, 100]), rng.choice([0, 100]))
            case 1:
                name = rng.choice(["stable-0", "stable-1", "target-0", "target-1"])
                worker = bench.core.roster.workers[name]
                bench.lose(name, "new session") if worker.is_connected else bench.hello(name, version_of(name))
            case 2 | 3 | 4 if working:
                worker = rng.choice(working)
                bench.from_worker(worker.name, m.Done(rng.choice(list(worker.leases)), 1, RESULT, 0))
            case _:
                n_asked += 1
                bench.submit(payload=rng.randbytes(2), priority=rng.randrange(3), timeout_s=100)
    for worker in bench.core.roster:
        if worker.state is WorkerState.DOWN:
            bench.hello(worker.name, version_of(worker.name))
    while working := [worker for worker in bench.core.roster if worker.leases]:
        bench.finish(working[0].name)
    ended = [reply.id for reply in bench.to_client]
    assert len(ended) == len(set(ended)) == n_asked


# ---- evidence


def test_without_a_policy_nothing_is_counted():
    bench = Arms()
    bench.table(None)
    bench.submit()
    assert bench.counts() == Counts()


def test_replies_are_counted_by_the_version_that_computed_them():
    bench = Arms(share=50)
    bench.target()
    bench.done("target-0", 3)
    bench.stable()
    bench.done("stable-0", 7)
    bench.submit(version="v2")
    bench.done("target-0", 3)
    counts = bench.counts()
    assert (counts.policy, counts.stable.routed, counts.target.routed) == (1, 1, 1)
    assert (counts.stable.answered, counts.target.answered) == (1, 2)
    assert (counts.stable.classes, counts.target.classes) == ({7: 1}, {3: 2})
    assert counts.target.confidence == {90: 2}
    assert bench.metric("share_asked") == {("shapes", "v2"): 50}
    assert bench.metric("share_measured") == {("shapes", "v2"): 50}
    assert bench.metric("arm_replies") == {("shapes", "stable", "v1"): 1, ("shapes", "target", "v2"): 2}


def test_a_new_number_empties_all_counts_and_the_same_one_again_keeps_them():
    bench = Arms(share=50)
    bench.target()
    bench.done("target-0")
    bench.policy(50, number=1)
    assert bench.counts().target.answered == 1
    bench.policy(60)
    assert bench.counts() == Counts(2)


def test_what_was_leased_before_the_policy_began_is_not_counted():
    bench = Arms(share=50)
    bench.target()
    bench.now += 0.1
    bench.policy(50)
    bench.done("target-0")
    assert bench.counts() == Counts(2)


def test_the_times_of_a_worker_s_first_replies_with_a_version_are_not_counted():
    bench = Arms(share=50)
    for _ in range(WARM_UP):
        bench.target()
        bench.done("target-0")
    assert bench.counts().target.service == {}
    bench.target()
    bench.done("target-0", us=4_000, batch=2)
    bench.lose("target-0")
    bench.hello("target-0", "v2", incarnation=2)
    bench.target()
    bench.done("target-0")
    assert bench.counts().target.service == {2: {bucket(4_000): 1}}


def test_an_answer_that_comes_too_late_for_its_caller_is_evidence_all_the_same():
    bench = Arms(share=50)
    request_id = bench.target()
    bench.from_client(m.Cancel(request_id))
    bench.done("target-0", 3)
    assert bench.counts().target.classes == {3: 1}


def test_only_what_is_the_server_s_fault_counts_as_an_error():
    bench = Arms(share=50)
    for code in ("bad_image", "deadline_exceeded", "model_error"):
        bench.target()
        bench.from_worker("target-0", m.Failed(bench.jobs("target-0")[-1].job, 1, code, "?", "no"))
    assert (bench.counts().target.answered, bench.counts().target.errors) == (1, 1)
    assert bench.metric("arm_errors")["shapes", "target", "v2"] == 1


@pytest.mark.parametrize(("cause", "errors"), [("exit", 1), ("hung", 1), ("silent", 1), ("new session", 0)])
def test_a_worker_that_was_lost_by_itself_is_an_error_of_what_it_served(cause, errors):
    bench = Arms(share=50)
    bench.target()
    bench.lose("target-0", cause)
    assert bench.counts().target.errors == errors


def test_a_worker_that_was_lost_with_a_batch_is_one_error():
    bench = Arms(share=100, max_batch=4)
    bench.target()
    waiting = [bench.target() for _ in range(3)]
    bench.answer("target-0")
    assert len(bench.jobs("target-0")) == 1 + len(waiting)
    bench.lose("target-0", "exit")
    assert bench.counts().target.errors == 1


def test_a_worker_that_was_asked_to_stop_is_no_error():
    bench = Arms(share=50)
    bench.target()
    bench.from_worker("target-0", m.Leaving())
    bench.lose("target-0")
    assert bench.counts().target.errors == 0


def warm(**fields: Any) -> Arms:
    """Its workers have warm caches, and a policy has just begun."""
    bench = Arms(**fields)
    for worker in bench.core.roster:
        worker.replies = WARM_UP
    return bench


def reply(bench: Arms, stable: list[int], target: list[int], batch: int = 1) -> None:
    """Service times of either arm, in this second."""
    for times, ask, name in ((stable, bench.stable, "stable-0"), (target, bench.target, "target-0")):
        for us in times:
            ask()
            bench.done(name, us=us, batch=batch)


def test_a_second_gives_the_ratio_of_the_medians_once_it_is_over():
    bench = warm(share=50)
    reply(bench, [1000, 1000, 9000], [1200, 1200, 100])
    assert bench.counts().windows == {}
    bench.now += 1
    assert bench.counts().windows == {log_percent(1.2): 1}
    reply(bench, [1000] * 3, [1000] * 3)
    bench.now += 5
    reply(bench, [1], [])
    assert bench.counts().windows == {log_percent(1.2): 1, 0: 1}


def test_a_second_gives_the_time_of_the_target_that_chance_alone_seldom_makes_slow():
    bench = warm(share=50)
    reply(bench, [1000] * 3, [1000, 1000, 9000])  # of up to four replies the slowest
    bench.now += 1
    reply(bench, [1000] * 5, [1000, 1100, 1200, 7000, 9000], batch=2)  # of five and more the second
    reply(bench, [1000] * 9, [1000] * 9, batch=1)
    reply(bench, [1000] * 9, [1000] * 2, batch=3)
    bench.now += 1
    assert bench.counts().tails == {1: {bucket(9000): 1, bucket(1000): 1}, 2: {bucket(7000): 1}}


def test_replies_that_were_computed_together_are_one_time_of_the_tail():
    bench = warm(share=50)
    reply(bench, [1000] * 12, [9000] * 4 + [1000] * 4 + [1004] * 4 + [1006] * 4, batch=4)
    bench.now += 1
    assert bench.counts().tails == {4: {bucket(9000): 1}}, "of four batches the slowest, not the second of 16 replies"
    assert sum(bench.counts().target.service[4].values()) == 16


def test_batches_are_told_apart_although_their_replies_come_in_turn():
    run = Run(1, "s", "t", "v2", now=0.0)
    for took_us in (1000, 1000, 1000):
        run.answered("worker-2", "s", m.Done(1, took_us, RESULT, batch=4), 0.0, is_warm=True)
    for worker, took_us in [("worker-0", 9000), ("worker-1", 1000)] * 4 + [("worker-0", 1002), ("worker-0", 1004)]:
        run.answered(worker, "t", m.Done(1, took_us, RESULT, batch=4), 0.0, is_warm=True)
    assert run.counts(1.0).tails == {4: {bucket(9000): 1}}, "of four batches"


def test_what_is_left_of_a_batch_in_the_next_second_is_no_time_of_it():
    bench = warm(share=50)
    reply(bench, [1000], [9000], batch=4)
    bench.now += 1
    reply(bench, [1000] * 3, [9000] * 3, batch=4)
    bench.now += 1
    assert bench.counts().tails == {}


def test_replies_of_one_row_that_took_as_long_are_one_each():
    bench = warm(share=50)
    reply(bench, [1000] * 5, [9000, 1000, 1000, 1000, 1000])
    bench.now += 1
    assert bench.counts().tails == {1: {bucket(1000): 1}}


def test_a_worker_whose_core_another_process_uses_is_not_slower():
    bench = warm(share=50)
    reply(bench, [1000] * 3, [])
    for _ in range(3):
        bench.target()
        bench.done("target-0", us=9000, cpu_us=1000)
    bench.now += 1
    assert bench.counts().windows == {0: 1}
    assert bench.counts().target.service == bench.counts().stable.service


def test_a_second_with_fewer_than_three_replies_of_either_arm_gives_nothing():
    bench = warm(share=50)
    reply(bench, [1000] * 10, [1200] * 2)
    reply(bench, [1000] * 2, [1200] * 10, batch=2)
    bench.now += 1
    assert bench.counts().windows == {}


def test_a_second_compares_the_batch_size_of_which_both_arms_have_most():
    bench = warm(share=50)
    reply(bench, [1000] * 20, [2000] * 3, batch=1)
    reply(bench, [1000] * 4, [1000] * 4, batch=2)
    bench.now += 1
    assert bench.counts().windows == {0: 1}


def test_the_evidence_of_a_model_that_is_not_served_is_an_error():
    bench = Arms()
    reply, _ = bench.core.from_admin(m.GetEvidence(3, "cats"), 0.0)
    assert isinstance(reply, m.Ack)
    assert (reply.seq, reply.code) == (3, "unknown_model")


# ---- shadow copies


def dropped(bench: Arms) -> dict[str, float]:
    return {reason: n for (_, _, reason), n in bench.metric("shadow_dropped_total").items()}


def test_a_copy_goes_to_the_target_and_its_answer_to_nobody():
    bench = Arms(share=0, shadow=100)
    request_id = bench.submit()
    assert (len(bench.jobs("stable-0")), len(bench.jobs("target-0"))) == (1, 1)
    assert bench.jobs("target-0")[0].work == bench.jobs("stable-0")[0].work
    bench.done("target-0", 3)
    assert not bench.to_client
    bench.done("stable-0", 3)
    assert bench.answered() == [request_id]
    assert bench.last.version == "v1"
    counts = bench.counts()
    assert (counts.pairs, counts.disagreements, counts.target.answered, counts.target.routed) == (1, 0, 1, 0)


@pytest.mark.parametrize("first", ["stable-0", "target-0"])
def test_answers_of_other_classes_disagree_whichever_comes_first(first):
    bench = Arms(share=0, shadow=100)
    bench.submit()
    for name in sorted(("stable-0", "target-0"), key=lambda name: name != first):
        bench.done(name, 3 if name == first else 4)
    assert (bench.counts().pairs, bench.counts().disagreements) == (1, 1)
    assert bench.metric("shadow_pairs_total") == {("shapes", "v2", "no"): 1}
    assert bench.metric("shadow_sent_total") == bench.metric("shadow_answered_total") == {("shapes", "v2"): 1}


def test_what_was_counted_of_a_version_is_forgotten_when_it_is_removed_and_no_worker_holds_it():
    bench = Arms(share=0, shadow=100)
    bench.submit()
    bench.done("target-0")
    bench.from_worker("stable-0", m.Failed(bench.jobs("stable-0")[0].job, 1, "deadline_exceeded", "", "no"))
    assert bench.versions_counted() == {"v1", "v2"}
    bench.order(m.SetVersions, 1, "shapes", STABLE, None, {"v1": STABLE})
    assert bench.versions_counted() == {"v1", "v2"}, "a worker holds it still"
    for name in ("target-0", "stable-0"):
        bench.lose(name)
        bench.hello(name, "v3", incarnation=2)
    bench.order(m.SetVersions, 1, "shapes", "digest-v3", None, {"v3": "digest-v3"})
    assert bench.versions_counted() == set()
    assert bench.metric("expired_total") == {(): 1}, "a count without a version never goes back"


def test_the_eight_versions_are_counted_that_were_in_use_last():
    bench, digests = Arms(share=0, shadow=100), {"v1": STABLE}

    def roll_out(n: int, stable: str) -> None:
        digests[f"v{n}"] = f"digest-v{n}"
        bench.lose("target-0")
        bench.order(m.SetVersions, 1, "shapes", stable, f"digest-v{n}", digests)
        bench.hello("target-0", f"v{n}", incarnation=n)
        bench.submit(version=f"v{n}")
        bench.done("target-0")

    bench.submit(version="v1")
    bench.done("stable-0")
    for n in range(3, 30):
        roll_out(n, STABLE)
    assert bench.versions_counted() == {"v1", *(f"v{n}" for n in range(23, 30))}, (
        "v1 is stable, and counts among the eight"
    )
    bench.lose("stable-0")
    bench.hello("stable-0", "v29", incarnation=2)
    roll_out(30, "digest-v29")
    assert bench.versions_counted() == {"v1", *(f"v{n}" for n in range(24, 31))}, (
        "v23 was in use before v1 was for the last time"
    )


def test_all_versions_are_counted_that_are_in_use():
    """However many: workers may hold others than the two that may serve."""
    metrics, in_use = Metrics(), {f"v{n}" for n in range(12)}
    for version in in_use:
        metrics.ended("shapes", version, "ok")
    metrics.forget("shapes", in_use, in_use)
    assert {version for _, version, _ in metrics.requests} == in_use


def test_versions_of_another_model_are_counted_as_before():
    bench = Arms(share=0, shadow=100)
    bench.core.metrics.ended("digits", "v1", "ok")
    bench.order(m.SetVersions, 1, "shapes", STABLE, None, {"v1": STABLE})
    assert ("digits", "v1", "ok") in bench.core.metrics.requests


def test_metrics_of_callers_know_nothing_of_copies():
    bench = Arms(share=0, shadow=100)
    bench.submit()
    bench.done("target-0")
    bench.done("stable-0")
    metrics = bench.core.metrics
    assert metrics.requests == {("shapes", "v1", "ok"): 1}
    assert list(metrics.service_s) == list(metrics.queue_s) == list(metrics.total_s) == [("shapes", "v1")]
    assert metrics.late[()] == 0
    assert bench.core.roster.workers["target-0"].served == 0


def test_as_many_are_copied_as_the_policy_says():
    bench = Arms(share=0, shadow=30)
    for n in range(500):
        bench.submit(payload=b"%d" % n)
        bench.done("stable-0")
        if bench.core.roster.workers["target-0"].leases:
            bench.done("target-0")
    assert 110 < bench.counts().pairs < 190


def test_only_requests_that_stable_got_without_being_named_are_copied():
    bench = Arms(share=50, shadow=100)
    bench.submit(version="v1")
    bench.target()
    assert len(bench.jobs("target-0")) == 1
    bench.done("target-0")
    bench.done("stable-0")
    bench.stable()
    assert len(bench.jobs("target-0")) == 2


def test_the_same_payload_is_copied_once_in_a_run():
    bench = Arms(share=0, shadow=100)
    for payload in (b"one", b"two", b"one"):
        bench.submit(payload=payload)
        bench.done("stable-0")
        if bench.core.roster.workers["target-0"].leases:
            bench.done("target-0")
    assert (bench.counts().pairs, dropped(bench)) == (2, {"repeated": 1})
    bench.policy(0, 100)
    bench.submit(payload=b"one")
    assert len(bench.jobs("target-0")) == 3


def test_the_memory_of_what_was_copied_is_bounded(monkeypatch):
    monkeypatch.setattr(shadow, "MAX_COPIED", 2)
    bench = Arms(share=0, shadow=100)
    for n in range(4):
        bench.submit(payload=b"%d" % n)
        bench.done("stable-0")
        if n < 2:
            bench.done("target-0")
    assert (bench.counts().pairs, dropped(bench)) == (2, {"full": 2})


def test_a_copy_is_never_queued():
    bench = Arms(stable=2, target=1, share=0, shadow=100)
    bench.submit(payload=b"one")
    bench.submit(payload=b"two")
    assert (len(bench.jobs("target-0")), dropped(bench)) == (1, {"busy": 1})
    bench.done("target-0")
    assert len(bench.jobs("target-0")) == 1


def test_a_copy_does_not_take_a_worker_for_which_a_request_waits():
    bench = busy(stable=1, target=1, share=0, shadow=100, max_batch=1)
    later(bench, bench.submit)
    named = [later(bench, bench.submit, version="v2") for _ in range(2)]
    bench.finish("target-0")
    bench.finish("stable-0")
    assert leased(bench)["target-0"] == named[:1]
    assert dropped(bench) == {"busy": 1}


def test_a_request_that_comes_while_its_worker_computes_a_copy_waits_for_that_one_alone():
    bench = Arms(stable=2, target=1, share=50, shadow=100)
    bench.stable(payload=b"one")
    first, second = bench.target(), bench.target()
    bench.stable(payload=b"two")
    bench.done("target-0")
    assert leased(bench)["target-0"] == [first]
    bench.done("target-0")
    assert leased(bench)["target-0"] == [second]


@pytest.mark.parametrize("cause", ["exit", "hung", "new session"])
def test_a_copy_whose_worker_is_lost_is_dropped_and_nobody_notices(cause):
    bench = Arms(stable=1, target=2, share=0, shadow=100)
    request_id = bench.submit()
    holder = next(worker.name for worker in bench.core.roster if worker.leases and worker.version == "v2")
    bench.lose(holder, cause)
    assert not bench.to_client
    assert sum(len(bench.jobs(f"target-{n}")) for n in range(2)) == 1, "it is not tried again"
    pending = bench.core.dispatch._pending[request_id]
    assert (pending.kills, pending.is_suspect, pending.attempts) == (0, False, 1)
    bench.done("stable-0")
    assert bench.answered() == [request_id]
    assert (bench.counts().pairs, dropped(bench)) == (0, {"worker_lost": 1})
    assert bench.counts().target.errors == (cause != "new session")


def test_a_copy_that_fails_is_dropped_and_nobody_notices():
    bench = Arms(share=0, shadow=100)
    request_id = bench.submit()
    bench.from_worker("target-0", m.Failed(bench.jobs("target-0")[0].job, 1, "model_error", "?", "yes"))
    assert not bench.to_client
    bench.done("stable-0")
    assert bench.answered() == [request_id]
    assert (bench.counts().target.errors, bench.counts().pairs, dropped(bench)) == (1, 0, {"error": 1})


@pytest.mark.parametrize("end", ["cancelled", "expired", "failed"])
def test_a_pair_whose_original_ends_otherwise_is_dropped(end):
    bench = Arms(share=0, shadow=100)
    request_id = bench.submit(timeout_s=0.2)
    if end == "cancelled":
        bench.from_client(m.Cancel(request_id))
    elif end == "expired":
        bench.at(0.3)
    else:
        bench.from_worker("stable-0", m.Failed(bench.jobs("stable-0")[0].job, 1, "model_error", "?", "yes"))
    bench.done("target-0")
    assert (bench.counts().pairs, dropped(bench)) == (0, {"original": 1})
    assert bench.counts().target.answered == 1


def test_an_original_that_is_leased_again_is_not_copied_again():
    bench = Arms(stable=2, target=2, share=0, shadow=100)
    bench.submit()
    bench.lose(next(worker.name for worker in bench.core.roster if worker.leases and worker.version == "v1"))
    assert len(bench.jobs("target-0") + bench.jobs("target-1")) == 1
    bench.done(next(worker.name for worker in bench.core.roster if worker.leases and worker.version == "v1"))
    bench.done("target-0" if bench.jobs("target-0") else "target-1")
    assert bench.counts().pairs == 1


def test_an_original_that_the_target_answered_in_the_end_makes_no_pair():
    bench = Arms(stable=1, target=2, share=0, shadow=100)
    bench.submit()
    bench.policy(100, 100, number=1)
    bench.lose("stable-0", "new session")
    for worker in list(bench.core.roster):
        if worker.leases:
            bench.done(worker.name)
    assert (bench.counts().pairs, dropped(bench)) == (0, {"original": 1})


def test_answers_of_several_rows_are_not_compared():
    bench = Arms(share=0, shadow=100)
    bench.submit()
    bench.done("stable-0", -1)
    bench.done("target-0", -1)
    assert (bench.counts().pairs, dropped(bench)) == (0, {"no_class": 1})
    assert bench.counts().target.classes == {}


def test_a_pair_that_spans_two_policies_counts_for_neither():
    bench = Arms(share=0, shadow=100)
    bench.submit()
    bench.done("stable-0")
    bench.now += 0.1
    bench.policy(0, 100)
    bench.done("target-0")
    assert bench.counts() == Counts(2)


def test_a_copy_outlives_the_policy_and_does_no_harm():
    bench = Arms(share=0, shadow=100)
    request_id = bench.submit()
    bench.table(None, target=None)
    assert bench.state("target-0") is WorkerState.DRAINING
    bench.done("target-0")
    assert bench.state("target-0") is WorkerState.DRAINED
    bench.done("stable-0")
    assert bench.answered() == [request_id]


def test_a_copied_job_carries_what_is_left_of_the_deadline():
    bench = Arms(share=0, shadow=100)
    bench.from_client(m.Request(b"clientid" + bytes(8), None, None, 1, 2_000_000, WORK), b"x")
    assert bench.jobs("target-0")[0].budget_us == 2_000_000
