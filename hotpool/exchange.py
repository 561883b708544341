"""Shell: a client's open calls over its session with the broker: sent, sent again, answered, called off.

Whoever owns it lets one thread at a time use it (`courier.py`: by a lock; `async_courier.py`: the loop's), calls `turn` when
`looks_at` says so, `receive` when the link's descriptor is readable, and resolves the tickets of what has ended.
"""

import asyncio
import contextlib
import random
import secrets
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Any

from .answers import Answer
from .calls import Call, Calls, Outcome
from .errors import HotpoolError, LocalProtocolError, error_from
from .link import Link
from .messages import PROTOCOL, Cancel, ClientHello, ErrorReply, Reply, Request, ToClient, Welcome
from .states import Executed
from .wire import encode, to_client

UNSENT_PAUSE_S = 0.01  # the socket is full: look again

# The caller may cancel at the very moment when its outcome is there: then it was cancelled.
CANCELLED = (InvalidStateError, asyncio.InvalidStateError)


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the caller waits for. convert: the answer as the caller wants it; raises RemoteProtocolError."""

    future: "Future[Any] | asyncio.Future[Any]"
    convert: Callable[[Answer], Any]

    def resolve(self, answer: Answer) -> None:
        try:
            self.future.set_result(self.convert(answer))
        except HotpoolError as error:
            self.fail(error)
        except CANCELLED:
            pass

    def fail(self, error: HotpoolError) -> None:
        with contextlib.suppress(*CANCELLED):
            self.future.set_exception(error)


@dataclass(slots=True)
class Ended:
    """Calls that have come to their end, and how. `resolve` runs callers' code: never under a lock."""

    answered: list[tuple[Call[Ticket], Answer]]
    failed: list[Outcome[Ticket]]

    def resolve(self) -> None:
        for call, answer in self.answered:
            call.ticket.resolve(answer)
        for outcome in self.failed:
            outcome.call.ticket.fail(outcome.error)


class Exchange:
    """Raises BadInput at birth: the endpoint is none."""

    def __init__(self, endpoint: str) -> None:
        self.nonce = secrets.token_bytes(8)
        self.calls: Calls[Ticket] = Calls(endpoint, random.random)
        self._unsent: deque[Call[Ticket]] = deque()
        self._ticks_at = 0.0
        hello = encode(ClientHello(PROTOCOL, self.nonce))
        self.link: Link[ToClient] = Link(endpoint, to_client, lambda: hello)

    @property
    def is_connected(self) -> bool:
        return self.link.welcome is not None

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def post(self, call: Call[Ticket]) -> Ended:
        """Takes the call on and sends it, if anybody is there to send it to."""
        self.calls.add(call)
        if self.is_connected:
            self._unsent.append(call)
        return Ended([], self._send_unsent())

    def cancel(self, request_id: bytes) -> bool:
        """False when that call is not open any more."""
        call = self.calls.take(request_id)
        if call is not None:
            self._call_off(call)
        return call is not None

    def turn(self, now: float) -> Ended:
        """What is here and what is due."""
        self._ticks_at = self.link.tick(now)
        ended = self.receive(now)
        again, late = self.calls.due(now, connected=self.is_connected)
        self._unsent.extend(again)
        for outcome in late:
            self._call_off(outcome.call)
        ended.failed += [*late, *self._send_unsent()]
        return ended

    def receive(self, now: float) -> Ended:
        """What is here."""
        ended = Ended([], [])
        for message, payload in self.link.receive():
            match message:
                case Reply():
                    if (call := self.calls.take(message.id)) is not None:
                        ended.answered.append((call, (message, payload)))
                case ErrorReply():
                    if (outcome := self._refused(message, now)) is not None:
                        ended.failed.append(outcome)
                case Welcome():
                    self.calls.max_bytes = message.max_bytes
                    self._unsent.clear()
                    self._unsent.extend(self.calls.unanswered())
        return ended

    def looks_at(self, now: float) -> float:
        """When `turn` has something to do at the latest, if nothing arrives."""
        timer = self.calls.next_timer()
        looks_at = min(self._ticks_at, inf if timer is None else timer)
        return min(looks_at, now + UNSENT_PAUSE_S) if self._unsent and self.is_connected else looks_at

    def close(self) -> list[Call[Ticket]]:
        """The calls that were open."""
        self.link.close()
        return self.calls.end_all()

    def _send_unsent(self) -> list[Outcome[Ticket]]:
        failed: list[Outcome[Ticket]] = []
        while self._unsent and self.is_connected:
            call = self._unsent[0]
            if self.calls.is_open(call):
                if (outcome := self.calls.too_large(call)) is not None:
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
        if not self.link.send([encode(request), call.payload]):
            return False
        call.times_sent += 1
        return True

    def _refused(self, message: ErrorReply, now: float) -> Outcome[Ticket] | None:
        executed = Executed(message.executed) if message.executed in set(Executed) else Executed.MAYBE
        retry_after_s = None if message.retry_after_us is None else message.retry_after_us / 1e6
        error = error_from(message.code, message.message, executed, retry_after_s)
        error.version, error.digest, error.worker = message.version, message.digest, message.worker
        return self.calls.refused(message.id, error, now)

    def _call_off(self, call: Call[Ticket]) -> None:
        """Nobody waits: save the worker the work."""
        if call.times_sent and self.is_connected:
            self.link.send([encode(Cancel(call.request.id))])


def closed(calls: list[Call[Ticket]], reason: str) -> Ended:
    """How calls end that were open when their client was closed."""
    return Ended([], [Outcome(call, LocalProtocolError(reason, executed=Executed.MAYBE)) for call in calls])
