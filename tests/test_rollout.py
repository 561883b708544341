"""The rollout machine: the phase table, and what is decided when."""

from dataclasses import asdict, replace

import msgspec
import pytest

from control.actions import CheckWeights, Drain, Load, PointStable, Record, RunPreflight, SetSpares, SetTable, Undrain
from control.decide import decide
from control.events import Event, EventKind
from control.ledger import Ledger, Repair
from control.rollout import (
    TRANSITIONS,
    Fault,
    IllegalTransition,
    Kind,
    Outcome,
    Part,
    Rollout,
    Step,
    advance,
    next_phase,
)
from control.verdicts import GateSettings
from control.view import Finding, View
from hotpool.config import Gates as GatesSection
from hotpool.config import Rollout as RolloutSection
from hotpool.messages import ModelReport, WorkerReport
from hotpool.states import FINAL_PHASES, Phase, Strategy, WorkerState
from tests.fake_pool import MODEL, SETTINGS, settings

K, P, S = EventKind, Phase, WorkerState
OLD, NEW = "old-digest", "new-digest"
NAMES = {"v1": OLD, "v2": NEW}
NOW = 1000.0
ROLLOUT_EVENTS = {kind for row in TRANSITIONS.values() for kind in row}


# ---- the phase table


def reachable(start: Phase) -> set[Phase]:
    seen: set[Phase] = set()
    todo = [start]
    while todo:
        if (phase := todo.pop()) not in seen:
            seen.add(phase)
            todo += TRANSITIONS[phase].values()
    return seen


def test_every_phase_has_a_row_and_is_reachable() -> None:
    assert set(TRANSITIONS) == set(Phase) == reachable(P.PENDING)


@pytest.mark.parametrize("phase", sorted(set(Phase) - FINAL_PHASES))
def test_every_phase_that_is_not_final_can_end(phase: Phase) -> None:
    assert reachable(phase) & FINAL_PHASES


@pytest.mark.parametrize("phase", sorted(FINAL_PHASES - {P.ROLLBACK_FAILED}))
def test_nothing_happens_after_the_end(phase: Phase) -> None:
    assert TRANSITIONS[phase] == {}


def test_after_a_failed_rollback_there_is_the_rollback_again_and_nothing_else() -> None:
    assert TRANSITIONS[P.ROLLBACK_FAILED] == {K.ROLLBACK_STARTED: P.ROLLING_BACK}


def test_a_rollback_that_begins_again_has_nothing_left_of_the_one_that_failed() -> None:
    failed = stepping(Part.LOAD, phase=P.ROLLBACK_FAILED, attempts={"worker-0": 3}, ended_ts="2026-11-28T10:00:00")
    body = {"cause": "deadline", "reason": "rollback retried by ada"}
    again = advance(failed, Event(9, "", 0, K.ROLLBACK_STARTED, MODEL, 1, "ada", body), NOW + 1)
    assert (again.phase, again.goal, again.steps, again.attempts) == (P.ROLLING_BACK, OLD, {}, {})
    assert [step.outcome for step in again.ended_steps] == [Outcome.LEFT]
    assert (again.ended_ts, again.is_over, again.since) == ("", False, NOW + 1)


def test_only_committing_leads_to_success_and_only_to_success() -> None:
    assert {phase for phase, row in TRANSITIONS.items() if P.SUCCEEDED in row.values()} == {P.COMMITTING}
    assert reachable(P.COMMITTING) == {P.COMMITTING, P.SUCCEEDED}


def test_nothing_rolls_back_a_rollback() -> None:
    assert reachable(P.ROLLING_BACK) == {P.ROLLING_BACK, P.ROLLED_BACK, P.ROLLBACK_FAILED}


def test_every_event_of_a_rollout_has_a_place_in_the_table() -> None:
    others = {K.VERSION_ADDED, K.VERSION_REMOVED, K.STABLE_SET, K.CONTROLLER_STARTED, K.WORKER_REPAIRED}
    others |= {K.PROBE_FAILED, K.ALARM_RAISED, K.ALARM_ENDED}
    assert set(EventKind) - others - {K.ROLLOUT_CREATED} == ROLLOUT_EVENTS


@pytest.mark.parametrize("phase", sorted(Phase))
def test_an_event_without_a_row_is_refused(phase: Phase) -> None:
    for kind in ROLLOUT_EVENTS - TRANSITIONS[phase].keys():
        with pytest.raises(IllegalTransition, match=f"{kind} is not allowed in phase {phase}"):
            next_phase(phase, kind)


def test_a_step_that_is_not_open_can_not_go_on() -> None:
    with pytest.raises(IllegalTransition, match="no step of worker-0 is open"):
        advance(rollout(), Event(1, "", 0, K.STEP_DRAINED, MODEL, 1, "", {"worker": "worker-0", "drain_s": 1.0}), NOW)


