"""Pure: rollouts and the audit as the CLI shows them, in the same way as `render.py`."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hotpool.messages import WorkerReport
from hotpool.states import Phase, WorkerState

from .events import Event, EventKind
from .facts import Share
from .render import duration, short, state_text, table
from .rollout import Rollout
from .verdicts import GateResult, Verdict

_PHASE_STYLES = {
    Phase.SUCCEEDED: "green",
    Phase.REJECTED: "yellow",
    Phase.ROLLED_BACK: "yellow",
    Phase.ROLLBACK_FAILED: "red",
}
_KIND_STYLES = {
    EventKind.SUCCEEDED: "green",
    EventKind.REJECTED: "yellow",
    EventKind.ABORT_REQUESTED: "yellow",
    EventKind.PROMOTED: "yellow",
    EventKind.STEP_FAILED: "yellow",
    EventKind.ROLLBACK_STARTED: "yellow",
    EventKind.ROLLED_BACK: "yellow",
    EventKind.ROLLBACK_FAILED: "red",
}


_RESULT_STYLES = {GateResult.PASS: "green", GateResult.FAIL: "red", GateResult.INCONCLUSIVE: "yellow"}
_CELL_STYLES = {True: "black on green", False: "white on blue"}  # on target, on stable
BAR_CELLS = 10

DIGEST_LENGTH = 64  # of SHA-256 in hexadecimal digits


def phase_text(phase: Phase) -> Text:
    return Text(phase, style=_PHASE_STYLES.get(phase, "cyan"))


def audit_table(events: Iterable[Event]) -> Table:
    made = table("SEQ", "TIME", "OPERATOR", "MODEL", "ROLLOUT", "WHAT", "VERSIONS", "DETAILS", right=("SEQ", "ROLLOUT"))
    for event in events:
        made.add_row(
            str(event.seq),
            event.ts[:19].replace("T", " "),
            event.operator,
            event.model,
            str(event.rollout or ""),
            Text(event.kind, style=_KIND_STYLES.get(event.kind, "")),
            event_versions(event.body),
            Text(event_details(event.body), style="dim"),
        )
    return made


def event_versions(body: Mapping[str, Any]) -> str:
    """`v1 -> v2` of a rollout, or the name and the beginning of the digest of one version."""
    if "target" in body:
        return f"{body['stable_name']} -> {body['target_name']}"
    return " ".join(str(part) for part in (body.get("name"), short(body.get("digest", ""))) if part)


def event_details(body: Mapping[str, Any]) -> str:
    """The reason first, then what else the event holds that has no column of its own."""
    shown = {
        "name",
        "digest",
        "stable",
        "stable_name",
        "target",
        "target_name",
        "settings",
        "reason",
        "verdicts",
        "counts",
        "labelled",
    }
    rest = [
        f"{key}={_value(value)}" for key, value in sorted(body.items()) if key not in shown and value not in ("", None)
    ]
    return "; ".join(filter(None, [str(body.get("reason") or ""), " ".join(rest)]))


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, str) and len(value) == DIGEST_LENGTH and " " not in value:
        return short(value)
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def history_table(rollouts: Iterable[Rollout], now: datetime) -> Table:
    made = table(
        "ROLLOUT", "KIND", "STRATEGY", "FROM", "TO", "PHASE", "STARTED", "TOOK", "OPERATOR", "REASON", "ENDING",
        right=("ROLLOUT",),
    )  # fmt: skip
    for one in rollouts:
        made.add_row(
            str(one.number),
            one.kind,
            one.settings.strategy,
            one.stable_name,
            one.target_name,
            phase_text(one.phase),
            one.created_ts[:19].replace("T", " "),
            took(one, now),
            one.operator,
            one.reason,
            Text(one.ending, style="dim"),
        )
    return made


def gates_table(verdicts: Iterable[Verdict]) -> Table:
    """Each gate with how near it is to a decision, and what it goes by."""
    made = table("GATE", "RESULT", "EVIDENCE", "WHY")
    for one in verdicts:
        result = Text(one.result if one.enforced else f"{one.result} (reported only)", style=_RESULT_STYLES[one.result])
        made.add_row(one.gate, result, bar(one.progress), Text(one.reason, style="dim"))
    return made


def judged_table(rollout: Rollout) -> Table:
    """What was judged of a rollout, step by step."""
    made = table("STEP", "PHASE", "GATE", "RESULT", "WHY")
    for body in rollout.judged:
        for one in body["verdicts"]:
            result = Text(one["result"], style=_RESULT_STYLES[GateResult(one["result"])])
            step = rollout.settings.steps[body["step"]] if body["step"] < len(rollout.settings.steps) else "-"
            made.add_row(step, body["phase"], one["gate"], result, Text(one["reason"], style="dim"))
    return made


def bar(progress: float) -> str:
    filled = round(progress * BAR_CELLS)
    return f"{'█' * filled}{'░' * (BAR_CELLS - filled)} {progress:4.0%}"


def share_text(share: Share) -> str:
    """Asked for and measured, side by side: while workers change the first grows, and the second looks back."""
    measured = "none yet" if share.measured is None else f"{share.measured:.1f} since counting began"
    return f"share asked for {share.asked:g} percent, measured {measured}"


def took(rollout: Rollout, now: datetime) -> str:
    """From its creation to its end, or until now."""
    ended = datetime.fromisoformat(rollout.ended_ts) if rollout.ended_ts else now
    return duration(max(0.0, (ended - datetime.fromisoformat(rollout.created_ts)).total_seconds()))


def live_view(
    rollout: Rollout,
    workers: Iterable[WorkerReport],
    message: str,
    now: float,
    gates: Sequence[Verdict] = (),
    share: Share | None = None,
) -> RenderableType:
    """What `rollout start` shows while it waits: the message, a cell and a line for each worker, the gates. now: as when it was
    replayed."""
    workers = list(workers)
    rows = Table.grid(padding=(0, 2, 0, 0))
    for worker in workers:
        version = worker.version or short(worker.digest)
        rows.add_row(" ", worker.worker, state_text(worker), version, step_text(rollout, worker, now))
    hint = Text("  Ctrl-C leaves the rollout alone; stop it with: hotpool rollout abort", style="dim")
    evidence: list[RenderableType] = [Text(f"  {share_text(share)}")] if share else []
    if gates:
        evidence.append(gates_table(gates))
    return Group(Text(message), cells(rollout, workers), rows, *evidence, hint)


def cells(rollout: Rollout, workers: Iterable[WorkerReport]) -> Text:
    """The workers as a row of cells, each with its version; one that is not ready in brackets."""
    row = Text("  ")
    for worker in workers:
        name = worker.version or "-"
        on_target = worker.digest == rollout.target
        is_ready = worker.state is WorkerState.READY
        row.append(f" {name} " if is_ready else f"({name})", style=_CELL_STYLES[on_target] if is_ready else "dim")
        row.append(" ")
    return row


def step_text(rollout: Rollout, worker: WorkerReport, now: float) -> str:
    """What of its step a worker is in, and for how long: `drain, 2 in flight, 0.40 s`."""
    step = rollout.steps.get(worker.worker)
    if step is None:
        return "done" if worker.digest == rollout.goal else "waits its turn"
    in_flight = f", {worker.in_flight} in flight" if worker.in_flight else ""
    again = f", attempt {step.attempt}" if step.attempt > 1 else ""
    return f"{step.part}{again}{in_flight}, {duration(max(0.0, now - step.since))}"


def steps_table(rollout: Rollout) -> Table:
    """Every step that ended or is open, with the seconds of its parts."""
    parts = ("drain", "load", "verify", "rejoin")
    made = table("WORKER", "GOAL", "ATTEMPT", *(part.upper() for part in parts), "OUTCOME", "REASON")
    for step in (*rollout.ended_steps, *rollout.steps.values()):
        goal = rollout.target_name if step.goal == rollout.target else rollout.stable_name
        seconds = (duration(step.seconds[part]) if part in step.seconds else "-" for part in parts)
        made.add_row(step.worker, goal, str(step.attempt), *seconds, step.outcome, Text(step.reason, style="dim"))
    return made
