"""Shell: what commands of `hotpool rollout` share: whether there is a controller, how a rollout goes."""

import time
from time import monotonic

from hotpool.errors import ControllerUnreachable
from hotpool.locks import holder
from hotpool.messages import WorkerReport

from .cli_pool import fetch_report
from .exits import Exit
from .facts import rollout_view
from .health import ordinary
from .progress import title
from .render_rollouts import steps_table
from .rollout import PauseCause, Rollout
from .sight import Sight
from .terminal import Terminal, end
from .watch import follow

_CONTROLLER_WAIT_S = 5.0  # it may just be starting, or starting again


def pool_under_control(terminal: Terminal, model: str) -> tuple[WorkerReport, ...]:
    """The model's ordinary workers, once a controller is there to roll them: else a rollout would begin who knows when.

    Raises:
        BrokerUnreachable, ControllerUnreachable: nothing was ordered.
    """
    workers = tuple(ordinary(fetch_report(terminal), model))
    if not has_controller(terminal):
        raise ControllerUnreachable("no controller is running, nothing was ordered; start it with: hotpool up")
    return workers


def has_controller(terminal: Terminal) -> bool:
    """Waits for one a little."""
    give_up_at = monotonic() + _CONTROLLER_WAIT_S
    while holder(terminal.home.lock("control")) is None:
        if monotonic() > give_up_at:
            return False
        time.sleep(0.05)
    return True


def created(terminal: Terminal, made: Rollout, detach: bool, timeout_s: float | None, output: str) -> None:
    terminal.say(title(made))
    if detach:
        terminal.show(output, {"rollout": rollout_view(made)}, "ordered; follow it with: hotpool rollout status")
        end(Exit.OK)
    finish(terminal, *follow(terminal, made.number, timeout_s, quiet=output == "json"), output)


def ordered(
    terminal: Terminal,
    made: Rollout,
    verb: str,
    detach: bool,
    timeout_s: float | None,
    output: str,
    successes: tuple[Exit, ...] = (),
) -> None:
    is_controlled = has_controller(terminal)
    if not is_controlled:
        terminal.warn(f"no controller is running: the {verb} is written down and takes effect when it is back")
    if detach or not is_controlled:
        terminal.show(output, {"rollout": rollout_view(made)}, f"{title(made)}: {verb} ordered")
        end(Exit.OK if is_controlled else Exit.UNREACHABLE)
    sight, code = follow(terminal, made.number, timeout_s, quiet=output == "json")
    finish(terminal, sight, Exit.OK if code in successes else code, output)


# Why we no longer wait for a rollout that has not ended, as told to who waited.
_LEFT = {
    Exit.TIMEOUT: "the rollout goes on; follow it with: hotpool rollout status",
    Exit.IN_PROGRESS: "the rollout goes on; follow it with: hotpool rollout status, stop it with: hotpool rollout abort",
    Exit.UNREACHABLE: "no controller has been running for half a minute; start it with: hotpool up",
}


_PAUSED = {
    PauseCause.USER: "go on with: hotpool rollout resume, or go back with: hotpool rollout abort",
    PauseCause.INCONCLUSIVE: (
        "gather more with: hotpool rollout resume, go on without with: hotpool rollout promote, "
        "go back with: hotpool rollout abort"
    ),
    None: "",
}


def finish(terminal: Terminal, sight: Sight, code: Exit, output: str, *, is_waiting: bool = True) -> None:
    """Says how the rollout stands when we stop looking, and ends."""
    if is_waiting and code in _LEFT:
        terminal.warn(_LEFT[code])
    if output == "json" or not is_waiting or code not in _LEFT:
        steps = steps_table(sight.rollout)
        terminal.show(output, {"exit": int(code), **sight.view()}, sight.message, *([steps] if steps.row_count else []))
    if code is Exit.PAUSED:
        terminal.warn(_PAUSED[sight.rollout.pause_cause])
    end(code)
