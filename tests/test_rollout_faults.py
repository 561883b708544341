"""Random faults while a rollout runs: whatever happens, the oracle of `World.check` holds. Each seed is one run."""

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from control.verdicts import GateSettings
from hotpool.errors import Conflict, NothingToDo
from hotpool.states import Phase, Strategy
from tests.fake_pool import World, fast_folder, settings
from tests.fake_traffic import Behaviour, Traffic

MAX_FAULTS = 8
RATE = 1000.0
CANARY = {
    "steps": ("shadow", "20"), "step_min_s": 0.5, "step_max_s": 5.0, "gates": GateSettings(min_windows=2, beta=0.4),
}  # fmt: skip
RETRIES = MAX_FAULTS + 1  # no budget runs out, so that each rollback succeeds


def crash_a_worker(world: World, rng: random.Random) -> None:
    world.pool.crash(rng.choice(list(world.pool.workers)))


def kill_the_controller(world: World, rng: random.Random) -> None:
    world.crash_at = world.crash_points + rng.randint(1, 6)


def restart_the_broker(world: World, rng: random.Random) -> None:
    world.pool.restart_broker()


def refuse_the_target(world: World, rng: random.Random) -> None:
    if rng.random() < 0.3:
        world.pool.bad[world.digests["v2"]] = "tensor fc.weight is not finite"


def let_the_target_err(world: World, rng: random.Random) -> None:
    if rng.random() < 0.3 and isinstance(world.pool.requests, Traffic):
        world.pool.requests.behaviours[world.digests["v2"]] = Behaviour(errors=0.3)


def stop_the_traffic(world: World, rng: random.Random) -> None:
    if isinstance(world.pool.requests, Traffic):
        world.pool.requests.rate = rng.choice([0.0, RATE])


def slow_down(world: World, rng: random.Random) -> None:
    world.pool.drain_s, world.pool.load_s = rng.uniform(0.01, 1.0), rng.uniform(0.01, 1.0)
    world.pool.restart_s = rng.uniform(0.1, 3.0)


def order(what: str) -> Callable[[World, random.Random], None]:
    def carry_out(world: World, rng: random.Random) -> None:
        with suppress(Conflict, NothingToDo):
            getattr(world, what)()

    return carry_out


FAULTS = [
    crash_a_worker,
    crash_a_worker,
    kill_the_controller,
    kill_the_controller,
    restart_the_broker,
    refuse_the_target,
    slow_down,
    let_the_target_err,
    stop_the_traffic,
    order("pause"),
    order("resume"),
    order("promote"),
    order("abort"),
]


def run(seed: int, folder: Path) -> World:
    rng = random.Random(seed)
    strategy = rng.choice([*Strategy])
    n_workers = rng.randint(2 if strategy is Strategy.DRAIN else 1, 5)
    limits = {"max_unavailable": rng.randint(1, max(1, n_workers - 1)), "max_worker_retries": RETRIES}
    canary = CANARY if n_workers > 1 and rng.random() < 0.5 else {}
    world = World(folder, n_workers, settings(**limits, **canary, strategy=strategy))
    Traffic(world.pool, seed, RATE)
    world.start("v2")
    n_faults = 0
    while not world.last().is_over:
        if n_faults < MAX_FAULTS and rng.random() < 0.04:
            n_faults += 1
            rng.choice(FAULTS)(world, rng)
        elif world.last().paused and (n_faults == MAX_FAULTS or rng.random() < 0.02):
            rng.choice([world.resume, world.promote])()
        world.turn()
        assert world.pool.now < 400, f"no end: {world.last()}"
    world.run_to_end()
    return world


def check(seed: int, folder: Path) -> Phase:
    world = run(seed, folder)
    try:
        world.check(Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.REJECTED)
        return world.last().phase
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    finally:
        world.close()


@pytest.mark.parametrize("seed", range(5))
def test_a_rollout_with_random_faults_ends_well(seed: int) -> None:
    with fast_folder() as folder:
        check(seed, folder)


@pytest.mark.slow
def test_hundreds_of_rollouts_with_random_faults_end_well_and_in_every_way() -> None:
    with fast_folder() as folder:
        ends = [check(seed, folder / str(seed)) for seed in range(1000, 1500)]
    counts = {phase: ends.count(phase) for phase in set(ends)}
    print("seeds 1000 to 1499:", counts)
    assert counts.keys() == {Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.REJECTED}
    assert min(counts.values()) >= 3
