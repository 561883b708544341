"""Orders: what is written to the journal, and what is refused with which words."""

import threading
from contextlib import suppress
from dataclasses import replace

import pytest

from control import intake, orders
from control.events import EventKind
from control.journal import Journal
from control.rollout import Kind
from hotpool.config import Config
from hotpool.errors import BadRollout, BadVersion, Conflict, HotpoolError, NothingToDo
from hotpool.messages import WorkerReport
from hotpool.states import Phase, Strategy, WorkerState
from tests.fake_pool import MODEL, OPERATOR, World, fast_folder, settings

K = EventKind


@pytest.fixture
def world():
    with fast_folder() as folder:
        world = World(folder)
        yield world
        world.close()


def last_event(world: World):
    return world.journal.events()[-1]


def test_start_writes_down_who_what_and_why(world: World) -> None:
    rollout = world.start("v2")
    event = last_event(world)
    assert (event.kind, event.rollout, event.operator) == (K.ROLLOUT_CREATED, 1, OPERATOR)
    assert event.body["reason"] == "better weights"
    assert (rollout.stable_name, rollout.target_name, rollout.kind) == ("v1", "v2", Kind.START)
    assert rollout.workers == ("worker-0", "worker-1", "worker-2")
    assert rollout.settings == world.settings
    assert replace(rollout, since=0.0) == replace(world.last(), since=0.0)


def test_start_of_the_stable_version_changes_nothing(world: World) -> None:
    before = world.journal.last_seq()
    assert (
        orders.start(
            world.journal, model=MODEL, version="v1", workers=world.pool.report().workers, settings=world.settings,
            operator=OPERATOR,
        )
        is None
    )  # fmt: skip
    assert world.journal.last_seq() == before


def test_start_takes_the_beginning_of_a_digest(world: World) -> None:
    assert world.start(world.digests["v2"][:10]).target == world.digests["v2"]


def test_an_unknown_version_is_refused_with_the_known_ones(world: World) -> None:
    with pytest.raises(BadVersion, match="known are v1, v2, v3"):
        world.start("v9")


def test_a_second_start_names_the_rollout_under_way(world: World) -> None:
    world.start("v2")
    with pytest.raises(Conflict, match=r"rollout 1 \(v1 -> v2\) is pending; wait .* abort"):
        world.start("v3")
    with pytest.raises(Conflict, match="rollout 1"):
        world.start("v1")


def test_numbers_go_on_after_a_rollout_has_ended(world: World) -> None:
    world.start("v2")
    world.run_to_end()
    assert world.start("v3").number == 2


@pytest.mark.parametrize(
    ("n_workers", "max_unavailable", "message"),
    [
        (1, 1, "--strategy beside"),
        (0, 1, "no workers of model"),
        (3, 3, "allowed are 1 to 2"),
        (2, 9, "allowed are 1 to 1"),
    ],
)
def test_a_rollout_without_a_floor_is_refused(world: World, n_workers: int, max_unavailable: int, message: str) -> None:
    others = (WorkerReport("other", WorkerState.READY, "another model"),)
    with pytest.raises(BadRollout, match=message):
        orders.start(
            world.journal, model=MODEL, version="v2", workers=(*world.pool.report().workers[:n_workers], *others),
            settings=settings(max_unavailable=max_unavailable), operator=OPERATOR,
        )  # fmt: skip


def test_abort_is_written_once_and_says_who(world: World) -> None:
    world.start("v2")
    assert world.abort().abort == f"aborted by {OPERATOR}: changed my mind"
    seq = world.journal.last_seq()
    world.abort()
    assert world.journal.last_seq() == seq


def test_abort_clears_a_pause(world: World) -> None:
    world.start("v2")
    world.pause()
    assert not world.abort().paused
    with pytest.raises(NothingToDo):
        world.resume()
    with pytest.raises(Conflict, match="can't be paused"):
        world.pause()


