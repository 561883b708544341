"""What is seen of a rollout: the share of the requests in each phase that has some, as the broker has it."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from control.facts import Share
from control.sight import Sight, find, see
from hotpool.errors import BrokerUnreachable
from hotpool.evidence import Counts
from hotpool.messages import Report
from hotpool.states import Phase
from tests.fake_pool import MODEL, FakePool, World, fast_folder, settings
from tests.fake_traffic import Behaviour, Traffic

P = Phase
# A share in which no times are compared: windows of a second would make each test longer.
CANARY = settings(steps=("shadow", "20"), step_min_s=0.2, step_max_s=8.0, watch_s=6.0)


class Asked:
    """The fake pool's broker, as those ask it who look at a rollout."""

    def __init__(self, pool: FakePool, *, is_there: bool = True) -> None:
        self._pool, self._is_there = pool, is_there

    def report(self, timeout_s: float) -> Report:
        if not self._is_there:
            raise BrokerUnreachable("no broker answered")
        return self._pool.report()

    def evidence(self, model: str, timeout_s: float) -> Counts | None:
        return self._pool.evidence(model)


@pytest.fixture
def world() -> Iterator[World]:
    with fast_folder() as folder:
        world = World(folder, settings=CANARY)
        yield world
        world.close()


def look(world: World, *, is_there: bool = True) -> Sight:
    return see(world.last(), Asked(world.pool, is_there=is_there), 0.0, world.pool.now, 1.0, "")


def run_on(world: World, until: Callable[[], bool]) -> None:
    """Until it is so, and a tenth of a second more, so that some requests came since."""
    world.run(until)
    seen_at = world.pool.now
    world.run(lambda: world.pool.now > seen_at + 0.09)


def share(world: World) -> Share:
    found = look(world).share
    assert found is not None
    assert look(world).view()["share"] == {"asked": found.asked, "measured": found.measured}
    return found


def is_in_step(world: World, step: str) -> Callable[[], bool]:
    return lambda: world.last().phase is P.ANALYZING and world.last().step == step


def start_the_roll(world: World) -> None:
    """A rollout whose canary an operator cuts short, with traffic."""
    Traffic(world.pool, seed=1)
    world.start()
    world.run_to(P.ANALYZING)
    world.promote(full=True)
    world.run_to(P.ROLLING)


# ---- the share, phase by phase


def test_before_the_canary_has_begun_nothing_is_split(world: World) -> None:
    Traffic(world.pool, seed=1)
    world.start()
    for phase in (P.PENDING, P.PREFLIGHT):
        world.run_to(phase)
        assert look(world).share is None


def test_while_the_canary_worker_loads_the_target_gets_nothing(world: World) -> None:
    Traffic(world.pool, seed=1)
    world.start()
    run_on(world, lambda: world.last().phase is P.CANARY)
    assert (world.last().phase, share(world)) == (P.CANARY, Share(0.0, 0.0))


def test_in_the_shadow_the_target_gets_nothing(world: World) -> None:
    Traffic(world.pool, seed=1)
    world.start()
    run_on(world, is_in_step(world, "shadow"))
    assert share(world) == Share(0.0, 0.0)


def test_in_a_share_what_was_asked_for_and_what_came_stand_side_by_side(world: World) -> None:
    Traffic(world.pool, seed=1)
    world.start()
    run_on(world, is_in_step(world, "20"))
    found = share(world)
    assert found.asked == 20.0
    assert found.measured == pytest.approx(20.0, abs=10)


def test_without_requests_nothing_is_measured(world: World) -> None:
    world.start()
    world.run_to(P.ANALYZING)
    world.promote()
    run_on(world, is_in_step(world, "20"))
    assert share(world) == Share(20.0, None)


def test_while_all_workers_change_the_share_is_that_of_those_that_have(world: World) -> None:
    start_the_roll(world)
    run_on(world, lambda: len(world.last().steps) == 1)
    found = share(world)
    assert (world.last().phase, found.asked) == (P.ROLLING, 50.0)
    assert found.measured == pytest.approx(45.0, abs=15)


def test_in_the_bake_all_is_asked_for_and_what_came_looks_back_on_the_roll(world: World) -> None:
    start_the_roll(world)
    run_on(world, lambda: world.last().phase is P.BAKING)
    found = share(world)
    assert (world.last().phase, found.asked) == (P.BAKING, 100.0)
    assert found.measured is not None
    assert 50 < found.measured < 100


def test_on_the_way_back_the_target_gets_nothing_as_soon_as_stable_is_enough(world: World) -> None:
    traffic = Traffic(world.pool, seed=1)
    traffic.behaviours[world.digests["v2"]] = Behaviour(errors=0.5)
    world.start()
    run_on(world, lambda: world.last().phase is P.ROLLING_BACK)
    found = share(world)
    assert (world.last().phase, found.asked) == (P.ROLLING_BACK, 0.0)
    assert found.measured is not None


@pytest.mark.parametrize("errors", [0.001, 0.5])
def test_when_it_is_over_nothing_is_split_also_while_it_is_watched(world: World, errors: float) -> None:
    traffic = Traffic(world.pool, seed=1)
    traffic.behaviours[world.digests["v2"]] = Behaviour(errors=errors)
    world.start()
    over = world.run_to_end()
    assert look(world).share is None
    assert bool(look(world).verdicts) == (over.phase is P.SUCCEEDED), "it is watched, and judged"
    world.start("v3")
    assert look(world).share is None, "what the broker still counts is of the one before"


def test_a_rollout_that_judges_nothing_splits_nothing(world: World) -> None:
    world.settings = replace(CANARY, steps=())
    Traffic(world.pool, seed=1)
    world.start()
    world.run_to(P.ROLLING)
    assert look(world).share is None


def test_of_another_rollout_nothing_is_told_by_the_one_that_is_under_way(world: World) -> None:
    start_the_roll(world)
    world.run_to_end()
    world.start("v3")
    run_on(world, is_in_step(world, "20"))
    before = see(find(world.ledger(), MODEL, 1), Asked(world.pool), 0.0, world.pool.now, 1.0, "")
    assert (before.share, before.counts, before.verdicts) == (None, None, ())
    assert share(world).asked == 20.0


def test_without_a_broker_the_journals_part_is_seen(world: World) -> None:
    Traffic(world.pool, seed=1)
    world.start()
    world.run_to(P.ANALYZING)
    seen = look(world, is_there=False)
    assert (seen.workers, seen.share, seen.counts) == ((), None, None)
    assert {one.result for one in seen.verdicts} == {"inconclusive"}
