"""Pure: which process sits in which worker's seat: when to fork, whom to signal, what to tell the broker."""

import signal
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count, islice
from math import inf

from hotpool.messages import Seat as SeatMessage
from hotpool.messages import Seats as SeatsMessage
from hotpool.restart import Exit, GiveUp, decide_restart
from hotpool.states import is_spare, spare_name

from .orders import BOOT_FAILED, BROKER_GONE

GRACE_S = 10.0  # from SIGTERM to SIGKILL: a worker that drains needs one batch's time
END_S = 2.0  # from SIGKILL to all to not waiting for their reports any more
SAME_STOP_S = 1.0  # Ctrl-C reaches the whole process group, and whoever started us passes it on: one wish, two signals
KEPT_EXITS = 64  # more than a crash loop can have; lives that ended without fault would otherwise pile up
NOTE_CHARS = 300
ALL_NOTES_CHARS = 24_000  # the notes of a thousand seats must fit into one header of 64 KiB


class Cause(StrEnum):
    """Why a process ended."""

    EXIT = "exit"  # by itself: a bug, or somebody else asked it to stop
    KILLED = "killed"  # by a signal that we did not send: the kernel's out-of-memory killer, an operator
    HUNG = "hung"  # the broker had it killed: a lease ran out
    SILENT = "silent"  # the broker had it killed: no heartbeat
    WRONG = "wrong"  # the broker had it killed: the controller found its answers wrong
    BROKER_GONE = "broker_gone"
    BOOT_FAILED = "boot_failed"


@dataclass(frozen=True, slots=True)
class Fork:
    """Start a process in this seat."""

    worker: str
    index: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class Signal:
    """Send this signal to this process of ours."""

    pid: int
    number: signal.Signals


@dataclass(frozen=True, slots=True)
class Report:
    """Something changed: tell the broker."""


@dataclass(frozen=True, slots=True)
class Announce:
    """One line for the log."""

    line: str


Action = Fork | Signal | Report | Announce


@dataclass(slots=True, eq=False)
class Seat:
    """One worker. index: of its cores; spares share those of all. pid: of the process in it; 0 when there is none or its
    fork is ordered and not yet reported."""

    worker: str
    index: int
    incarnation: int
    pid: int = 0
    ordered_at: float | None = None
    started_at: float = 0.0
    restart_at: float = -inf  # of an empty seat; infinite when given up
    kill_cause: Cause | None = None
    exits: list[Exit] = field(default_factory=list)
    restarts: Counter[str] = field(default_factory=Counter)
    note: str = ""
    leaves_at: float = inf  # of a spare: since when it is to go

    @property
    def is_leaving(self) -> bool:
        return self.leaves_at < inf

    @property
    def is_empty(self) -> bool:
        return self.pid == 0 and self.ordered_at is None


