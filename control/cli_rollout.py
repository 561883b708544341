"""Shell: `hotpool rollout`: orders to the controller, by way of the journal, and what became of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from hotpool.states import Phase, Strategy

from . import intake, orders
from .cli_follow import created, ordered, pool_under_control
from .exits import Exit
from .facts import rollout_view
from .gates import accuracy
from .plan import share_of
from .progress import title
from .rollout import Kind, Rollout
from .settings import OnInconclusive
from .terminal import FOLDER, Terminal, end, output_option, pass_terminal, reason_option
from .verdicts import GateResult, Labelled

Command = Callable[..., None]

# What others who wait for a rollout see as its failure is what was ordered by who sends it back.
_SENT_BACK = (Exit.ROLLED_BACK, Exit.REJECTED)

model_argument = click.argument("model", required=False)
detach_option = click.option("--detach", is_flag=True, help="Return as soon as the order is written down.")
timeout_option = click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), metavar="SECONDS",
    help="Stop waiting after this long; the rollout goes on.",
)  # fmt: skip
strategy_option = click.option(
    "--strategy", type=click.Choice([strategy.value for strategy in Strategy]),
    help="drain: a worker is out of service while it loads. beside: it loads while it serves. surge: out of service, while "
    "a spare one serves for it.  [configuration]",
)  # fmt: skip
max_unavailable_option = click.option(
    "--max-unavailable", metavar="N|PERCENT",
    help="Workers out of service at once; with the strategy beside: that load at once.  [configuration]",
)  # fmt: skip
max_surge_option = click.option(
    "--max-surge", metavar="N|PERCENT", help="With the strategy surge: spare workers at once.  [configuration]"
)
bake_option = click.option(
    "--bake", "bake_s", type=click.FloatRange(min=0), metavar="SECONDS",
    help="How long to watch all workers on the new version before it becomes stable.  [configuration]",
)  # fmt: skip
steps_option = click.option(
    "--steps", metavar="STEPS",
    help="Of the canary: shadow and shares in percent, as shadow,5,25,50; auto; none: nothing is judged.  [configuration]",
)  # fmt: skip
canary_option = click.option(
    "--canary", metavar="PERCENT", help="Short for --steps PERCENT: one step with this share of the requests."
)
canary_workers_option = click.option(
    "--canary-workers", type=click.IntRange(min=1), help="Workers that get the new version first.  [configuration]"
)
no_analysis_option = click.option("--no-analysis", is_flag=True, help="Short for --steps none.")
on_inconclusive_option = click.option(
    "--on-inconclusive", type=click.Choice([choice.value for choice in OnInconclusive]),
    help="When a step ends without enough evidence: wait for a person, or go back.  [configuration]",
)  # fmt: skip
eval_option = click.option(
    "--eval", "eval_folder", type=FOLDER, metavar="DIR",
    help="Pictures in a folder for each class, named by its label or index: the version must not be right less often than "
    "stable, and is then not held to agree with it.",
)  # fmt: skip
force_option = click.option(
    "--force", is_flag=True,
    help="Although the stable version is not healthy: an alarm holds, or no worker is ready with it.",
)  # fmt: skip
dry_run_option = click.option("--dry-run", is_flag=True, help="Check everything and show what would be ordered.")


@click.group()
def rollout() -> None:
    """Move the pool to another version while it serves.

    One worker at a time is drained, reloaded, verified and rejoined, or with --strategy beside reloads and verifies
    while it serves and then swaps between two requests, or with --strategy surge is drained while a spare worker serves
    in its place. Commands that wait end with 0 when the rollout
    succeeded, 3 when it was rolled back, 4 when it is paused, 5 after --timeout, 8 when it could not be rolled back,
    9 after Ctrl-C, 10 when the version was refused before anything changed.

    \b
    Example:
      hotpool rollout start --version v2
    """


@rollout.command()
@model_argument
@click.option("--version", required=True, help="Where to: the version's name or digest.")
@strategy_option
@max_unavailable_option
@max_surge_option
@steps_option
@canary_option
@canary_workers_option
@no_analysis_option
@eval_option
@on_inconclusive_option
@bake_option
@force_option
@dry_run_option
@reason_option
@detach_option
@timeout_option
@output_option
@pass_terminal
def start(
    terminal: Terminal,
    /,
    model: str | None,
    version: str,
    canary: str | None,
    no_analysis: bool,
    eval_folder: Path | None,
    force: bool,
    dry_run: bool,
    reason: str,
    detach: bool,
    timeout_s: float | None,
    output: str,
    **chosen: Any,
) -> None:
    """Roll the pool to a version and wait for the end. Ctrl-C leaves the rollout alone.

    \b
    Example:
      hotpool rollout start --version v2 --reason "retrained in October"
      hotpool rollout start --version v2 --canary 10
      hotpool rollout start --version v2 --eval pictures/
    """
    model = model or terminal.config.pool.model
    intake.require_version(terminal.ledger(), model, version)
    if canary is not None and share_of(canary) == 0:
        raise click.UsageError("--canary takes a share in percent; for a shadow use --steps")
    chosen["steps"] = _one_of(steps=chosen["steps"], canary=canary, no_analysis="none" if no_analysis else None)
    if eval_folder is not None:
        chosen |= _labelled(terminal, model, version, eval_folder)
    workers = pool_under_control(terminal, model)
    with terminal.journal() as journal:
        made = intake.start(
            journal, terminal.config, model=model, version=version, workers=workers, chosen=chosen,
            operator=terminal.operator, reason=reason, force=force, dry_run=dry_run,
        )  # fmt: skip
    if made is None:
        terminal.show(output, {"result": "unchanged"}, f"unchanged: {version} is the stable version of {model} already")
        end(Exit.OK)
    if dry_run:
        _show_plan(terminal, made, output)
    created(terminal, made, detach, timeout_s, output)


@rollout.command()
@model_argument
@strategy_option
@max_unavailable_option
@max_surge_option
@bake_option
@dry_run_option
@reason_option
@detach_option
@timeout_option
@output_option
@pass_terminal
def undo(
    terminal: Terminal,
    /,
    model: str | None,
    dry_run: bool,
    reason: str,
    detach: bool,
    timeout_s: float | None,
    output: str,
    **chosen: Any,
) -> None:
    """Roll the pool back to the stable version before this one, as a new rollout. Twice goes back two.

    It goes the way the stable version came: without --strategy by the strategy of that rollout. There is no canary.
    A rollout that is under way and not yet past its commit is aborted instead, as by: hotpool rollout abort

    \b
    Example:
      hotpool rollout undo --reason "v2 confuses cats with dogs"
    """
    model = model or terminal.config.pool.model
    workers = pool_under_control(terminal, model)
    with terminal.journal() as journal:
        made = intake.undo(
            journal, terminal.config, model=model, workers=workers, chosen=chosen, operator=terminal.operator,
            reason=reason, dry_run=dry_run,
        )  # fmt: skip
    if dry_run:
        _show_plan(terminal, made, output)
    if made.kind is not Kind.UNDO:
        terminal.warn(f"{title(made)} is under way: to undo it is to abort it")
        ordered(terminal, made, "abort", detach, timeout_s, output, successes=_SENT_BACK)
    created(terminal, made, detach, timeout_s, output)


@rollout.command()
@model_argument
@reason_option
@detach_option
@timeout_option
@output_option
@pass_terminal
def retry(
    terminal: Terminal, model: str | None, reason: str, detach: bool, timeout_s: float | None, output: str
) -> None:
    """Order the last rollout once more, after it was rolled back or rejected: all of it, from the beginning.

    If it could not be rolled back, the rollback alone is tried again.

    \b
    Example:
      hotpool rollout retry --reason "the disk is no longer full"
    """
    model = model or terminal.config.pool.model
    workers = pool_under_control(terminal, model)
    with terminal.journal() as journal:
        made = orders.retry(journal, model=model, workers=workers, operator=terminal.operator, reason=reason)
    if made.phase is Phase.ROLLING_BACK:
        ordered(terminal, made, "rollback", detach, timeout_s, output, successes=_SENT_BACK)
    created(terminal, made, detach, timeout_s, output)


@rollout.command()
@model_argument
@reason_option
@detach_option
@timeout_option
@output_option
@pass_terminal
def abort(
    terminal: Terminal, model: str | None, reason: str, detach: bool, timeout_s: float | None, output: str
) -> None:
    """End the rollout under way and bring every worker back to the stable version.

    \b
    Example:
      hotpool rollout abort --reason "wrong file"
    """
    with terminal.journal() as journal:
        made = orders.abort(
            journal, model=model or terminal.config.pool.model, operator=terminal.operator, reason=reason
        )
    ordered(terminal, made, "abort", detach, timeout_s, output, successes=_SENT_BACK)


@rollout.command()
@model_argument
@reason_option
@output_option
@pass_terminal
def pause(terminal: Terminal, model: str | None, reason: str, output: str) -> None:
    """Hold the rollout under way; a step that has begun ends first.

    \b
    Example:
      hotpool rollout pause --reason "on call has changed"
    """
    with terminal.journal() as journal:
        made = orders.pause(
            journal, model=model or terminal.config.pool.model, operator=terminal.operator, reason=reason
        )
    ordered(terminal, made, "pause", True, None, output)


@rollout.command()
@model_argument
@reason_option
@detach_option
@timeout_option
@output_option
@pass_terminal
def resume(
    terminal: Terminal, model: str | None, reason: str, detach: bool, timeout_s: float | None, output: str
) -> None:
    """Let a paused rollout go on, and wait for its end.

    \b
    Example:
      hotpool rollout resume
    """
    with terminal.journal() as journal:
        made = orders.resume(
            journal, model=model or terminal.config.pool.model, operator=terminal.operator, reason=reason
        )
    ordered(terminal, made, "resume", detach, timeout_s, output)


@rollout.command()
@model_argument
@click.option("--full", is_flag=True, help="Leave all steps that are left too. No gate is armed any more.")
@reason_option
@detach_option
@timeout_option
@output_option
@pass_terminal
def promote(
    terminal: Terminal, model: str | None, full: bool, reason: str, detach: bool, timeout_s: float | None, output: str
) -> None:
    """Let a rollout leave its pause or the present step of its canary, whatever the gates say. The audit keeps who and why.

    \b
    Example:
      hotpool rollout promote --full --reason "no traffic at night"
    """
    with terminal.journal() as journal:
        made = orders.promote(
            journal, model=model or terminal.config.pool.model, operator=terminal.operator, reason=reason, full=full
        )
    ordered(terminal, made, "promote", detach, timeout_s, output)


def _labelled(terminal: Terminal, model: str, version: str, folder: Path) -> dict[str, Any]:
    """Raises BadLabels."""
    chosen = intake.labelled_settings(terminal.home, terminal.ledger(), model, version, folder)
    n = chosen["eval_pictures"]
    if accuracy(Labelled(n, n, 0, 0), intake.gate_settings(terminal.config)).result is not GateResult.PASS:
        terminal.warn(
            f"{n} pictures are too few to decide: versions that never differ would not pass (see docs/gates.md)"
        )
    return chosen


def _one_of(**given: str | None) -> str | None:
    """The one option of several that was given."""
    named = [(name, value) for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise click.UsageError(" and ".join(f"--{name.replace('_', '-')}" for name, _ in named) + ": give one of them")
    return named[0][1] if named else None


def _show_plan(terminal: Terminal, made: Rollout, output: str) -> NoReturn:
    steps = ", ".join(made.settings.steps) or "none, nothing is judged"
    labelled = f"; labelled pictures: {made.settings.eval_pictures}" if made.settings.eval_folder else ""
    text = f"would order {title(made)}; steps of the canary: {steps}{labelled}"
    if made.abort or made.phase is Phase.ROLLING_BACK:
        text = f"would abort {title(made)}, which is under way"
    terminal.show(output, {"rollout": rollout_view(made)}, text)
    end(Exit.OK)
