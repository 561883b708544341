"""Requests split between two versions in a hostile world, and the faults that must not survive there."""

from collections import Counter
from dataclasses import replace
from itertools import count
from math import inf

import pytest

from broker.actions import ToClient
from broker.core import Core
from hotpool import messages as m
from tests.sim import Plan, World
from tests.test_simulation import problems, sweep

N_SPLIT = 50_000  # leases of requests that a policy splits, in the full run

WORLDS = {
    "drain": Plan(n_workers=4, n_requests=60, seconds=3, crashes=3, hangs=1, broker_restarts=0, arms=True),
    "beside": Plan(
        n_workers=3, n_requests=60, seconds=3, crashes=3, hangs=1, broker_restarts=0, beside=True, arms=True
    ),
    "restarts": Plan(n_workers=4, n_requests=60, seconds=3, crashes=2, hangs=0, broker_restarts=3, arms=True),
    "untold": Plan(
        n_workers=3, n_requests=100, seconds=4, crashes=2, hangs=0, broker_restarts=3, silences=3, arms=True
    ),
    "untold at the end": Plan(
        n_workers=2, n_requests=150, seconds=5, crashes=0, hangs=0, broker_restarts=1, silences=1, arms=True
    ),
    "crowded": Plan(
        n_workers=3, n_requests=120, seconds=1, queue_max=30, crashes=2, broker_restarts=0, beside=True, arms=True
    ),
}


@pytest.mark.parametrize("character", WORLDS)
def test_every_request_goes_to_its_arm_and_has_exactly_one_outcome(character):
    failed = sweep(WORLDS[character], range(3))
    assert not failed, f"{character}: {failed}"


class Unchecked(Core):
    """Without the invariants, two thirds of the time: in so many requests it is the judge who looks, at every lease."""

    def check(self):
        pass


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_of_fifty_thousand_requests_none_outside_its_share_gets_the_target():
    seen: Counter[str] = Counter()
    common = Plan(n_workers=4, n_requests=200, seconds=6, crashes=4, hangs=1, arms=True)
    plans = [
        replace(common, broker_restarts=n, silences=n, beside=beside) for n in (0, 0, 0, 2) for beside in (False, True)
    ]
    seeds = count(5000)
    while seen["split"] < N_SPLIT:
        seed = next(seeds)
        world = World(seed, plans[seed % len(plans)], Unchecked)
        world.run()
        assert world.judge
        assert not world.verdict(), f"seed {seed}"
        seen += world.judge.seen
        seen["requests"] += len(world.judge.requests)
    print(dict(seen))
    least = {
        "outside the share": 20_000,
        "to the target, of a share below 100": 5000,
        "fell back to stable": 1000,
        "copies": 2000,
        "untold, while others are ready too": 1000,
        "untold, and stable is missing": 10,
    }
    assert all(seen[what] >= n for what, n in least.items()), seen


# ---- planted faults


class TakesWorkersAtTheirWord(Core):
    """As long as nobody has said otherwise any may answer."""

    def __init__(self, settings, now):
        super().__init__(settings, now)
        self.routing.untold = dict
        self.arms.presumed = {}


class WaitsNotAtAll(Core):
    def __init__(self, settings, now):
        super().__init__(settings, now)
        self.arms.wait_ends_at = now


class WaitsForStableForEver(Core):
    def __init__(self, settings, now):
        super().__init__(settings, now)
        self.arms.wait_ends_at = inf


class TakesAnyAfterTheWait(Core):
    """Although workers with the stable version are ready."""

    def __init__(self, settings, now):
        super().__init__(settings, now)
        untold = self.routing.untold
        self.routing.untold = lambda: untold() if self.arms._is_waiting else {}


class KeepsToStableWhenTold(Core):
    def __init__(self, settings, now):
        super().__init__(settings, now)
        self.routing.untold = lambda: settings.stable


class ForgetsToLookWhenTheWaitIsOver(Core):
    def __init__(self, settings, now):
        super().__init__(settings, now)
        self.arms.is_due = lambda now: False


class RoutesByLeastLoaded(Core):
    def __init__(self, settings, now):
        super().__init__(settings, now)
        self.arms.goes_to = lambda pending: pending.version


