"""Labelled pictures in a rollout: judged before a worker is touched, held against its first step, kept for the audit."""

import sys
from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest

from control import canary, orders
from control.checks import Scratch, _read_progress
from control.events import Event, EventKind
from control.gates import judge
from control.journal import Journal
from control.progress import message
from control.recheck import recheck
from control.rollout import Analysis, Kind, PauseCause, Rollout
from control.settings import OnInconclusive
from control.verdicts import Gate, GateResult, Labelled, worst
from control.view import Evaluating, Finding
from hotpool.errors import JournalCorrupt
from hotpool.evidence import Arm, Counts
from hotpool.states import Phase
from tests.fake_pool import MODEL, OPERATOR, SETTINGS, World, fast_folder, settings

K, P = EventKind, Phase
BETTER, WORSE, FEW = Labelled(1000, 850, 10, 60), Labelled(1000, 850, 60, 10), Labelled(50, 40, 2, 2)
WITH_LABELS = settings(eval_folder="/pictures", eval_pictures=1000)


@pytest.fixture
def world() -> Iterator[World]:
    with fast_folder() as folder:
        world = World(folder, settings=WITH_LABELS)
        yield world
        world.close()


def found(world: World, labelled: Labelled) -> None:
    world.preflight.finding = Finding(True, "", 2.5, labelled, 3)


def events_of(world: World, kind: EventKind) -> list[Event]:
    return [event for event in world.journal.events() if event.kind is kind]


@pytest.mark.parametrize("steps", [(), ("shadow", "25")])
def test_a_version_that_is_right_less_often_is_rejected_before_any_worker_is_touched(
    world: World, steps: tuple[str, ...]
) -> None:
    world.settings = replace(WITH_LABELS, steps=steps)
    found(world, WORSE)
    world.start("v2")
    rollout = world.run_to_end()
    world.check(P.REJECTED)
    assert rollout.cause == "gate"
    assert rollout.ending.startswith("gate accuracy: right in 86 % of 1000 labelled pictures, stable in 91 %")
    assert (rollout.labelled, world.pool.fewest_ready, rollout.ended_steps) == (WORSE, 3, ())
    assert recheck(world.journal.events()) == 1


def test_without_a_canary_one_that_is_right_more_often_goes_on_and_the_counts_are_kept(world: World) -> None:
    found(world, BETTER)
    world.start("v2")
    rollout = world.run_to_end()
    world.check(P.SUCCEEDED)
    (event,) = events_of(world, K.PREFLIGHT_PASSED)
    assert (event.body["labelled"], event.body["unreadable"], event.body["seconds"]) == (asdict(BETTER), 3, 2.5)
    assert [one["gate"] for one in event.body["verdicts"]] == ["accuracy"]
    assert rollout.labelled == BETTER
    assert recheck(world.journal.events()) == 1


def test_too_few_pictures_and_no_canary_need_a_person(world: World) -> None:
    found(world, FEW)
    world.start("v2")
    world.run(lambda: world.last().paused)
    assert (world.last().phase, world.last().pause_cause) == (P.PREFLIGHT, PauseCause.INCONCLUSIVE)
    assert message(world.last(), ()).startswith("paused, the labelled pictures do not decide: right in 84 % of 50")
    for _ in range(5):
        world.turn()
    assert len(events_of(world, K.PAUSED)) == 1, "it is said once"
    assert world.preflight.runs == 1
    world.resume()
    world.run(lambda: world.last().paused)
    assert world.preflight.runs == 2, "they are asked again"
    orders.promote(world.journal, model=MODEL, operator=OPERATOR)
    world.run_to_end()
    world.check(P.SUCCEEDED)
    assert len(events_of(world, K.PAUSED)) == 2
    assert recheck(world.journal.events()) == 3


def test_too_few_pictures_and_nobody_to_ask_reject_it(world: World) -> None:
    world.settings = replace(WITH_LABELS, on_inconclusive=OnInconclusive.ABORT)
    found(world, FEW)
    world.start("v2")
    assert world.run_to_end().cause == "gate"
    world.check(P.REJECTED)