def test_a_step_can_not_be_open_twice() -> None:
    body = {"worker": "worker-0", "incarnation": 1, "goal": NEW, "attempt": 1}
    with pytest.raises(IllegalTransition, match="already open"):
        advance(stepping(), Event(1, "", 0, K.STEP_STARTED, MODEL, 1, "", body), NOW)


def test_when_the_rollback_begins_open_steps_are_left_and_the_budget_is_full_again() -> None:
    """What was under way forward must not go on: its goal is the version we flee from."""
    body = {"cause": "abort", "reason": "aborted by ada"}
    before = stepping(Part.LOAD, attempts={"worker-0": 3}, paused=True)
    after = advance(before, Event(9, "", 0, K.ROLLBACK_STARTED, MODEL, 1, "", body), NOW + 1)
    assert (after.phase, after.goal, after.steps, after.attempts) == (P.ROLLING_BACK, OLD, {}, {})
    assert [(step.worker, step.outcome) for step in after.ended_steps] == [("worker-0", Outcome.LEFT)]
    assert (after.cause, after.ending, after.paused, after.since) == ("abort", "aborted by ada", False, NOW + 1)


def test_a_withdrawn_step_does_not_count_as_an_attempt() -> None:
    body = {"worker": "worker-0", "reason": "another worker went down first"}
    after = advance(stepping(), Event(9, "", 0, K.STEP_WITHDRAWN, MODEL, 1, "", body), NOW)
    assert (after.steps, after.attempts) == ({}, {"worker-0": 0})


def test_a_rollback_keeps_its_reason_unless_its_end_has_another() -> None:
    back = rollout(P.ROLLING_BACK, cause="version", ending="NaN")
    done = advance(back, Event(9, "ts", 0, K.ROLLED_BACK, MODEL, 1, "", {}), NOW)
    assert (done.cause, done.ending, done.ended_ts) == ("version", "NaN", "ts")
    failed = advance(back, Event(9, "ts", 0, K.ROLLBACK_FAILED, MODEL, 1, "", {"cause": "worker", "reason": "x"}), NOW)
    assert (failed.cause, failed.ending) == ("worker", "x")


def test_the_settings_of_a_rollout_are_those_of_the_configuration() -> None:
    assert {*RolloutSection.__struct_fields__, "gates", "eval_folder", "eval_pictures"} == set(
        type(SETTINGS).__dataclass_fields__
    )
    assert msgspec.structs.asdict(GatesSection()) == asdict(GateSettings())


# ---- builders


