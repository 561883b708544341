"""Pure: a client's calls until each has its one outcome. The client keeps a request until it is answered: that is why nothing
is lost when a broker dies."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .errors import BrokerUnreachable, DeadlineExceeded, HotpoolError, QueueFull, TooLarge
from .messages import Request
from .states import Executed

F = TypeVar("F")

BACK_OFF_S = 0.05  # after QueueFull, when the broker names no time; doubled with each try
LONGEST_BACK_OFF_S = 2.0
LAST_WORD_S = 0.02  # after the deadline: the broker ends the call too, and knows why it took so long


@dataclass(slots=True, eq=False)
class Call(Generic[F]):
    """One request. ticket: what the shell resolves; deadline: monotonic seconds; retries: whether a full queue is tried
    again."""

    request: Request
    payload: bytes | memoryview
    ticket: F
    started_at: float
    deadline: float
    retries: bool = True
    times_sent: int = 0
    refusals: int = 0
    retry_at: float | None = None  # set while it waits after QueueFull


@dataclass(slots=True)
class Outcome(Generic[F]):
    """A call that ends with an error."""

    call: Call[F]
    error: HotpoolError


@dataclass(slots=True)
class Calls(Generic[F]):
    """All open calls. random: a number in [0, 1), for jitter; where: the address, for messages."""

    where: str
    random: Callable[[], float]
    max_bytes: int | None = None  # of one payload, once the broker has told
    late: int = 0  # answers that came when nobody waited any more: first answer wins
    _open: dict[bytes, Call[F]] = field(default_factory=dict)
    _timers: list[tuple[float, bytes]] = field(default_factory=list)  # heap: deadlines and retries

    def __len__(self) -> int:
        return len(self._open)

    def add(self, call: Call[F]) -> None:
        self._open[call.request.id] = call
        heapq.heappush(self._timers, (call.deadline + LAST_WORD_S, call.request.id))
        if len(self._timers) > 2 * len(self._open) + 1000:  # mostly answered: long timeouts must not fill the memory
            self._timers = [timer for timer in self._timers if timer[1] in self._open]
            heapq.heapify(self._timers)

    def is_open(self, call: Call[F]) -> bool:
        return call.request.id in self._open

    def too_large(self, call: Call[F]) -> Outcome[F] | None:
        """Ends a call that the broker would have to cut off: an oversize frame closes the connection without a word."""
        if self.max_bytes is None or len(call.payload) <= self.max_bytes:
            return None
        self._open.pop(call.request.id, None)
        return Outcome(call, TooLarge(f"the image has {len(call.payload)} bytes, at most {self.max_bytes} are allowed"))

    def unanswered(self) -> list[Call[F]]:
        """What a new session must send again, the oldest first; what waits after a refusal goes on waiting."""
        return [call for call in self._open.values() if call.retry_at is None]

    def take(self, request_id: bytes) -> Call[F] | None:
        """The call that this answer ends; None when nobody waits for it."""
        call = self._open.pop(request_id, None)
        self.late += call is None
        return call

    def refused(self, request_id: bytes, error: HotpoolError, now: float) -> Outcome[F] | None:
        """An error reply: the call's outcome, or None when it will be tried again (or nobody waits)."""
        call = self._open.get(request_id)
        if call is None:
            self.late += 1
            return None
        if isinstance(error, QueueFull) and call.retries:
            retry_at = now + self._back_off(call, error)
            if retry_at < call.deadline:
                call.retry_at, call.refusals = retry_at, call.refusals + 1
                heapq.heappush(self._timers, (retry_at, request_id))
                return None
        del self._open[request_id]
        return Outcome(call, error)

    def due(self, now: float, *, connected: bool) -> tuple[list[Call[F]], list[Outcome[F]]]:
        """Calls to send again now, and calls whose deadline has passed."""
        again: list[Call[F]] = []
        ended: list[Outcome[F]] = []
        while self._timers and self._timers[0][0] <= now:
            call = self._open.get(heapq.heappop(self._timers)[1])
            if call is None:
                continue
            if now >= call.deadline + LAST_WORD_S:
                del self._open[call.request.id]
                ended.append(Outcome(call, self._too_late(call, connected)))
            elif call.retry_at is not None and now >= call.retry_at:
                call.retry_at = None
                again.append(call)
        return again, ended

    def next_timer(self) -> float | None:
        """When `due` has something to do at the latest."""
        while self._timers and self._timers[0][1] not in self._open:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def end_all(self) -> list[Call[F]]:
        """Every open call, oldest first; none is open afterwards."""
        calls, self._open = list(self._open.values()), {}
        return calls

    def _back_off(self, call: Call[F], error: QueueFull) -> float:
        base = error.retry_after_s or min(LONGEST_BACK_OFF_S, BACK_OFF_S * 2 ** min(call.refusals, 10))
        return base * (0.5 + self.random())  # jitter: those who were refused together must not come back together

    def _too_late(self, call: Call[F], connected: bool) -> HotpoolError:
        waited = f"within {call.deadline - call.started_at:.3g} s"
        executed = Executed.MAYBE if call.times_sent else Executed.NO
        if call.retry_at is not None:
            return QueueFull(f"the queue stayed full: refused {call.refusals} times {waited}")
        if not connected and not call.times_sent:
            return BrokerUnreachable(
                f"no broker at {self.where} {waited}; is the pool running? start it with: hotpool up"
            )
        if not connected:
            return BrokerUnreachable(
                f"the broker at {self.where} was lost and did not return {waited}", executed=executed
            )
        return DeadlineExceeded(f"no answer {waited}", executed=executed)
