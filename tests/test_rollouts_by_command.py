"""A rollout with a canary as an operator has it: the real command line, its exit codes, what it shows and what programs get.

Real: broker, worker processes, controller, journal, `hotpool`. The model computes for two milliseconds. The tests share a pool;
each leaves it as it was, but for which version is stable.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import CliRunner, Result

from control.cli import cli
from hotpool.errors import ModelError
from tests.command_line import CommandLine
from tests.odd_workers import ERRS_OFTEN
from tests.stage import Stage, load, staged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# Times decide nothing here: the machine has other work.
CONFIG = """\
[pool]
model = "noop"
[probe]
interval_s = 0
[rollout]
step_min_s = 0.5
step_max_s = {step_max_s}
bake_s = 0
watch_s = 0
[gates]
min_windows = 1000
latency_ratio = 50.0
tail_ratio = 50.0
"""
# What operators group by while a rollout is judged, with the labels beside model and version.
BY_VERSION = {
    "hotpool_requests_total": {"outcome"},
    "hotpool_service_seconds": set(),
    "hotpool_share_asked": set(),
    "hotpool_share_measured": set(),
    "hotpool_arm_replies": {"arm"},
    "hotpool_rollout_verdicts_total": {"gate", "result"},
    "hotpool_steps_total": {"outcome"},
    "hotpool_step_seconds": {"part"},
    "hotpool_rollout_phase": {"phase"},
    "hotpool_gate_progress": {"gate"},
    "hotpool_probes_wrong_total": set(),
    "hotpool_alarm": set(),
}


@dataclass(frozen=True)
class Operated:
    """process: `hotpool` as a shell runs it, for what waits in vain or is refused; the rest runs here, half a second faster."""

    stage: Stage
    process: CommandLine

    def hotpool(self, *words: str, code: int = 0) -> Result:
        """Runs a command to its end, which must be with this code."""
        where = {"HOTPOOL_HOME": str(self.process.home.root), "HOTPOOL_CONFIG": str(self.process.config)}
        done = CliRunner().invoke(cli, words, env=where)
        assert done.exit_code == code, done.output
        return done

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.hotpool(*words, "-o", "json", code=code).stdout)

    def wait_at_most(self, step_max_s: float) -> None:
        """For evidence, in rollouts that are ordered from now on: each command reads the configuration anew."""
        self.process.config.write_text(CONFIG.format(step_max_s=step_max_s))


@pytest.fixture(scope="module")
def operated() -> Iterator[Operated]:
    with staged(has_controller=False) as stage:
        made = Operated(stage, CommandLine(stage.pool.home, stage.pool.config))
        made.wait_at_most(60.0)
        stage.pool.start_control()
        yield made


def lines(text: str) -> list[str]:
    """With one space between two words."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_a_bad_version_is_taken_back_and_whoever_waited_is_told_so_by_3(operated: Operated) -> None:
    hotpool, as_json = operated.hotpool, operated.json
    operated.wait_at_most(60.0)
    with load(operated.stage, n_threads=1, allowed={ModelError.code}):
        told = operated.process("rollout", "start", "--version", f"v{ERRS_OFTEN}", "--canary", "50", code=3)
        again = as_json("rollout", "retry", "--reason", "was it the pictures?", code=3)
    assert f" -> v{ERRS_OFTEN})" in told.stdout
    assert re.search(r"rolled back to v\d+: gate errors: ", told.stdout)
    assert (again["exit"], again["rollout"]["phase"], again["rollout"]["cause"]) == (3, "rolled_back", "gate")
    assert again["share"] is None, "nothing is split any more"

    shown = lines(hotpool("analysis", "show").stdout)
    assert "judged:" in shown
    assert [line for line in shown if line.startswith("50 analyzing errors fail ")]
    assert [one["result"] for one in as_json("rollout", "get")["rollout"]["judged"]] == ["fail"]
    operated.stage.check()


def test_while_it_is_judged_share_and_gates_are_shown_and_can_be_scraped(operated: Operated) -> None:
    hotpool, as_json = operated.hotpool, operated.json
    operated.wait_at_most(1.0)
    with load(operated.stage, n_threads=1) as callers:
        paused = operated.process("rollout", "start", "--version", "v11", "--canary", "50", code=4)
        callers.wait_for(200)
        shown, view = hotpool("analysis", "show").stdout, as_json("analysis", "show")
        got = hotpool("rollout", "get").stdout
        families = {family["name"]: family["samples"] for family in as_json("metrics")}
        promoted = hotpool("rollout", "promote", "--reason", "the figures are good")
    assert "gather more with: hotpool rollout resume" in paused.stderr
    for text in (shown, got):
        assert "share asked for 50 percent, measured " in text
        assert [line for line in lines(text) if line.startswith("latency inconclusive ░")]
    assert view["share"]["asked"] == 50
    assert 30 < view["share"]["measured"] < 70
    (latency,) = [one["reason"] for one in view["verdicts"] if one["gate"] == "latency"]
    assert latency.endswith(" of at least 1000 windows")
    assert "succeeded: v11 is stable" in promoted.stdout
    for name, others in BY_VERSION.items():
        assert families[name], name
        assert all(set(one["labels"]) == {"model", "version", *others} for one in families[name]), name
    progress = {one["labels"]["gate"]: one["value"] for one in families["hotpool_gate_progress"]}
    assert progress.keys() == {one["gate"] for one in view["verdicts"]}
    assert {one["labels"]["version"] for one in families["hotpool_gate_progress"]} == {"v11"}
    assert families["hotpool_control_malformed_total"][0]["value"] == 0
    operated.stage.check()


def test_without_requests_it_is_paused_with_4_and_each_order_leads_out_with_0(operated: Operated) -> None:
    hotpool, as_json = operated.hotpool, operated.json
    operated.wait_at_most(1.0)
    paused = operated.process.json("rollout", "start", "--version", "v21", "--canary", "50", code=4)
    assert "0 of 200 replies" in paused["message"]
    assert paused["share"] == {"asked": 50, "measured": None}
    refused = operated.process("rollout", "start", "--version", "v51", "-o", "json", code=6)
    assert (json.loads(refused.stderr)["code"], refused.stdout) == ("conflict", "")
    assert "rolled back to" in hotpool("rollout", "abort", "--reason", "no traffic at night").stdout

    assert "ordered; follow it with" in hotpool("rollout", "retry", "--detach").stdout
    assert "inconclusive" in hotpool("rollout", "status", code=4).stdout
    aborted = as_json("rollout", "abort")
    assert (aborted["exit"], aborted["rollout"]["phase"]) == (0, "rolled_back")

    ordered = as_json("rollout", "retry", "--detach")
    assert as_json("rollout", "status", code=4)["rollout"]["number"] == ordered["rollout"]["number"]
    promoted = as_json("rollout", "promote")
    assert (promoted["exit"], promoted["rollout"]["phase"]) == (0, "succeeded")
    operated.stage.check()


def test_metrics_without_a_controller_are_those_of_its_journal(operated: Operated) -> None:
    pool = operated.stage.pool
    pool.kill("control")
    try:
        found = {family["name"] for family in operated.json("metrics")}
    finally:
        pool.start_control()
    assert "hotpool_rollout_phase" in found
    assert "hotpool_control_malformed_total" not in found
