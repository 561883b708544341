"""Shell: the thread behind a client. It alone touches the socket: a ZeroMQ socket used by two threads aborts the process,
hours later (pyzmq#2043, libzmq#4649)."""

import contextlib
import random
import secrets
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
    """Takes calls from any thread, resolves their futures. `post` and `cancel` may be called from anywhere."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self.nonce = secrets.token_bytes(8)
        self._inbox: deque[Call[Ticket] | bytes] = deque()  # calls, and ids to cancel
        self._unsent: deque[Call[Ticket]] = deque()
        self._calls: Calls[Ticket] = Calls(endpoint, random.random)
        self._wakeup, self._waker = socket.socketpair()
        self._wakeup.setblocking(False)
        self._waker.setblocking(False)
        self._is_woken = self._is_closing = False
        self._is_over = False  # guarded by the lock: after it is set nothing reads the inbox
        self._lock = threading.Lock()
        hello = encode(ClientHello(PROTOCOL, self.nonce))
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            # Made here, so that a wrong endpoint is the caller's error at once; from the thread's start on it is the thread's.
            self._link: Link[ToClient] = Link(self._context, endpoint, to_client, lambda: hello)
        except zmq.ZMQError as error:
            self._release()
            raise BadInput(
                f"endpoint {endpoint!r} can't be used: {error}; expected something like ipc:///path"
            ) from None
        self._thread = threading.Thread(target=self._run, name="hotpool-client", daemon=True)
        self._thread.start()

    def post(self, call: Call[Ticket]) -> None:
        with self._lock:
            if not self._is_over:
                self._inbox.append(call)
                self._wake()
                return
        call.ticket.fail(LocalProtocolError("the client is closed"))

    def cancel(self, request_id: bytes) -> None:
        self._inbox.append(request_id)
        self._wake()

    def close(self) -> None:
        """Ends the thread; open calls end with `LocalProtocolError`."""
        self._is_closing = True
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _wake(self) -> None:
        if not self._is_woken:  # one byte wakes it once, however many calls come before it looks
            self._is_woken = True
            with contextlib.suppress(BlockingIOError, OSError):
                self._waker.send(b"\0")

    # ---- the thread

    def _run(self) -> None:
        reason = "the client was closed"
        try:
            self._serve(self._link)
        except BaseException as error:  # outermost: a bug here must not leave callers waiting
            reason = f"the client's thread failed: {error!r}"
            raise
        finally:
            self._link.close()
            with self._lock:
                self._is_over = True
            self._take_inbox(monotonic(), None)
            self._release()
            for call in self._calls.end_all():
                call.ticket.fail(LocalProtocolError(reason, executed=Executed.MAYBE))

    def _release(self) -> None:
        self._context.destroy(linger=0)
        self._wakeup.close()
        self._waker.close()

    def _serve(self, link: "Link[ToClient]") -> None:
        poller, session = zmq.Poller(), 0
        while not self._is_closing:
            if session != link.sessions:
                session = link.sessions
                poller = zmq.Poller()
                for polled in (*link.sockets, self._wakeup):
                    poller.register(polled, zmq.POLLIN)
            now = monotonic()
            self._take_inbox(now, link)
            self._send_unsent(link)
            poller.poll(self._wait_ms(link.tick(now), now))
            now = monotonic()
            for message, payload in link.receive():
                self._on_message(message, payload, now)
            again, ended = self._calls.due(now, connected=link.welcome is not None)
            self._unsent.extend(again)
            for outcome in ended:
                self._end(outcome, link)

    def _wait_ms(self, heartbeat_at: float, now: float) -> int:
        at = heartbeat_at
        if (timer := self._calls.next_timer()) is not None:
            at = min(at, timer)
        if self._unsent:
            at = min(at, now + UNSENT_PAUSE_S)
        return max(0, ceil((at - now) * 1000))

    def _take_inbox(self, now: float, link: "Link[ToClient] | None") -> None:
        self._is_woken = False
        with contextlib.suppress(BlockingIOError):
            self._wakeup.recv(64)
        while self._inbox:
            item = self._inbox.popleft()
            if isinstance(item, bytes):
                if self._calls.take(item) is not None and link is not None:
                    link.send([encode(Cancel(item))])
            else:
                self._calls.add(item)
                if link is not None and link.welcome is not None:
                    self._unsent.append(item)

    def _send_unsent(self, link: "Link[ToClient]") -> None:
        while self._unsent and link.welcome is not None:
            call = self._unsent[0]
            if not self._calls.is_open(call):
                self._unsent.popleft()
                continue
            if (outcome := self._calls.too_large(call)) is not None:
                self._end(outcome, link)
            elif not self._send(link, call):
                return
            self._unsent.popleft()

    def _send(self, link: "Link[ToClient]", call: Call[Ticket]) -> bool:
        asked = call.request
        left_us = max(1, int((call.deadline - monotonic()) * 1e6))
        request = Request(asked.id, asked.model, asked.version, asked.priority, left_us, asked.work, call.times_sent)
        if not link.send([encode(request), call.payload]):
            return False
        call.times_sent += 1
        return True

    def _on_message(self, message: ToClient, payload: bytes | None, now: float) -> None:
        match message:
            case Reply():
                if (call := self._calls.take(message.id)) is not None:
                    call.ticket.resolve((message, payload))
            case ErrorReply():
                self._on_error(message, now)
            case Welcome():
                self._calls.max_bytes = message.max_bytes
                self._unsent.clear()
                self._unsent.extend(self._calls.unanswered())

    def _on_error(self, message: ErrorReply, now: float) -> None:
        executed = Executed(message.executed) if message.executed in set(Executed) else Executed.MAYBE
        retry_after_s = None if message.retry_after_us is None else message.retry_after_us / 1e6
        error = error_from(message.code, message.message, executed, retry_after_s)
        if (outcome := self._calls.refused(message.id, error, now)) is not None:
            outcome.call.ticket.fail(outcome.error)

    def _end(self, outcome: Outcome[Ticket], link: "Link[ToClient]") -> None:
        if outcome.call.times_sent and link.welcome is not None:
            link.send([encode(Cancel(outcome.call.request.id))])  # nobody waits: save the worker the work
        outcome.call.ticket.fail(outcome.error)
