"""Shell: `hotpool up`, `down`, `status`, `workers` and `metrics`: the running pool."""

import contextlib
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import click
import msgspec
from rich.live import Live
from rich.text import Text

from hotpool.admin import Admin
from hotpool.control_client import ControlClient
from hotpool.disk import full_disk
from hotpool.errors import ControllerUnreachable
from hotpool.exposition import to_prometheus
from hotpool.locks import holder
from hotpool.messages import Family, Report

from . import render
from . import up as pool
from .exits import Exit
from .facts import status_view
from .health import Health, pool_health
from .ledger import Ledger
from .progress import message, title
from .rollout_metrics import rollout_families
from .terminal import Terminal, end, output_forms, output_option, pass_terminal

WATCH_S = 1.0
REPORT_TIMEOUT_S = 2.0


@click.command()
@click.option("--detach", is_flag=True, help="Run in the background; return when the pool is ready.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=1), default=60.0, show_default=True, metavar="SECONDS",
    help="How long --detach waits.",
)  # fmt: skip
@pass_terminal
def up(terminal: Terminal, detach: bool, timeout_s: float) -> None:
    """Start broker, workers and controller, and keep them running.

    Ctrl-C stops them in order: workers finish what they hold. A second Ctrl-C stops them at once.

    \b
    Example:
      hotpool up --detach
    """
    if detach:
        end(pool.start_detached(terminal.home, terminal.config_path, terminal.config, timeout_s, terminal.say))
    end(pool.run_pool(terminal.home, terminal.config_path, terminal.config, terminal.say))


@click.command()
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=1), default=60.0, show_default=True, metavar="SECONDS",
    help="How long to wait for the end.",
)  # fmt: skip
@output_option
@pass_terminal
def down(terminal: Terminal, timeout_s: float, output: str) -> None:
    """Stop the running pool and wait until it has ended.

    \b
    Example:
      hotpool down
    """
    stopped = pool.stop_pool(terminal.home, timeout_s, terminal.say)
    terminal.show(output, asdict(stopped))
    end(Exit.OK if stopped.has_ended else Exit.TIMEOUT)


@click.command()
@output_option
@pass_terminal
def status(terminal: Terminal, output: str) -> None:
    """Show the pool's health, workers, queue and rollout.

    Ends with 0 when it is healthy, with 8 when it is degraded, with 7 when there is no broker.

    \b
    Example:
      hotpool status
    """
    model = terminal.config.pool.model
    report, ledger = fetch_report(terminal), terminal.ledger()
    controller = holder(terminal.home.lock("control"))
    health = pool_health(
        report, ledger, model, has_controller=controller is not None, full_disk=full_disk(terminal.home.root)
    )
    lines = _status_lines(report, ledger, model, controller, health)
    terminal.show(output, status_view(report, ledger, model, controller, health), render.status(lines, report))
    end(Exit.DEGRADED if health.reasons else Exit.OK)


def _status_lines(
    report: Report, ledger: Ledger, model: str, controller: int | None, health: Health
) -> list[tuple[str, str | Text]]:
    stable, active = ledger.stable(model), ledger.active(model)
    workers = [worker for worker in report.workers if worker.model == model]
    lines: list[tuple[str, str | Text]] = [
        ("health", render.health_text(health)),
        ("model", f"{model}, stable {_version_text(ledger, model, stable)}"),
        ("broker", f"up {render.duration(report.uptime_s)}"),
        ("controller", "not running" if controller is None else f"process {controller}, epoch {ledger.epoch}"),
        ("queue", render.queue_text(report.queue)),
    ]
    if active:
        lines.append(("rollout", f"{title(active)}: {message(active, workers)}"))
    return lines


def _version_text(ledger: Ledger, model: str, digest: str | None) -> str:
    return "none yet" if digest is None else f"{ledger.name(model, digest)} ({render.short(digest)})"


@click.command()
@output_option
@pass_terminal
def workers(terminal: Terminal, output: str) -> None:
    """Show each worker in detail.

    Its process, memory, last load and restarts by cause.

    \b
    Example:
      hotpool workers -o json
    """
    report = fetch_report(terminal)
    terminal.show(output, msgspec.to_builtins(report.workers), render.worker_details(report.workers))


@click.command()
@output_forms("text", "json", "prometheus")
@click.option("--watch", is_flag=True, help="Show them anew every second, until Ctrl-C.")
@pass_terminal
def metrics(terminal: Terminal, output: str, watch: bool) -> None:
    """Show what the pool has counted and measured.

    `-o prometheus` is for a scraper; times in the table are estimated from histograms.

    \b
    Example:
      hotpool metrics -o prometheus > /var/lib/node_exporter/hotpool.prom
    """
    if watch and output == "text" and terminal.out.is_terminal:
        with Live(console=terminal.out, screen=True, auto_refresh=False) as live:
            while True:
                live.update(render.metrics(_families(terminal)), refresh=True)
                time.sleep(WATCH_S)
    _print_metrics(terminal, output)
    while watch:
        time.sleep(WATCH_S)
        _print_metrics(terminal, output)


def _print_metrics(terminal: Terminal, output: str) -> None:
    families = _families(terminal)
    if output == "prometheus":
        click.echo(to_prometheus(families), nl=False)
    else:
        terminal.show(output, _metrics_view(families), render.metrics(families))


def _families(terminal: Terminal) -> tuple[Family, ...]:
    return (*fetch_report(terminal).metrics, *_of_controller(terminal))


def _of_controller(terminal: Terminal) -> Sequence[Family]:
    """It knows more than its journal; without it there is that."""
    if holder(terminal.home.lock("control")) is not None:
        with (
            contextlib.suppress(ControllerUnreachable),
            ControlClient(terminal.home.endpoint("control")) as controller,
        ):
            return msgspec.convert(controller.call("metrics", REPORT_TIMEOUT_S), list[Family], strict=False)
    return rollout_families(terminal.ledger())


def _metrics_view(families: Iterable[Family]) -> list[dict[str, Any]]:
    """JSON has no infinity: the last bound is null."""
    view: list[dict[str, Any]] = msgspec.to_builtins(list(families))
    for family in view:
        for sample in family["samples"]:
            sample["buckets"] = [[None if math.isinf(bound) else bound, n] for bound, n in sample["buckets"]]
    return view


def fetch_report(terminal: Terminal) -> Report:
    """Raises BrokerUnreachable."""
    with Admin(terminal.home.endpoint("admin")) as admin:
        return admin.report(REPORT_TIMEOUT_S)
