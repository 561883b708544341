"""The broker's core in a hostile world, and the faults that must not survive there."""

import pytest

from broker.core import Core
from broker.routing import Routing
from broker.waiting import Waiting
from tests.sim import Plan, World

N_SEEDS = 1000  # of the full run; split over worlds of different character

WORLDS = {
    "calm": Plan(crashes=0, hangs=0, broker_restarts=0, poison=0),
    "crashes": Plan(crashes=4, hangs=0, broker_restarts=0),
    "hangs": Plan(crashes=0, hangs=2, broker_restarts=0, poison=0),
    "starved": Plan(crashes=0, hangs=0, starvations=3, broker_restarts=0, poison=0),
    "starved, all": Plan(n_workers=2, n_requests=60, crashes=1, starvations=3, broker_restarts=1, beside=True),
    "blind": Plan(crashes=3, hangs=1, broker_restarts=0, sees_exits=False),
    "restarts": Plan(crashes=1, hangs=0, broker_restarts=3),
    "crowded": Plan(n_workers=2, n_requests=80, seconds=1.0, queue_max=10, crashes=1, broker_restarts=1),
    "all": Plan(n_workers=4, n_requests=60, crashes=3, hangs=1, broker_restarts=2, poison=2),
    "quiet versions": Plan(rollouts=False, crashes=3, broker_restarts=1),
    "beside": Plan(crashes=0, hangs=0, broker_restarts=0, poison=0, beside=True),
    "probed": Plan(n_workers=2, n_requests=80, crashes=2, hangs=1, broker_restarts=1, probes=60),
    "probed in a crowd": Plan(
        n_requests=300, seconds=3.0, crashes=1, hangs=0, poison=0, broker_restarts=0, rollouts=False, probes=60
    ),
    "beside, all": Plan(n_workers=2, n_requests=60, crashes=3, hangs=1, broker_restarts=2, poison=1, beside=True),
}


def problems(seed: int, plan: Plan, core_type: type[Core] = Core) -> list[str]:
    world = World(seed, plan, core_type)
    world.run()
    return world.verdict()


def sweep(plan: Plan, seeds: range, core_type: type[Core] = Core) -> list[str]:
    return [f"seed {seed}: {found}" for seed in seeds if (found := problems(seed, plan, core_type))]


@pytest.mark.parametrize("character", WORLDS)
def test_every_request_has_exactly_one_outcome_in_time(character):
    failed = sweep(WORLDS[character], range(3))
    assert not failed, f"{character}: {failed}"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("character", WORLDS)
def test_a_thousand_seeds(character):
    share = N_SEEDS // len(WORLDS)
    failed = sweep(WORLDS[character], range(1000, 1000 + share))
    assert not failed, f"{character}: {failed}"


# ---- planted faults: a simulation is trusted only when they die in it


class ForgetsLeases(Core):
    def lose(self, worker, cause, now):
        for lease in worker.leases.values():
            lease.pending = None
        return super().lose(worker, cause, now)


class RetriesForEver(Core):
    def lose(self, worker, cause, now):
        for lease in worker.leases.values():
            if lease.pending:
                lease.pending.kills = lease.pending.losses = 0
        return super().lose(worker, cause, now)


class NeverExpires(Core):
    def __init__(self, settings, now):
        super().__init__(settings, now)
        self.dispatch.expire = lambda now: []
        self.dispatch.next_deadline = lambda: None


class IgnoresOverdueLeases(Core):
    def _judge(self, worker, now):
        return []


class GivesUpWhoStarves(Core):
    def examined(self, name, *, is_runnable):
        super().examined(name, is_runnable=False)


class IgnoresTheFloor(Core):
    def _order_drain(self, order):
        return super()._order_drain(type(order)(order.seq, order.epoch, order.worker, floor=0))


class AdmitsAnyVersion(Core):
    def __init__(self, settings, now):
        super().__init__(settings, now)
        self.routing.admits = lambda model, digest: True


class NamesWhatServesNow(Core):
    """Whatever the version was when the job was sent."""

    def from_worker(self, connection, message, payload, now):
        worker = self.roster.of_connection(connection)
        for lease in worker.leases.values() if worker else ():
            lease.version, lease.digest = worker.version, worker.digest
        return super().from_worker(connection, message, payload, now)


class SaysServeTooLate(Core):
    """After the first jobs for the new version."""

    def from_worker(self, connection, message, payload, now):
        return sorted(
            super().from_worker(connection, message, payload, now), key=lambda action: "Serve" in repr(action)
        )


class SwapsInWhatMayNotServe(Core):
    def __init__(self, settings, now):
        super().__init__(settings, now)
        self.loads._routing = Routing("shapes", {})


class LoadsWhileServing(Core):
    def _order_drain(self, order):
        worker = self._ordered(order.epoch, order.worker)
        self.roster.set_version(worker, "v99", "digest-v99") if worker.leases else None
        return super()._order_drain(order)


class ForgetsIdleWorkers(Core):
    def __init__(self, settings, now):
        super().__init__(settings, now)
        offer, self.roster.offer = self.roster.offer, lambda worker: None
        self.roster.change_offer = offer


class ProbesBeforeRequests(Core):
    def __init__(self, settings, now):
        super().__init__(settings, now)
        feed, probes = self.dispatch.feed, self.dispatch.probes
        probes._waiting = Waiting()
        self.dispatch.feed = lambda worker, now: probes.feed(worker, now) or feed(worker, now)


class ForgetsProbes(Core):
    def __init__(self, settings, now):
        super().__init__(settings, now)
        self.dispatch.probes.refresh = list


class TakesAnyAnswer(Core):
    def from_worker(self, connection, message, payload, now):
        if type(message).__name__ == "Done":
            open_jobs = [job for worker in self.roster for job in worker.leases]
            holder = next((w for w in self.roster if w.leases and w.connection != connection), None)
            if holder and open_jobs:
                message = type(message)(next(iter(holder.leases)), message.service_us, message.result)
                connection = holder.connection
        return super().from_worker(connection, message, payload, now)


FAULTS = {
    ForgetsLeases: "crashes",
    RetriesForEver: "crashes",
    NeverExpires: "crowded",
    IgnoresOverdueLeases: "hangs",
    GivesUpWhoStarves: "starved",
    IgnoresTheFloor: "calm",
    AdmitsAnyVersion: "restarts",
    LoadsWhileServing: "calm",
    NamesWhatServesNow: "beside",
    SaysServeTooLate: "beside",
    SwapsInWhatMayNotServe: "beside",
    ForgetsIdleWorkers: "calm",
    ProbesBeforeRequests: "probed in a crowd",
    ForgetsProbes: "probed",
    TakesAnyAnswer: "crowded",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_dies(fault):
    plan = WORLDS[FAULTS[fault]]
    assert any(problems(seed, plan, fault) for seed in range(30)), f"{fault.__name__} survived 30 seeds"
