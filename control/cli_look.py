"""Shell: `hotpool rollout` and `hotpool analysis`: looking at rollouts without changing them."""

from datetime import UTC, datetime

import click
from rich.console import RenderableType

from .cli_follow import finish
from .cli_rollout import model_argument, rollout, timeout_option
from .exits import PHASE_EXITS, Exit
from .facts import history_view
from .preflight import judge_labelled
from .progress import title
from .recorder import write_report
from .render_rollouts import gates_table, history_table, judged_table, live_view, share_text, steps_table
from .sight import find
from .terminal import Terminal, output_option, pass_terminal
from .watch import follow, look


@rollout.command()
@model_argument
@click.option("--rollout", "number", type=click.IntRange(min=1), help="Which one.  [the newest]")
@click.option("--no-wait", is_flag=True, help="Show how it is now; ends with 9 while it is under way.")
@timeout_option
@output_option
@pass_terminal
def status(
    terminal: Terminal, model: str | None, number: int | None, no_wait: bool, timeout_s: float | None, output: str
) -> None:
    """Follow a rollout until it has ended or is paused, then show its steps.

    \b
    Example:
      hotpool rollout status --no-wait
    """
    one = find(terminal.ledger(), model or terminal.config.pool.model, number)
    if no_wait or one.is_over:
        sight = look(terminal, one.number)
        paused = sight.rollout.paused
        finish(terminal, sight, Exit.PAUSED if paused else PHASE_EXITS[sight.rollout.phase], output, is_waiting=False)
    terminal.say(title(one))
    finish(terminal, *follow(terminal, one.number, timeout_s, quiet=output == "json"), output)


@rollout.command()
@model_argument
@output_option
@pass_terminal
def history(terminal: Terminal, model: str | None, output: str) -> None:
    """List the rollouts of a model, the oldest first.

    \b
    Example:
      hotpool rollout history -o json
    """
    model = model or terminal.config.pool.model
    ledger = terminal.ledger()
    terminal.show(output, history_view(ledger, model), history_table(ledger.history(model), datetime.now(UTC)))


@rollout.command()
@model_argument
@click.option("--rollout", "number", type=click.IntRange(min=1), help="Which one.  [the newest]")
@output_option
@pass_terminal
def get(terminal: Terminal, model: str | None, number: int | None, output: str) -> None:
    """Show everything about a rollout as it is now: phase, share, workers, gates, steps. Ends with 0.

    \b
    Example:
      hotpool rollout get -o json
    """
    one = find(terminal.ledger(), model or terminal.config.pool.model, number)
    sight = look(terminal, one.number)
    shown = live_view(sight.rollout, sight.workers, sight.message, sight.at, sight.verdicts, sight.share)
    terminal.show(output, sight.view(), title(sight.rollout), shown, steps_table(sight.rollout))


@rollout.command()
@model_argument
@click.option("--rollout", "number", type=click.IntRange(min=1), help="Which one.  [the newest]")
@output_option
@pass_terminal
def report(terminal: Terminal, model: str | None, number: int | None, output: str) -> None:
    """Write the page of a rollout, and say where it is: one file, to be opened in a browser, also while it is under way.

    \b
    Example:
      hotpool rollout report --rollout 12
    """
    one = find(terminal.ledger(), model or terminal.config.pool.model, number)
    with terminal.journal() as journal:
        path = str(write_report(terminal.home, journal, one.number))
    terminal.show(output, {"rollout": one.number, "report": path}, path)


@click.group()
def analysis() -> None:
    """The gates of a rollout and their evidence.

    \b
    Example:
      hotpool analysis show
    """


@analysis.command()
@model_argument
@click.option("--rollout", "number", type=click.IntRange(min=1), help="Which one.  [the newest]")
@output_option
@pass_terminal
def show(terminal: Terminal, model: str | None, number: int | None, output: str) -> None:
    """Show each gate with its counts, its bounds and what would decide it, and what was judged before.

    \b
    Example:
      hotpool analysis show -o json
    """
    one = find(terminal.ledger(), model or terminal.config.pool.model, number)
    sight = look(terminal, one.number)
    parts: list[RenderableType] = [f"{title(sight.rollout)}: {sight.message}"]
    if sight.share:
        parts.append(share_text(sight.share))
    if sight.verdicts:
        parts.append(gates_table(sight.verdicts))
    if sight.rollout.labelled:
        parts += ["labelled pictures:", gates_table([judge_labelled(sight.rollout, sight.rollout.labelled)])]
    if sight.rollout.judged:
        parts += ["judged:", judged_table(sight.rollout)]
    if not (sight.verdicts or sight.rollout.labelled or sight.rollout.judged):
        parts.append("nothing is judged: no step of a canary has begun")
    terminal.show(output, sight.view(), *parts)