@pytest.mark.parametrize("order", ["abort", "pause", "resume"])
def test_of_two_equal_orders_at_once_one_counts(world: World, order: str) -> None:
    """The second must not look before the first is done with looking and writing."""
    world.start("v2")
    if order == "resume":
        world.pause()
    done = threading.Event()

    def order_too() -> None:
        with Journal(world.home.database) as journal, suppress(NothingToDo):
            getattr(orders, order)(journal, model=MODEL, operator="bob@example")
        done.set()

    other = threading.Thread(target=order_too)
    with world.journal.transaction():
        other.start()
        assert not done.wait(0.05)
        getattr(world, order)()
        seq = world.journal.last_seq()
    other.join(10)
    assert done.is_set()
    assert world.journal.last_seq() == seq


def test_of_two_starts_at_once_one_is_refused(world: World) -> None:
    refused = threading.Event()

    def start_too() -> None:
        with Journal(world.home.database) as journal:
            try:
                orders.start(
                    journal, model=MODEL, version="v3", workers=world.pool.report().workers, settings=world.settings,
                    operator="bob@example",
                )  # fmt: skip
            except Conflict:
                refused.set()

    other = threading.Thread(target=start_too)
    with world.journal.transaction():
        other.start()
        assert not refused.wait(0.05)
        world.start("v2")
    other.join(10)
    assert refused.is_set()


# order, phase it is given in, what it raises; None: it is taken
ORDERS_BY_PHASE: list[tuple[str, Phase, type[HotpoolError] | None]] = [
    ("abort", Phase.PENDING, None),
    ("abort", Phase.PREFLIGHT, None),
    ("abort", Phase.ROLLING, None),
    ("abort", Phase.BAKING, None),
    ("abort", Phase.COMMITTING, NothingToDo),
    ("abort", Phase.ROLLING_BACK, None),
    ("abort", Phase.SUCCEEDED, NothingToDo),
    ("abort", Phase.ROLLED_BACK, NothingToDo),
    ("pause", Phase.PENDING, None),
    ("pause", Phase.PREFLIGHT, None),
    ("pause", Phase.ROLLING, None),
    ("pause", Phase.BAKING, None),
    ("pause", Phase.COMMITTING, Conflict),
    ("pause", Phase.ROLLING_BACK, Conflict),
    ("pause", Phase.SUCCEEDED, NothingToDo),
    ("resume", Phase.ROLLING, NothingToDo),
    ("resume", Phase.SUCCEEDED, NothingToDo),
]


@pytest.mark.parametrize(("order", "phase", "error"), ORDERS_BY_PHASE)
def test_what_may_be_ordered_when(world: World, order: str, phase: Phase, error: type[HotpoolError] | None) -> None:
    if phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK):
        world.pool.bad[world.digests["v2"]] = "NaN"
    world.start("v2")
    world.run_to(phase)
    if error is None:
        assert getattr(world, order)().phase is phase
    else:
        with pytest.raises(error):
            getattr(world, order)()


def test_abort_past_the_point_of_no_return_points_to_undo(world: World) -> None:
    world.start("v2")
    world.run_to(Phase.COMMITTING)
    with pytest.raises(NothingToDo, match="is committing: nothing to abort, use: hotpool rollout undo"):
        world.abort()


def test_no_order_without_a_rollout(world: World) -> None:
    for order in (world.abort, world.pause, world.resume):
        with pytest.raises(NothingToDo, match="no rollout of model 'shapes' is under way"):
            order()
    with pytest.raises(NothingToDo, match="no earlier stable version"):
        world.undo()


def test_pausing_twice_and_resuming_twice_say_so(world: World) -> None:
    world.start("v2")
    world.pause()
    with pytest.raises(NothingToDo, match="paused already"):
        world.pause()
    assert not world.resume().paused
    with pytest.raises(NothingToDo, match="not paused"):
        world.resume()


def test_undo_goes_to_the_version_before(world: World) -> None:
    world.start("v2")
    world.run_to_end()
    rollout = world.undo()
    assert (rollout.kind, rollout.stable_name, rollout.target_name) == (Kind.UNDO, "v2", "v1")


