"""The controller is killed before and after everything it does, and started again: promise 7."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from control.events import EventKind
from control.rollout import Rollout, Step
from control.verdicts import GateSettings
from control.view import Finding
from hotpool.states import Phase, Strategy
from tests.fake_pool import World, fast_folder, settings
from tests.fake_traffic import Behaviour, Traffic

K = EventKind
TICK_S = 0.1  # between looks of who has nothing to do; it is killed where it acts. With 0.05 it took two thirds longer
Scenario = Callable[[World], None]


def rollout(world: World) -> None:
    world.start("v2")


def rollback_for_a_bad_version(world: World) -> None:
    world.pool.bad[world.digests["v2"]] = "golden outputs differ"
    world.start("v2")


def rollback_by_abort_in_a_load(world: World) -> None:
    world.start("v2")
    world.run(lambda: any(worker.loading for worker in world.pool.workers.values()))
    world.abort()


def rollback_by_abort_after_one_step(world: World) -> None:
    world.start("v2")
    world.run(lambda: bool(world.last().ended_steps))
    world.abort()


def rollback_while_another_worker_is_gone(world: World) -> None:
    world.start("v2")
    world.run(lambda: len(world.last().ended_steps) == 2)
    world.pool.restart_s = 1.0
    world.pool.crash("worker-2")
    world.abort()
    world.run(lambda: any(step.strategy is Strategy.BESIDE for step in steps_of(world.last())))


def steps_of(rollout: Rollout) -> list[Step]:
    return [*rollout.ended_steps, *rollout.steps.values()]


def abort_while_baking(world: World) -> None:
    world.start("v2")
    world.run_to(Phase.BAKING)
    world.abort()


def undo(world: World) -> None:
    world.start("v2")
    world.run_to_end()
    world.undo()


def through_a_canary(world: World) -> None:
    Traffic(world.pool, seed=1)
    world.start("v2")


def rollback_by_a_gate(world: World) -> None:
    traffic = Traffic(world.pool, seed=1)
    traffic.behaviours[world.digests["v2"]] = Behaviour(errors=0.5)
    world.start("v2")


def paused_inconclusive_and_promoted(world: World) -> None:
    """Nobody asks."""
    world.start("v2")
    world.run(lambda: world.last().paused)
    world.promote()


def taken_back_after_the_commit(world: World) -> None:
    traffic = Traffic(world.pool, seed=1)
    world.start("v2")
    world.run_to(Phase.SUCCEEDED)
    traffic.behaviours[world.digests["v2"]] = Behaviour(errors=0.5)
    world.run(lambda: world.last().number == 2)


def rejection(world: World) -> None:
    world.preflight.finding = Finding(False, "no such tensor")
    world.start("v2")


_STEP = (K.STEP_STARTED, K.STEP_DRAINED, K.STEP_LOADED, K.STEP_FINISHED)
_BACK = (K.STEP_STARTED, K.STEP_LOADED, K.STEP_FINISHED)
_CANARY = (K.PREFLIGHT_STARTED, K.CANARY_STARTED, *_STEP, K.ANALYSIS_STARTED)
_FORWARD = (K.PREFLIGHT_STARTED, K.PREFLIGHT_PASSED, *_STEP, K.BAKE_STARTED, K.COMMIT_STARTED, K.SUCCEEDED)

# Of the controller; each is killed before and after.
EXPECTED_EVENTS: dict[Scenario, tuple[EventKind, ...]] = {
    rollout: _FORWARD,
    rollback_for_a_bad_version: (K.PREFLIGHT_PASSED, *_STEP, K.STEP_FAILED, K.ROLLBACK_STARTED, K.ROLLED_BACK),
    rollback_by_abort_after_one_step: (*_STEP, K.ROLLBACK_STARTED, K.ROLLED_BACK),
    rollback_by_abort_in_a_load: (K.STEP_STARTED, K.ROLLBACK_STARTED, *_BACK, K.ROLLED_BACK),
    rollback_while_another_worker_is_gone: (*_STEP, K.ROLLBACK_STARTED, *_BACK, K.ROLLED_BACK),
    abort_while_baking: (*_STEP, K.BAKE_STARTED, K.ROLLBACK_STARTED, K.ROLLED_BACK),
    undo: _FORWARD,
    rejection: (K.PREFLIGHT_STARTED, K.REJECTED),
    through_a_canary: (*_CANARY, K.JUDGED, K.ROLL_STARTED, K.BAKE_STARTED, K.COMMIT_STARTED, K.SUCCEEDED),
    rollback_by_a_gate: (*_CANARY, K.JUDGED, K.ROLLBACK_STARTED, K.ROLLED_BACK),
    paused_inconclusive_and_promoted: (*_CANARY, K.JUDGED, K.ROLL_STARTED, K.BAKE_STARTED, K.SUCCEEDED),
    taken_back_after_the_commit: (*_CANARY, K.SUCCEEDED, K.ROLLOUT_CREATED, *_FORWARD),
}

_GATES = GateSettings(min_windows=3, beta=0.4)
_ONE_STEP = {"steps": ("shadow",), "step_min_s": 0.3, "step_max_s": 0.6, "bake_s": 0.3}
SETTINGS: dict[Scenario, dict[str, Any]] = {
    through_a_canary: _ONE_STEP | {"steps": ("shadow", "25"), "step_max_s": 10.0, "watch_s": 1.0, "gates": _GATES},
    rollback_by_a_gate: _ONE_STEP,
    paused_inconclusive_and_promoted: _ONE_STEP,
    taken_back_after_the_commit: _ONE_STEP | {"step_max_s": 10.0, "watch_s": 2.0},
}

# With the strategy beside nothing is drained, and a worker that refused the target has never left the stable version.
NOT_BESIDE: dict[Scenario, set[EventKind]] = {
    rollback_for_a_bad_version: {K.STEP_DRAINED, K.STEP_LOADED, K.STEP_FINISHED}
}

ENDS: dict[Scenario, Phase] = {
    rollout: Phase.SUCCEEDED,
    rollback_for_a_bad_version: Phase.ROLLED_BACK,
    rollback_by_abort_after_one_step: Phase.ROLLED_BACK,
    rollback_by_abort_in_a_load: Phase.ROLLED_BACK,
    rollback_while_another_worker_is_gone: Phase.ROLLED_BACK,
    abort_while_baking: Phase.ROLLED_BACK,
    undo: Phase.SUCCEEDED,
    rejection: Phase.REJECTED,
    through_a_canary: Phase.SUCCEEDED,
    rollback_by_a_gate: Phase.ROLLED_BACK,
    paused_inconclusive_and_promoted: Phase.SUCCEEDED,
    taken_back_after_the_commit: Phase.SUCCEEDED,
}


def every_crash_point(folder: Path, scenario: Scenario, strategy: Strategy) -> Iterator[World]:
    """One finished run for each point, until a run has no more to be killed at."""
    for crash_at in count(1):
        world = World(folder / str(crash_at), settings=settings(strategy=strategy, **SETTINGS.get(scenario, {})))
        world.crash_at, world.tick_s = crash_at, TICK_S
        scenario(world)
        world.run_to_end()
        if not world.crashed_in:
            assert world.kills == 0
            world.close()
            return
        yield world
        world.close()


# With spares nothing else is decided than with `drain` but when they come and go: that is in these.
WITH_SPARES = (rollout, rollback_by_abort_after_one_step, rollback_while_another_worker_is_gone, undo)
PLAYED = [
    *((scenario, strategy) for scenario in ENDS for strategy in (Strategy.DRAIN, Strategy.BESIDE)),
    *((scenario, Strategy.SURGE) for scenario in WITH_SPARES),
]


@pytest.mark.slow
@pytest.mark.parametrize(("scenario", "strategy"), PLAYED, ids=lambda value: getattr(value, "__name__", value))
def test_killed_at_any_point_it_ends_as_if_it_had_not_been(scenario: Scenario, strategy: Strategy) -> None:
    points = []
    missing = NOT_BESIDE.get(scenario, {K.STEP_DRAINED}) if strategy is Strategy.BESIDE else set()
    expected = [kind for kind in EXPECTED_EVENTS[scenario] if kind not in missing]
    with fast_folder() as folder:
        for world in every_crash_point(folder, scenario, strategy):
            points.append(world.crashed_in)
            try:
                world.check(ENDS[scenario])
                assert world.kills == 1
            except AssertionError as error:
                raise AssertionError(f"killed {world.crashed_in}: {error}") from error
    print(f"{scenario.__name__}: killed at {len(points)} points")
    assert len(points) >= 2 * len(expected)
    for kind in expected:
        assert any(f"before Record(kind={kind!r}" in point for point in points), f"never killed before {kind}"
        assert any(f"after Record(kind={kind!r}" in point for point in points), f"never killed after {kind}"