class FallsBackTheWrongWay(Core):
    """Stable's arm goes to the target while no worker of stable is ready."""

    def __init__(self, settings, now):
        super().__init__(settings, now)
        goes_to = self.arms.goes_to

        def wrong(pending):
            split = self.arms.splits.get(pending.model)
            ready = {worker.digest for worker in self.roster if worker.state == "ready"}
            lost = split and pending.version is None and split.stable not in ready and split.has_target
            return split.target if lost else goes_to(pending)

        self.arms.goes_to = wrong


class NeverFallsBack(Core):
    def __init__(self, settings, now):
        super().__init__(settings, now)
        goes_to = self.arms.goes_to

        def wrong(pending):
            split = self.arms.splits.get(pending.model)
            if split and pending.version is None and not split.has_target and split.policy.share == 100:
                return split.target
            return goes_to(pending)

        self.arms.goes_to = wrong


class ReroutesWhatNamesAVersion(Core):
    def __init__(self, settings, now):
        super().__init__(settings, now)
        goes_to = self.arms.goes_to

        def wrong(pending):
            split = self.arms.splits.get(pending.model)
            return split.stable if split else goes_to(pending)

        self.arms.goes_to = wrong


class ForgetsToRouteAnew(Core):
    def __init__(self, settings, now):
        super().__init__(settings, now)
        self.dispatch._waiting.route_anew = lambda model, goes_to: None


class AnswersFromTheShadow(Core):
    """Whoever is first."""

    def from_worker(self, connection, message, payload, now):
        worker = self.roster.of_connection(connection)
        lease = worker.leases.get(getattr(message, "job", -1)) if worker else None
        first = next((p for p in self.dispatch._pending.values() if lease and p.pair and p.pair is lease.pair), None)
        actions = super().from_worker(connection, message, payload, now)
        if first and isinstance(message, m.Done):
            self.dispatch.cancel(first.id, first.client)
            reply = m.Reply(first.id, first.model, lease.version, lease.digest, worker.name, 1, 0, 0, message.result)
            actions.append(ToClient(first.client, reply))
        return actions


class WaitsForTheShadow(Core):
    """The caller gets its answer when the copy has been answered too."""

    def __init__(self, settings, now):
        super().__init__(settings, now)
        self.held = []

    def from_worker(self, connection, message, payload, now):
        worker = self.roster.of_connection(connection)
        lease = worker.leases.get(getattr(message, "job", -1)) if worker else None
        pair = lease.pending.pair if lease and lease.pending else None
        if isinstance(message, m.Done) and pair and not pair.is_over and pair.copy is None:
            self.held.append((connection, message, payload))
            return []
        actions = super().from_worker(connection, message, payload, now)
        held, self.held = self.held, []
        for connection, message, payload in held:
            actions += self.from_worker(connection, message, payload, now)
        return actions


class CopiesToBusyWorkers(Core):
    def __init__(self, settings, now):
        super().__init__(settings, now)
        self.dispatch._shadow._roster = self
        self.open_lease = self.roster.open_lease

    def next_free(self, model, version):
        return next((w for w in self.roster if w.digest == version and w.state == "ready"), None)

    def __iter__(self):
        return iter(self.roster)


class TriesACopyAgain(Core):
    """The request of a copy whose worker is lost is queued once more."""

    def lose(self, worker, cause, now):
        for lease in worker.leases.values():
            if lease.pair:
                pair = lease.pair
                lease.pending = next((p for p in self.dispatch._pending.values() if p.pair is pair), None)
        return super().lose(worker, cause, now)


FAULTS = {
    TakesWorkersAtTheirWord: "untold",
    WaitsNotAtAll: "untold",
    WaitsForStableForEver: "untold at the end",
    TakesAnyAfterTheWait: "untold at the end",
    KeepsToStableWhenTold: "untold",
    ForgetsToLookWhenTheWaitIsOver: "untold at the end",
    RoutesByLeastLoaded: "drain",
    FallsBackTheWrongWay: "drain",
    NeverFallsBack: "drain",
    ReroutesWhatNamesAVersion: "drain",
    ForgetsToRouteAnew: "drain",
    AnswersFromTheShadow: "beside",
    WaitsForTheShadow: "beside",
    CopiesToBusyWorkers: "beside",
    TriesACopyAgain: "drain",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_dies(fault):
    plan = WORLDS[FAULTS[fault]]
    assert any(problems(seed, plan, fault) for seed in range(30)), f"{fault.__name__} survived 30 seeds"