def test_whoever_promoted_all_of_a_rollout_gets_it_whatever_the_labels_say(world: World) -> None:
    found(world, WORSE)
    world.start("v2")
    world.run_to(P.PREFLIGHT)
    world.pause()
    orders.promote(world.journal, model=MODEL, operator=OPERATOR, full=True)
    world.run_to_end()
    world.check(P.SUCCEEDED)
    assert events_of(world, K.PREFLIGHT_PASSED)[0].body["result"] == "fail"


def test_it_is_told_how_many_pictures_are_done(world: World) -> None:
    world.preflight.on_the_way = Evaluating(300)
    found(world, BETTER)
    world.start("v2")
    world.run(lambda: world.last().evaluated == 300)
    assert message(world.last(), ()) == "preflight: 300 of 1000 pictures"
    for _ in range(3):
        world.turn()
    assert len(events_of(world, K.EVALUATED)) == 1, "one event for each figure"
    world.run_to_end()
    world.check(P.SUCCEEDED)


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (b'{"pictures": 100}\n{"pictures": 200}\n', Evaluating(200)),
        (b'{"pictures": 100}\n{"pictures": 2', Evaluating(100)),
        (b"", None),
        (b"noise\n", None),
        (b"[]\n", None),
        (b'{"pictures": 1', None),
    ],
)
def test_only_whole_lines_of_the_scratch_process_tell_how_far_it_is(said: bytes, read: Evaluating | None) -> None:
    assert _read_progress(said) == read


@pytest.mark.slow
def test_pictures_have_time_of_their_own(world: World) -> None:
    scratch = Scratch(world.home, [sys.executable, "-c", "import time; time.sleep(60)"])
    limits = replace(WITH_LABELS, preflight_timeout_s=0.1, eval_timeout_s=0.2)
    scratch.start(world.digests["v2"], limits, world.digests["v1"])
    while (finding := scratch.poll()) is None:
        pass
    scratch.stop()
    assert finding == Finding(False, "preflight took longer than 0.3 s")


def test_an_undo_compares_nothing(world: World) -> None:
    found(world, BETTER)
    world.start("v2")
    world.run_to_end()
    rollout = world.undo()
    assert (rollout.settings.eval_folder, rollout.settings.eval_pictures) == ("", 0)


def test_a_retry_looks_at_the_same_pictures_again(world: World) -> None:
    found(world, WORSE)
    world.start("v2")
    world.run_to_end()
    again = orders.retry(world.journal, model=MODEL, workers=world.pool.report().workers, operator=OPERATOR)
    assert (again.settings.eval_folder, again.settings.eval_pictures) == ("/pictures", 1000)


def test_a_verdict_that_does_not_follow_from_the_labelled_pictures_is_found(world: World) -> None:
    found(world, WORSE)
    world.start("v2")
    world.run_to_end()
    events = world.journal.events()
    (rejected,) = (event for event in events if event.kind is K.REJECTED)
    for changed in ({"labelled": asdict(BETTER)}, {"result": "pass"}, {"verdicts": []}):
        other = replace(rejected, body={**rejected.body, **changed})
        with pytest.raises(JournalCorrupt, match=f"event {rejected.seq}"):
            recheck([*events[:-1], other])


def test_a_controller_that_is_killed_in_the_preflight_judges_once(world: World) -> None:
    world.preflight.on_the_way = Evaluating(300)
    found(world, BETTER)
    world.start("v2")
    world.run(lambda: world.last().evaluated == 300)
    world.kill()
    world.run_to_end()
    world.check(P.SUCCEEDED)
    assert (world.preflight.runs, len(events_of(world, K.PREFLIGHT_PASSED))) == (2, 1)


# ---- in the canary

ARM = Arm(1000, 1000, 0, {1: 400, 2: 600}, {60: 1000}, {1: {400: 1000}})
DIFFERENT = Counts(7, ARM, ARM, pairs=300, disagreements=60)


