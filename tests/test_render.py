"""What the CLI shows: values, alignment, and the JSON views."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO

import pytest
from rich.console import Console

from control import render
from control.events import Event, EventKind
from control.facts import Share, rollout_view
from control.health import Health, readiness, service_health
from control.ledger import Ledger, fold, replay
from control.progress import ending, message
from control.render_rollouts import (
    audit_table,
    bar,
    event_details,
    event_versions,
    history_table,
    judged_table,
    live_view,
    step_text,
    steps_table,
)
from control.rollout import Analysis
from control.rollout_metrics import gate_progress, rollout_families
from control.verdicts import Gate, GateResult, Verdict
from hotpool.messages import QueueReport, Report, WorkerReport
from hotpool.metrics import Counter, Histograms, count, gauge
from hotpool.states import Phase, WorkerState

K = EventKind
OLD, NEW = "a" * 64, "b" * 64
SETTINGS = {
    "max_unavailable": 1, "bake_s": 2.0, "drain_timeout_s": 30.0, "load_timeout_s": 60.0, "progress_deadline_s": 600.0,
    "max_worker_retries": 2, "preflight_memory_mb": 8192, "preflight_timeout_s": 120.0,
}  # fmt: skip


def shown(renderable, width=160):
    out = StringIO()
    Console(file=out, width=width, force_terminal=False).print(renderable)
    return out.getvalue()


def words(text):
    """Its lines, with one space between two words."""
    return [" ".join(line.split()) for line in text.splitlines()]


def worker(n, state=WorkerState.READY, digest=OLD, **more):
    return WorkerReport(f"worker-{n}", state, "default", version="v1" if digest == OLD else "v2", digest=digest, **more)


def report(*workers):
    return Report(1, 7, 61.0, 3, tuple(workers), QueueReport(2, 100, 1024, 4096), (), ())


def ledger_of(*events):
    """events: (kind, body) of rollout 1, after two versions and the first stable one."""
    before = [
        (K.VERSION_ADDED, None, {"name": "v1", "digest": OLD}),
        (K.STABLE_SET, None, {"digest": OLD}),
        (K.VERSION_ADDED, None, {"name": "v2", "digest": NEW}),
    ]
    created = {
        "kind": "start", "stable": OLD, "stable_name": "v1", "target": NEW, "target_name": "v2",
        "workers": ["worker-0", "worker-1"], "settings": SETTINGS, "reason": "retrained",
    }  # fmt: skip
    rows = [*before, (K.ROLLOUT_CREATED, 1, created), *((kind, 1, body) for kind, body in events)]
    ledger = Ledger()
    for seq, (kind, rollout, body) in enumerate(rows, 1):
        ts = f"2026-11-23T10:00:{seq:02d}.000+00:00"
        ledger = fold(ledger, Event(seq, ts, 1, kind, "default", rollout, "ann@edge", body), now=float(seq))
    return ledger


STEP = [
    (K.PREFLIGHT_STARTED, {}),
    (K.PREFLIGHT_PASSED, {"seconds": 1.0}),
    (K.STEP_STARTED, {"worker": "worker-0", "incarnation": 1, "goal": NEW, "attempt": 1}),
]
DONE = [
    (K.STEP_DRAINED, {"worker": "worker-0", "drain_s": 0.25}),
    (K.STEP_LOADED, {"worker": "worker-0", "load_s": 0.5, "verify_s": 0.125, "digest": NEW}),
    (K.STEP_FINISHED, {"worker": "worker-0", "rejoin_s": 0.01}),
]
BACK = [(K.ROLLBACK_STARTED, {"cause": "abort", "reason": "aborted by bob@edge"}), (K.ROLLED_BACK, {})]


# ---- small things


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.314, "0.31 s"), (12.04, "12.0 s"), (60, "1 min 00 s"), (124, "2 min 04 s"), (3 * 3600 + 300, "3 h 05 min"),
     (6 * 86400 + 7200, "6 d 02 h")],
)  # fmt: skip
def test_a_duration_has_two_units_at_most(seconds, text):
    assert render.duration(seconds) == text


@pytest.mark.parametrize(("cores", "text"), [((), "-"), ((3,), "3"), ((2, 0, 1, 8), "0-2,8"), ((4, 6), "4,6")])
def test_cores_are_shown_as_ranges(cores, text):
    assert render.cores_text(cores) == text


def test_a_bar_has_one_width_and_grows_with_the_probability():
    bars = [render.bar(n / 100) for n in range(101)]
    assert {len(bar) for bar in bars} == {24}
    assert bars[0].strip() == ""
    assert bars[100] == "█" * 24
    weights = [sum(" ▏▎▍▌▋▊▉█".index(char) for char in bar) for bar in bars]
    assert weights == sorted(weights)
    assert len(set(weights)) == 101


def test_text_from_outside_is_never_taken_for_markup():
    text = shown(render.workers([worker(0, note="[red]no[/red] [/] such")]))
    assert "[red]no[/red] [/] such" in text


# ---- tables


def test_each_worker_is_one_aligned_line():
    lines = shown(
        render.workers([worker(0, in_flight=3, served=12345, cores=(0,)), worker(1, WorkerState.DOWN)])
    ).splitlines()
    assert len(lines) == 3
    at = lines[0].index("SERVED") + len("SERVED")
    assert lines[1][:at].endswith("12345")
    assert lines[2][:at].endswith(" 0")


def test_worker_details_name_the_failed_load():
    text = shown(render.worker_details([worker(0, token="t", load_reason="conv1.weight is missing")]), width=240)
    assert "conv1.weight is missing" in text


def test_metrics_show_histograms_as_count_mean_and_quantiles():
    waits = Histograms("hotpool_queue_seconds", "Wait.", "model")
    for value in (0.004, 0.004, 0.004, 0.2):
        waits["default",].observe(value)
    empty = Histograms("hotpool_service_seconds", "Work.", "model")
    _ = empty["default",]
    answers = Counter("hotpool_answers_total", "Answers.", "outcome")
    answers["ok",] += 1234567
    size = gauge("hotpool_queue_bytes", "Bytes.", [((), 3 * 1024 * 1024)])
    lines = shown(render.metrics([waits.family(), empty.family(), answers.family(), size])).splitlines()
    assert lines[1].split() == [
        "queue_seconds",
        "model=default",
        "4",
        "53.0",
        "ms",
        "4.3",
        "ms",
        "190.0",
        "ms",
        "198.0",
        "ms",
    ]
    assert lines[2].split()[2:] == ["0", "-", "-", "-", "-"]
    assert lines[3].split() == ["answers_total", "outcome=ok", "1234567"]
    assert lines[4].split() == ["queue_bytes", "3.0", "MiB"]


def test_status_says_why_it_is_degraded():
    health = Health(("worker-1 is down: crash loop",))
    text = shown(render.status([("health", render.health_text(health))], report(worker(0))))
    assert "degraded: worker-1 is down: crash loop" in text


# ---- health


def test_a_pool_with_all_workers_ready_and_a_controller_is_healthy():
    health = service_health(report(worker(0), worker(1)), "default", stable=OLD, has_controller=True)
    assert (health.word, health.reasons) == ("healthy", ())


def test_a_full_disk_is_a_reason_to_worry():
    said = "the disk at /var has 0.0 MB free"
    health = service_health(report(worker(0)), "default", stable=OLD, has_controller=True, full_disk=said)
    assert health.reasons == (f"{said}: serving goes on, rollouts do not (make room there)",)


@pytest.mark.parametrize(
    ("workers", "stable", "has_controller", "reason"),
    [
        ((worker(0),), OLD, False, "no controller is running"),
        ((worker(0),), None, True, "no version of default yet"),
        ((), OLD, True, "no workers of default"),
        ((worker(0), worker(1, WorkerState.DOWN, note="crash loop")), OLD, True, "worker-1 is down: crash loop"),
        ((worker(0), worker(1, WorkerState.DRAINED)), OLD, True, "worker-1 is drained"),
    ],
)
def test_a_degraded_pool_says_why(workers, stable, has_controller, reason):
    health = service_health(report(*workers), "default", stable=stable, has_controller=has_controller)
    assert health.word == "degraded"
    assert any(reason in one for one in health.reasons)


def test_a_worker_in_a_step_of_a_rollout_is_no_reason_to_worry_but_a_dead_one_is():
    in_step = report(worker(0), worker(1, WorkerState.LOADING))
    assert service_health(in_step, "default", stable=OLD, has_controller=True, n_in_step=1).word == "healthy"
    dead = report(worker(0), worker(1, WorkerState.DOWN))
    assert service_health(dead, "default", stable=OLD, has_controller=True, n_in_step=1).word == "degraded"
    two = report(worker(0), worker(1, WorkerState.LOADING), worker(2, WorkerState.DRAINED))
    assert service_health(two, "default", stable=OLD, has_controller=True, n_in_step=1).word == "degraded"


@pytest.mark.parametrize(
    ("workers", "stable", "text", "is_ready", "is_settled"),
    [
        (None, OLD, "waiting for the broker", False, False),
        ((), OLD, "waiting for the workers", False, False),
        ((), None, "waiting for the workers", False, False),
        ((worker(0, WorkerState.DOWN),), None, "no version of default yet", False, True),
        ((worker(0), worker(1, WorkerState.STARTING)), OLD, "1 of 2 workers ready on v1", False, False),
        ((worker(0), worker(1)), OLD, "2 of 2 workers ready on v1", True, True),
        ((worker(0), worker(1, digest=NEW)), OLD, "2 of 2 workers ready on v1 (1), v2 (1)", True, True),
    ],
)
def test_up_says_how_far_it_is(workers, stable, text, is_ready, is_settled):
    state = readiness(None if workers is None else report(*workers), "default", stable)
    assert state.text.startswith(text)
    assert (state.is_ready, state.is_settled) == (is_ready, is_settled)


# ---- rollouts


def test_a_message_changes_only_when_something_happened():
    rollout = ledger_of(*STEP).rollouts[1]
    busy = worker(0, WorkerState.DRAINING, in_flight=2)
    assert message(rollout, [busy, worker(1)]) == message(rollout, [worker(0, WorkerState.DRAINING), worker(1)])
    assert message(rollout, [busy, worker(1)]) == "rolling: 0 of 2 workers on v2, 1 ready (worker-0 draining)"


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_has_a_message(phase):
    rollout = ledger_of().rollouts[1]
    settings = replace(rollout.settings, steps=("shadow", "5"))
    rollout = replace(rollout, phase=phase, ending="because", settings=settings, analysis=Analysis(step=1))
    assert len(message(rollout, [worker(0)])) > 10
    assert len(message(rollout, [])) > 10


def test_an_ending_names_rollout_version_and_reason():
    rollout = ledger_of(*STEP, *BACK).rollouts[1]
    assert ending(rollout) == "rollout 1 of default rolled back to v1: aborted by bob@edge"


def test_the_live_view_shows_each_workers_part_and_seconds():
    rollout = ledger_of(*STEP).rollouts[1]
    now = rollout.steps["worker-0"].since + 1.5
    assert step_text(rollout, worker(0, WorkerState.DRAINING, in_flight=2), now) == "drain, 2 in flight, 1.50 s"
    assert step_text(rollout, worker(1), now) == "waits its turn"
    assert step_text(rollout, worker(1, digest=NEW), now) == "done"
    text = shown(live_view(rollout, [worker(0, WorkerState.DRAINING), worker(1)], "rolling", now))
    assert "worker-0  draining  v1  drain, 1.50 s" in text
    assert "hotpool rollout abort" in text


VERDICTS = (
    Verdict(Gate.ERRORS, GateResult.INCONCLUSIVE, True, "0 of 100 replies; undecided: 100 of 200 replies", {}, 0.5),
    Verdict(Gate.COLLAPSE, GateResult.FAIL, True, "class 1 is 100 % of 200 answers", {}, 1.0),
    Verdict(Gate.DRIFT, GateResult.PASS, False, "confidence has not moved", {}, 1.0),
)


def test_the_live_view_shows_cells_share_and_how_near_each_gate_is():
    rollout = ledger_of(*STEP).rollouts[1]
    workers = [worker(0, digest=NEW), worker(1), worker(2, WorkerState.DRAINING)]
    view = live_view(rollout, workers, "analyzing", 9.0, VERDICTS, Share(25.0, 23.96))
    lines = words(shown(view))
    assert lines[:2] == ["analyzing", "v2 v1 (v1)"], "who is not ready stands in brackets"
    at = lines.index("share asked for 25 percent, measured 24.0 since counting began")
    assert lines[at + 1 : at + 5] == [
        "GATE RESULT EVIDENCE WHY",
        "errors inconclusive █████░░░░░ 50% 0 of 100 replies; undecided: 100 of 200 replies",
        "collapse fail ██████████ 100% class 1 is 100 % of 200 answers",
        "drift pass (reported only) ██████████ 100% confidence has not moved",
    ]


def test_the_live_view_shows_the_share_also_where_nothing_is_judged():
    rollout = ledger_of(*STEP).rollouts[1]
    text = shown(live_view(rollout, [worker(0)], "canary", 9.0, share=Share(0.0, None)))
    assert "share asked for 0 percent, measured none yet" in text
    assert "GATE" not in text
    assert "share" not in shown(live_view(rollout, [worker(0)], "canary", 9.0))


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (0.0, "░░░░░░░░░░   0%"),
        (0.04, "░░░░░░░░░░   4%"),
        (0.66, "███████░░░  66%"),
        (0.99, "██████████  99%"),
        (1.0, "██████████ 100%"),
    ],
)
def test_evidence_is_a_bar_of_ten_cells(progress, text):
    assert bar(progress) == text


def test_what_was_judged_is_a_line_a_gate_with_its_step_also_after_the_last():
    one = {"gate": "errors", "result": "fail", "reason": "9 of 10 replies were errors"}
    other = {"gate": "agreement", "result": "pass", "reason": "0 of 97 pairs differ"}
    rollout = ledger_of(*STEP).rollouts[1]
    rollout = replace(
        rollout,
        settings=replace(rollout.settings, steps=("shadow", "25")),
        judged=(
            {"step": 0, "phase": "analyzing", "verdicts": [other]},
            {"step": 2, "phase": "baking", "verdicts": [one]},
        ),
    )
    assert words(shown(judged_table(rollout))) == [
        "STEP PHASE GATE RESULT WHY",
        "shadow analyzing agreement pass 0 of 97 pairs differ",
        "- baking errors fail 9 of 10 replies were errors",
    ]


def test_steps_show_the_seconds_of_their_parts():
    line = shown(steps_table(ledger_of(*STEP, *DONE).rollouts[1])).splitlines()[1]
    assert line.split() == ["worker-0", "v2", "1", "0.25", "s", "0.50", "s", "0.12", "s", "0.01", "s", "finished"]


def test_the_history_has_a_line_a_rollout_with_its_outcome():
    rollout = ledger_of(*STEP, *BACK).rollouts[1]
    line = shown(history_table([rollout], datetime(2030, 1, 1, tzinfo=UTC)), width=200).splitlines()[1]
    assert line.split()[:6] == ["1", "start", "drain", "v1", "v2", "rolled_back"]
    assert "5.00 s" in line  # from its creation to its end, not to now
    assert "aborted by bob@edge" in line


def test_a_rollout_as_json_holds_no_clock_of_this_process():
    view = rollout_view(ledger_of(*STEP, *DONE).rollouts[1])
    assert "since" not in json.dumps(view)
    assert view["phase"] == "rolling"
    assert view["ended_steps"][0]["seconds"] == {"drain": 0.25, "load": 0.5, "verify": 0.125, "rejoin": 0.01}


def test_the_audit_names_operator_versions_and_reason():
    assert event_versions({"stable_name": "v1", "target_name": "v2", "target": NEW}) == "v1 -> v2"
    assert event_versions({"name": "v1", "digest": OLD}) == "v1 aaaaaaaaaaaa"
    assert (
        event_details({"worker": "worker-0", "reason": "NaN in fc", "part": "load"})
        == "NaN in fc; part=load worker=worker-0"
    )
    event = Event(
        4, "2026-11-23T10:00:00.000+00:00", 1, K.ABORT_REQUESTED, "default", 1, "bob@edge", {"reason": "oops"}
    )
    line = shown(audit_table([event])).splitlines()[1]
    assert line.split() == ["4", "2026-11-23", "10:00:00", "bob@edge", "default", "1", "abort_requested", "oops"]


# ---- metrics of rollouts


def samples(families, name):
    """By label values, in the order of the labels."""
    (family,) = (family for family in families if family.name == f"hotpool_{name}")
    return {tuple(sample.labels.values()): sample for sample in family.samples}


def values(families, name):
    return {labels: sample.value for labels, sample in samples(families, name).items()}


WENT_BACK = [
    (K.ROLLBACK_STARTED, {"cause": "abort", "reason": "aborted by bob@edge"}),
    (K.STEP_STARTED, {"worker": "worker-0", "incarnation": 1, "goal": OLD, "attempt": 1}),
    (K.STEP_DRAINED, {"worker": "worker-0", "drain_s": 0.25}),
    (K.STEP_LOADED, {"worker": "worker-0", "load_s": 1.5, "verify_s": 0.125, "digest": OLD}),
    (K.STEP_FINISHED, {"worker": "worker-0", "rejoin_s": 0.01}),
    (K.ROLLED_BACK, {}),
]


def test_rollout_metrics_come_from_the_journal_by_model_and_version():
    ledger = ledger_of(*STEP, *DONE, *WENT_BACK)
    families = rollout_families(ledger)
    assert values(families, "rollouts_total") == {("default", "v2", "rolled_back"): 1}
    assert values(families, "rollbacks_total") == {("default", "v2", "abort"): 1}
    steps = {("default", "v1", "finished"): 1, ("default", "v2", "finished"): 1}
    assert values(families, "steps_total") == steps, "on the way back a step brings the stable version"
    parts = samples(families, "step_seconds")
    assert {labels[2] for labels in parts} == {"drain", "load", "verify", "rejoin"}
    for version, seconds in (("v1", 1.5), ("v2", 0.5)):
        load = parts["default", version, "load"]
        assert (count(load), load.value) == (1, seconds)
    phases = values(families, "rollout_phase")
    assert {labels for labels, value in phases.items() if value} == {("default", "v2", "rolled_back")}
    assert {labels[2] for labels in phases} == set(Phase)
    assert values(families, "probes_wrong_total") == values(families, "alarm") == {("default", "v1"): 0}
    labels = {tuple(sample.labels)[:2] for family in families for sample in family.samples}
    assert labels == {("model", "version")}


def test_verdicts_that_were_written_down_are_counted():
    rollout = ledger_of(*STEP).rollouts[1]
    judged = replace(rollout, judged=({"verdicts": [{"gate": "errors", "result": "pass"}]},) * 2)
    families = rollout_families(replace(ledger_of(*STEP), rollouts={1: judged}))
    assert values(families, "rollout_verdicts_total") == {("default", "v2", "errors", "pass"): 2}


def test_a_version_that_was_removed_takes_its_metrics_with_it_but_where_the_newest_rollout_is():
    wrong = {"worker": "worker-0", "incarnation": 1, "digest": NEW, "version": "v2", "reason": "NaN", "token": ""}
    ledger = ledger_of(*STEP, *DONE, *WENT_BACK, (K.PROBE_FAILED, wrong))
    assert values(rollout_families(ledger), "probes_wrong_total") == {("default", "v1"): 0, ("default", "v2"): 1}
    removed = Event(
        ledger.seq + 1, "2026-11-23T11:00:00.000+00:00", 1, K.VERSION_REMOVED, "default", None, "ann@edge",
        {"name": "v2", "digest": NEW},
    )  # fmt: skip
    families = rollout_families(fold(ledger, removed, now=99.0))
    with_it = {family.name for family in families for one in family.samples if one.labels["version"] == "v2"}
    assert with_it == {"hotpool_rollout_phase"}
    assert values(families, "steps_total") == {("default", "v1", "finished"): 1}


def test_how_near_each_gate_is_to_its_verdict_is_a_metric_of_the_target():
    rollout = ledger_of(*STEP).rollouts[1]
    assert values([gate_progress(rollout, VERDICTS)], "gate_progress") == {
        ("default", "v2", "errors"): 0.5, ("default", "v2", "collapse"): 1.0, ("default", "v2", "drift"): 1.0,
    }  # fmt: skip
    assert gate_progress(rollout, ()).samples == gate_progress(None, ()).samples == ()


def test_a_failed_rollback_that_is_tried_again_stays_counted():
    failed = (BACK[0], (K.ROLLBACK_FAILED, {"cause": "worker", "reason": "worker-0 failed 3 times"}))
    again = (K.ROLLBACK_STARTED, {"cause": "worker", "reason": "rollback retried by bob@edge"})
    for events, expected in (
        (failed, {"rollback_failed": 1}),
        ((*failed, again), {"rollback_failed": 1}),
        ((*failed, again, failed[1]), {"rollback_failed": 2}),
        ((*failed, again, (K.ROLLED_BACK, {})), {"rollback_failed": 1, "rolled_back": 1}),
    ):
        families = {family.name: family for family in rollout_families(ledger_of(*STEP, *events))}
        samples = families["hotpool_rollouts_total"].samples
        assert {sample.labels["outcome"]: sample.value for sample in samples} == expected


def test_a_rejected_rollout_is_no_rollback():
    families = rollout_families(ledger_of((K.REJECTED, {"cause": "preflight", "reason": "NaN in fc"})))
    assert values(families, "rollouts_total") == {("default", "v2", "rejected"): 1}
    assert values(families, "rollbacks_total") == {}


def test_without_events_there_are_families_and_no_samples():
    assert all(family.samples == () for family in rollout_families(replay([], 0.0)))
