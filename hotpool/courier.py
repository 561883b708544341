"""Shell: what lies behind a client: callers send from their own threads, one thread of ours receives.

Whoever touches the socket holds the lock: a ZeroMQ socket used by two threads at once aborts the process, hours later
(pyzmq#2043, libzmq#4649). The thread waits without it, so it polls file descriptors, not sockets.
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
from math import ceil
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


UNSENT_PAUSE_S = 0.01  # the socket is full: look again


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
        self._wakeup, self._waker = socket.socketpair()
        self._wakeup.setblocking(False)
        self._waker.setblocking(False)
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

    def post(self, call: Call[Ticket]) -> None:
        """Sends the call from the caller's own thread: handing it over would cost two switches of threads."""
        with self._lock:
            if self._is_over:
                failed = [Outcome(call, LocalProtocolError("the client is closed"))]
            else:
                try:
                    failed = self._take_on(call)
                except (
                    BaseException
                ):  # Ctrl-C, perhaps between two frames: what others wait for goes out anew, in one piece
                    self._calls.take(call.request.id)
                    self._link.reopen()
                    self._wake()
                    raise
        for outcome in failed:
            outcome.call.ticket.fail(outcome.error)

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

    def _take_on(self, call: Call[Ticket]) -> list[Outcome[Ticket]]:
        self._calls.add(call)
        if self._link.welcome is not None:
            self._unsent.append(call)
        failed = self._send_unsent()
        # Sending may have swallowed the news of a message that the thread waits for (see `Link.fds`).
        if call.deadline < self._wakes_at or self._unsent or self._link.has_input:
            self._wake()
        return failed

    def _wake(self) -> None:
        if not self._is_woken:  # one byte wakes it once, however many calls come before it looks
            self._is_woken = True
            with contextlib.suppress(BlockingIOError, OSError):
                self._waker.send(b"\0")

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
        self._context.destroy(linger=0)
        self._wakeup.close()
        self._waker.close()

    def _serve(self) -> None:
        poller, session = select.poll(), 0
        while not self._is_closing:
            with self._lock:
                answers, failed = self._turn(monotonic())
                if session != self._link.sessions:
                    session, poller = self._link.sessions, select.poll()
                    for fd in (*self._link.fds, self._wakeup.fileno()):
                        poller.register(fd, select.POLLIN)
                wait_ms = self._wait_ms()
            for call, answer in answers:
                call.ticket.resolve(answer)
            for outcome in failed:
                outcome.call.ticket.fail(outcome.error)
            poller.poll(wait_ms)

    def _turn(self, now: float) -> tuple[list[tuple[Call[Ticket], Answer]], list[Outcome[Ticket]]]:
        """What is here and what is due; returns whose calls have ended how."""
        self._is_woken = False
        with contextlib.suppress(BlockingIOError):
            self._wakeup.recv(64)
        self._wakes_at = self._link.tick(now)
        answers: list[tuple[Call[Ticket], Answer]] = []
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
        again, ended = self._calls.due(now, connected=self._link.welcome is not None)
        self._unsent.extend(again)
        for outcome in ended:
            self._call_off(outcome.call)
        return answers, [*failed, *ended, *self._send_unsent()]

    def _wait_ms(self) -> int:
        if self._link.has_input:
            return 0
        now = monotonic()
        if (timer := self._calls.next_timer()) is not None:
            self._wakes_at = min(self._wakes_at, timer)
        if self._unsent and self._link.welcome is not None:
            self._wakes_at = min(self._wakes_at, now + UNSENT_PAUSE_S)
        return max(0, ceil((self._wakes_at - now) * 1000))

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
            asked.id, asked.model, asked.version, asked.priority, left_us, asked.work, call.times_sent, asked.route
        )
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
