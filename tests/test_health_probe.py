"""The health probe: what the controller does about workers that answer golden inputs wrongly. Virtual time, real journal."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from control import orders
from control.events import EventKind
from control.health import service_health
from control.rollout import Kind
from control.rollout_metrics import rollout_families
from hotpool import messages as m
from hotpool.errors import Conflict
from hotpool.stable import read_stable
from hotpool.states import Phase, WorkerState
from tests.fake_pool import MODEL, OPERATOR, FakeWorker, World, fast_folder, settings
from tests.fake_traffic import Traffic

K, S = EventKind, WorkerState
DIFFERS = "golden logits differ by up to 3.1 at input 2, allowed 0.009"
INTERVAL_S = 2.0
Wrong = Callable[[FakeWorker], str]


@pytest.fixture
def world() -> Iterator[World]:
    with fast_folder() as folder:
        world = probed_world(folder)
        yield world
        world.close()


def probed_world(folder: Path, n_workers: int = 3, **changes: float) -> World:
    world = World(folder, n_workers, settings(**changes))
    world.prober.interval_s = INTERVAL_S
    return world


def processes(*names: str, incarnation: int = 1) -> Wrong:
    """These are wrong until they are restarted."""
    return lambda worker: DIFFERS if worker.name in names and worker.incarnation == incarnation else ""


def version(digest: str) -> Wrong:
    """Whoever serves it is wrong."""
    return lambda worker: DIFFERS if worker.digest == digest else ""


def rounds(world: World, n: int) -> None:
    """So many more end, and what they ask for is done."""
    wanted = world.prober.rounds + n
    world.run(lambda: world.prober.rounds >= wanted)
    for _ in range(40):
        world.turn()


def of_kind(world: World, kind: EventKind) -> list[dict[str, object]]:
    return [event.body for event in world.journal.events() if event.kind is kind]


def names_of(world: World, kind: EventKind) -> list[object]:
    return [body["worker"] for body in of_kind(world, kind)]


def at_rest(world: World) -> bool:
    return all(worker.state is S.READY for worker in world.pool.workers.values())


# ---- one worker


def test_workers_that_answer_rightly_are_asked_again_and_again_and_nothing_is_written(world: World) -> None:
    world.turn()
    seq = world.journal.last_seq()
    began = world.pool.now
    world.run(lambda: world.prober.rounds == 4)
    assert world.pool.now - began == pytest.approx(3 * INTERVAL_S, abs=0.5)
    assert world.journal.last_seq() == seq
    assert world.pool.fewest_ready == 3


def test_a_wrong_worker_is_taken_out_and_restarted_and_it_is_written_down(world: World) -> None:
    world.prober.wrong = processes("worker-1")
    rounds(world, 2)
    assert at_rest(world)
    assert [worker.incarnation for worker in world.pool.workers.values()] == [1, 2, 1]
    (body,) = of_kind(world, K.PROBE_FAILED)
    digest = world.digests["v1"]
    found = {"worker": "worker-1", "incarnation": 1, "digest": digest, "version": digest[:4], "reason": DIFFERS}
    assert body == {**found, "token": ""}
    assert (world.pool.fewest_ready, world.pool.n_restarts, world.pool.wrong) == (2, 1, [])
    assert of_kind(world, K.ALARM_RAISED) == []


def test_of_two_wrong_workers_the_second_leaves_when_the_first_is_back(world: World) -> None:
    world.prober.wrong = processes("worker-0", "worker-1")
    rounds(world, 1)
    world.run(lambda: world.pool.n_restarts == 2 and at_rest(world))
    assert (world.pool.fewest_ready, world.pool.wrong) == (2, [])
    assert names_of(world, K.PROBE_FAILED) == ["worker-0", "worker-1"]


def test_a_worker_whose_next_process_is_wrong_too_is_restarted_again(world: World) -> None:
    world.prober.wrong = lambda worker: DIFFERS if worker.name == "worker-2" and worker.incarnation < 4 else ""
    world.run(lambda: world.pool.n_restarts == 3 and at_rest(world))
    assert names_of(world, K.PROBE_FAILED) == ["worker-2"] * 3


def test_a_wrong_worker_stays_while_it_is_the_last_one_ready(world: World) -> None:
    world.prober.wrong = processes("worker-0")
    world.prober.busy = {"worker-1", "worker-2"}
    world.pool.dead |= {"worker-1", "worker-2"}
    world.run(lambda: world.prober.rounds == 0 and bool(world.prober._asked))
    world.pool.crash("worker-1")
    world.pool.crash("worker-2")
    rounds(world, 2)
    assert world.pool.workers["worker-0"].state is S.READY
    assert len(of_kind(world, K.ALARM_RAISED)) == 1


def test_a_wrong_worker_stays_while_all_that_were_right_are_down(world: World) -> None:
    world.prober.wrong = processes("worker-0")
    world.pool.dead |= {"worker-1", "worker-2"}
    world.run(lambda: bool(world.prober._asked))
    world.pool.crash("worker-1")
    world.pool.crash("worker-2")
    world.run(lambda: world.prober.rounds == 1)
    for _ in range(20):
        world.turn()
    assert names_of(world, K.PROBE_FAILED) == ["worker-0"]
    assert of_kind(world, K.ALARM_RAISED) == [], "they were right"
    assert world.pool.workers["worker-0"].state is S.READY


def test_a_worker_that_had_no_time_is_neither_right_nor_wrong(world: World) -> None:
    world.prober.busy = {"worker-0", "worker-1", "worker-2"}
    rounds(world, 3)
    assert of_kind(world, K.PROBE_FAILED) == of_kind(world, K.ALARM_RAISED) == []


def test_not_all_are_wrong_while_one_had_no_time(world: World) -> None:
    world.prober.wrong = processes("worker-0", "worker-1")
    world.prober.busy = {"worker-2"}
    world.run(lambda: world.pool.n_restarts == 2 and at_rest(world))
    assert of_kind(world, K.ALARM_RAISED) == []


def test_a_wrong_worker_that_ended_by_itself_is_let_be(world: World) -> None:
    world.prober.wrong = processes("worker-1")
    world.run(lambda: world.pool.workers["worker-1"].state is S.DRAINING)
    world.pool.crash("worker-1")
    rounds(world, 2)
    assert (world.pool.n_restarts, world.pool.workers["worker-1"].incarnation) == (0, 2)


# ---- a whole version


def test_when_all_are_wrong_nobody_is_taken_out_and_an_alarm_is_raised_once(world: World) -> None:
    world.prober.wrong = version(world.digests["v1"])
    rounds(world, 3)
    (alarm,) = of_kind(world, K.ALARM_RAISED)
    assert str(alarm["reason"]).startswith("all 3 workers of")
    assert DIFFERS in str(alarm["reason"])
    assert (world.pool.fewest_ready, world.pool.n_restarts) == (3, 0)
    assert read_stable(world.home, MODEL) == world.digests["v1"]


def test_the_only_worker_is_wrong_and_stays(tmp_path: Path) -> None:
    world = probed_world(tmp_path, n_workers=1)
    world.prober.wrong = processes("worker-0")
    rounds(world, 2)
    assert "the only ready worker" in str(of_kind(world, K.ALARM_RAISED)[0]["reason"])
    assert world.pool.fewest_ready == 1
    world.close()


def test_an_alarm_degrades_the_pool_and_shows_in_the_metrics_until_all_are_right_again(world: World) -> None:
    world.prober.wrong = version(world.digests["v1"])
    rounds(world, 1)
    assert alarm_metric(world) == 1.0
    alarm = world.ledger().alarms[MODEL]
    health = service_health(
        world.pool.report(), MODEL, stable=world.digests["v1"], has_controller=True, alarm=alarm
    )  # fmt: skip
    assert health.reasons == (f"alarm: {alarm}",)
    world.prober.wrong = processes("worker-0")
    rounds(world, 1)
    assert world.ledger().alarms, "one is still wrong"
    rounds(world, 1)
    assert world.ledger().alarms == {}
    assert alarm_metric(world) == 0.0
    assert of_kind(world, K.ALARM_ENDED) == [{"reason": "3 workers answer the golden inputs as they should"}]


def alarm_metric(world: World) -> float:
    families = {family.name: family for family in rollout_families(world.ledger())}
    return families["hotpool_alarm"].samples[0].value


def test_no_answers_end_no_alarm(world: World) -> None:
    world.prober.wrong = version(world.digests["v1"])
    rounds(world, 1)
    world.prober.wrong, world.prober.busy = (lambda worker: ""), {"worker-0", "worker-1", "worker-2"}
    rounds(world, 2)
    assert world.ledger().alarms


def test_golden_inputs_that_can_not_be_read_raise_an_alarm(world: World) -> None:
    world.prober.trouble = "workers can't be probed: golden.safetensors was changed"
    world.prober.busy = {"worker-0", "worker-1", "worker-2"}
    rounds(world, 2)
    assert [body["reason"] for body in of_kind(world, K.ALARM_RAISED)] == [world.prober.trouble]


def test_a_version_that_turns_wrong_within_the_watch_is_taken_back(tmp_path: Path) -> None:
    world = probed_world(tmp_path, watch_s=60.0)
    world.start("v2")
    world.run_to_end()
    world.prober.wrong = version(world.digests["v2"])
    world.run(lambda: world.last().kind is Kind.UNDO)
    rollout = world.run_to_end()
    world.check(Phase.SUCCEEDED)
    assert (rollout.target, rollout.operator) == (world.digests["v1"], "controller")
    assert rollout.reason.startswith("within 60 s after the commit all 3 workers of")
    rounds(world, 2)
    assert of_kind(world, K.ALARM_RAISED) == []
    assert world.pool.n_restarts == 0
    world.close()


@pytest.mark.parametrize("why_not", ["the watch is over", "there is no earlier version", "it was an undo"])
def test_otherwise_the_version_is_not_touched(why_not: str, tmp_path: Path) -> None:
    world = probed_world(tmp_path, watch_s=60.0)
    world.prober.interval_s = 0.0
    world.start("v2")
    world.run_to_end()
    if why_not == "it was an undo":
        world.undo()
        world.run_to_end()
    if why_not == "the watch is over":
        world.pool.now += 61.0
    if why_not == "there is no earlier version":
        world.append(K.VERSION_REMOVED, name="v1", digest=world.digests["v1"])
    stable = read_stable(world.home, MODEL)
    assert stable is not None
    n_rollouts = len(world.ledger().rollouts)
    world.prober.wrong, world.prober.interval_s = version(stable), INTERVAL_S
    rounds(world, 2)
    assert len(world.ledger().rollouts) == n_rollouts
    assert len(of_kind(world, K.ALARM_RAISED)) == 1
    world.close()


def test_a_rollout_away_from_what_is_wrong_is_the_way_out(world: World) -> None:
    world.prober.wrong = version(world.digests["v1"])
    rounds(world, 1)
    with pytest.raises(Conflict, match=DIFFERS):
        world.start("v2")
    world.start("v2", force=True)
    world.run_to_end()
    world.check(Phase.SUCCEEDED)
    rounds(world, 1)
    assert world.ledger().alarms == {}


# ---- beside rollouts


def paused_after(world: World, n_steps: int) -> None:
    world.start("v2")
    world.run(lambda: len(world.last().ended_steps) == n_steps)
    world.pause()
    world.run(lambda: not world.last().steps)


def test_nobody_is_asked_while_a_rollout_moves_workers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    start, phases = world.prober.start, []

    def watched(workers: Sequence[m.WorkerReport], now: float) -> None:
        phases.append(world.last().phase)
        start(workers, now)

    world.start("v2")
    monkeypatch.setattr(world.prober, "start", watched)
    world.prober.interval_s = 0.1
    world.run_to(Phase.SUCCEEDED)
    assert phases == []
    rounds(world, 1)
    assert phases


def test_a_worker_that_is_wrong_in_a_paused_rollout_is_restarted_and_gets_its_step_again(world: World) -> None:
    paused_after(world, 2)
    world.prober.wrong = processes("worker-0")
    rounds(world, 1)
    world.run(lambda: world.pool.n_restarts == 1 and at_rest(world))
    assert world.pool.workers["worker-0"].digest == world.digests["v1"], "a process boots the stable version"
    world.resume()
    world.run_to_end()
    world.check(Phase.SUCCEEDED)


def test_a_resume_in_the_middle_does_not_keep_a_wrong_worker_from_its_restart(world: World) -> None:
    paused_after(world, 2)
    world.prober.wrong = processes("worker-0")
    world.run(lambda: world.pool.workers["worker-0"].state is S.DRAINING)
    world.resume()
    world.run_to_end()
    world.check(Phase.SUCCEEDED)
    assert world.pool.n_restarts == 1


def test_a_target_that_is_wrong_everywhere_goes_back(world: World) -> None:
    paused_after(world, 1)
    world.prober.wrong = version(world.digests["v2"])
    rollout = world.run_to_end()
    world.check(Phase.ROLLED_BACK)
    assert rollout.cause == "probe"
    assert DIFFERS in rollout.ending
    assert world.pool.n_restarts == 0


def test_a_target_that_is_wrong_answers_nobody_any_more_although_it_had_no_canary(world: World) -> None:
    traffic = Traffic(world.pool, seed=1)
    paused_after(world, 1)
    world.prober.wrong = version(world.digests["v2"])
    world.run_to(Phase.ROLLING_BACK)
    world.turn()
    answered = traffic.answered[world.digests["v2"]]
    world.run_to_end()
    world.check(Phase.ROLLED_BACK)
    assert traffic.answered[world.digests["v2"]] == answered


def test_what_was_found_of_an_earlier_load_is_not_held_against_the_next(world: World) -> None:
    paused_after(world, 1)
    world.prober.wrong = version(world.digests["v2"])
    world.run_to_end()
    world.prober.wrong = lambda worker: ""
    assert orders.retry(
        world.journal, model=MODEL, workers=world.pool.report().workers, operator=OPERATOR
    ).target == world.digests["v2"]  # fmt: skip
    world.run_to_end()
    world.check(Phase.SUCCEEDED)


def test_a_stable_version_that_is_wrong_everywhere_raises_an_alarm_and_the_rollout_waits_on(world: World) -> None:
    paused_after(world, 1)
    world.prober.wrong = version(world.digests["v1"])
    rounds(world, 2)
    assert world.last().paused
    assert len(of_kind(world, K.ALARM_RAISED)) == 1
    assert world.pool.n_restarts == 0


# ---- after a crash


SCENARIOS: dict[str, tuple[Wrong, int]] = {
    "one": (processes("worker-1"), 1),
    "two": (processes("worker-0", "worker-2"), 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_any_point_the_controller_still_restarts_who_is_wrong(name: str) -> None:
    wrong, n_wrong = SCENARIOS[name]
    crashed = []
    for crash_at in range(1, 5 + 8 * n_wrong):
        with fast_folder() as folder:
            world = probed_world(folder)
            world.prober.wrong, world.crash_at = wrong, crash_at
            rounds(world, 4)
            assert at_rest(world), world.crashed_in
            assert world.pool.wrong == [], world.crashed_in
            assert (world.pool.n_restarts, world.pool.fewest_ready) == (n_wrong, 2), world.crashed_in
            assert len(of_kind(world, K.PROBE_FAILED)) == n_wrong, world.crashed_in
            crashed.append(world.crashed_in)
            world.close()
    for what in ("PROBE_FAILED", "Drain(", "Restart("):
        for when in ("before", "after"):
            assert any(where.startswith(when) and what in where for where in crashed), f"never killed {when} {what}"


def test_a_broker_that_was_restarted_and_forgot_the_drain_is_told_again(world: World) -> None:
    world.prober.wrong = processes("worker-1")
    world.run(lambda: world.pool.workers["worker-1"].state is S.DRAINING)
    world.pool.restart_broker()
    world.run(lambda: world.pool.n_restarts == 1 and at_rest(world))
    assert len(of_kind(world, K.PROBE_FAILED)) == 1


def test_an_undo_after_a_wrong_version_uses_the_settings_of_what_it_takes_back(tmp_path: Path) -> None:
    world = probed_world(tmp_path, watch_s=60.0, max_worker_retries=5)
    world.start("v2")
    world.run_to_end()
    world.prober.wrong = version(world.digests["v2"])
    world.run(lambda: world.last().kind is Kind.UNDO)
    assert world.last().settings == replace(world.settings, steps=())
    assert orders.read(world.journal).n_wrong == {(MODEL, world.digests["v2"]): 3}
    world.close()
