"""Shell: `hotpool audit`: who changed what, when and why."""

from dataclasses import asdict

import click

from .events import EventKind
from .recheck import recheck
from .render_rollouts import audit_table
from .terminal import Terminal, output_option, pass_terminal

# Every step of every worker is in the journal too; these are what people ask an audit about.
_DECISIONS = frozenset(EventKind) - {
    EventKind.STEP_STARTED,
    EventKind.STEP_WITHDRAWN,
    EventKind.STEP_DRAINED,
    EventKind.STEP_LOADED,
    EventKind.STEP_FINISHED,
}


@click.group(invoke_without_command=True)
@click.option("--all", "is_all", is_flag=True, help="Also the parts of every worker's step.")
@output_option
@click.pass_context
def audit(ctx: click.Context, is_all: bool, output: str) -> None:
    """Show every change: who, when, what and why.

    \b
    Example:
      hotpool audit -o json
    """
    if ctx.invoked_subcommand is None:
        terminal = ctx.find_object(Terminal)
        assert terminal is not None
        events = [event for event in terminal.events() if is_all or event.kind in _DECISIONS]
        terminal.show(output, [asdict(event) for event in events], audit_table(events))


@audit.command()
@click.option("-n", "n_events", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
@output_option
@pass_terminal
def tail(terminal: Terminal, n_events: int, output: str) -> None:
    """Show the newest events, with all parts of every step.

    \b
    Example:
      hotpool audit tail -n 50
    """
    events = terminal.events()[-n_events:]
    terminal.show(output, [asdict(event) for event in events], audit_table(events))


@audit.command()
@output_option
@pass_terminal
def verify(terminal: Terminal, output: str) -> None:
    """Check that no event was changed, removed or put in since it was written, and come to each verdict of a gate again.

    \b
    Example:
      hotpool audit verify
    """
    with terminal.journal() as journal:
        n = journal.verify()
        n_verdicts = recheck(journal.events())
    terminal.show(
        output,
        {"events": n, "is_intact": True, "verdicts": n_verdicts},
        f"{n} events, each fits the ones before it; {n_verdicts} verdicts of gates, each follows from its counts",
    )
