"""Shell: what lies behind a client: callers send from their own threads, one thread of ours receives.

Whoever touches the socket holds the lock: a ZeroMQ socket used by two threads at once aborts the process, hours later
(pyzmq#2043, libzmq#4649). The thread waits without it, so it polls file descriptors, not sockets.

A caller that waits for its answer while nobody else does gets the receiving on loan: handing the answer over from thread to
thread would take a quarter of the time of a request that costs nothing else. The thread keeps all timers meanwhile. The loan
ends as soon as anybody else posts a call, so no answer but the borrower's own is ever in the borrower's hands.
"""

import contextlib
import random
import secrets
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from math import ceil, inf
from time import monotonic
from typing import Any

import zmq

from .calls import Call, Calls, Outcome
from .errors import BadInput, HotpoolError, LocalProtocolError, error_from
from .link import Link
from .messages import PROTOCOL, Cancel, ClientHello, ErrorReply, Reply, Request, ToClient, Welcome
from .states import Executed
from .wire import encode, to_client

Answer = tuple[Reply, bytes | None]


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the caller waits for. convert: the answer as the caller wants it; raises RemoteProtocolError."""

    future: "Future[Any]"
    convert: Callable[[Answer], Any]

    def resolve(self, answer: Answer) -> None:
        # The caller may cancel at this very moment: then it has its outcome.
        with contextlib.suppress(InvalidStateError):
            try:
                self.future.set_result(self.convert(answer))
            except HotpoolError as error:
                self.future.set_exception(error)

    def fail(self, error: HotpoolError) -> None:
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)


Answered = tuple[Call[Ticket], Answer]

UNSENT_PAUSE_S = 0.01  # the socket is full: look again
LOAN_LOOK_MS = (
    250  # a borrower is always woken; but if it is just about to wait while the client is closed, this ends it
)


class Courier:
    """Takes calls from any thread, resolves their futures. `post`, `cancel` and `close` may be called from anywhere."""

    def __init__(self, endpoint: str) -> None:
        self.nonce = secrets.token_bytes(8)
        # The lock guards all that follows; futures are resolved without it: their callbacks may call the client again.
        self._lock = threading.Lock()
        self._unsent: deque[Call[Ticket]] = deque()
        self._calls: Calls[Ticket] = Calls(endpoint, random.random)
        self._wakes_at = 0.0  # when the thread looks again by itself
        self._is_woken = self._is_closing = self._is_over = False
        self._borrower: Future[Any] | None = None  # whose caller receives, or is about to
        self._is_parked = False  # the thread waits for its timers and its wake-up alone
        self._wakeup, self._waker = _pair()
        self._nudged, self._nudge = _pair()  # wakes the borrower, as the other pair wakes the thread
        hello = encode(ClientHello(PROTOCOL, self.nonce))
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._link: Link[ToClient] = Link(self._context, endpoint, to_client, lambda: hello)
        except zmq.ZMQError as error:
            self._release()
            raise BadInput(
                f"endpoint {endpoint!r} can't be used: {error}; expected something like ipc:///path"
            ) from None
        self._thread = threading.Thread(target=self._run, name="hotpool-client", daemon=True)
        self._thread.start()

    def post(self, call: Call[Ticket], *, waits: bool) -> None:
        """Sends the call from the caller's own thread: handing it over would cost two switches of threads.

        waits: the caller goes on with `receive_for` at once.
        """
        with self._lock:
            if self._is_over:
                failed = [Outcome(call, LocalProtocolError("the client is closed"))]
            else:
                try:
                    failed = self._take_on(call, waits)
                except (
                    BaseException
                ):  # Ctrl-C, perhaps between two frames: what others wait for goes out anew, in one piece
                    self._calls.take(call.request.id)
                    self._begin_anew()
                    raise
        for outcome in failed:
            outcome.call.ticket.fail(outcome.error)

    def receive_for(self, future: "Future[Any]") -> None:
        """Returns when it is done, or at once or later when the thread receives: then the caller waits for the future."""
        poller, session, is_nudged = select.poll(), 0, False
        try:
            while not future.done():
                with self._lock:
                    if self._borrower is not future or self._is_over:
                        return
                    if is_nudged:
                        self._drain(self._nudged)
                    if session != self._link.sessions:
                        session, poller = self._link.sessions, self._poller(self._nudged)
                    answers, failed = self._receive(monotonic())
                    if self._unsent or self._next_timer() < self._wakes_at:
                        self._wake()  # refused, or welcomed by another broker: the thread has something to do
                    has_input = self._link.has_input
                self._resolve(answers, failed)
                if not has_input and not future.done():
                    is_nudged = self._nudged.fileno() in dict(poller.poll(LOAN_LOOK_MS))
        except BaseException:  # Ctrl-C, perhaps with an answer in hand
            with self._lock:
                self._begin_anew()
            raise
        finally:
            with self._lock:
                if self._borrower is future:
                    self._borrower = None

    def cancel(self, request_id: bytes) -> None:
        with self._lock:
            if not self._is_over and (call := self._calls.take(request_id)) is not None:
                self._call_off(call)
                self._wake()

    def close(self) -> None:
        """Ends the thread; open calls end with `LocalProtocolError`."""
        with self._lock:
            self._is_closing = True
            self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _take_on(self, call: Call[Ticket], waits: bool) -> list[Outcome[Ticket]]:
        is_alone = not len(self._calls) and self._link.welcome is not None and self._borrower is None
        self._calls.add(call)
        if self._link.welcome is not None:
            self._unsent.append(call)
        failed = self._send_unsent()
        # Sending may have swallowed the news of a message that the thread waits for (see `Link.fds`).
        is_urgent = call.deadline < self._wakes_at or bool(self._unsent)
        if waits and is_alone:
            self._borrower = call.ticket.future
        else:
            is_urgent |= self._is_parked or self._link.has_input
            self._end_loan()
        if is_urgent:
            self._wake()
        return failed

    def _end_loan(self) -> None:
        if self._borrower is not None:
            self._borrower = None
            self._signal(self._nudge)

    def _begin_anew(self) -> None:
        """What is unanswered goes out again over another session: nobody knows what was lost of this one."""
        if not self._is_over:
            self._end_loan()
            self._link.reopen()
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

    def _poller(self, wakeup: socket.socket) -> select.poll:
        """For the session's sockets and this one."""
        poller = select.poll()
        for fd in (*self._link.fds, wakeup.fileno()):
            poller.register(fd, select.POLLIN)
        return poller

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
                self._link.close()
                self._release()
                calls = self._calls.end_all()
            for call in calls:
                call.ticket.fail(LocalProtocolError(reason, executed=Executed.MAYBE))

    def _release(self) -> None:
        """Also wakes the borrower: the other end of its pair hangs up."""
        self._context.destroy(linger=0)
        for end in (self._wakeup, self._waker, self._nudged, self._nudge):
            end.close()

    def _serve(self) -> None:
        alone, poller, session = select.poll(), select.poll(), 0
        alone.register(self._wakeup.fileno(), select.POLLIN)
        while not self._is_closing:
            with self._lock:
                answers, failed = self._turn(monotonic())
                if session != self._link.sessions:
                    session, poller = self._link.sessions, self._poller(self._wakeup)
                wait_ms = self._wait_ms()
                self._is_parked = self._borrower is not None
            self._resolve(answers, failed)
            if self._is_parked:
                self._signal(self._nudge)  # the turn may have read what the borrower waits for
            (alone if self._is_parked else poller).poll(wait_ms)

    def _resolve(self, answers: list[Answered], failed: list[Outcome[Ticket]]) -> None:
        for call, answer in answers:
            call.ticket.resolve(answer)
        for outcome in failed:
            outcome.call.ticket.fail(outcome.error)

    def _turn(self, now: float) -> tuple[list[Answered], list[Outcome[Ticket]]]:
        """What is here and what is due; returns whose calls have ended how."""
        self._is_woken = False
        self._drain(self._wakeup)
        self._wakes_at = self._link.tick(now)
        answers, failed = self._receive(now)
        again, ended = self._calls.due(now, connected=self._link.welcome is not None)
        self._unsent.extend(again)
        for outcome in ended:
            self._call_off(outcome.call)
        return answers, [*failed, *ended, *self._send_unsent()]

    def _receive(self, now: float) -> tuple[list[Answered], list[Outcome[Ticket]]]:
        answers: list[Answered] = []
        failed: list[Outcome[Ticket]] = []
        for message, payload in self._link.receive():
            match message:
                case Reply():
                    if (call := self._calls.take(message.id)) is not None:
                        answers.append((call, (message, payload)))
                case ErrorReply():
                    if (outcome := self._refused(message, now)) is not None:
                        failed.append(outcome)
                case Welcome():
                    self._calls.max_bytes = message.max_bytes
                    self._unsent.clear()
                    self._unsent.extend(self._calls.unanswered())
        return answers, failed

    def _wait_ms(self) -> int:
        if self._link.has_input:
            return 0
        now = monotonic()
        self._wakes_at = min(self._wakes_at, self._next_timer())
        if self._unsent and self._link.welcome is not None:
            self._wakes_at = min(self._wakes_at, now + UNSENT_PAUSE_S)
        return max(0, ceil((self._wakes_at - now) * 1000))

    def _next_timer(self) -> float:
        timer = self._calls.next_timer()
        return inf if timer is None else timer

    def _send_unsent(self) -> list[Outcome[Ticket]]:
        failed: list[Outcome[Ticket]] = []
        while self._unsent and self._link.welcome is not None:
            call = self._unsent[0]
            if self._calls.is_open(call):
                if (outcome := self._calls.too_large(call)) is not None:
                    failed.append(outcome)
                    self._call_off(call)
                elif not self._send(call):
                    break
            self._unsent.popleft()
        return failed

    def _send(self, call: Call[Ticket]) -> bool:
        asked = call.request
        left_us = max(1, int((call.deadline - monotonic()) * 1e6))
        request = Request(
            asked.id, asked.model, asked.version, asked.priority, left_us, asked.work, call.times_sent, asked.route,
            asked.worker,
        )  # fmt: skip
        if not self._link.send([encode(request), call.payload]):
            return False
        call.times_sent += 1
        return True

    def _refused(self, message: ErrorReply, now: float) -> Outcome[Ticket] | None:
        executed = Executed(message.executed) if message.executed in set(Executed) else Executed.MAYBE
        retry_after_s = None if message.retry_after_us is None else message.retry_after_us / 1e6
        error = error_from(message.code, message.message, executed, retry_after_s)
        return self._calls.refused(message.id, error, now)

    def _call_off(self, call: Call[Ticket]) -> None:
        """Nobody waits: save the worker the work."""
        if call.times_sent and self._link.welcome is not None:
            self._link.send([encode(Cancel(call.request.id))])


def _pair() -> tuple[socket.socket, socket.socket]:
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    return reader, writer