def rollout(phase: Phase = P.ROLLING, **changes: object) -> Rollout:
    base = Rollout(
        number=1, model=MODEL, kind=Kind.START, stable=OLD, stable_name="v1", target=NEW, target_name="v2",
        workers=("worker-0", "worker-1", "worker-2"), settings=SETTINGS, operator="ada", reason="", created_ts="", since=NOW,
        phase=phase,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def stepping(
    part: Part = Part.DRAIN, phase: Phase = P.ROLLING, strategy: Strategy = Strategy.DRAIN, **changes: object
) -> Rollout:
    """With one open step, of worker-0."""
    goal = OLD if phase is P.ROLLING_BACK else NEW
    step = Step("worker-0", 1, goal, 1, "token", NOW, part, strategy)
    return rollout(phase, **{"steps": {"worker-0": step}, "attempts": {"worker-0": 1}, **changes})


def worker(n: int, state: WorkerState = S.READY, digest: str = OLD, **fields: object) -> WorkerReport:
    fields = {"incarnation": 1, **fields}
    return WorkerReport(f"worker-{n}", state, MODEL, version=digest[:3], digest=digest, **fields)  # type: ignore[arg-type]


def view(*workers: WorkerReport, **facts: object) -> View:
    return View({w.worker: w for w in workers}, table=None, pointer=OLD, **facts)  # type: ignore[arg-type]


def asked(rollout: Rollout, seen: View, now: float = NOW):
    """What is decided when pointer and version table are as they should be."""
    ledger = Ledger(1, 4, {MODEL: NAMES}, {MODEL: (OLD,)}, {rollout.number: rollout})
    table = ModelReport(MODEL, 4, OLD, ledger.target(MODEL), NAMES)
    pointer = NEW if rollout.phase is P.COMMITTING else OLD
    return decide(ledger, MODEL, replace(seen, table=table, pointer=pointer), now)


def kind_of(action: object) -> EventKind | None:
    return action.kind if isinstance(action, Record) else None


three_old = (worker(0), worker(1), worker(2))
three_new = tuple(worker(n, digest=NEW) for n in range(3))


# ---- before and after the steps


def test_without_a_stable_version_nothing_is_done() -> None:
    assert decide(Ledger(), MODEL, view(*three_old), NOW) is None


def test_a_pool_at_rest_is_left_alone() -> None:
    ledger = Ledger(1, 4, {MODEL: NAMES}, {MODEL: (OLD,)})
    table = ModelReport(MODEL, 4, OLD, None, NAMES)
    assert decide(ledger, MODEL, replace(view(*three_old), table=table), NOW) is None


def test_the_stable_pointer_follows_the_ledger() -> None:
    ledger = Ledger(1, 4, {MODEL: NAMES}, {MODEL: (OLD,)})
    assert decide(ledger, MODEL, replace(view(*three_old), pointer=None), NOW) == PointStable(OLD)


@pytest.mark.parametrize(
    "table",
    [
        None,
        ModelReport(MODEL, 3, OLD, NEW, NAMES),  # of a controller before us
        ModelReport(MODEL, 4, NEW, NEW, NAMES),
        ModelReport(MODEL, 4, OLD, None, NAMES),
        ModelReport(MODEL, 4, OLD, NEW, {"v1": OLD}),
    ],
)
def test_the_brokers_version_table_is_set_whenever_it_differs(table: ModelReport | None) -> None:
    ledger = Ledger(1, 4, {MODEL: NAMES}, {MODEL: (OLD,)}, {1: rollout()})
    assert decide(ledger, MODEL, replace(view(*three_old), table=table), NOW) == SetTable(OLD, NEW, NAMES)


def test_pending_begins_with_preflight() -> None:
    assert asked(rollout(P.PENDING), view(*three_old)) == Record(K.PREFLIGHT_STARTED, {}, 1)


@pytest.mark.parametrize("phase", [P.PENDING, P.PREFLIGHT])
def test_aborted_before_the_first_step_is_rejected(phase: Phase) -> None:
    action = asked(rollout(phase, abort="aborted by ada"), view(*three_old, preflight=Finding(True)))
    assert action == Record(K.REJECTED, {"cause": "abort", "reason": "aborted by ada"}, 1)


def test_preflight_is_run_and_its_finding_decides() -> None:
    checking = rollout(P.PREFLIGHT)
    assert asked(checking, view(*three_old)) == RunPreflight(NEW, SETTINGS, OLD)
    passed = asked(checking, view(*three_old, preflight=Finding(True, seconds=0.5)))
    assert passed == Record(K.PREFLIGHT_PASSED, {"seconds": 0.5}, 1)
    failed = asked(checking, view(*three_old, preflight=Finding(False, "fc.weight is missing")))
    assert failed == Record(K.REJECTED, {"cause": "preflight", "reason": "fc.weight is missing"}, 1)


def test_all_on_target_begin_to_bake() -> None:
    assert asked(rollout(), view(*three_new)) == Record(K.BAKE_STARTED, {}, 1)


def test_the_bake_takes_its_time_then_weights_are_checked_then_it_commits() -> None:
    baking = rollout(P.BAKING)
    end = NOW + SETTINGS.bake_s
    assert asked(baking, view(*three_new), end - 0.01) is None
    assert asked(baking, view(*three_new), end) == CheckWeights(NEW)
    assert asked(baking, view(*three_new, weights=Finding(True)), end) == Record(K.COMMIT_STARTED, {"digest": NEW}, 1)
    damaged = asked(baking, view(*three_new, weights=Finding(False, "was changed")), end)
    assert damaged == Record(K.ROLLBACK_STARTED, {"cause": "version", "reason": "was changed"}, 1)


@pytest.mark.parametrize(
    "third",
    [
        worker(2, S.DOWN, NEW),
        worker(2, S.STARTING, NEW),
        worker(2, S.LOADING, NEW),
        None,
    ],
)
def test_no_commit_while_a_worker_is_missing(third: WorkerReport | None) -> None:
    present = [worker(0, digest=NEW), worker(1, digest=NEW), *([third] if third else [])]
    assert asked(rollout(P.BAKING), view(*present, weights=Finding(True)), NOW + 2) is None
    assert asked(rollout(P.ROLLING), view(*present)) is None


def test_a_worker_that_booted_stable_while_baking_gets_its_step_again() -> None:
    action = asked(rollout(P.BAKING), view(worker(0, digest=NEW), worker(1, digest=NEW), worker(2)), NOW + 2)
    assert kind_of(action) is K.STEP_STARTED


def test_committing_moves_the_pointer_then_succeeds() -> None:
    committing = rollout(P.COMMITTING)
    ledger = Ledger(1, 4, {MODEL: NAMES}, {MODEL: (OLD,)}, {1: committing})
    assert decide(ledger, MODEL, view(*three_new), NOW) == PointStable(NEW)
    assert asked(committing, view(*three_new)) == Record(K.SUCCEEDED, {"digest": NEW}, 1)


def test_committing_goes_forward_whatever_happens_to_workers() -> None:
    action = asked(rollout(P.COMMITTING), view(worker(0, S.DOWN), worker(1)), NOW + 1e6)
    assert kind_of(action) is K.SUCCEEDED


# ---- which worker gets its step, and the floor


def test_a_step_begins_with_an_event_that_names_worker_process_and_goal() -> None:
    body = {"worker": "worker-0", "incarnation": 1, "attempt": 1, "goal": NEW, "strategy": "drain"}
    assert asked(rollout(), view(*three_old)) == Record(K.STEP_STARTED, body, 1)


@pytest.mark.parametrize(
    ("max_unavailable", "others", "may"),
    [
        (1, [worker(1), worker(2)], True),
        (1, [worker(1, digest=NEW), worker(2)], True),  # ready counts, whatever the version
        (1, [worker(1, S.DOWN), worker(2)], False),
        (1, [worker(1, S.STARTING), worker(2)], False),
        (1, [worker(1, S.LOADING), worker(2)], False),
        (1, [worker(2)], False),  # the broker has not heard of worker-1 yet
        (2, [worker(1, S.DOWN), worker(2)], True),
        (2, [worker(1, S.DOWN), worker(2, S.DOWN)], False),  # never the last one
        (9, [worker(1, S.DOWN), worker(2, S.DOWN)], False),
    ],
)
@pytest.mark.parametrize("phase", [P.ROLLING, P.ROLLING_BACK])
def test_a_ready_worker_is_drained_only_above_the_floor(
    phase: Phase, max_unavailable: int, others: list[WorkerReport], may: bool
) -> None:
    """Forward and back alike, before the event and again before the command. Back it then goes beside, if nobody loads."""
    limits = settings(max_unavailable=max_unavailable)
    candidate = worker(0, digest=OLD if phase is P.ROLLING else NEW)
    before = asked(rollout(phase, settings=limits), view(candidate, *others))
    waits = phase is P.ROLLING or any(other.state is S.LOADING for other in others)
    otherwise = (None, None, None) if waits else (K.STEP_STARTED, "worker-0", "beside")
    found = (kind_of(before), before and before.body["worker"], before and before.body["strategy"])
    assert found == ((K.STEP_STARTED, "worker-0", "drain") if may else otherwise)
    after = asked(stepping(phase=phase, settings=limits), view(candidate, *others))
    if may:
        assert after == Drain("worker-0", max(1, 3 - max_unavailable))
    else:
        assert kind_of(after) is K.STEP_WITHDRAWN


def test_an_announced_drain_counts_before_it_has_begun() -> None:
    """worker-0's step is announced, it is still ready: worker-1 must wait."""
    assert asked(stepping(), view(*three_old)) == Drain("worker-0", 2)
    seen = view(worker(0, S.DRAINING), worker(1), worker(2))
    assert asked(stepping(), seen) is None
    second = asked(stepping(settings=settings(max_unavailable=2)), seen)
    assert (second.kind, second.body["worker"]) == (K.STEP_STARTED, "worker-1")


def test_two_announced_drains_together_keep_the_floor() -> None:
    """Both steps are open, both workers still ready: who is drained second must not break the floor of one."""
    steps = {name: Step(name, 1, NEW, 1, "t", NOW) for name in ("worker-0", "worker-1")}
    both = rollout(steps=steps, attempts=dict.fromkeys(steps, 1), settings=settings(max_unavailable=1))
    assert kind_of(asked(both, view(*three_old))) is K.STEP_WITHDRAWN


def test_who_is_not_ready_anyway_goes_first_and_costs_nothing() -> None:
    action = asked(rollout(), view(worker(0), worker(1), worker(2, S.DRAINED)))
    assert action.body["worker"] == "worker-2"
    action = asked(rollout(), view(worker(0, S.DOWN), worker(1, S.DOWN), worker(2, S.DRAINED)))
    assert action.body["worker"] == "worker-2"


@pytest.mark.parametrize("state", [S.DOWN, S.STARTING, S.LOADING, S.VERIFYING])
def test_who_can_not_step_now_is_waited_for(state: WorkerState) -> None:
    assert asked(rollout(), view(worker(0, state), worker(1, digest=NEW), worker(2, digest=NEW))) is None


def test_seats_that_came_later_take_part() -> None:
    fourth = worker(3)
    action = asked(rollout(), view(*three_new, fourth))
    assert action.body["worker"] == "worker-3"


# ---- one step: part x state

STEPS = [
    # part, worker-0 as reported, what follows
    (Part.DRAIN, worker(0), Drain("worker-0", 2)),
    (Part.DRAIN, worker(0, S.DRAINING), None),
    (Part.DRAIN, worker(0, S.DRAINED), K.STEP_DRAINED),
    (Part.DRAIN, worker(0, S.DRAINED, incarnation=2), K.STEP_FAILED),
    (Part.DRAIN, worker(0, S.DOWN), None),
    (Part.DRAIN, worker(0, S.STARTING, incarnation=2), K.STEP_FAILED),
    (Part.LOAD, worker(0, S.DRAINED), Load("worker-0", NEW, "token")),
    (Part.LOAD, worker(0, S.DRAINED, token="other", load_reason="of another load"), Load("worker-0", NEW, "token")),
    (Part.LOAD, worker(0, S.DRAINED, NEW), Load("worker-0", NEW, "token")),  # nobody has checked it for this step
    (Part.LOAD, worker(0, S.LOADING, token="token"), None),
    (Part.LOAD, worker(0, S.VERIFYING, token="token"), None),
    (Part.LOAD, worker(0, S.DRAINED, NEW, token="token"), K.STEP_LOADED),
    (Part.LOAD, worker(0, S.DRAINED, token="token", load_reason="NaN"), K.STEP_FAILED),
    (Part.LOAD, worker(0, S.DRAINED, token="token"), K.STEP_FAILED),  # says it has loaded, holds the old version
    (Part.LOAD, worker(0, S.READY), Drain("worker-0", 2)),  # the broker was restarted and forgot the drain
    (Part.LOAD, worker(0, S.READY, NEW, token="token"), K.STEP_FINISHED),  # restarted after the load
    (Part.LOAD, worker(0, S.READY, incarnation=2), K.STEP_FAILED),
    (Part.REJOIN, worker(0, S.DRAINED, NEW), Undrain("worker-0")),
    (Part.REJOIN, worker(0, S.READY, NEW), K.STEP_FINISHED),
    (Part.REJOIN, worker(0, S.READY, OLD), K.STEP_FAILED),
    (Part.REJOIN, worker(0, S.DOWN, NEW), None),
]


STEPS_BESIDE = [
    (Part.LOAD, worker(0), Load("worker-0", NEW, "token", beside=True)),
    (Part.LOAD, worker(0, token="token", beside="loading"), None),
    (Part.LOAD, worker(0, token="token", beside="verifying"), None),
    (Part.LOAD, worker(0, token="other", beside="loading"), None),  # of a rollout before: it is let end
    (Part.LOAD, worker(0, S.READY, NEW, token="token"), K.STEP_LOADED),
    (Part.LOAD, worker(0, S.READY, NEW, token="other"), K.STEP_FINISHED),
    (Part.LOAD, worker(0, token="token", load_reason="NaN"), K.STEP_FAILED),
    (Part.LOAD, worker(0, token="token"), K.STEP_FAILED),  # says it has loaded, holds the old version
    (Part.LOAD, worker(0, incarnation=2), K.STEP_FAILED),
    (Part.LOAD, worker(0, S.DOWN), None),
    (Part.LOAD, worker(0, S.DRAINING), None),
    (Part.LOAD, worker(0, S.DRAINED), Load("worker-0", NEW, "token")),  # out of service anyway
    (Part.LOAD, worker(0, S.DRAINED, NEW, token="token"), K.STEP_LOADED),
    (Part.REJOIN, worker(0, S.DRAINED, NEW), Undrain("worker-0")),
    (Part.REJOIN, worker(0, S.READY, NEW), K.STEP_FINISHED),
    (Part.REJOIN, worker(0, S.READY, OLD), K.STEP_FAILED),
]


@pytest.mark.parametrize(("part", "report", "expected"), STEPS_BESIDE)
def test_a_step_beside_goes_on_likewise_and_never_drains(part: Part, report: WorkerReport, expected: object) -> None:
    beside = stepping(part, strategy=Strategy.BESIDE, settings=settings(strategy=Strategy.BESIDE))
    action = asked(beside, view(report, worker(1), worker(2)), NOW + 0.5)
    assert (kind_of(action) if isinstance(expected, EventKind) else action) == expected


@pytest.mark.parametrize("strategy", [Strategy.DRAIN, Strategy.BESIDE])
def test_while_a_worker_loads_beside_nothing_is_over_and_no_step_of_it_begins(strategy: Strategy) -> None:
    """Whatever it loads was ordered by a step that is no more; it may be about to serve it."""
    limits = settings(strategy=strategy)
    busy, stable = worker(0, digest=OLD, beside="loading"), (worker(1, digest=OLD), worker(2, digest=OLD))
    assert asked(rollout(P.ROLLING_BACK, settings=limits), view(busy, *stable)) is None
    assert kind_of(asked(rollout(P.ROLLING_BACK, settings=limits), view(worker(0), *stable))) is K.ROLLED_BACK


@pytest.mark.parametrize(("part", "report", "expected"), STEPS)
def test_a_step_goes_on_by_its_part_and_the_workers_state(part: Part, report: WorkerReport, expected: object) -> None:
    action = asked(stepping(part), view(report, worker(1), worker(2)), NOW + 0.5)
    assert (kind_of(action) if isinstance(expected, EventKind) else action) == expected


def test_a_step_goes_on_while_the_rollout_is_paused() -> None:
    assert asked(stepping(paused=True), view(*three_old)) == Drain("worker-0", 2)
    assert asked(rollout(paused=True), view(*three_old)) is None
    assert asked(rollout(paused=True), view(*three_new)) is None
    assert asked(rollout(P.BAKING, paused=True), view(*three_new, weights=Finding(True)), NOW + 9) is None
    assert asked(rollout(P.PENDING, paused=True), view(*three_old)) is None


def test_the_parts_of_a_step_are_timed() -> None:
    drained = asked(stepping(), view(worker(0, S.DRAINED), worker(1), worker(2)), NOW + 0.25)
    assert drained.body == {"worker": "worker-0", "drain_s": 0.25}
    report = worker(0, S.DRAINED, NEW, token="token", load_s=0.3, verify_s=0.1)
    loaded = asked(stepping(Part.LOAD), view(report, worker(1), worker(2)), NOW + 0.5)
    assert loaded.body == {"worker": "worker-0", "digest": NEW, "load_s": 0.3, "verify_s": 0.1}


@pytest.mark.parametrize(
    ("part", "state", "limit"),
    [
        (Part.DRAIN, S.DRAINING, "drain_timeout_s"),
        (Part.DRAIN, S.DOWN, "drain_timeout_s"),
        (Part.LOAD, S.LOADING, "load_timeout_s"),
        (Part.LOAD, S.VERIFYING, "load_timeout_s"),
        (Part.LOAD, S.DOWN, "load_timeout_s"),
        (Part.REJOIN, S.DOWN, "load_timeout_s"),
    ],
)
def test_a_part_that_takes_too_long_is_the_workers_fault(part: Part, state: WorkerState, limit: str) -> None:
    limits = settings(drain_timeout_s=3.0, load_timeout_s=4.0)
    allowed_s = getattr(limits, limit)
    seen = view(worker(0, state, token="token"), worker(1), worker(2))
    assert asked(stepping(part, settings=limits), seen, NOW + allowed_s - 0.01) is None
    failed = asked(stepping(part, settings=limits), seen, NOW + allowed_s)
    assert failed.kind is K.STEP_FAILED
    assert failed.body["fault"] is Fault.WORKER
    assert f"{part} took longer than {allowed_s:g} s" in failed.body["reason"]


def test_a_refused_load_is_the_versions_fault_forward_and_the_workers_back() -> None:
    refused = view(worker(0, S.DRAINED, "x", token="token", load_reason="NaN in fc.weight"), worker(1), worker(2))
    forward = asked(stepping(Part.LOAD), refused)
    assert (forward.body["fault"], forward.body["reason"]) == (Fault.VERSION, "NaN in fc.weight")
    assert asked(stepping(Part.LOAD, P.ROLLING_BACK), refused).body["fault"] is Fault.WORKER


def test_a_failed_load_of_the_version_it_holds_is_no_failure() -> None:
    """The file is damaged, the copy in memory is not: the worker can still go back to service."""
    held = worker(0, S.DRAINED, OLD, token="token", load_reason="checksum differs")
    assert kind_of(asked(stepping(Part.LOAD, P.ROLLING_BACK), view(held, worker(1), worker(2)))) is K.STEP_LOADED


def test_a_worker_still_draining_what_it_should_hold_is_undrained() -> None:
    draining = view(worker(0, S.DRAINING), worker(1), worker(2))
    assert asked(stepping(Part.DRAIN, P.ROLLING_BACK), draining) == Undrain("worker-0")


# ---- back


def test_a_version_fault_rolls_back_at_once() -> None:
    action = asked(rollout(version_fault="worker-0: NaN"), view(worker(0, S.DRAINED), worker(1), worker(2)))
    assert action == Record(K.ROLLBACK_STARTED, {"cause": "version", "reason": "worker-0: NaN"}, 1)


def test_a_workers_fault_is_tried_again_until_its_budget_is_spent() -> None:
    failed = Step("worker-0", 1, NEW, 1, "t", NOW, outcome=Outcome.FAILED, reason="its process ended")
    again = rollout(attempts={"worker-0": SETTINGS.max_worker_retries}, ended_steps=(failed,))
    assert kind_of(asked(again, view(*three_old))) is K.STEP_STARTED
    spent = replace(again, attempts={"worker-0": SETTINGS.max_worker_retries + 1})
    action = asked(spent, view(*three_old))
    assert (action.kind, action.body["cause"]) == (K.ROLLBACK_STARTED, "worker")
    assert "worker-0 needed more than 3 attempts; the last failed because its process ended" in action.body["reason"]
    back = asked(replace(spent, phase=P.ROLLING_BACK), view(worker(0, digest=NEW), worker(1), worker(2)))
    assert (back.kind, back.body["cause"]) == (K.ROLLBACK_FAILED, "worker")


@pytest.mark.parametrize("phase", [P.ROLLING, P.BAKING])
@pytest.mark.parametrize("paused", [False, True])
def test_an_abort_rolls_back_also_while_paused(phase: Phase, paused: bool) -> None:
    action = asked(rollout(phase, abort="aborted by ada: oops", paused=paused), view(*three_new))
    assert action == Record(K.ROLLBACK_STARTED, {"cause": "abort", "reason": "aborted by ada: oops"}, 1)


def test_without_progress_it_rolls_back_but_pauses_and_the_bake_do_not_count() -> None:
    deadline = NOW + SETTINGS.progress_deadline_s
    waiting = view(worker(0, S.DOWN), worker(1, digest=NEW), worker(2, digest=NEW))
    assert asked(rollout(), waiting, deadline - 0.01) is None
    action = asked(rollout(), waiting, deadline)
    assert (action.kind, action.body["cause"]) == (K.ROLLBACK_STARTED, "deadline")
    assert asked(rollout(paused=True), waiting, deadline + 1e6) is None
    assert asked(rollout(P.BAKING), waiting, deadline) is None
    assert asked(rollout(P.BAKING), waiting, deadline + SETTINGS.bake_s).body["cause"] == "deadline"


def test_back_is_over_when_all_are_on_stable() -> None:
    back = rollout(P.ROLLING_BACK)
    assert kind_of(asked(back, view(*three_old))) is K.ROLLED_BACK
    assert asked(back, view(worker(0), worker(1), worker(2, S.DOWN))) is None
    assert asked(back, view(worker(0), worker(1))) is None
    assert asked(back, view()) is None


def test_a_worker_on_target_is_stepped_back() -> None:
    action = asked(rollout(P.ROLLING_BACK), view(worker(0, digest=NEW), worker(1), worker(2)))
    assert (action.body["worker"], action.body["goal"]) == ("worker-0", OLD)


# ---- away from what must not stay, with a worker missing

one_gone = (worker(0, digest=NEW), worker(1, digest=NEW), worker(2, S.DOWN))


def test_the_way_back_does_not_wait_for_the_floor_but_loads_beside_one_after_the_other() -> None:
    back = rollout(P.ROLLING_BACK)
    first = asked(back, view(*one_gone))
    assert (first.body["worker"], first.body["strategy"]) == ("worker-0", "beside")
    begun = advance(back, Event(9, "", 0, K.STEP_STARTED, MODEL, 1, "", first.body), NOW)
    assert begun.steps["worker-0"].part is Part.LOAD
    load = asked(begun, view(*one_gone))
    assert load == Load("worker-0", OLD, begun.steps["worker-0"].token, beside=True)
    busy = worker(0, digest=NEW, token=load.token, beside="loading")
    assert asked(begun, view(busy, *one_gone[1:])) is None, "worker-1 waits: its step might cost a second one its time"


def test_a_step_in_an_older_journal_has_the_strategy_of_its_rollout() -> None:
    body = {"worker": "worker-0", "incarnation": 1, "goal": NEW, "attempt": 1}
    for strategy, part in ((Strategy.DRAIN, Part.DRAIN), (Strategy.BESIDE, Part.LOAD)):
        before = rollout(settings=settings(strategy=strategy))
        after = advance(before, Event(9, "", 0, K.STEP_STARTED, MODEL, 1, "", body), NOW)
        assert (after.steps["worker-0"].strategy, after.steps["worker-0"].part) == (strategy, part)


def test_one_that_loads_beside_counts_as_ready_for_the_drain_of_another() -> None:
    """The third is back meanwhile."""
    beside = stepping(Part.LOAD, P.ROLLING_BACK, Strategy.BESIDE)
    seen = view(worker(0, digest=NEW, token="token", beside="loading"), worker(1, digest=NEW), worker(2))
    action = asked(beside, seen)
    assert (kind_of(action), action.body["worker"], action.body["strategy"]) == (K.STEP_STARTED, "worker-1", "drain")


def test_forward_only_an_undo_goes_beside_and_only_an_undo_leaves_without_who_has_no_process() -> None:
    """It, too, leaves a version that must not stay."""
    waiting = view(worker(0), worker(1), worker(2, S.DOWN))
    assert asked(rollout(), waiting) is None
    assert asked(rollout(kind=Kind.UNDO), waiting).body["strategy"] == "beside"
    arrived = view(worker(0, digest=NEW), worker(1, digest=NEW), worker(2, S.DOWN), weights=Finding(True))
    end = NOW + SETTINGS.bake_s
    for phase, kind in ((P.ROLLING, K.BAKE_STARTED), (P.BAKING, K.COMMIT_STARTED)):
        assert asked(rollout(phase), arrived, end) is None
        assert kind_of(asked(rollout(phase, kind=Kind.UNDO), arrived, end)) is kind


@pytest.mark.parametrize("third", [worker(2, S.STARTING), worker(2, S.LOADING), None])
def test_an_undo_waits_for_who_is_on_its_way(third: WorkerReport | None) -> None:
    present = [worker(0, digest=NEW), worker(1, digest=NEW), *([third] if third else [])]
    assert asked(rollout(kind=Kind.UNDO), view(*present)) is None
    assert asked(rollout(kind=Kind.UNDO), view(*(worker(n, S.DOWN) for n in range(3)))) is None
    assert asked(stepping(kind=Kind.UNDO), view(worker(0, S.DOWN), *three_new[1:])) is None, "its step is open"


def test_a_spare_on_its_way_is_waited_for_but_not_for_long() -> None:
    surge = rollout(P.ROLLING_BACK, settings=settings(strategy=Strategy.SURGE))
    late = NOW + SETTINGS.drain_timeout_s
    assert asked(surge, view(*three_new), NOW) == SetSpares(1)
    assert asked(surge, view(*three_new), late - 0.01) == SetSpares(1)
    assert asked(surge, view(*three_new), late).body["strategy"] == "beside"
    spare = msgspec.structs.replace(worker(0), worker="spare-0")
    assert asked(surge, view(*three_new, spare)).body["strategy"] == "surge"
    assert asked(surge, view(*one_gone, spare)).body["strategy"] == "beside", "it stands in for another"


def test_a_worker_that_can_not_go_back_does_not_keep_the_others_from_it() -> None:
    spent = rollout(P.ROLLING_BACK, attempts={"worker-0": SETTINGS.max_worker_retries + 1})
    stuck = worker(0, S.DRAINED, NEW)
    others = asked(spent, view(stuck, worker(1, digest=NEW), worker(2)))
    assert (kind_of(others), others.body["worker"], others.body["strategy"]) == (K.STEP_STARTED, "worker-1", "beside")
    assert asked(spent, view(stuck, worker(1, S.STARTING), worker(2))) is None
    for second in (worker(1), worker(1, S.DOWN)):
        failed = asked(spent, view(stuck, second, worker(2)))
        assert (failed.kind, failed.body["cause"]) == (K.ROLLBACK_FAILED, "worker")


def test_an_overdue_rollback_ends_by_what_the_living_workers_hold() -> None:
    deadline = NOW + SETTINGS.progress_deadline_s
    back = rollout(P.ROLLING_BACK)
    assert kind_of(asked(back, view(worker(0), worker(1), worker(2, S.DOWN, NEW)), deadline)) is K.ROLLED_BACK
    assert kind_of(asked(back, view(worker(0), worker(1), worker(2, S.LOADING)), deadline)) is K.ROLLBACK_FAILED
    stuck = asked(back, view(worker(0, digest=NEW), worker(1), worker(2, S.DOWN)), deadline)
    assert (stuck.kind, stuck.body["cause"]) == (K.ROLLBACK_FAILED, "deadline")
    assert "worker-0 ready, worker-1 ready, worker-2 down" in stuck.body["reason"]


# ---- outside rollouts


def idle(seen: View, repairs: dict[str, Repair] | None = None, now: float = NOW, last: Rollout | None = None):
    ledger = Ledger(1, 4, {MODEL: NAMES}, {MODEL: (OLD,)}, {1: last} if last else {}, repairs or {})
    table = ModelReport(MODEL, 4, OLD, ledger.target(MODEL), NAMES)
    return decide(ledger, MODEL, replace(seen, table=table), now)


def test_a_worker_left_drained_is_repaired_event_first() -> None:
    left = view(worker(0), worker(1, S.DRAINED, NEW))
    assert idle(left).kind is K.WORKER_REPAIRED
    repairs = {"worker-1": Repair(1, NOW, "repair")}
    assert idle(left, repairs) == Load("worker-1", OLD, "repair")
    loaded = view(worker(0), worker(1, S.DRAINED, OLD, token="repair"))
    assert idle(loaded, repairs, NOW + 9) == Undrain("worker-1")


def test_repairs_that_fail_come_ever_more_seldom() -> None:
    failed = view(worker(0), worker(1, S.DRAINED, NEW, token="repair", load_reason="checksum"))
    for count, pause_s in [(1, 1.0), (2, 2.0), (5, 16.0), (50, 4096.0), (5000, 4096.0)]:
        repairs = {"worker-1": Repair(count, NOW, "repair")}
        assert idle(failed, repairs, NOW + pause_s - 0.01) is None
        assert idle(failed, repairs, NOW + pause_s).kind is K.WORKER_REPAIRED


def test_after_a_failed_rollback_workers_on_the_target_still_serve() -> None:
    failed = rollout(P.ROLLBACK_FAILED)
    assert idle(view(worker(0), worker(1, digest=NEW)), last=failed) is None