def analyzing(step: int, *steps: str, labelled: Labelled | None = BETTER) -> Rollout:
    return Rollout(
        number=1, model=MODEL, kind=Kind.START, stable="old", stable_name="v1", target="new", target_name="v2",
        workers=("worker-0", "worker-1"), settings=replace(SETTINGS, steps=steps), operator=OPERATOR, reason="", created_ts="",
        since=0.0, phase=P.ANALYZING, analysis=Analysis(step, 7), labelled=labelled,
    )  # fmt: skip


@pytest.mark.parametrize("first", ["shadow", "25"])
def test_accuracy_is_judged_in_the_first_step_whatever_it_is_and_only_there(first: str) -> None:
    assert canary.armed(analyzing(0, first, "50")).count(Gate.ACCURACY) == 1
    assert Gate.ACCURACY not in canary.armed(analyzing(1, first, "50"))
    assert Gate.ACCURACY not in canary.armed(analyzing(0, first, "50", labelled=None))
    assert [one.gate for one in canary.verdicts(analyzing(0, first, "50"), DIFFERENT)][-1] is Gate.ACCURACY


def test_a_version_that_labels_call_better_may_differ_from_stable() -> None:
    without = {one.gate: one for one in canary.verdicts(analyzing(0, "shadow", labelled=None), DIFFERENT)}
    assert (without[Gate.AGREEMENT].result, without[Gate.AGREEMENT].enforced) == (GateResult.FAIL, True)
    found = canary.verdicts(analyzing(0, "shadow"), DIFFERENT)
    agreement = next(one for one in found if one.gate is Gate.AGREEMENT)
    assert (agreement.result, agreement.enforced) == (GateResult.FAIL, False)
    assert agreement.reason.endswith("reported only, because accuracy has passed on 1000 labelled pictures")
    assert worst(found) is GateResult.PASS


@pytest.mark.parametrize("labelled", [FEW, WORSE])
def test_labels_that_do_not_decide_for_it_leave_it_held_to_agree(labelled: Labelled) -> None:
    (agreement,) = judge(DIFFERENT, SETTINGS.gates, labelled, gates=[Gate.AGREEMENT])
    assert (agreement.result, agreement.enforced) == (GateResult.FAIL, True)


def canary_world(world: World, labelled: Labelled) -> None:
    world.settings = replace(WITH_LABELS, steps=("shadow",), step_min_s=0.5, step_max_s=2.0)
    world.pool.counts = lambda: Counts(world.last().analysis.policy, ARM, ARM, pairs=300, disagreements=60)
    found(world, labelled)
    world.start("v2")


def test_in_a_canary_the_verdict_is_in_what_is_judged_and_follows_from_the_event_before(world: World) -> None:
    canary_world(world, BETTER)
    world.run_to(P.ROLLING)
    (judged,) = events_of(world, K.JUDGED)
    written = {one["gate"]: one for one in judged.body["verdicts"]}
    assert (written["accuracy"]["result"], written["agreement"]["enforced"]) == ("pass", False)
    assert events_of(world, K.CANARY_STARTED)[0].body["labelled"] == asdict(BETTER)
    assert recheck(world.journal.events()) == 1 + len(written)


def test_in_a_canary_too_few_pictures_pause_its_first_step(world: World) -> None:
    canary_world(world, Labelled(50, 48, 1, 1))
    world.pool.counts = lambda: Counts(world.last().analysis.policy, ARM, ARM, pairs=300)
    world.run(lambda: world.last().paused)
    assert (world.last().phase, world.last().pause_cause) == (P.ANALYZING, PauseCause.INCONCLUSIVE)
    assert "gate accuracy" in world.last().analysis.reason


def test_the_journal_tells_a_rollout_s_labels_to_whoever_reads_it_anew(world: World) -> None:
    found(world, BETTER)
    world.start("v2")
    world.run_to_end()
    with Journal(world.home.database) as journal:
        rollout = orders.read(journal).last(MODEL)
    assert rollout is not None
    assert (rollout.labelled, rollout.settings.eval_pictures) == (BETTER, 1000)
