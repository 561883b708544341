"""Shell: `hotpool rollout`: orders to the controller, by way of the journal, and what became of them."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import click
import msgspec

from hotpool.errors import BadVersion, NothingToDo, UnknownVersion
from hotpool.locks import holder
from hotpool.messages import WorkerReport
from hotpool.states import Phase, Strategy

from . import orders
from .cli_pool import fetch_report
from .exits import PHASE_EXITS, Exit
from .progress import title
from .render_rollouts import history_table, rollout_view, steps_table
from .rollout import Rollout, Settings
from .terminal import Terminal, end, output_option, pass_terminal, reason_option
from .watch import Sight, follow, look

_CONTROLLER_WAIT_S = 5.0  # it may just be starting, or starting again

Command = Callable[..., None]

model_argument = click.argument("model", required=False)
detach_option = click.option("--detach", is_flag=True, help="Return as soon as the order is written down.")
timeout_option = click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), metavar="SECONDS",
    help="Stop waiting after this long; the rollout goes on.",
)  # fmt: skip
strategy_option = click.option(
    "--strategy", type=click.Choice([strategy.value for strategy in Strategy]),
    help="drain: a worker is out of service while it loads. beside: it loads while it serves.  [configuration]",
)  # fmt: skip
max_unavailable_option = click.option(
    "--max-unavailable", type=click.IntRange(min=1),
    help="Workers out of service at once; with the strategy beside: that load at once.  [configuration]",
)  # fmt: skip
bake_option = click.option(
    "--bake", "bake_s", type=click.FloatRange(min=0), metavar="SECONDS",
    help="How long to watch all workers on the new version before it becomes stable.  [configuration]",
)  # fmt: skip


@click.group()
def rollout() -> None:
    """Move the pool to another version while it serves.

    One worker at a time is drained, reloaded, verified and rejoined, or with --strategy beside reloads and verifies
    while it serves and then swaps between two requests. Commands that wait end with 0 when the rollout
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
@bake_option
@reason_option
@detach_option
@timeout_option
@output_option
@pass_terminal
def start(
    terminal: Terminal,
    model: str | None,
    version: str,
    strategy: str | None,
    max_unavailable: int | None,
    bake_s: float | None,
    reason: str,
    detach: bool,
    timeout_s: float | None,
    output: str,
) -> None:
    """Roll the pool to a version and wait for the end. Ctrl-C leaves the rollout alone.

    \b
    Example:
      hotpool rollout start --version v2 --reason "retrained in October"
    """
    model = model or terminal.config.pool.model
    _require_version(terminal, model, version)
    workers = _pool_under_control(terminal, model)
    settings = _settings(terminal, strategy, max_unavailable, bake_s)
    with terminal.journal() as journal:
        made = orders.start(
            journal, model=model, version=version, workers=workers, settings=settings,
            operator=terminal.operator, reason=reason,
        )  # fmt: skip
    if made is None:
        terminal.show(output, {"result": "unchanged"}, f"unchanged: {version} is the stable version of {model} already")
        end(Exit.OK)
    _created(terminal, made, detach, timeout_s, output)


@rollout.command()
@model_argument
@strategy_option
@max_unavailable_option
@bake_option
@reason_option
@detach_option
@timeout_option
@output_option
@pass_terminal
def undo(
    terminal: Terminal,
    model: str | None,
    strategy: str | None,
    max_unavailable: int | None,
    bake_s: float | None,
    reason: str,
    detach: bool,
    timeout_s: float | None,
    output: str,
) -> None:
    """Roll the pool back to the stable version before this one, as a new rollout. Twice goes back two.

    It goes the way the stable version came: without --strategy by the strategy of that rollout.

    \b
    Example:
      hotpool rollout undo --reason "v2 confuses cats with dogs"
    """
    model = model or terminal.config.pool.model
    workers = _pool_under_control(terminal, model)
    settings = _settings(terminal, strategy or _strategy_undone(terminal, model), max_unavailable, bake_s)
    with terminal.journal() as journal:
        made = orders.undo(
            journal, model=model, workers=workers, settings=settings, operator=terminal.operator, reason=reason
        )
    _created(terminal, made, detach, timeout_s, output)


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
    # What others who wait for this rollout see as its failure is here what was ordered.
    _ordered(terminal, made, "abort", detach, timeout_s, output, successes=(Exit.ROLLED_BACK, Exit.REJECTED))


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
    _ordered(terminal, made, "pause", True, None, output)


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
    _ordered(terminal, made, "resume", detach, timeout_s, output)


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
    one = _find(terminal, model or terminal.config.pool.model, number)
    if no_wait or one.is_over:
        sight = look(terminal, one.number)
        paused = sight.rollout.paused
        _finish(terminal, sight, Exit.PAUSED if paused else PHASE_EXITS[sight.rollout.phase], output, is_waiting=False)
    if output == "text":
        terminal.say(title(one))
    _finish(terminal, *follow(terminal, one.number, timeout_s, quiet=output == "json"), output)


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
    known = [one for one in terminal.ledger().rollouts.values() if one.model == model]
    terminal.show(output, [rollout_view(one) for one in known], history_table(known, datetime.now(UTC)))


