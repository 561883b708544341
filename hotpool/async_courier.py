"""Shell: what lies behind an `AsyncClient`: the event loop itself sends, receives and keeps the timers.

No thread: to hand a request and its answer from thread to thread costs more than all else that a client does for them. The loop
only tells that a descriptor is readable; then what is here is read without waiting.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

from .calls import Call
from .errors import LocalProtocolError
from .exchange import Exchange, Ticket, closed


class AsyncCourier:
    """Belongs to the loop in which it is first used."""

    def __init__(self, endpoint: str) -> None:
        self._exchange = Exchange(endpoint)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = 0.0  # when the timer fires
        self._due: asyncio.Handle | None = None  # a look without an event
        self._is_closed = False

    @property
    def nonce(self) -> bytes:
        """What the ids of all requests begin with."""
        return self._exchange.nonce

    @property
    def is_closed(self) -> bool:
        """Also after a failure."""
        return self._is_closed

    def future(self) -> "asyncio.Future[Any]":
        """For a ticket. Raises LocalProtocolError: the client is closed, or of another loop."""
        if self._is_closed:
            raise LocalProtocolError("the client is closed")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            loop.add_reader(self._exchange.link.fileno(), self._receive)
            self._turn()
        elif self._loop is not loop:
            raise LocalProtocolError("this client belongs to another event loop; make a new one in each")
        return loop.create_future()

    def post(self, call: Call[Ticket]) -> None:
        try:
            self._exchange.post(call).resolve()
        except BaseException:  # Ctrl-C, perhaps within a message: what others wait for goes out anew, in one piece
            self._exchange.calls.take(call.request.id)
            self._exchange.link.reopen()
            self._look(self._turn)
            raise
        if call.deadline < self._looks_at or self._exchange.has_unsent:
            self._look(self._turn)
        else:
            self._look_again()

    def cancel(self, request_id: bytes) -> None:
        if not self._is_closed and self._exchange.cancel(request_id):
            self._look_again()

    def close(self, reason: str = "the client was closed") -> None:
        """Open calls end with `LocalProtocolError`."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._exchange.link.fileno())
        self._forget_due()
        if self._timer is not None:
            self._timer.cancel()
        closed(self._exchange.close(), reason).resolve()

    # ---- in the loop

    def _turn(self) -> None:
        if self._is_closed:
            return
        self._forget_due()
        try:
            ended = self._exchange.turn(monotonic())
            self._set_timer()
        except BaseException as error:  # outermost: a bug here must not leave callers waiting
            self.close(f"the client failed: {error!r}")
            raise
        ended.resolve()
        self._look_again()

    def _receive(self) -> None:
        if self._is_closed:
            return
        self._forget_due()
        exchange, now = self._exchange, monotonic()
        try:
            ended = exchange.receive(now)
        except BaseException as error:
            self.close(f"the client failed: {error!r}")
            raise
        ended.resolve()
        if exchange.link.is_lost or exchange.has_unsent or exchange.looks_at(now) < self._looks_at:
            self._turn()  # the broker is gone, or has refused something, or another one has welcomed us
        else:
            self._look_again()

    def _look_again(self) -> None:
        """The descriptor does not tell of what was read and not taken."""
        if not self._is_closed and self._exchange.link.has_input:
            self._look(self._receive)

    def _look(self, how: Callable[[], None]) -> None:
        if self._due is None and self._loop is not None:
            self._due = self._loop.call_soon(how)

    def _forget_due(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _set_timer(self) -> None:
        assert self._loop is not None, "a turn is of a loop"
        if self._timer is not None:
            self._timer.cancel()
        now = monotonic()
        self._looks_at = self._exchange.looks_at(now)
        self._timer = self._loop.call_later(max(0.0, self._looks_at - now), self._turn)
