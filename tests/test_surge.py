"""The strategy surge: a spare worker serves while an ordinary one is away. In virtual time, and with real processes."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from bench.callers import Callers
from control import orders
from control.actions import SetSpares, Undrain
from control.events import EventKind
from control.health import service_health
from control.intake import settings_for
from control.journal import Journal
from control.plan import parse_count
from control.rollout import Rollout
from hotpool import messages as m
from hotpool.admin import Admin
from hotpool.config import Config
from hotpool.config import Rollout as RolloutSection
from hotpool.errors import BadRollout
from hotpool.home import Home
from hotpool.states import Phase, Strategy, WorkerState, is_spare
from tests.fake_pool import MODEL, World, fast_folder, settings
from tests.pool import eventually
from tests.test_broker_core import Bench
from tests.test_prober import controlled, make_version, probed_pool
from tests.test_rollout import NEW, NOW, OLD, asked, rollout, view, worker
from workers.pinning import Plan
from workers.supervisor import Supervisor

K, S = EventKind, WorkerState


def surge_world(folder: Path, n_workers: int = 3, **changes: float) -> World:
    return World(folder, n_workers, settings(strategy=Strategy.SURGE, **changes))


@pytest.fixture
def world() -> Iterator[World]:
    with fast_folder() as folder:
        world = surge_world(folder)
        yield world
        world.close()


def spares(world: World) -> list[str]:
    return [name for name in world.pool.workers if is_spare(name)]


def stepped(world: World) -> list[str]:
    return [event.body["worker"] for event in world.journal.events() if event.kind is K.STEP_STARTED]


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_ready_workers_never_fall_below_all_of_them(n_workers: int, tmp_path: Path) -> None:
    world = surge_world(tmp_path, n_workers)
    world.start("v2")
    world.run_to_end()
    world.check(Phase.SUCCEEDED)
    world.undo()
    world.run_to_end()
    world.check(Phase.SUCCEEDED)
    assert world.pool.fewest_ready == n_workers
    assert stepped(world) == [f"worker-{n}" for n in range(n_workers)] * 2, "a spare needs no step"
    world.close()


def test_as_many_are_away_at_once_as_there_are_spares(tmp_path: Path) -> None:
    world = surge_world(tmp_path, 4, max_surge=2)
    world.start("v2")
    away: list[int] = []
    while not world.last().is_over:
        world.turn()
        away.append(sum(w.state is not S.READY for w in world.pool.workers.values() if not is_spare(w.name)))
    assert (max(away), world.pool.fewest_ready) == (2, 4)
    world.run_to_end()
    world.check(Phase.SUCCEEDED)
    world.close()


def test_spares_are_gone_before_the_bake_and_serve_only_stable(world: World) -> None:
    world.start("v2")
    world.run(lambda: bool(spares(world)) and world.pool.workers["spare-0"].state is S.READY)
    assert world.pool.workers["spare-0"].digest == world.digests["v1"]
    world.run_to(Phase.BAKING)
    assert spares(world) == []
    world.run_to_end()
    world.check(Phase.SUCCEEDED)


def test_no_spare_is_forked_before_the_preflight_has_passed(world: World) -> None:
    world.start("v2")
    world.run_to(Phase.PREFLIGHT)
    assert spares(world) == []
    world.abort()
    world.run_to_end()
    world.check(Phase.REJECTED)
    assert spares(world) == []


def test_a_bad_version_goes_back_with_nobody_missing(world: World) -> None:
    world.pool.bad[world.digests["v2"]] = "golden outputs differ by 3.1"
    world.start("v2")
    world.run_to_end()
    world.check(Phase.ROLLED_BACK)
    assert world.pool.fewest_ready == 3


def test_an_abort_while_baking_forks_a_spare_for_the_way_back(world: World) -> None:
    world.start("v2")
    world.run_to(Phase.BAKING)
    world.abort()
    world.run(lambda: bool(spares(world)))
    world.run_to_end()
    world.check(Phase.ROLLED_BACK)
    assert world.pool.fewest_ready == 3


def test_a_spare_that_never_comes_ends_the_rollout_before_anybody_has_left(world: World) -> None:
    world.pool.dead.add("spare-0")
    world.start("v2")
    world.run(lambda: world.last().is_over, turns=20_000)
    assert (world.last().phase, world.last().cause) == (Phase.ROLLED_BACK, "deadline")
    assert (world.pool.fewest_ready, stepped(world)) == (3, [])


@pytest.mark.parametrize("n_workers", [1, 3])
def test_on_the_way_back_a_spare_that_never_comes_is_not_waited_for(n_workers: int, tmp_path: Path) -> None:
    world = surge_world(tmp_path, n_workers)
    world.start("v2")
    world.run_to(Phase.BAKING)
    world.pool.dead.add("spare-0")
    world.abort()
    world.run_to_end()
    world.run(lambda: spares(world) == [])
    world.check(Phase.ROLLED_BACK)
    assert world.pool.fewest_ready == n_workers
    world.close()


def test_on_the_way_back_a_worker_that_is_gone_keeps_nobody_on_the_target(world: World) -> None:
    world.start("v2")
    world.run_to(Phase.BAKING)
    world.pool.floor = 2
    world.pool.dead.add("worker-2")
    world.pool.crash("worker-2")
    world.abort()
    world.run(lambda: world.last().is_over, turns=20_000)
    assert world.last().phase is Phase.ROLLED_BACK
    assert {worker.digest for worker in world.pool.workers.values() if worker.state is S.READY} == {world.digests["v1"]}
    assert (world.pool.fewest_ready, world.pool.wrong) == (2, [])


def test_an_undo_does_not_end_for_a_spare_that_stands_in_for_a_worker_that_is_gone(world: World) -> None:
    world.start("v2")
    world.run_to_end()
    world.undo()
    world.run(lambda: bool(spares(world)) and world.pool.workers["spare-0"].state is S.READY)
    world.pool.floor = 2
    world.pool.dead.add("worker-2")
    world.pool.crash("worker-2")
    world.run(lambda: world.last().is_over, turns=20_000)
    world.run(lambda: spares(world) == [])
    assert world.last().phase is Phase.SUCCEEDED
    assert {worker.digest for worker in world.pool.workers.values() if worker.state is S.READY} == {world.digests["v1"]}
    assert (world.pool.fewest_ready, world.pool.wrong) == (2, [])


def test_an_undo_keeps_the_spare_that_alone_answers(tmp_path: Path) -> None:
    world = surge_world(tmp_path, 1)
    world.start("v2")
    world.run_to_end()
    world.undo()
    world.run(lambda: bool(world.pool.workers["worker-0"].loading))
    assert world.pool.workers["spare-0"].state is S.READY
    world.pool.crash("worker-0")
    world.run_to_end()
    world.check(Phase.SUCCEEDED)
    assert world.pool.fewest_ready == 1
    world.close()


def test_a_spare_that_is_lost_is_waited_for(world: World) -> None:
    world.start("v2")
    world.run(lambda: any(worker.loading for worker in world.pool.workers.values()))
    world.pool.floor = 2  # what ends by itself does not ask
    world.pool.crash("spare-0")
    world.run_to_end()
    world.check(Phase.SUCCEEDED)


@pytest.mark.parametrize("phase", [Phase.ROLLING, Phase.BAKING])
def test_a_restarted_supervisor_is_told_again(world: World, phase: Phase) -> None:
    world.start("v2")
    world.run_to(phase)
    world.run(lambda: phase is Phase.BAKING or bool(spares(world)))
    world.pool.restart_supervisor()
    world.run_to_end()
    world.check(Phase.SUCCEEDED)


def test_a_restarted_broker_is_told_everything_again(world: World) -> None:
    world.start("v2")
    world.run(lambda: bool(world.last().ended_steps))
    world.pool.restart_broker()
    world.run_to_end()
    world.check(Phase.SUCCEEDED)


def test_a_pause_keeps_the_spare_until_the_workers_are_alike(world: World) -> None:
    world.start("v2")
    world.run(lambda: bool(world.last().ended_steps))
    world.pause()
    for _ in range(200):
        world.turn()
    assert spares(world) == ["spare-0"]
    world.resume()
    world.run_to_end()
    world.check(Phase.SUCCEEDED)


def test_a_spare_stays_while_it_stands_in_for_a_worker_that_is_down(world: World) -> None:
    world.start("v2")
    world.run(lambda: bool(world.last().ended_steps))
    world.pool.dead.add("worker-2")
    world.pool.crash("worker-2")
    world.abort()
    world.run(lambda: world.last().is_over, turns=20_000)
    for _ in range(100):
        world.turn()
    assert spares(world) == ["spare-0"]
    assert world.pool.ready() == 3
    world.pool.dead.clear()
    world.pool.become(world.pool.workers["worker-2"], S.STARTING)
    world.pool.become(world.pool.workers["worker-2"], S.READY)
    world.run(lambda: spares(world) == [])


def test_a_spare_is_no_reason_to_worry(world: World) -> None:
    world.start("v2")
    world.run(lambda: bool(spares(world)))
    report = world.pool.report()
    health = service_health(report, MODEL, stable=world.digests["v1"], has_controller=True)
    assert health.reasons == ()


def spare(state: WorkerState = S.READY) -> m.WorkerReport:
    return msgspec.structs.replace(worker(0, state), worker="spare-0")


ON_STABLE, ON_TARGET = (
    tuple(worker(n, digest=digest) for n in range(3)) for digest in (OLD, NEW)
)  # fmt: skip
BOOTING = (worker(0, S.STARTING, ""), *ON_TARGET[1:])

# phase, workers as the broker reports them, how many spares are ordered then (None: nothing is)
ORDERED: list[tuple[Phase, tuple[m.WorkerReport, ...], int | None]] = [
    (Phase.ROLLING, ON_STABLE, 1),
    (Phase.ROLLING, (*ON_STABLE, spare(S.STARTING)), None),
    (Phase.ROLLING, (*ON_TARGET, spare()), 0),
    (Phase.ROLLING, BOOTING, None),  # nothing moves until it is back
    (Phase.ROLLING, (*BOOTING, spare()), None),  # it stands in
    (Phase.ROLLING, ON_TARGET[:2], None),  # a broker that was just restarted has not heard of all
    (Phase.ROLLING, (*ON_TARGET[:2], spare()), None),
    (Phase.BAKING, (*ON_TARGET, spare()), 0),  # also when the bake is over: then the commit
    (Phase.BAKING, (worker(0), *ON_TARGET[1:]), 1),
    (Phase.ROLLING_BACK, ON_TARGET, 1),
    (Phase.ROLLED_BACK, (*ON_STABLE, spare()), 0),
    (Phase.ROLLED_BACK, (worker(0, S.DOWN), *ON_STABLE[1:], spare()), None),
]


@pytest.mark.parametrize(("phase", "workers", "n"), ORDERED)
def test_how_many_spares_are_ordered(phase: Phase, workers: tuple[m.WorkerReport, ...], n: int | None) -> None:
    made = rollout(phase, settings=settings(strategy=Strategy.SURGE))
    action = asked(made, view(*workers), NOW + 2)
    assert action == (None if n is None else SetSpares(n))


@pytest.mark.parametrize(
    ("state", "expected"), [(S.DRAINED, Undrain("spare-0")), (S.DRAINING, None), (S.STARTING, None)]
)
def test_a_spare_that_was_sent_away_and_is_needed_after_all_comes_back(state: WorkerState, expected: object) -> None:
    made = rollout(settings=settings(strategy=Strategy.SURGE))
    assert asked(made, view(*ON_STABLE, spare(state))) == expected


def test_a_share_that_comes_to_no_spare_is_refused() -> None:
    assert parse_count("50%", 4, "max_surge") == 2
    with pytest.raises(BadRollout, match="max_surge = 10% comes to no worker of 4"):
        parse_count("10%", 4, "max_surge")


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("nothing", ["0", "0%", "10%"])
def test_no_spare_at_all_is_refused_whenever_it_is_asked_for(strategy: Strategy, nothing: str) -> None:
    with pytest.raises(BadRollout, match=f"max_surge = {nothing} comes to no worker of 4"):
        settings_for(Config(), {"strategy": strategy, "max_surge": nothing}, 4)


def test_what_is_configured_for_surge_is_no_matter_for_another_strategy() -> None:
    config = Config(rollout=RolloutSection(max_surge="10%"))
    assert settings_for(config, {"strategy": "drain"}, 4).max_surge == 1
    assert settings_for(Config(), {"strategy": "drain", "max_surge": 3}, 4).max_surge == 1, (
        "there are no spares to wait for"
    )


# ---- the broker's part


def bench() -> Bench:
    bench = Bench(workers=2)
    bench.from_worker("supervisor", m.Seats("shapes", tuple(m.Seat(f"worker-{n}", 1, 1001, {}) for n in range(2))))
    return bench


def set_spares(bench: Bench, n: int, epoch: int = 1) -> str:
    return bench.order(m.SetSpares, epoch, "shapes", n)


def test_the_supervisor_is_told_and_told_again() -> None:
    made = bench()
    assert [set_spares(made, 1), set_spares(made, 1)] == ["", ""]
    assert made.to_worker["supervisor"][-2:] == [m.Spares(1)] * 2


def test_a_spare_that_goes_gets_no_more_requests_from_that_moment_on() -> None:
    made = bench()
    made.hello("spare-0")
    set_spares(made, 0)
    assert made.state("spare-0") is S.DRAINED
    assert made.order(m.Drain, 1, "worker-0", floor=2) == "conflict", "and it counts as gone"


def test_without_a_supervisor_and_for_an_earlier_controller_there_are_no_spares() -> None:
    assert set_spares(Bench(), 1) == "conflict"
    made = bench()
    set_spares(made, 1, epoch=2)
    assert set_spares(made, 2, epoch=1) == "stale_epoch"
    assert made.to_worker["supervisor"][-1] == m.Spares(1)


def test_a_spare_whose_seat_is_gone_is_forgotten() -> None:
    made = bench()
    made.hello("spare-0")
    made.do(made.core.lose(made.core.roster.workers["spare-0"], "exit", made.now))
    made.from_worker("supervisor", m.Seats("shapes", tuple(m.Seat(f"worker-{n}", 1, 1001, {}) for n in range(2))))
    assert "spare-0" not in made.core.roster.workers


# ---- the supervisor's part


def test_a_spare_is_pinned_to_the_cores_of_all(tmp_path: Path) -> None:
    # Not a whole supervisor: that would adopt the orphans of the process that tests.
    supervisor: Any = SimpleNamespace(_home=Home(tmp_path), _config=Config(), _plan=Plan(((0, 1), (4, 5)), 2))
    names = ("worker-0", "worker-1", "spare-0")
    cores = [Supervisor._settings(supervisor, name, n, 1).cores for n, name in enumerate(names)]
    assert cores == [(0, 1), (4, 5), (0, 1, 4, 5)]


# ---- real processes


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_rollout_and_its_undo_under_load_never_have_fewer_ready_workers(n_workers: int) -> None:
    pixels, chosen = np.zeros((8, 8, 3), np.uint8), settings(strategy=Strategy.SURGE, bake_s=0.1)
    with (
        probed_pool(n_workers) as made,
        controlled(made.home, interval_s=0.1) as journal,
        made.pool.client() as client,
        Admin(made.home.endpoint("admin"), watch=True) as admin,
        Callers(client, 2, lambda n: (pixels, None), lambda n, remembered, prediction: None) as callers,
    ):
        target = make_version(made.home, "v2")
        journal.append(K.VERSION_ADDED, model="default", operator="test", body={"name": "v2", "digest": target})
        callers.wait_for(50)
        admin.changes(0.1)
        workers = admin.report().workers
        orders.start(
            journal, model="default", version="v2", workers=workers, settings=chosen, operator="test"
        )  # fmt: skip
        assert end_of(journal) is Phase.SUCCEEDED
        assert {worker.digest for worker in admin.report().workers} == {target}
        orders.undo(journal, model="default", workers=admin.report().workers, settings=chosen, operator="test")
        assert end_of(journal) is Phase.SUCCEEDED
        callers.wait_for(50)
        changes = admin.changes(0.1)
        eventually(lambda: len(admin.report().workers) == n_workers, "the spare is gone")
    assert min(change.ready for change in changes) >= n_workers
    assert {change.worker for change in changes} == {"spare-0", *(f"worker-{n}" for n in range(n_workers))}
    assert callers.history.errors == []
    assert callers.history.lost == 0


def end_of(journal: Journal) -> Phase:
    def last() -> Rollout:
        rollout = orders.read(journal).last("default")
        assert rollout is not None
        return rollout

    eventually(lambda: last().is_over, "the rollout ends")
    return last().phase
