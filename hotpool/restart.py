"""Pure: when to start a process again, and when to give up."""

from collections.abc import Sequence
from dataclasses import dataclass

# TorchServe's sequence, which its users know; capped so that a repaired cause is noticed within half a minute.
BACK_OFF_S = (1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0)
CRASH_LOOP_EXITS = 8
STEADY_S = 60.0  # a process that lived this long was well: its end starts the sequence anew
AT_ONCE_S = 10.0  # one that lived this long can start: it is needed more than a pause


@dataclass(frozen=True, slots=True)
class Exit:
    """One life of a process. cause: for people, such as `exit code 1`.

    is_fault: False when the process was right to end, as a worker is whose broker is gone: never a crash loop.
    """

    started_at: float
    ended_at: float
    cause: str
    is_fault: bool = True

    @property
    def lived_s(self) -> float:
        return self.ended_at - self.started_at


@dataclass(frozen=True, slots=True)
class Restart:
    """Start the process at this instant, or now if it has passed."""

    at: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Don't start it again: it would only end again."""

    reason: str


def decide_restart(exits: Sequence[Exit], now: float) -> Restart | GiveUp:
    """What to do for a process that has lived these lives, the oldest first.

    Looks only at the exits since the last life of `STEADY_S`, so the owner may forget older ones.
    """
    streak = _since_steady(exits)
    if not streak:
        return Restart(now)
    last = streak[-1]
    n_faults = sum(exit.is_fault for exit in streak)
    if last.is_fault and n_faults >= CRASH_LOOP_EXITS:
        return GiveUp(f"crash loop: gave up after {n_faults} exits, last: {last.cause}")
    if last.lived_s >= AT_ONCE_S:
        return Restart(now)
    return Restart(max(now, last.ended_at + BACK_OFF_S[min(len(streak), len(BACK_OFF_S)) - 1]))


def _since_steady(exits: Sequence[Exit]) -> list[Exit]:
    streak: list[Exit] = []
    for exit in reversed(exits):
        if exit.lived_s >= STEADY_S:
            break
        streak.append(exit)
    return streak[::-1]
