"""Shell: `hotpool audit`: who changed what, when and why."""

from dataclasses import asdict

import click

from .events import EventKind
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
@output_option
@pass_terminal
def verify(terminal: Terminal, output: str) -> None:
    """Check that no event was changed, removed or put in since it was written.

    \b
    Example:
      hotpool audit verify
    """
    with terminal.journal() as journal:
        n = journal.verify()
    terminal.show(output, {"events": n, "is_intact": True}, f"{n} events, each fits the ones before it")