def test_an_undo_that_names_the_last_rollout_is_refused_when_there_is_another(world: World) -> None:
    world.start("v2")
    world.run_to_end()
    world.start("v3")
    with pytest.raises(Conflict, match=r"rollout 1 is not the last one, rollout 2 \(v2 -> v3\) is pending; look at it"):
        world.undo(number=1)
    assert not world.last().abort
    assert world.undo(number=2).abort, "the one under way"


def test_undo_to_a_removed_version_is_refused(world: World) -> None:
    world.start("v2")
    world.run_to_end()
    world.append(K.VERSION_REMOVED, name="v1", digest=world.digests["v1"])
    with pytest.raises(BadVersion, match="was removed"):
        world.undo()


@pytest.mark.parametrize(("chosen", "strategy"), [({}, Strategy.BESIDE), ({"strategy": "surge"}, Strategy.SURGE)])
def test_an_undo_goes_the_way_the_stable_version_came_unless_it_is_told_otherwise(
    world: World, chosen: dict[str, str], strategy: Strategy
) -> None:
    world.settings = settings(strategy=Strategy.BESIDE)
    world.start("v2")
    world.run_to_end()
    undo = intake.undo(
        world.journal, Config(), model=MODEL, workers=world.pool.report().workers, chosen=chosen, operator=OPERATOR,
        reason="", dry_run=False,
    )  # fmt: skip
    assert undo.settings.strategy is strategy


# ---- undo while a rollout is under way


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.PREFLIGHT, Phase.ROLLING, Phase.BAKING])
@pytest.mark.parametrize("is_paused", [False, True])
def test_an_undo_of_a_rollout_under_way_aborts_it(world: World, phase: Phase, is_paused: bool) -> None:
    world.start("v2")
    world.run_to(phase)
    if is_paused:
        world.pause()
    undone = world.undo()
    assert (undone.number, undone.kind, undone.paused) == (1, Kind.START, False)
    assert undone.abort == f"aborted by {OPERATOR}"
    event = last_event(world)
    assert (event.kind, event.operator, event.body["verb"]) == (K.ABORT_REQUESTED, OPERATOR, "undo")
    world.undo()
    assert last_event(world) == event, "a second one adds nothing"
    world.run_to_end()
    world.check(Phase.REJECTED if phase in (Phase.PENDING, Phase.PREFLIGHT) else Phase.ROLLED_BACK)
    assert world.ledger().stable(MODEL) == world.digests["v1"]


def test_an_undo_past_the_point_of_no_return_waits_for_the_end(world: World) -> None:
    world.start("v2")
    world.run_to(Phase.COMMITTING)
    with pytest.raises(Conflict, match=r"is committing; wait for its end$"):
        world.undo()
    world.run_to_end()
    assert world.undo().target_name == "v1"


def test_an_undo_of_an_undo_under_way_does_not_bring_the_bad_version_back(world: World) -> None:
    world.start("v2")
    world.run_to_end()
    world.undo()
    world.run_to(Phase.ROLLING)
    with pytest.raises(
        Conflict, match=r"rollout 2 \(v2 -> v1\) is rolling; wait for its end, or: hotpool rollout abort"
    ):
        world.undo()
    world.run_to_end()
    world.check(Phase.SUCCEEDED)


def test_an_undo_of_a_rollout_that_goes_back_already_adds_nothing(world: World) -> None:
    world.pool.bad[world.digests["v2"]] = "NaN"
    world.start("v2")
    world.run_to(Phase.ROLLING_BACK)
    seq = world.journal.last_seq()
    assert world.undo().number == 1
    assert world.journal.last_seq() == seq


# ---- start while the stable version is not healthy


def test_while_an_alarm_holds_a_start_needs_force_and_an_undo_does_not(world: World) -> None:
    world.start("v2")
    world.run_to_end()
    world.append(K.ALARM_RAISED, reason="all 3 workers of v2 answered golden inputs wrongly")
    with pytest.raises(
        Conflict, match=r"stable version v2 is not healthy: all 3 workers of v2 answered .* start --force"
    ):
        world.start("v3")
    assert orders.preview(world.journal, world.undo).target_name == "v1"
    assert orders.preview(world.journal, lambda: world.start("v3", force=True)).target_name == "v3"
    world.append(K.ALARM_ENDED, reason="all is well")
    assert world.start("v3").number == 2


