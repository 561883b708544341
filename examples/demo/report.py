"""Pure but for `save`: what the demo found, as a table and as JSON."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass
class RolloutReport:
    """One `hotpool rollout start`.

    outcome: the phase it ended in. steps: seconds of each worker's step by part. cause: of its end, if it did not succeed.
    page: the file with its pictures.
    """

    version: str
    what: str
    outcome: str
    exit_code: int
    why: str
    steps: list[dict[str, float | str]] = field(default_factory=list)
    cause: str = ""
    page: str = ""


@dataclass
class Report:
    """All of `report.json`. accuracy: of each version on held-out pictures."""

    workers: int
    callers: int
    accuracy: dict[str, float]
    sent: int = 0
    answered: int = 0
    lost: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    wrong_version: list[str] = field(default_factory=list)
    answers_by_version: dict[str, int] = field(default_factory=dict)
    answers_after_retry: int = 0
    slowest_answer_s: float = 0.0
    requests_per_s: float = 0.0
    fewest_ready: int = 0
    fewest_ready_in_injected_kills: int = 0
    injected: list[str] = field(default_factory=list)
    rollouts: list[RolloutReport] = field(default_factory=list)
    stable_at_the_end: str = ""
    seconds: float = 0.0

    @property
    def claims(self) -> dict[str, bool]:
        """What must hold for exit code 0."""
        by_version = {rollout.version: rollout for rollout in self.rollouts}
        bad = {"v3", "v4"}
        worse = by_version["v5"]
        return {
            "no request lost": self.sent > 0 and self.lost == 0,
            "no error seen by a caller": not self.errors,
            "no answer names the wrong version": not self.wrong_version,
            "never fewer ready than workers - 1, but for the injected kills": self.fewest_ready >= self.workers - 1,
            "v2 is stable at the end": self.stable_at_the_end == "v2" and by_version["v2"].outcome == "succeeded",
            "v3 and v4 were rejected": all(by_version[name].outcome == "rejected" for name in bad),
            "v5 passed every check and was taken back by a gate": (worse.outcome, worse.cause)
            == ("rolled_back", "gate"),
            "v3, v4 and v5 never served a caller": not (bad | {"v5"}) & set(self.answers_by_version),
            "both v1 and v2 served callers": {"v1", "v2"} <= set(self.answers_by_version),
        }

    @property
    def passed(self) -> bool:
        return all(self.claims.values())


def save(report: Report, path: Path) -> None:
    body = {**asdict(report), "claims": report.claims, "passed": report.passed}
    path.write_text(json.dumps(body, indent=2) + "\n")


def show(report: Report, console: Console) -> None:
    """The tables that people read."""
    console.print(_figures(report))
    console.print(_steps(report))
    console.print(_rollouts(report))
    for rollout in report.rollouts:
        if Path(rollout.page).exists():
            console.print(f"the rollout of {rollout.version} in pictures: {rollout.page}", soft_wrap=True)
    for claim, holds in report.claims.items():
        console.print(f"  {'[green]holds[/]' if holds else '[bold red]FAILS[/]'}  {claim}")
    console.print(f"{'[bold green]passed' if report.passed else '[bold red]failed'}[/] in {report.seconds:g} s")


def _figures(report: Report) -> Table:
    table = Table(title="Requests", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    served = ", ".join(f"{n} by {version}" for version, n in sorted(report.answers_by_version.items()))
    for name, value in (
        ("sent", report.sent),
        ("answered", f"{report.answered} ({served})"),
        ("lost", report.lost),
        ("errors", _counts(report.errors)),
        ("answers that name the wrong version", len(report.wrong_version)),
        ("answered after a worker was lost with them", report.answers_after_retry),
        ("slowest answer", f"{report.slowest_answer_s:.2f} s"),
        ("rate", f"{report.requests_per_s:.0f} requests/s from {report.callers} threads"),
        ("fewest ready workers", f"{report.fewest_ready} of {report.workers}"),
        ("  in the moments of the injected kills", report.fewest_ready_in_injected_kills),
        ("killed on the way", ", ".join(report.injected)),
        ("accuracy", ", ".join(f"{version} {value:.1%}" for version, value in report.accuracy.items())),
    ):
        table.add_row(name, str(value))
    return table


def _rollouts(report: Report) -> Table:
    table = Table(title="Rollouts", title_justify="left")
    for column in ("version", "what it is", "ended"):
        table.add_column(column, no_wrap=True)
    table.add_column("why", overflow="fold")
    for rollout in report.rollouts:
        table.add_row(rollout.version, rollout.what, rollout.outcome, rollout.why)
    return table


def _steps(report: Report) -> Table:
    parts = ("drain", "load", "verify", "rejoin")
    table = Table(title="Worker steps, seconds", title_justify="left")
    for column in ("version", "worker", *parts, "all"):
        table.add_column(column, justify="left" if column in ("version", "worker") else "right")
    for rollout in report.rollouts:
        for step in rollout.steps:
            seconds = [float(step.get(part, 0.0)) for part in parts]
            table.add_row(rollout.version, str(step["worker"]), *(f"{value:.2f}" for value in (*seconds, sum(seconds))))
    return table


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "0"
