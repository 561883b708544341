"""Shell: waits for the end of a rollout and shows how it goes: a live view on a terminal, else a line when it changes."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from time import monotonic

from rich.live import Live

from hotpool.admin import Admin
from hotpool.disk import full_disk
from hotpool.locks import holder

from .exits import PHASE_EXITS, Exit
from .journal import Journal
from .ledger import Ledger, replay
from .render_rollouts import live_view
from .rollout import Rollout
from .sight import CONTROLLER_MISSED_S, Sight, see
from .terminal import Terminal

_LOOK_S = 0.1
_REPORT_TIMEOUT_S = 0.5
_CONTROLLER_GONE_S = 30.0


def look(terminal: Terminal, number: int) -> Sight:
    """Once."""
    return next(_sights(terminal, number))


def _sights(terminal: Terminal, number: int) -> Generator[Sight, None, None]:
    """One after the other, as fast as they are asked for. Reads each event once."""
    lock, root, ledger = terminal.home.lock("control"), terminal.home.root, Ledger()
    seen_at = monotonic() - (0.0 if holder(lock) is not None else CONTROLLER_MISSED_S)
    with Journal(terminal.home.database) as journal, Admin(terminal.home.endpoint("admin")) as admin:
        while True:
            now = monotonic()
            if journal.last_seq() > ledger.seq:
                ledger = replay(journal.events(after=ledger.seq), now, ledger)
            if holder(lock) is not None:
                seen_at = now
            yield see(ledger.rollouts[number], admin, now - seen_at, now, _REPORT_TIMEOUT_S, full_disk(root))


def follow(terminal: Terminal, number: int, timeout_s: float | None, *, quiet: bool = False) -> tuple[Sight, Exit]:
    """Until the rollout is over, or paused, or we no longer wait. Ctrl-C leaves it alone. quiet: show nothing."""
    since = monotonic()
    sights = _sights(terminal, number)
    sight = next(sights)
    with closing(sights), _display(terminal, quiet) as show:
        try:
            while (code := _verdict(sight.rollout)) is Exit.IN_PROGRESS:
                show(sight)
                if sight.unattended_s > _CONTROLLER_GONE_S:
                    return sight, Exit.UNREACHABLE
                if timeout_s is not None and sight.at - since > timeout_s:
                    return sight, Exit.TIMEOUT
                time.sleep(_LOOK_S)
                sight = next(sights)
        except KeyboardInterrupt:
            return sight, Exit.IN_PROGRESS
    return sight, code


def _verdict(rollout: Rollout) -> Exit:
    """A paused rollout waits for a person once the steps that were open have ended."""
    return Exit.PAUSED if rollout.paused and not rollout.steps else PHASE_EXITS[rollout.phase]


@contextmanager
def _display(terminal: Terminal, quiet: bool) -> Iterator[Callable[[Sight], None]]:
    if quiet:
        yield lambda sight: None
    elif terminal.out.is_terminal:
        with Live(console=terminal.out, transient=True, auto_refresh=False) as live:
            yield lambda sight: live.update(
                live_view(sight.rollout, sight.workers, sight.message, sight.at, sight.verdicts, sight.share),
                refresh=True,
            )
    else:
        yield _line_printer(terminal)


def _line_printer(terminal: Terminal) -> Callable[[Sight], None]:
    said = ""

    def show(sight: Sight) -> None:
        nonlocal said
        if sight.message != said:
            said = sight.message
            terminal.say(said)

    return show
