"""The canary: its plan, the target's share, what follows from the gates, and the watch after the commit."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from control import canary, orders
from control.actions import Action, Record, SetTable
from control.between import take_back
from control.decide import decide
from control.events import Event, EventKind
from control.gates import ARMED
from control.ledger import Ledger
from control.plan import DEFAULT, parse_count, parse_steps, resolve_steps, share_of
from control.recheck import recheck
from control.rollout import Kind, Part, PauseCause, Rollout, Step, advance
from control.settings import OnInconclusive
from control.verdicts import Gate, GateResult, GateSettings, counts_from_json
from control.view import Finding, View
from hotpool.errors import BadRollout, BadVersion, Conflict, JournalCorrupt, NothingToDo
from hotpool.evidence import Counts
from hotpool.messages import ModelReport, Policy, WorkerReport
from hotpool.states import Phase, Strategy, WorkerState
from tests.fake_pool import MODEL, OPERATOR, World, fast_folder, settings
from tests.fake_traffic import Behaviour, Traffic
from tests.test_rollout import NAMES, NEW, NOW, OLD, rollout, view, worker

G, K, P, S = Gate, EventKind, Phase, WorkerState
PASS, FAIL, INCONCLUSIVE = GateResult.PASS, GateResult.FAIL, GateResult.INCONCLUSIVE
RUN = 7  # the number of the present run of evidence
CANARY = settings(
    steps=("shadow", "25"), step_min_s=2.0, step_max_s=8.0, watch_s=6.0, gates=GateSettings(min_windows=4, beta=0.4)
)
SHADOW_STEP, SHARE_STEP = 0, 1


# ---- builders


def judging(phase: Phase = P.ANALYZING, step: int = SHARE_STEP, **changes: Any) -> Rollout:
    """A rollout in a step of its canary; from rolling on it has none."""
    step = len(CANARY.steps) if phase not in (P.CANARY, P.ANALYZING) else step
    base = rollout(phase, settings=changes.pop("settings", CANARY))
    analysis = replace(base.analysis, step=step, policy=RUN, since=NOW)
    return replace(base, analysis=analysis, **changes)


def judged(result: GateResult, **changes: Any) -> Rollout:
    base = judging(**changes)
    return replace(base, analysis=replace(base.analysis, result=result, reason="gate errors: many"))


def good(policy: int = RUN, n: int = 1000) -> Counts:
    """Every gate passes."""
    counts = Counts(policy, pairs=n, windows={0: 30})
    for arm in (counts.stable, counts.target):
        arm.answered = n
        arm.classes, arm.confidence, arm.service = {0: n // 2, 1: n // 2}, {50: n // 2, 90: n // 2}, {1: {400: n}}
    return counts


def bad(policy: int = RUN) -> Counts:
    """One reply of ten is an error."""
    counts = good(policy)
    counts.target.errors = 100
    return counts


canary_ready = (worker(0, digest=NEW), worker(1), worker(2))


def asked(wanted: Rollout, *workers: WorkerReport, counts: Counts | None = None, now: float = NOW) -> Action | None:
    """What is decided when pointer and table are as they should be."""
    ledger = Ledger(1, 4, {MODEL: NAMES}, {MODEL: (OLD,)}, {wanted.number: wanted})
    seen = view(*(workers or canary_ready), counts=counts)
    action = decide(ledger, MODEL, seen, now)
    if isinstance(action, SetTable):
        action = decide(ledger, MODEL, replace(seen, table=table_of(action)), now)
    assert not isinstance(action, SetTable)
    return action


def table_of(order: SetTable) -> ModelReport:
    return ModelReport(MODEL, 4, order.stable, order.target, order.names, order.policy)


def kind_of(action: Action | None) -> EventKind | None:
    return action.kind if isinstance(action, Record) else None


def body_of(action: Action | None) -> Mapping[str, Any]:
    assert isinstance(action, Record)
    return action.body


@pytest.fixture
def world() -> Iterator[World]:
    with fast_folder() as folder:
        world = World(folder, settings=CANARY)
        yield world
        world.close()


# ---- the plan


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("none", ()),
        ("auto", ("auto",)),
        ("shadow", ("shadow",)),
        ("10", ("10",)),
        ("shadow,5,25,50", DEFAULT),
        (" shadow , 0.5 , 99.9 ", ("shadow", "0.5", "99.9")),
        ("5%,25%", ("5%", "25%")),
    ],
)
def test_steps_are_copies_then_growing_shares(text: str, steps: tuple[str, ...]) -> None:
    assert parse_steps(text) == steps


@pytest.mark.parametrize(
    "text",
    ["", "5,", "5,5", "25,5", "5,shadow", "shadow,shadow", "0", "100", "-1", "nan", "inf", "auto,5", "none,5", "x"],
)
def test_other_steps_are_refused_with_the_part_that_is_wrong(text: str) -> None:
    with pytest.raises(BadRollout, match="step"):
        parse_steps(text)


def test_a_shadow_gets_no_share() -> None:
    assert [share_of(step) for step in ("shadow", "5", "12.5%")] == [0.0, 5.0, 12.5]


@pytest.mark.parametrize(
    ("n_workers", "canary_workers", "steps"),
    [
        (1, 1, ()),  # no second worker to compare with
        (2, 1, DEFAULT),
        (3, 1, ("shadow", "5", "25", "33.3")),
        (4, 1, ("shadow", "5", "25")),
        (5, 1, ("shadow", "5", "20")),
        (8, 1, ("shadow", "5", "12.5")),
        (20, 1, ("shadow", "5")),
        (21, 1, ("shadow", "4.7")),
        (21, 2, ("shadow", "5", "9.5")),
        (400, 1, ("shadow", "0.2")),
    ],
)
def test_auto_is_what_the_canary_workers_can_carry(n_workers: int, canary_workers: int, steps: tuple[str, ...]) -> None:
    assert resolve_steps(("auto",), canary_workers, n_workers) == steps


def test_without_steps_any_pool_will_do() -> None:
    assert resolve_steps((), 1, 1) == ()


@pytest.mark.parametrize(
    ("steps", "canary_workers", "n_workers", "message"),
    [
        (("25", "50"), 1, 3, "step 50: 1 of 3 workers carry 33.3 percent at most"),
        (("shadow",), 3, 3, "3 canary workers of 3 would leave none on the stable version"),
        (("shadow",), 1, 1, "--steps none"),
        (("auto",), 2, 2, "2 canary workers of 2"),
    ],
)
def test_a_canary_that_the_pool_can_not_carry_is_refused(
    steps: tuple[str, ...], canary_workers: int, n_workers: int, message: str
) -> None:
    with pytest.raises(BadRollout, match=message):
        resolve_steps(steps, canary_workers, n_workers)


@pytest.mark.parametrize(("text", "n_workers", "count"), [("1", 3, 1), ("50%", 3, 1), ("100%", 3, 3), ("25%", 64, 16)])
def test_workers_are_counted_or_a_percentage_rounded_down(text: str, n_workers: int, count: int) -> None:
    assert parse_count(text, n_workers, "--canary-workers") == count


@pytest.mark.parametrize(
    ("text", "message"),
    [("25%", "comes to no worker of 3"), ("0", "comes to no worker"), ("-1", "expected a number"), ("x%", "expected")],
)
def test_a_count_that_comes_to_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadRollout, match=message):
        parse_count(text, 3, "--canary-workers")


# ---- the target's share


def announced(n: int, goal: str = NEW) -> dict[str, Step]:
    """An open step of a worker that has not left yet."""
    name = f"worker-{n}"
    return {name: Step(name, 1, goal, 1, "token", NOW, Part.DRAIN)}


new, old = [worker(n, digest=NEW) for n in range(4)], [worker(n) for n in range(4)]

SHARES: list[tuple[Rollout, list[WorkerReport], float]] = [
    (judging(P.CANARY), [new[0], old[1], old[2]], 0),
    (judging(step=SHADOW_STEP), [new[0], old[1], old[2]], 0),
    (judging(step=SHARE_STEP), [new[0], old[1], old[2]], 25),
    (judging(step=SHARE_STEP), [worker(0, S.DOWN), old[1], old[2]], 25),  # the broker lets stable answer
    (judging(P.ROLLING), [new[0], old[1], old[2]], 33),
    (judging(P.ROLLING), [new[0], new[1], old[2]], 67),
    (judging(P.ROLLING, steps=announced(1)), [new[0], old[1], old[2]], 50),  # it is about to leave
    (judging(P.ROLLING, steps=announced(2)), [new[0], new[1], old[2]], 100),
    (judging(P.ROLLING, steps=announced(1)), [new[0], new[1], old[2]], 67),  # it is back, the step not yet ended
    (judging(P.ROLLING), [new[0], worker(1, S.LOADING), old[2]], 50),
    (judging(P.ROLLING), [worker(0, S.DOWN, NEW), old[1], old[2]], 0),
    (judging(P.ROLLING), [], 0),
    (judging(P.BAKING), new[:3], 100),
    (judging(P.BAKING), [new[0], new[1], worker(2)], 67),
    (judging(P.COMMITTING), new[:3], 100),
    # back: nothing as soon as the floor of two is kept by stable alone
    (judging(P.ROLLING_BACK), [new[0], old[1], old[2]], 0),
    (judging(P.ROLLING_BACK), [new[0], new[1], old[2]], 67),
    (judging(P.ROLLING_BACK, steps=announced(0, OLD)), [new[0], new[1], old[2]], 50),
    (judging(P.ROLLING_BACK), new[:3], 100),
    (judging(P.ROLLING_BACK), old[:3], 0),
]


def failed(*gates: Gate, phase: Phase = P.ROLLING_BACK, **changes: Any) -> Rollout:
    """On its way back because of these."""
    verdicts = [{"gate": gate, "enforced": True, "result": FAIL} for gate in gates]
    reported = {"gate": G.DRIFT, "enforced": False, "result": FAIL}
    return judging(phase, cause="gate", judged=({"verdicts": [*verdicts, reported]},), **changes)


def undo(phase: Phase = P.ROLLING, *, is_stable_wrong: bool = True) -> Rollout:
    return rollout(phase, kind=Kind.UNDO, is_stable_wrong=is_stable_wrong)


two_new, all_new = [new[0], new[1], old[2]], new[:3]
without_canary = replace(CANARY, steps=())

# What is known to answer badly answers nobody as soon as one worker is ready with the other version; None: it is not split.
SHARES_AWAY: list[tuple[Rollout, list[WorkerReport], float | None]] = [
    (failed(G.ERRORS), two_new, 0),
    (failed(G.COLLAPSE, G.LATENCY), two_new, 0),
    (failed(G.ERRORS), all_new, 100),
    (failed(G.ERRORS), [new[0], new[1], worker(2, S.STARTING)], 100),
    (failed(G.LATENCY, G.LATENCY_TAIL), two_new, 67),  # slower answers are right, and fewer workers are slower still
    (failed(), two_new, 67),  # too little evidence, and it was to go back for that
    (judging(P.ROLLING_BACK, cause="abort"), two_new, 67),
    (failed(G.ERRORS, abort="aborted by ada"), two_new, 0),
    (judging(P.ROLLING_BACK, back_cause="probe"), two_new, 0),
    (rollout(P.ROLLING_BACK, back_cause="probe"), two_new, 0),
    (rollout(P.ROLLING_BACK, back_cause="probe"), all_new, 100),
    (rollout(P.ROLLING_BACK, cause="abort"), two_new, None),
    (failed(G.ERRORS, phase=P.ROLLBACK_FAILED), two_new, 0),
    (failed(G.ERRORS, phase=P.ROLLBACK_FAILED), all_new, 100),
    (failed(G.ERRORS, phase=P.ROLLED_BACK), old[:3], None),
    (undo(), [*all_new[:2], worker(2, S.LOADING)], 100),
    (undo(), old[:3], 0),
    (undo(P.BAKING), [new[0], new[1], old[2]], 100),
    (undo(P.PREFLIGHT), old[:3], None),
    (undo(is_stable_wrong=False), two_new, None),
]


@pytest.mark.parametrize(("wanted", "workers", "share"), SHARES_AWAY)
def test_what_is_known_to_answer_badly_answers_nobody_as_soon_as_another_can(
    wanted: Rollout, workers: list[WorkerReport], share: float | None
) -> None:
    found = canary.policy(wanted, {w.worker: w for w in workers}, floor=2)
    assert (found and found.share) == share


def test_what_the_probe_has_found_is_known_on_the_way_back_when_that_failed_and_when_it_is_tried_again() -> None:
    back = apply(rollout(P.ROLLING), K.ROLLBACK_STARTED, cause="probe", reason="all 2 workers answered wrongly")
    failed = apply(back, K.ROLLBACK_FAILED, cause="deadline", reason="no progress")
    again = apply(failed, K.ROLLBACK_STARTED, cause="deadline", reason="rollback retried by ada")
    shares = [canary.policy(one, {w.worker: w for w in two_new}, floor=2) for one in (back, failed, again)]
    assert [found and found.share for found in shares] == [0, 0, 0]


@pytest.mark.parametrize(("wanted", "workers", "share"), SHARES)
def test_the_target_gets_its_step_then_as_much_as_its_workers(
    wanted: Rollout, workers: list[WorkerReport], share: float
) -> None:
    found = canary.policy(wanted, {w.worker: w for w in workers}, floor=2)
    assert found is not None
    assert (found.number, found.salt, found.share) == (RUN, wanted.number, share)


@pytest.mark.parametrize(("step", "share"), [(SHADOW_STEP, 0.0), (SHARE_STEP, 25.0), (-1, 0.0)])
def test_on_its_way_back_from_the_canary_the_target_never_gets_more_than_in_it(step: int, share: float) -> None:
    """Two of four are canary workers and a floor of three is not kept by stable alone: by capacity it would be a half."""
    back = judging(step=step, settings=replace(CANARY, canary_workers=2))
    back = replace(back, phase=P.ROLLING_BACK)
    found = canary.policy(back, {w.worker: w for w in (*new[:2], *old[2:])}, floor=3)
    assert found is not None
    assert found.share == share


def test_only_in_the_shadow_requests_are_copied() -> None:
    copies = {
        (phase, step): canary.policy(judging(phase, step), {}, 2)
        for phase in (P.CANARY, P.ANALYZING, P.ROLLING, P.ROLLING_BACK)
        for step in (SHADOW_STEP, SHARE_STEP)
    }
    assert [key for key, policy in copies.items() if policy and policy.shadow] == [(P.ANALYZING, SHADOW_STEP)]


def test_without_a_canary_or_before_and_after_it_there_is_no_policy() -> None:
    workers = {w.worker: w for w in canary_ready}
    assert canary.policy(rollout(P.ROLLING), workers, 2) is None
    for phase in (P.PENDING, P.PREFLIGHT, P.SUCCEEDED, P.ROLLED_BACK, P.ROLLBACK_FAILED, P.REJECTED):
        assert canary.policy(judging(phase), workers, 2) is None


def test_the_share_reaches_the_broker_before_a_worker_is_drained() -> None:
    """The last stable worker is about to leave: its arm must be empty first."""
    last = judging(P.ROLLING, steps=announced(2), attempts={"worker-2": 1})
    ledger = Ledger(1, 4, {MODEL: NAMES}, {MODEL: (OLD,)}, {1: last})
    action = decide(ledger, MODEL, view(new[0], new[1], old[2]), NOW)
    assert action == SetTable(OLD, NEW, NAMES, Policy(RUN, 1, 100.0, 0.0))


# ---- which gates are looked at


@pytest.mark.parametrize(
    ("wanted", "gates"),
    [
        (judging(P.CANARY), set()),
        (judging(step=SHADOW_STEP), {G.ERRORS, G.AGREEMENT, G.DRIFT}),
        (
            judging(workers=tuple("abcdef"), step=SHARE_STEP),
            {G.ERRORS, G.ERRORS_RELATIVE, G.COLLAPSE, G.LATENCY, G.LATENCY_TAIL, G.DRIFT},
        ),
        (judging(workers=("a", "b"), step=SHARE_STEP), {G.ERRORS, G.ERRORS_RELATIVE, G.COLLAPSE, G.DRIFT}),
        (judging(step=SHARE_STEP), {G.ERRORS, G.ERRORS_RELATIVE, G.COLLAPSE, G.LATENCY, G.LATENCY_TAIL, G.DRIFT}),
        (judging(P.ROLLING), {G.ERRORS, G.ERRORS_RELATIVE, G.COLLAPSE, G.LATENCY, G.LATENCY_TAIL, G.DRIFT}),
        (judging(P.BAKING), {G.ERRORS}),
        (judging(P.COMMITTING), set()),
        (judging(P.SUCCEEDED), {G.ERRORS}),
        (judging(P.ROLLING_BACK), set()),
        (judging(is_unjudged=True), set()),
        (rollout(P.ROLLING), set()),
    ],
)
def test_each_phase_has_its_gates(wanted: Rollout, gates: set[Gate]) -> None:
    assert set(canary.armed(wanted)) == gates


@pytest.mark.parametrize("counts", [None, Counts(RUN), bad(RUN - 1), good(RUN + 1)])
def test_no_evidence_or_that_of_another_run_decides_nothing(counts: Counts | None) -> None:
    assert {one.result for one in canary.verdicts(judging(), counts)} == {INCONCLUSIVE}
    assert asked(judging(), counts=counts, now=NOW + CANARY.step_max_s - 0.01) is None


# ---- the steps


def test_when_the_preflight_has_passed_the_canary_workers_go_first() -> None:
    ledger = Ledger(1, 4, {MODEL: NAMES}, {MODEL: (OLD,)}, {1: rollout(P.PREFLIGHT, settings=CANARY)})
    seen = view(*old[:3], preflight=Finding(True, seconds=0.5))
    seen = replace(seen, table=table_of(SetTable(OLD, None, NAMES)))
    assert decide(ledger, MODEL, seen, NOW) == Record(K.CANARY_STARTED, {"seconds": 0.5}, 1)


def test_only_canary_workers_step_before_the_roll() -> None:
    before = judging(P.CANARY, step=-1)
    assert body_of(asked(before, *old[:3]))["worker"] == "worker-0"
    assert asked(before, new[0], old[1], old[2]) == Record(K.ANALYSIS_STARTED, {"step": 0}, 1)
    assert kind_of(asked(judging(), *canary_ready, counts=good(), now=NOW + 1)) is None


def test_a_lost_canary_worker_is_brought_back_and_its_step_begins_anew() -> None:
    again = asked(judging(), old[0], old[1], old[2], counts=good(), now=NOW + 100)
    assert (kind_of(again), body_of(again)["worker"]) == (K.STEP_STARTED, "worker-0")
    assert asked(judging(P.CANARY, step=SHARE_STEP)) == Record(K.ANALYSIS_STARTED, {"step": SHARE_STEP}, 1)


def test_while_a_canary_worker_is_missing_no_step_passes_and_at_its_limit_a_person_is_asked() -> None:
    gone = worker(0, S.DOWN)
    for now in (NOW + CANARY.step_min_s, NOW + CANARY.step_max_s - 0.01):
        assert asked(judging(), gone, old[1], old[2], counts=good(), now=now) is None
    paused = asked(judging(), gone, old[1], old[2], counts=good(), now=NOW + CANARY.step_max_s)
    assert (kind_of(paused), body_of(paused)["cause"]) == (K.PAUSED, "inconclusive")
    no_person = judging(settings=replace(CANARY, on_inconclusive=OnInconclusive.ABORT))
    back = asked(no_person, gone, old[1], old[2], counts=good(), now=NOW + CANARY.step_max_s)
    assert (kind_of(back), body_of(back)["cause"]) == (K.ROLLBACK_STARTED, "worker")


def test_a_step_that_was_left_is_not_begun_again_for_a_lost_worker() -> None:
    """The order, or the verdict, is older than the loss."""
    promoted = judging(P.CANARY, step=SHADOW_STEP, is_promoted=True)
    assert asked(promoted) == Record(K.ANALYSIS_STARTED, {"step": SHARE_STEP}, 1)
    passed = judged(PASS, phase=P.CANARY, step=SHADOW_STEP)
    assert asked(passed) == Record(K.ANALYSIS_STARTED, {"step": SHARE_STEP}, 1)
    assert kind_of(asked(judged(PASS, phase=P.CANARY, step=SHARE_STEP))) is K.ROLL_STARTED


def test_a_step_passes_with_all_gates_and_not_before_its_least_time() -> None:
    assert asked(judging(), counts=good(), now=NOW + CANARY.step_min_s - 0.01) is None
    passed = body_of(asked(judging(), counts=good(), now=NOW + CANARY.step_min_s))
    assert (passed["result"], passed["step"], passed["elapsed_s"]) == (PASS, SHARE_STEP, CANARY.step_min_s)
    assert counts_from_json(passed["counts"]) == good()
    assert {one["result"] for one in passed["verdicts"]} == {PASS}


def test_after_a_passed_step_comes_the_next_and_after_the_last_the_roll() -> None:
    assert asked(judged(PASS, step=SHADOW_STEP)) == Record(K.ANALYSIS_STARTED, {"step": SHARE_STEP}, 1)
    assert kind_of(asked(judged(PASS, step=SHARE_STEP))) is K.ROLL_STARTED


def test_without_enough_evidence_a_step_is_inconclusive_at_its_end() -> None:
    action = asked(judging(), counts=good(n=100), now=NOW + CANARY.step_max_s)
    assert body_of(action)["result"] is INCONCLUSIVE
    assert "undecided: 100 of 200 replies" in body_of(action)["reason"]
    assert body_of(asked(judging(), counts=None, now=NOW + CANARY.step_max_s))["result"] is INCONCLUSIVE


@pytest.mark.parametrize("phase", [P.ANALYZING, P.ROLLING, P.BAKING])
@pytest.mark.parametrize("paused", [False, True])
def test_a_failure_is_written_down_at_once_also_while_paused(phase: Phase, paused: bool) -> None:
    workers = canary_ready if phase is P.ANALYZING else tuple(new[:3])
    action = asked(judging(phase, paused=paused), *workers, counts=bad())
    assert (kind_of(action), body_of(action)["result"]) == (K.JUDGED, FAIL)
    assert body_of(action)["reason"].startswith("gate errors: 100 of 1000 replies were errors")


@pytest.mark.parametrize("paused", [False, True])
def test_what_has_failed_is_rolled_back_for_the_reason_of_its_gate(paused: bool) -> None:
    action = asked(judged(FAIL, paused=paused))
    assert action == Record(K.ROLLBACK_STARTED, {"cause": "gate", "reason": "gate errors: many"}, 1)


def test_an_abort_comes_before_a_verdict() -> None:
    assert body_of(asked(judged(FAIL, abort="aborted by ada")))["cause"] == "abort"


def test_waiting_for_evidence_is_no_lack_of_progress() -> None:
    slow = replace(CANARY, step_max_s=1e6)
    assert asked(judging(settings=slow), counts=good(n=9), now=NOW + 10 * CANARY.progress_deadline_s) is None
    stuck = asked(judging(P.CANARY), worker(0, S.DOWN), old[1], old[2], now=NOW + CANARY.progress_deadline_s)
    assert body_of(stuck)["cause"] == "deadline"


def apply(before: Rollout, kind: EventKind, now: float = NOW, **body: Any) -> Rollout:
    return advance(before, Event(9, "ts", 4, kind, MODEL, 1, "ada", body), now)


def judge(before: Rollout, result: GateResult) -> Rollout:
    return apply(before, K.JUDGED, result=result, reason="gate latency: few windows")


def test_an_inconclusive_step_pauses_until_somebody_decides() -> None:
    held = judge(judging(), INCONCLUSIVE)
    assert (held.paused, held.pause_cause) == (True, PauseCause.INCONCLUSIVE)
    assert asked(held, counts=good(), now=NOW + 1e6) is None, "it is not run again until it passes"


def test_or_goes_back_when_that_was_chosen() -> None:
    strict = replace(CANARY, on_inconclusive=OnInconclusive.ABORT)
    held = judge(judging(settings=strict), INCONCLUSIVE)
    assert not held.paused
    action = asked(held)
    assert (kind_of(action), body_of(action)["cause"]) == (K.ROLLBACK_STARTED, "gate")


def test_an_inconclusive_step_that_is_resumed_gathers_new_evidence_and_one_that_is_promoted_is_left() -> None:
    held = judge(judging(step=SHADOW_STEP), INCONCLUSIVE)
    resumed = apply(held, K.RESUMED, NOW + 50)
    assert asked(resumed, counts=good()) == Record(K.ANALYSIS_STARTED, {"step": SHADOW_STEP}, 1)
    promoted = apply(held, K.PROMOTED, NOW + 50, full=False)
    assert asked(promoted, counts=good(n=9)) == Record(K.ANALYSIS_STARTED, {"step": SHARE_STEP}, 1)


def test_promoted_leaves_one_step_and_in_full_all_of_them() -> None:
    one = apply(judging(step=SHADOW_STEP), K.PROMOTED, full=False)
    assert asked(one, counts=None) == Record(K.ANALYSIS_STARTED, {"step": SHARE_STEP}, 1)
    next_step = apply(one, K.ANALYSIS_STARTED, step=SHARE_STEP)
    assert asked(next_step, counts=None) is None, "the next step is judged again"
    full = apply(judging(step=SHADOW_STEP), K.PROMOTED, full=True)
    assert kind_of(asked(full, counts=bad())) is K.ROLL_STARTED
    rolling = apply(full, K.ROLL_STARTED, step=2)
    assert kind_of(asked(rolling, *new[:3], counts=bad(rolling.analysis.policy))) is K.BAKE_STARTED


def test_promoted_in_full_stays_so_whatever_is_promoted_later() -> None:
    full = apply(judging(), K.PROMOTED, full=True)
    assert apply(apply(full, K.PAUSED, reason="", cause="user"), K.PROMOTED, full=False).is_unjudged


def test_promoted_in_full_before_the_canary_it_still_goes_first_and_nothing_is_judged() -> None:
    full = apply(rollout(P.PENDING, settings=CANARY), K.PROMOTED, full=True)
    in_canary = replace(full, phase=P.CANARY)
    assert body_of(asked(in_canary, *old[:3]))["worker"] == "worker-0"
    assert kind_of(asked(in_canary)) is K.ROLL_STARTED


def test_the_time_of_a_step_does_not_run_while_it_is_paused() -> None:
    paused = apply(judging(), K.PAUSED, NOW + 1, reason="", cause="user")
    assert asked(paused, counts=good(), now=NOW + 1e6) is None
    resumed = apply(paused, K.RESUMED, NOW + 1000)
    assert asked(resumed, counts=good(), now=NOW + 1000 + CANARY.step_min_s - 0.01) is None
    assert kind_of(asked(resumed, counts=good(), now=NOW + 1000 + CANARY.step_min_s)) is K.JUDGED


@pytest.mark.parametrize("kind", [K.ANALYSIS_STARTED, K.ROLL_STARTED])
def test_each_step_begins_a_run_of_evidence_of_its_own(kind: EventKind) -> None:
    begun = apply(judged(PASS, is_promoted=True), kind, NOW + 5, step=1)
    assert (begun.analysis.policy, begun.analysis.since, begun.analysis.result) == (9, NOW + 5, None)
    assert not begun.is_promoted


# ---- orders


def test_steps_are_fixed_for_the_pool_when_the_rollout_is_ordered(world: World) -> None:
    world.settings = replace(CANARY, steps=("auto",))
    assert world.start("v2").settings.steps == ("shadow", "5", "25", "33.3")
    world.abort()
    world.run_to_end()
    world.settings = replace(CANARY, steps=("50",))
    with pytest.raises(BadRollout, match="1 of 3 workers carry"):
        world.start("v2")


def test_an_undo_has_no_canary(world: World) -> None:
    in_phase(world, P.SUCCEEDED)
    undo = world.undo()
    assert (undo.kind, undo.settings.steps) == (Kind.UNDO, ())
    world.run_to_end()
    world.check(P.SUCCEEDED)
    assert K.ANALYSIS_STARTED not in [event.kind for event in world.journal.events() if event.rollout == undo.number]


def in_phase(world: World, phase: Phase) -> Traffic:
    traffic = Traffic(world.pool, seed=1)
    world.start("v2")
    world.run_to(phase)
    return traffic


# phase, paused, full, what it raises; None: it is taken
PROMOTIONS: list[tuple[Phase, bool, bool, type[Exception] | None]] = [
    (P.PENDING, False, False, NothingToDo),
    (P.PENDING, True, False, None),
    (P.PENDING, False, True, None),
    (P.PREFLIGHT, False, False, NothingToDo),
    (P.CANARY, False, False, NothingToDo),
    (P.CANARY, True, False, None),
    (P.CANARY, False, True, None),
    (P.ANALYZING, False, False, None),
    (P.ANALYZING, True, False, None),
    (P.ANALYZING, False, True, None),
    (P.ROLLING, False, False, NothingToDo),
    (P.ROLLING, True, False, None),
    (P.ROLLING, False, True, None),
    (P.BAKING, False, False, NothingToDo),
    (P.COMMITTING, False, True, Conflict),
    (P.SUCCEEDED, False, True, NothingToDo),
]


@pytest.mark.parametrize(("phase", "paused", "full", "error"), PROMOTIONS)
def test_promote_leaves_a_pause_or_a_step_and_else_says_so(
    world: World, phase: Phase, paused: bool, full: bool, error: type[Exception] | None
) -> None:
    in_phase(world, phase)
    if paused:
        world.pause()
    if error:
        with pytest.raises(error):
            world.promote(full=full)
        return
    promoted = world.promote(full=full)
    assert (promoted.phase, promoted.paused, promoted.is_unjudged) == (phase, False, full)
    world.run_to_end()
    world.check(P.SUCCEEDED)


def test_promote_of_a_step_that_was_left_meanwhile_is_refused_and_changes_nothing(world: World) -> None:
    in_phase(world, P.ANALYZING)
    before = world.journal.last_seq()
    for step in ("50", ""):
        with pytest.raises(Conflict, match=f"at step shadow and not at {'step 50' if step else 'no step'}; look again"):
            world.promote(step=step)
    assert world.journal.last_seq() == before
    world.promote(step="shadow")
    world.run_to(P.ROLLING)
    world.pause()
    with pytest.raises(Conflict, match="at no step and not at step shadow"):
        world.promote(step="shadow")
    assert world.promote(step="").paused is False
    world.run_to_end()
    world.check(P.SUCCEEDED)


def test_promote_after_an_abort_is_refused(world: World) -> None:
    in_phase(world, P.ANALYZING)
    world.abort()
    with pytest.raises(Conflict, match="can't be promoted now"):
        world.promote()


def test_a_rollout_without_a_canary_has_no_step_to_leave(world: World) -> None:
    world.settings = settings()
    world.start("v2")
    world.run_to(P.ROLLING)
    for full in (False, True):
        with pytest.raises(NothingToDo, match="no step to leave"):
            world.promote(full=full)


def test_a_failed_rollout_is_tried_again_from_its_beginning(world: World) -> None:
    traffic = Traffic(world.pool, seed=1)
    world.pool.bad[world.digests["v2"]] = "can't be read"
    world.settings = replace(CANARY, step_min_s=1.0)
    world.start("v2")
    world.run_to_end()
    world.check(P.ROLLED_BACK)
    world.pool.bad.clear()
    first, again = world.last(), world.retry()
    assert (again.number, again.target, again.kind) == (2, first.target, Kind.START)
    assert (again.settings, again.phase) == (first.settings, P.PENDING)
    world.run_to_end()
    world.check(P.SUCCEEDED)
    assert traffic.answered[again.target] > 0


def test_a_retry_that_the_pool_can_not_carry_any_more_says_what_to_do(world: World) -> None:
    world.preflight.finding = Finding(False, "a tensor is missing")
    world.start("v2")
    world.run_to_end()
    only = world.pool.report().workers[:1]
    with pytest.raises(BadRollout, match="order it anew with: hotpool rollout start"):
        orders.retry(world.journal, model=MODEL, workers=only, operator=OPERATOR)


def test_what_has_not_failed_or_is_gone_is_not_tried_again(world: World) -> None:
    with pytest.raises(NothingToDo, match="no failed rollout"):
        world.retry()
    world.start("v2")
    with pytest.raises(Conflict, match="rollout 1"):
        world.retry()
    world.abort()
    world.run_to_end()
    world.append(K.VERSION_REMOVED, name="v2", digest=world.digests["v2"])
    with pytest.raises(BadVersion):
        world.retry()
    world.start("v3")
    world.promote(full=True)
    world.run_to_end()
    with pytest.raises(NothingToDo):
        world.retry()


def test_a_preview_shows_what_an_order_would_give_and_leaves_nothing_behind(world: World) -> None:
    before = world.journal.last_seq()
    made = orders.preview(world.journal, lambda: world.start("v2"))
    assert (made.number, made.target_name, made.settings.steps) == (1, "v2", CANARY.steps)
    assert world.journal.last_seq() == before
    with pytest.raises(BadVersion):
        orders.preview(world.journal, lambda: world.start("v9"))
    assert world.start("v2").number == 1
    with pytest.raises(Conflict):
        orders.preview(world.journal, lambda: world.start("v3"))
    assert world.journal.verify() == before + 1


# ---- a whole one


def test_the_events_of_a_rollout_through_a_canary(world: World) -> None:
    traffic = in_phase(world, P.SUCCEEDED)
    step = [K.STEP_STARTED, K.STEP_DRAINED, K.STEP_LOADED, K.STEP_FINISHED]
    kinds = world.kinds()
    assert kinds[kinds.index(K.PREFLIGHT_STARTED) :] == [
        K.PREFLIGHT_STARTED,
        K.CANARY_STARTED,
        *step,
        *[K.ANALYSIS_STARTED, K.JUDGED] * 2,
        K.ROLL_STARTED,
        *step * 2,
        K.BAKE_STARTED,
        K.COMMIT_STARTED,
        K.SUCCEEDED,
    ]
    world.run_to_end()
    world.check(P.SUCCEEDED)
    assert (world.pool.fewest_ready, traffic.longest_wait_s) == (2, 0.0)


@pytest.mark.parametrize(("share", "step"), [(0.0, SHADOW_STEP), (25.0, SHARE_STEP)])
def test_in_a_step_the_target_answers_its_share(world: World, share: float, step: int) -> None:
    traffic = in_phase(world, P.ANALYZING)
    world.run(lambda: world.last().analysis.step == step)
    world.turn()
    target, before = world.last().target, dict(traffic.answered)
    world.run(lambda: world.last().analysis.result is not None)
    grown = {digest: n - before.get(digest, 0) for digest, n in traffic.answered.items()}
    assert 100 * grown.get(target, 0) / sum(grown.values()) == pytest.approx(share, abs=8)


def test_a_version_that_errs_goes_back_and_nobody_gets_it_any_more(world: World) -> None:
    traffic = Traffic(world.pool, seed=1)
    traffic.behaviours[world.digests["v2"]] = Behaviour(errors=0.2)
    world.start("v2")
    rollout = world.run_to_end()
    world.check(P.ROLLED_BACK)
    assert (rollout.cause, rollout.ending[:12]) == ("gate", "gate errors:")
    assert rollout.analysis.step == SHADOW_STEP
    assert traffic.answered.get(rollout.target, 0) == 0, "in the shadow it answers nobody"


# ---- after the commit


def errs_after_the_commit(world: World, after_s: float, kind: Kind = Kind.START) -> Rollout:
    """The rollout that is the last one when a window is over in which what was committed began to err."""
    traffic = in_phase(world, P.SUCCEEDED)
    if kind is Kind.UNDO:
        world.undo()
        world.run_to(P.SUCCEEDED)
    until = world.pool.now + after_s
    world.run(lambda: world.pool.now >= until)
    traffic.behaviours[world.digests["v2" if kind is Kind.START else "v1"]] = Behaviour(errors=0.3)
    until += 2 * CANARY.watch_s
    world.run(lambda: world.pool.now >= until)
    return world.last()


def test_a_version_that_errs_soon_after_the_commit_is_taken_back(world: World) -> None:
    undo = errs_after_the_commit(world, 1.0)
    world.run_to_end()
    world.check(P.SUCCEEDED)
    assert (undo.kind, undo.target_name, undo.operator) == (Kind.UNDO, "v1", "controller")
    assert undo.reason.startswith("within 6 s after the commit gate errors:")
    assert undo.settings.steps == ()
    (created,) = (e for e in world.journal.events() if (e.kind, e.rollout) == (K.ROLLOUT_CREATED, undo.number))
    assert recheck([created]) == len(ARMED["watch"])


def test_who_orders_that_undo_once_more_is_led_away_from_the_bad_version_as_well(world: World) -> None:
    traffic = in_phase(world, P.SUCCEEDED)
    traffic.behaviours[world.digests["v2"]] = Behaviour(errors=0.3)
    world.run(lambda: world.last().kind is Kind.UNDO)
    undo = world.last()
    assert undo.is_stable_wrong
    world.abort()
    world.run(lambda: world.last().is_over)
    again = world.retry()
    assert (again.number, again.kind, again.is_stable_wrong) == (undo.number + 1, Kind.UNDO, True)


def test_it_is_watched_on_after_another_version_was_rejected(world: World) -> None:
    in_phase(world, P.SUCCEEDED)
    world.preflight.finding = Finding(False, "a tensor is missing")
    world.start("v3")
    assert world.run_to_end().phase is P.REJECTED
    world.turn()
    assert world.pool.table is not None
    assert world.pool.table.policy is not None
    assert world.ledger().watched(MODEL) == world.ledger().rollouts[1]


def test_with_surge_what_failed_gets_nothing_any_more_although_no_spare_is_there_yet() -> None:
    surge = replace(CANARY, strategy=Strategy.SURGE)
    back = judged(FAIL, phase=P.ROLLING_BACK, settings=surge)
    ledger = Ledger(1, 4, {MODEL: NAMES}, {MODEL: (OLD,)}, {1: back})
    table = decide(ledger, MODEL, view(new[0], old[1], old[2]), NOW)
    assert isinstance(table, SetTable)
    assert table.policy is not None
    assert table.policy.share == 0


def test_a_step_can_not_last_longer_at_least_than_at_most() -> None:
    with pytest.raises(BadRollout, match="step_min_s is 700; it must not be above step_max_s, 600"):
        replace(CANARY, step_min_s=700.0, step_max_s=600.0)


def test_later_it_is_not(world: World) -> None:
    assert errs_after_the_commit(world, CANARY.watch_s + 0.5).number == 1
    world.check(P.SUCCEEDED)
    assert world.pool.table is not None
    assert world.pool.table.policy is None, "and nothing is counted any more"


@pytest.mark.parametrize(("away_s", "number"), [(CANARY.watch_s + 1, 1), (CANARY.watch_s - 2, 2), (-3600.0, 2)])
def test_a_controller_that_starts_watches_for_what_is_left_of_the_window(
    world: World, away_s: float, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the time of day. Set back, it makes the window no longer than it is."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Later":
            return cls.fromtimestamp(datetime.now(UTC).timestamp() + away_s, tz)

    traffic = in_phase(world, P.SUCCEEDED)
    world.kill()
    traffic.behaviours[world.digests["v2"]] = Behaviour(errors=0.3)
    monkeypatch.setattr("control.journal.datetime", Later)
    until = world.pool.now + CANARY.watch_s
    world.run(lambda: world.pool.now >= until)
    assert world.last().number == number


def test_an_undo_is_not_watched(world: World) -> None:
    assert errs_after_the_commit(world, 1.0, Kind.UNDO).number == 2


def test_what_was_promoted_in_full_is_not_watched(world: World) -> None:
    in_phase(world, P.ANALYZING)
    world.promote(full=True)
    world.run_to(P.SUCCEEDED)
    assert not canary.is_watched(world.last(), world.pool.now)


def committed(**changes: Any) -> tuple[Ledger, View]:
    last = judging(P.SUCCEEDED, **changes)
    ledger = Ledger(1, 4, {MODEL: NAMES}, {MODEL: (OLD, NEW)}, {1: last})
    return ledger, View({w.worker: w for w in new[:3]}, None, NEW, counts=bad())


def test_it_is_taken_back_within_the_window_alone() -> None:
    ledger, seen = committed()
    assert kind_of(take_back(ledger, MODEL, seen, NOW + CANARY.watch_s - 0.01)) is K.ROLLOUT_CREATED
    assert take_back(ledger, MODEL, seen, NOW + CANARY.watch_s) is None


@pytest.mark.parametrize("counts", [None, good(), bad(RUN - 1)])
def test_it_stays_without_evidence_against_it(counts: Counts | None) -> None:
    ledger, seen = committed()
    assert take_back(ledger, MODEL, replace(seen, counts=counts), NOW) is None


def test_it_stays_when_there_is_nothing_to_go_back_to() -> None:
    ledger, seen = committed()
    removed = replace(ledger, versions={MODEL: {"v2": NEW}})
    assert take_back(removed, MODEL, seen, NOW) is None
    assert take_back(replace(ledger, stables={MODEL: (NEW,)}), MODEL, seen, NOW) is None


@pytest.mark.parametrize(
    "changes", [{"kind": Kind.UNDO}, {"is_unjudged": True}, {"settings": replace(CANARY, watch_s=0)}]
)
def test_what_is_not_watched_is_not_taken_back(changes: dict[str, Any]) -> None:
    ledger, seen = committed(**changes)
    assert take_back(ledger, MODEL, seen, NOW) is None


# ---- the verdicts once more


def verdict_events(changes: Mapping[str, Any] = {}) -> list[Event]:
    body = dict(body_of(asked(judging(), counts=good(), now=NOW + CANARY.step_min_s)))
    made = Event(1, "", 4, K.ROLLOUT_CREATED, MODEL, 1, "ada", {"settings": asdict(CANARY)})
    return [made, Event(2, "", 4, K.JUDGED, MODEL, 1, "controller", {**body, **changes})]


def test_verdicts_follow_from_what_is_written_down() -> None:
    assert recheck(verdict_events()) == 6
    assert recheck([]) == 0


def test_a_changed_count_verdict_or_result_is_noticed() -> None:
    body = verdict_events()[1].body
    counts, verdicts = body["counts"], body["verdicts"]
    target = {**counts["target"], "errors": 3}
    for change in (
        {"counts": {**counts, "target": target}},
        {"result": FAIL},
        {"verdicts": [{**verdicts[0], "result": FAIL}, *verdicts[1:]]},
        {"verdicts": [{**verdicts[0], "progress": 0.5}, *verdicts[1:]]},
        {"verdicts": []},
    ):
        with pytest.raises(JournalCorrupt, match="event 2"):
            recheck(verdict_events(change))
    other_words = {"verdicts": [{**verdicts[0], "reason": "said by an older hotpool"}, *verdicts[1:]]}
    assert recheck(verdict_events(other_words)) == 6


def test_why_a_version_was_taken_back_can_be_audited() -> None:
    ledger, seen = committed()
    body = body_of(take_back(ledger, MODEL, seen, NOW))
    before = verdict_events()

    def with_undo(**changes: Any) -> list[Event]:
        return [*before, Event(3, "", 4, K.ROLLOUT_CREATED, MODEL, 2, "controller", {**body, **changes})]

    assert recheck(with_undo()) == recheck(before) + len(ARMED["watch"])
    counts, target = body["counts"], body["counts"]["target"]
    for changed in ({**target, "errors": target["errors"] - 1}, {**target, "answered": target["answered"] + 1}):
        with pytest.raises(JournalCorrupt, match=r"event 3 \(rollout_created\)"):
            recheck(with_undo(counts={**counts, "target": changed}))
    with pytest.raises(JournalCorrupt, match="event 3"):
        recheck(with_undo(result=PASS))