def _require_version(terminal: Terminal, model: str, version: str) -> None:
    """A name that does not exist is a mistake in the command, not a version that was refused."""
    try:
        terminal.ledger().find(model, version)
    except BadVersion as error:
        raise UnknownVersion(str(error)) from None


def _settings(terminal: Terminal, strategy: str | None, max_unavailable: int | None, bake_s: float | None) -> Settings:
    given = {"strategy": strategy, "max_unavailable": max_unavailable, "bake_s": bake_s}
    chosen = {name: value for name, value in given.items() if value is not None}
    return Settings(**(terminal.config.rollout.model_dump() | chosen))


def _strategy_undone(terminal: Terminal, model: str) -> Strategy | None:
    """Of the rollout that made the stable version stable."""
    known = reversed(terminal.ledger().rollouts.values())
    return next((one.settings.strategy for one in known if (one.model, one.phase) == (model, Phase.SUCCEEDED)), None)


def _pool_under_control(terminal: Terminal, model: str) -> tuple[WorkerReport, ...]:
    """The model's workers, once a controller is there to roll them: without it a rollout would begin who knows when."""
    workers = tuple(worker for worker in fetch_report(terminal).workers if worker.model == model)
    if not _has_controller(terminal):
        terminal.complain("no controller is running, nothing was ordered; start it with: hotpool up")
        end(Exit.UNREACHABLE)
    return workers


def _has_controller(terminal: Terminal) -> bool:
    """Waits for one a little."""
    give_up_at = monotonic() + _CONTROLLER_WAIT_S
    while holder(terminal.home.lock("control")) is None:
        if monotonic() > give_up_at:
            return False
        time.sleep(0.05)
    return True


def _find(terminal: Terminal, model: str, number: int | None) -> Rollout:
    ledger = terminal.ledger()
    one = ledger.last(model) if number is None else ledger.rollouts.get(number)
    if one is None:
        which = f"rollout of model {model}" if number is None else f"rollout {number}"
        raise NothingToDo(f"there is no {which}; see: hotpool rollout history")
    return one


def _created(terminal: Terminal, made: Rollout, detach: bool, timeout_s: float | None, output: str) -> None:
    if output == "text":
        terminal.say(title(made))
    if detach:
        terminal.show(output, {"rollout": rollout_view(made)}, "ordered; follow it with: hotpool rollout status")
        end(Exit.OK)
    _finish(terminal, *follow(terminal, made.number, timeout_s, quiet=output == "json"), output)


def _ordered(
    terminal: Terminal,
    made: Rollout,
    verb: str,
    detach: bool,
    timeout_s: float | None,
    output: str,
    successes: tuple[Exit, ...] = (),
) -> None:
    has_controller = _has_controller(terminal)
    if not has_controller:
        terminal.warn(f"no controller is running: the {verb} is written down and takes effect when it is back")
    if detach or not has_controller:
        terminal.show(output, {"rollout": rollout_view(made)}, f"{title(made)}: {verb} ordered")
        end(Exit.OK if has_controller else Exit.UNREACHABLE)
    sight, code = follow(terminal, made.number, timeout_s, quiet=output == "json")
    _finish(terminal, sight, Exit.OK if code in successes else code, output)


# Why we no longer wait for a rollout that has not ended, as told to who waited.
_LEFT = {
    Exit.TIMEOUT: "the rollout goes on; follow it with: hotpool rollout status",
    Exit.IN_PROGRESS: "the rollout goes on; follow it with: hotpool rollout status, stop it with: hotpool rollout abort",
    Exit.UNREACHABLE: "no controller has been running for half a minute; start it with: hotpool up",
}


def _finish(terminal: Terminal, sight: Sight, code: Exit, output: str, *, is_waiting: bool = True) -> None:
    """Says how the rollout stands when we stop looking, and ends."""
    if is_waiting and code in _LEFT:
        terminal.warn(_LEFT[code])
    if output == "json" or not is_waiting or code not in _LEFT:
        view: dict[str, Any] = {
            "exit": int(code),
            "message": sight.message,
            "rollout": rollout_view(sight.rollout),
            "workers": msgspec.to_builtins(sight.workers),
        }
        steps = steps_table(sight.rollout)
        terminal.show(output, view, sight.message, *([steps] if steps.row_count else []))
    if code is Exit.PAUSED:
        terminal.warn("go on with: hotpool rollout resume, or go back with: hotpool rollout abort")
    end(code)
