"""Shell: what lies behind a `Client`: callers send from their own threads, one thread of ours receives.

Whoever touches the exchange holds the lock; the thread waits without it, at the link's descriptor.

A caller that waits for its answer while nobody else does gets the receiving on loan: handing the answer over from thread to
thread would take a quarter of the time of a request that costs nothing else. Meanwhile the thread keeps all timers. The loan
ends as soon as anybody else posts a call, so no answer but the borrower's own is ever in the borrower's hands.
"""

import contextlib
import select
import socket
import threading
from concurrent.futures import Future
from math import ceil
from time import monotonic
from typing import Any

from .calls import Call, Outcome
from .errors import LocalProtocolError
from .exchange import Ended, Exchange, Ticket, closed

# A borrower is always woken; but if it is just about to wait while the client is closed, this ends it.
LOAN_LOOK_MS = 250


class Courier:
    """Takes calls from any thread, resolves their futures. `post`, `cancel` and `close` may be called from anywhere."""

    def __init__(self, endpoint: str) -> None:
        self._exchange = Exchange(endpoint)
        # The lock guards all that follows; futures are resolved without it: their callbacks may call the client again.
        self._lock = threading.Lock()
        self._wakes_at = 0.0  # when the thread looks again by itself
        self._is_woken = self._is_closing = self._is_over = False
        self._borrower: object = None  # the future whose caller receives, or is about to
        # The one whose caller is in the loop of `receive_for`, perhaps still at its poll after the loan has ended: it keeps
        # the nudge. A Ctrl-C on its very way out leaves it set: then nobody borrows any more, the thread receives for all.
        self._receiver: object = None
        self._is_parked = False  # the thread waits for its timers and its wake-up alone
        self._wakeup, self._waker = _pair()
        self._nudged, self._nudge = _pair()  # wakes the borrower, as the other pair wakes the thread
        # Made once: between the sending of a request and the wait for its answer nothing is done that can be done before.
        # Broker and borrower may be on one core, and the broker's turn is next.
        self._input_fd = self._exchange.link.fileno()
        self._lent_poller = _poller(self._input_fd, self._nudged.fileno())
        self._thread = threading.Thread(target=self._run, name="hotpool-client", daemon=True)
        self._thread.start()

    @property
    def nonce(self) -> bytes:
        """What the ids of all requests begin with."""
        return self._exchange.nonce

    def post(self, call: Call[Ticket], *, waits: bool) -> None:
        """Sends the call from the caller's own thread: handing it over would cost two switches of threads.

        waits: the caller goes on with `receive_for` at once.
        """
        with self._lock:
            if self._is_over:
                ended = Ended([], [Outcome(call, LocalProtocolError("the client is closed"))])
            else:
                try:
                    ended = self._take_on(call, waits)
                except (
                    BaseException
                ):  # Ctrl-C, perhaps within a message: what others wait for goes out anew, in one piece
                    self._exchange.calls.take(call.request.id)
                    self._begin_anew()
                    raise
        ended.resolve()

    def receive_for(self, future: "Future[Any]") -> None:
        """Returns when it is done, or at once or later when the thread receives: then the caller waits for the future."""
        link = self._exchange.link
        is_readable = is_nudged = False
        try:
            while True:
                with self._lock:
                    if self._borrower is not future or self._is_over:
                        return
                    self._receiver = future
                    if is_nudged:
                        self._drain(self._nudged)
                    if future.done():
                        return
                    ended = self._receive_on_loan() if is_readable or link.has_input else None
                is_readable = is_nudged = False
                if ended is not None:
                    ended.resolve()
                    continue
                for fd, _ in self._lent_poller.poll(LOAN_LOOK_MS):
                    is_readable |= fd == self._input_fd
                    is_nudged |= fd != self._input_fd
        except BaseException:  # Ctrl-C, perhaps with an answer in hand
            with self._lock:
                self._begin_anew()
            raise
        finally:
            with self._lock:
                if self._borrower is future:
                    self._borrower = None
                if self._receiver is future:
                    self._receiver = None

    def cancel(self, request_id: bytes) -> None:
        with self._lock:
            if not self._is_over and self._exchange.cancel(request_id):
                self._wake()

    def close(self) -> None:
        """Ends the thread; open calls end with `LocalProtocolError`."""
        with self._lock:
            self._is_closing = True
            self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _take_on(self, call: Call[Ticket], waits: bool) -> Ended:
        exchange = self._exchange
        is_alone = not len(exchange.calls) and self._borrower is None and self._receiver is None
        ended = exchange.post(call)
        is_urgent = call.deadline < self._wakes_at or exchange.has_unsent
        if waits and is_alone and exchange.is_connected:
            self._borrower = call.ticket.future
        else:
            is_urgent |= self._is_parked or exchange.link.has_input
            self._end_loan()
        if is_urgent:
            self._wake()
        return ended

    def _receive_on_loan(self) -> Ended:
        now, exchange = monotonic(), self._exchange
        ended = exchange.receive(now)
        is_over = bool(ended.answered)  # then nothing is due any sooner than before
        is_due = not is_over and (exchange.has_unsent or exchange.looks_at(now) < self._wakes_at)
        is_lost = exchange.link.is_lost
        if is_lost:
            self._borrower = None  # who goes on looking would be told of the loss until the thread has seen to it
        if is_due or is_lost or not exchange.is_connected:
            self._wake()  # refused, or the broker is gone or another one: the thread has something to do
        return ended

    def _end_loan(self) -> None:
        if self._borrower is not None:
            self._borrower = None
            self._signal(self._nudge)

    def _begin_anew(self) -> None:
        """What is unanswered goes out again over another session: nobody knows what was lost of this one."""
        if not self._is_over:
            self._end_loan()
            self._exchange.link.reopen()
            self._wake()

    def _wake(self) -> None:
        if not self._is_woken:  # one byte wakes it once, however many calls come before it looks
            self._is_woken = True
            self._signal(self._waker)

    @staticmethod
    def _signal(waker: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            waker.send(b"\0")

    @staticmethod
    def _drain(wakeup: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            wakeup.recv(64)

    # ---- the thread

    def _run(self) -> None:
        reason = "the client was closed"
        try:
            self._serve()
        except BaseException as error:  # outermost: a bug here must not leave callers waiting
            reason = f"the client's thread failed: {error!r}"
            raise
        finally:
            with self._lock:
                self._is_over = True
                calls = self._exchange.close()
                for end in (self._wakeup, self._waker, self._nudged, self._nudge):
                    end.close()  # also wakes the borrower: the other end of its pair hangs up
            closed(calls, reason).resolve()

    def _serve(self) -> None:
        alone = _poller(self._wakeup.fileno())
        poller = _poller(self._wakeup.fileno(), self._input_fd)
        while not self._is_closing:
            with self._lock:
                self._is_woken = False
                self._drain(self._wakeup)
                ended = self._exchange.turn(monotonic())
                wait_ms = self._wait_ms()
                self._is_parked = self._borrower is not None
            ended.resolve()
            if self._is_parked:
                self._signal(self._nudge)  # the turn may have read what the borrower waits for
            (alone if self._is_parked else poller).poll(wait_ms)

    def _wait_ms(self) -> int:
        if self._exchange.link.has_input:
            return 0
        now = monotonic()
        self._wakes_at = self._exchange.looks_at(now)
        return max(0, ceil((self._wakes_at - now) * 1000))


def _poller(*fds: int) -> select.poll:
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return poller


def _pair() -> tuple[socket.socket, socket.socket]:
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    return reader, writer