class SeatTable:
    """All seats of one supervisor. Each method takes an event and `now` and returns what to do."""

    def __init__(self, model: str, n_workers: int, last_incarnation: int = 0) -> None:
        """last_incarnation: the highest that an earlier supervisor gave; the broker refuses lower ones than it saw."""
        self._model = model
        self._n_workers = n_workers
        self._seats = [Seat(f"worker-{i}", i, last_incarnation) for i in range(n_workers)]
        self._last_spare = (
            last_incarnation  # the highest incarnation of a spare: a name comes again, an incarnation never
        )
        self._stop_at: float | None = None
        self._killed_at = inf
        self._actions: list[Action] = []

    @property
    def is_stopping(self) -> bool:
        return self._stop_at is not None

    def is_over(self, now: float) -> bool:
        """Asked to stop, and every process has ended, or was killed long enough ago."""
        return self.is_stopping and (all(seat.is_empty for seat in self._seats) or now >= self._killed_at + END_S)

    @property
    def pids(self) -> set[int]:
        return {seat.pid for seat in self._seats if seat.pid}

    def next_at(self) -> float:
        """When `tick` has something to do, if nothing happens before."""
        if self._stop_at is not None:
            return self._stop_at + GRACE_S if self._killed_at == inf else self._killed_at + END_S
        kills = (seat.leaves_at + GRACE_S for seat in self._seats if seat.is_leaving)
        return min((*kills, *(seat.restart_at for seat in self._seats if seat.is_empty)), default=inf)

    def oldest_order_at(self) -> float:
        """When the longest unreported fork was ordered; infinite without one."""
        return min((seat.ordered_at for seat in self._seats if seat.ordered_at is not None), default=inf)

    def message(self) -> SeatsMessage:
        limit = min(NOTE_CHARS, ALL_NOTES_CHARS // len(self._seats))
        return SeatsMessage(
            self._model,
            tuple(
                SeatMessage(seat.worker, seat.incarnation, seat.pid, dict(seat.restarts), seat.note[:limit])
                for seat in self._seats
            ),
        )

    # ---- events

    def tick(self, now: float, obstacle: str = "") -> list[Action]:
        """Time has passed. obstacle: why no process can be started at present; becomes the note of each empty seat."""
        if self._stop_at is not None:
            if now >= self._stop_at + GRACE_S and self._killed_at == inf:
                self._kill_all(f"event=stop_forced after_s={GRACE_S:g}", now)
            return self._take()
        self._remove_spares(now)
        for seat in self._seats:
            if not seat.is_empty or seat.restart_at > now:
                continue
            if obstacle:
                self._set_note(seat, obstacle)
            else:
                self._fork(seat, now)
        return self._take()

    def forked(self, worker: str, incarnation: int, pid: int, now: float) -> list[Action]:
        """The template has started a process."""
        seat = self._seat(worker, incarnation)
        if seat is None or seat.ordered_at is None:
            return [Signal(pid, signal.SIGKILL)]  # ordered from a template that was thought lost
        seat.ordered_at, seat.pid, seat.started_at, seat.note = None, pid, now, ""
        self._announce(f"event=forked worker={worker} incarnation={incarnation} pid={pid}", changed=True)
        if self._stop_at is not None or seat.is_leaving:
            self._actions.append(Signal(pid, signal.SIGTERM if self._killed_at == inf else signal.SIGKILL))
        return self._take()

    def not_forked(self, worker: str, incarnation: int, reason: str, now: float) -> list[Action]:
        """The template could not start a process: it is tried again and again, for the worker has no fault."""
        seat = self._seat(worker, incarnation)
        if seat is None or seat.ordered_at is None:
            return []  # ordered from a template that was thought lost
        seat.ordered_at, text = None, f"no process could be started ({reason})"
        self._announce(f"event=not_forked worker={worker} incarnation={incarnation} reason={reason!r}", changed=True)
        self._emptied(seat, Exit(now, now, text, is_fault=False), now)
        return self._take()

    def exited(self, pid: int, code: int | None, reason: str, now: float) -> list[Action]:
        """A process has ended. code: negative for a signal, None if nobody saw it. reason: what it said, or empty."""
        seat = next((seat for seat in self._seats if seat.pid == pid), None)
        if seat is None:
            return []
        cause, text = _explain(code, seat.kill_cause, reason)
        seat.pid, seat.kill_cause = 0, None
        line = (
            f"event=exited worker={seat.worker} incarnation={seat.incarnation} pid={pid} cause={cause} reason={text!r}"
        )
        self._announce(line, changed=True)
        if not seat.is_leaving and self._stop_at is None:
            seat.restarts[cause] += 1
        self._emptied(seat, Exit(seat.started_at, now, text, is_fault=cause is not Cause.BROKER_GONE), now)
        return self._take()

    def kill(self, worker: str, incarnation: int, cause: str) -> list[Action]:
        """The broker wants this process ended. An order for an earlier process is void."""
        seat = self._seat(worker, incarnation)
        if seat is None or not seat.pid:
            return []
        seat.kill_cause = Cause(cause) if cause in (Cause.SILENT, Cause.WRONG) else Cause.HUNG
        self._announce(f"event=kill worker={worker} incarnation={incarnation} pid={seat.pid} cause={seat.kill_cause}")
        self._actions.append(Signal(seat.pid, signal.SIGKILL))
        return self._take()

    def spares(self, n: int, now: float) -> list[Action]:
        """So many seats beside the ordinary ones. The others are emptied first, and without haste: their workers finish what
        they hold. The same order again changes nothing."""
        if self._stop_at is not None:
            return []
        staying = [seat for seat in self._seats[self._n_workers :] if not seat.is_leaving]
        for seat in staying[n:]:
            self._announce(f"event=spare_leaves worker={seat.worker}")
            seat.leaves_at = now
            if seat.pid:
                self._actions.append(Signal(seat.pid, signal.SIGTERM))
        used = {seat.worker for seat in self._seats}
        free = (name for i in count() if (name := spare_name(i)) not in used)
        for name in islice(free, max(0, n - len(staying))):
            self._announce(f"event=spare_comes worker={name}", changed=True)
            self._seats.append(Seat(name, self._n_workers, self._last_spare))
        return self.tick(now)

    def stop(self, now: float) -> list[Action]:
        """Asked to stop: the workers drain. Asked again: at once."""
        if self._stop_at is not None:
            if now - self._stop_at > SAME_STOP_S:
                self._kill_all("event=stop_forced", now)
            return self._take()
        self._stop_at = now
        self._announce("event=stop")
        self._actions += [Signal(pid, signal.SIGTERM) for pid in sorted(self.pids)]
        return self._take()

    def template_lost(self, now: float, children: Set[int]) -> list[Action]:
        """The template has ended. children: the processes that are ours now; workers among them keep their seats."""
        for seat in self._seats:
            if seat.ordered_at is not None:
                seat.ordered_at, seat.restart_at = None, now
        strangers = children - self.pids  # they check a version, or the template did not live to report them
        actions: list[Action] = [Signal(pid, signal.SIGKILL) for pid in sorted(strangers)]
        for pid in sorted(self.pids - children):
            actions += self.exited(pid, None, "", now)
        return actions + self._take()

    def retry(self, now: float) -> list[Action]:
        """What the workers boot has changed: seats that were given up get another chance."""
        for seat in self._seats:
            if seat.is_empty and seat.restart_at == inf:
                seat.exits, seat.restart_at = [], now
        return self.tick(now)

    def check(self) -> None:
        """Invariants, for tests: they hold after every event."""
        pids = [seat.pid for seat in self._seats if seat.pid]
        assert len(pids) == len(set(pids)), "one process in two seats"
        assert not any(seat.pid and seat.ordered_at is not None for seat in self._seats), "two processes in one seat"
        assert len({seat.worker for seat in self._seats}) == len(self._seats), "two seats of one name"
        assert not any(is_spare(seat.worker) for seat in self._seats[: self._n_workers])

    # ---- parts

    def _seat(self, worker: str, incarnation: int) -> Seat | None:
        fits = (seat for seat in self._seats if seat.worker == worker and seat.incarnation == incarnation)
        return next(fits, None)

    def _remove_spares(self, now: float) -> None:
        """Those that are empty go; those that don't end are ended."""
        for seat in self._seats[self._n_workers :]:
            if not seat.is_leaving:
                continue
            if seat.is_empty:
                self._seats.remove(seat)
                self._announce(f"event=spare_left worker={seat.worker}", changed=True)
            elif seat.pid and now >= seat.leaves_at + GRACE_S:
                self._actions.append(Signal(seat.pid, signal.SIGKILL))

    def _fork(self, seat: Seat, now: float) -> None:
        seat.incarnation += 1
        if is_spare(seat.worker):
            self._last_spare = max(self._last_spare, seat.incarnation)
        seat.ordered_at, seat.note = now, ""
        self._actions.append(Fork(seat.worker, seat.index, seat.incarnation))

    def _emptied(self, seat: Seat, ended: Exit, now: float) -> None:
        if seat.is_leaving:
            self._remove_spares(now)
        elif self._stop_at is None:
            seat.exits = [*seat.exits[1 - KEPT_EXITS :], ended]
            self._decide(seat, now)

    def _decide(self, seat: Seat, now: float) -> None:
        match decide_restart(seat.exits, now):
            case GiveUp(reason):
                seat.restart_at = inf
                self._set_note(seat, reason)
                self._announce(f"event=gave_up worker={seat.worker} reason={reason!r}")
            case restart:
                seat.restart_at = restart.at
                self._set_note(seat, f"starts again in {restart.at - now:.0f} s, last: {seat.exits[-1].cause}")

    def _kill_all(self, line: str, now: float) -> None:
        self._killed_at = now
        self._announce(line)
        self._actions += [Signal(pid, signal.SIGKILL) for pid in sorted(self.pids)]

    def _set_note(self, seat: Seat, note: str) -> None:
        if seat.note != note:
            seat.note = note
            self._actions.append(Report())

    def _announce(self, line: str, *, changed: bool = False) -> None:
        self._actions.append(Announce(line))
        if changed:
            self._actions.append(Report())

    def _take(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions


def _explain(code: int | None, kill_cause: Cause | None, reason: str) -> tuple[Cause, str]:
    """The cause, and the same for people."""
    if kill_cause:
        return kill_cause, f"killed by order of the broker: {kill_cause}"
    if code is None:
        return Cause.KILLED, "ended unseen while the template was down"
    if code < 0:
        return Cause.KILLED, f"signal {-code} ({_signal_name(-code)})"
    said = f" ({reason})" if reason else ""
    if code == BOOT_FAILED:
        return Cause.BOOT_FAILED, f"boot failed{said}"
    if code == BROKER_GONE:
        return Cause.BROKER_GONE, f"broker gone{said}"
    return Cause.EXIT, f"exit code {code}{said}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
