"""Shell: one session with the broker, opened anew, over another connection, whenever the broker is lost.

Used by clients, workers and the supervisor, by one thread at a time. What was sent on a lost session is gone or may come late:
the owner keeps what it needs answered and sends it again after the next `Welcome`.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from .dealer import Dealer
from .errors import RemoteProtocolError
from .messages import SILENT_HEARTBEATS, Ping, Pong, Welcome, Who
from .wire import Decoder, encode

T = TypeVar("T")

DEFAULT_HEARTBEAT_S = 0.25  # until the broker's Welcome says otherwise

_PING = encode(Ping())


class Link(Generic[T]):
    """A session. `welcome` is None until the broker has answered the hello."""

    def __init__(self, endpoint: str, decoder: Decoder[T], hello: Callable[[], bytes]) -> None:
        """Raises BadInput: the endpoint is none."""
        self._decoder, self._hello = decoder, hello
        self.welcome: Welcome | None = None
        self.malformed = 0
        self.sessions = 0
        self._heard_at = self._ticked_at = self._pinged_at = self._reopen_at = 0.0
        self._dealer = Dealer(endpoint)
        self._greet()

    def fileno(self) -> int:
        """What to poll, the same for life: readable when there is something for `receive`, or for `tick` after it. Of what
        was read and not taken it does not tell; that is `has_input`."""
        return self._dealer.fileno()

    @property
    def has_input(self) -> bool:
        return self._dealer.has_input

    @property
    def is_lost(self) -> bool:
        """The broker is gone; the next `tick` sees to it."""
        return self._dealer.is_lost

    def wait(self, timeout_s: float) -> bool:
        """Until there is something to read; False: there is nothing, after all this time."""
        return self._dealer.wait(timeout_s)

    @property
    def heartbeat_s(self) -> float:
        return self.welcome.heartbeat_us / 1e6 if self.welcome else DEFAULT_HEARTBEAT_S

    def send(self, frames: Sequence[bytes | memoryview]) -> bool:
        """False: the broker does not read, and nothing was sent."""
        return self._dealer.send(frames)

    def receive(self) -> Iterator[tuple[T, bytes | None]]:
        """The messages that are here now, `Welcome` among them; `Pong` and `Who` are dealt with."""
        for frames in self._dealer.receive():
            try:
                message, payload = self._decoder.decode(frames)
            except RemoteProtocolError:
                self.malformed += 1
                continue
            self._heard_at = self._ticked_at
            if isinstance(message, Who):
                # Once, though each of several messages of ours is answered so: with each hello a session begins anew.
                if self.welcome and self.send([self._hello()]):
                    self.welcome = None
            elif isinstance(message, Pong):
                if self.welcome and message.boot != self.welcome.boot:
                    self.reopen()  # another broker answers on the same connection
                    return
            else:
                if isinstance(message, Welcome):
                    self.welcome = message
                yield message, payload

    def tick(self, now: float) -> float:
        """Sends the heartbeat, opens a new session when the broker is lost, returns when to call again.

        Call it before `receive` in each turn of the owner's loop.
        """
        if now - self._ticked_at > 2 * self.heartbeat_s:
            self._heard_at = now  # we did not look for a while: our own pause is not the broker's silence
        self._ticked_at = now
        if self.is_lost or now - self._heard_at > SILENT_HEARTBEATS * self.heartbeat_s:
            self._dealer.disconnect()
            self.welcome = None
            if now >= self._reopen_at:
                self.reopen()
                self._heard_at = now
                # Nobody there must not make us spin, and a thousand clients must not come back together.
                self._reopen_at = now + random.uniform(0.05, 0.15)
        if now - self._pinged_at >= self.heartbeat_s:
            self._pinged_at = now
            if self.welcome:
                self.send([_PING])
        next_ping_at = self._pinged_at + self.heartbeat_s
        return min(next_ping_at, self._reopen_at) if self.is_lost else next_ping_at

    def reopen(self) -> None:
        """Replies that were already here are read on by nobody: their requests are sent again under the same id."""
        self.welcome = None
        self._dealer.connect()
        self._greet()

    def close(self) -> None:
        self._dealer.close()
        self.welcome = None

    def _greet(self) -> None:
        self.sessions += 1
        self.send([self._hello()])
