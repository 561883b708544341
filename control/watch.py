"""Shell: waits for the end of a rollout and shows how it goes: a live view on a terminal, else a line when it changes."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from time import monotonic

from rich.live import Live

from hotpool.disk import full_disk
from hotpool.errors import BrokerUnreachable
from hotpool.evidence import Counts
from hotpool.locks import holder
from hotpool.messages import WorkerReport
from hotpool.states import Phase

from .admin import Admin
from .canary import armed, verdicts
from .exits import PHASE_EXITS, Exit
from .journal import Journal
from .ledger import Ledger, replay
from .plan import share_of
from .progress import message
from .render_rollouts import live_view, share_text
from .rollout import Rollout
from .terminal import Terminal
from .verdicts import Verdict

_LOOK_S = 0.1
_REPORT_TIMEOUT_S = 0.5
# `hotpool up` starts a lost controller again within seconds: short absences are not worth a line.
_CONTROLLER_MISSED_S, _CONTROLLER_GONE_S = 3.0, 30.0


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of a rollout at one instant.

    workers: empty when the broker can't be reached. unattended_s: for how long no controller has been running.
    full_disk: what is said of the home's disk, if it is full.
    """

    rollout: Rollout
    workers: tuple[WorkerReport, ...]
    unattended_s: float
    at: float
    counts: Counts | None = None
    full_disk: str = ""

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Of the gates that are armed now; one that is over is judged while it is watched."""
        is_judged = self.counts is not None or not self.rollout.is_over
        return verdicts(self.rollout, self.counts) if is_judged and armed(self.rollout) else ()

    @property
    def share(self) -> str:
        asked = share_of(self.rollout.step) if self.rollout.phase is Phase.ANALYZING else 0.0
        return share_text(asked, self.counts) if self.counts else ""

    @property
    def message(self) -> str:
        text = message(self.rollout, self.workers)
        if self.rollout.is_over:
            return text
        if self.unattended_s >= _CONTROLLER_MISSED_S:
            return f"no controller is running, nothing changes until it is back; {text}"
        return f"{self.full_disk}, nothing changes until there is room; {text}" if self.full_disk else text


def look(terminal: Terminal, number: int) -> Sight:
    """Once."""
    return next(_sights(terminal, number))


def _sights(terminal: Terminal, number: int) -> Generator[Sight, None, None]:
    """One after the other, as fast as they are asked for. Reads each event once."""
    lock, root, ledger = terminal.home.lock("control"), terminal.home.root, Ledger()
    seen_at = monotonic() - (0.0 if holder(lock) is not None else _CONTROLLER_MISSED_S)
    with Journal(terminal.home.database) as journal, Admin(terminal.home.endpoint("admin")) as admin:
        while True:
            now = monotonic()
            if journal.last_seq() > ledger.seq:
                ledger = replay(journal.events(after=ledger.seq), now, ledger)
            if holder(lock) is not None:
                seen_at = now
            rollout = ledger.rollouts[number]
            workers, counts = _workers(admin, rollout.model), _counts(admin, rollout)
            yield Sight(rollout, workers, now - seen_at, now, counts, full_disk(root))


def _counts(admin: Admin, rollout: Rollout) -> Counts | None:
    if not armed(rollout):
        return None
    try:
        counts = admin.evidence(rollout.model, _REPORT_TIMEOUT_S)
    except BrokerUnreachable:
        return None
    return counts if counts and counts.policy == rollout.analysis.policy else None


def _workers(admin: Admin, model: str) -> tuple[WorkerReport, ...]:
    try:
        report = admin.report(_REPORT_TIMEOUT_S)
    except BrokerUnreachable:
        return ()
    return tuple(worker for worker in report.workers if worker.model == model)


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