@pytest.mark.parametrize("how", ["down", "on another version"])
def test_without_a_ready_worker_on_the_stable_version_a_start_needs_force(world: World, how: str) -> None:
    first, *others = world.pool.workers.values()
    for worker in others:
        worker.state = WorkerState.DRAINED
    assert orders.preview(world.journal, world.start).number == 1, "one is enough"
    if how == "down":
        first.state = WorkerState.DOWN
    else:
        first.digest = world.digests["v3"]
    with pytest.raises(
        Conflict, match=r"v1 is not healthy: no worker is ready with it; .* hotpool rollout start --force"
    ):
        world.start("v2")
    assert K.ROLLOUT_CREATED not in world.kinds()
    world.start("v2", force=True)
    assert last_event(world).body["forced"] == "no worker is ready with it"


def test_force_that_is_not_needed_leaves_no_trace(world: World) -> None:
    world.start("v2", force=True)
    assert "forced" not in last_event(world).body


def test_a_retry_is_refused_where_its_start_would_be(world: World) -> None:
    world.pool.bad[world.digests["v2"]] = "NaN"
    world.start("v2")
    world.run_to_end()
    world.append(K.ALARM_RAISED, reason="the golden file was changed")
    with pytest.raises(Conflict, match=r"the golden file was changed; .* hotpool rollout start --force"):
        world.retry()


# ---- after a failed rollback


def fail_to_roll_back(world: World) -> None:
    world.start("v2")
    world.run_to(Phase.BAKING)
    world.pool.bad[world.digests["v1"]] = "can't be read"
    world.abort()
    world.run_to(Phase.ROLLBACK_FAILED)


def test_a_retry_after_a_failed_rollback_is_that_rollback_again(world: World) -> None:
    fail_to_roll_back(world)
    world.pool.bad.clear()
    again = world.retry("the disk is back")
    assert (again.number, again.phase, again.goal) == (1, Phase.ROLLING_BACK, world.digests["v1"])
    event = last_event(world)
    assert (event.kind, event.operator) == (K.ROLLBACK_STARTED, OPERATOR)
    world.kill()  # what was ordered is known to the next controller too
    ended = world.run_to_end()
    world.check(Phase.ROLLED_BACK)
    assert ended.ending == event.body["reason"] == f"rollback retried by {OPERATOR}: the disk is back"
    assert ended.cause == "abort", "why it went back, not why that failed"
    assert world.kinds().count(K.ROLLOUT_CREATED) == 1
    assert world.retry().number == 2, "and only then the version again"


def test_when_the_workers_were_restarted_a_retry_does_not_bring_the_bad_version_back(world: World) -> None:
    fail_to_roll_back(world)
    for worker in world.pool.workers.values():
        worker.digest, worker.state = world.digests["v1"], WorkerState.READY
    assert world.retry().goal == world.digests["v1"]
    world.run_to_end()
    world.check(Phase.ROLLED_BACK)


def test_a_rollback_that_fails_again_can_be_tried_again(world: World) -> None:
    fail_to_roll_back(world)
    world.retry()
    world.run_to(Phase.ROLLBACK_FAILED)
    assert world.last().failed_rollbacks == 2
    world.pool.bad.clear()
    world.retry()
    world.run_to_end()
    world.check(Phase.ROLLED_BACK)


def test_after_a_failed_rollback_nothing_starts_until_the_workers_are_back(world: World) -> None:
    """A third version would take the workers on the second out of service all at once."""
    fail_to_roll_back(world)
    with pytest.raises(
        Conflict, match=r"could not be rolled back: .* still on v2; .* rollout retry, or restart the pool"
    ):
        world.start("v3")
    for worker in world.pool.workers.values():
        worker.digest = world.digests["v1"]
    assert world.start("v3").number == 2
