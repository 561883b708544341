"""Shell: one session with the broker over a DEALER socket, opened anew whenever the broker is lost.

Used by clients, workers and the supervisor, by one thread at a time. What was sent on a lost session is gone or may come late:
the owner keeps what it needs answered and sends it again after the next `Welcome`.

Why a new socket for each session: libzmq's own reconnect replays queued sends into the new broker before any hello, and
without it (RECONNECT_IVL=-1, IMMEDIATE=1) replies that were received but not yet read are thrown away.
"""

import random
from collections.abc import Callable, Iterator
from math import ceil
from typing import Generic, TypeVar

import zmq

from .errors import RemoteProtocolError
from .frames import is_readable, receive, send
from .messages import SILENT_HEARTBEATS, Ping, Pong, Welcome, Who
from .wire import Decoder, encode

T = TypeVar("T")

DEFAULT_HEARTBEAT_S = 0.25  # until the broker's Welcome says otherwise
RECEIVE_AT_ONCE = 256

_PING = encode(Ping())


class Link(Generic[T]):
    """A session. `welcome` is None until the broker has answered the hello."""

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str, decoder: Decoder[T], hello: Callable[[], bytes]
    ) -> None:
        self._context, self._endpoint, self._decoder, self._hello = context, endpoint, decoder, hello
        self.welcome: Welcome | None = None
        self.malformed = 0
        self.sessions = 0
        self._heard_at = self._ticked_at = self._pinged_at = self._reopen_at = 0.0
        self._open()

    @property
    def sockets(self) -> "tuple[zmq.Socket[bytes], zmq.Socket[bytes]]":
        """What to poll: the session and its monitor. Other objects after each reopening."""
        return self._socket, self._monitor

    @property
    def fds(self) -> tuple[int, int]:
        """As `sockets`, of messages and of losses, for a poll that must not touch them. They tell of changes only: what was
        there before `has_input` was last asked, or anything sent, is not told again."""
        return self._socket.fileno(), self._monitor.fileno()

    @property
    def has_input(self) -> bool:
        """Whether `receive` has something to read."""
        return is_readable(self._socket)

    def wait(self, timeout_s: float) -> bool:
        """Until there is something to read; False: there is nothing, after all this time."""
        return bool(self._socket.poll(ceil(timeout_s * 1e3)))

    @property
    def heartbeat_s(self) -> float:
        return self.welcome.heartbeat_us / 1e6 if self.welcome else DEFAULT_HEARTBEAT_S

    def send(self, frames: list[bytes | memoryview]) -> bool:
        """False when the socket is full (the broker does not read): nothing was sent."""
        return send(self._socket, frames)

    def receive(self) -> Iterator[tuple[T, bytes | None]]:
        """The messages that are here now, `Welcome` among them; `Pong` and `Who` are dealt with."""
        for _ in range(RECEIVE_AT_ONCE):
            frames = receive(self._socket)
            if frames is None:
                return
            try:
                message, payload = self._decoder.decode(frames)
            except RemoteProtocolError:
                self.malformed += 1
                continue
            self._heard_at = self._ticked_at
            if isinstance(message, Who):
                self.send([self._hello()])
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
        if self._disconnected() or now - self._heard_at > SILENT_HEARTBEATS * self.heartbeat_s:
            self._is_lost, self.welcome = True, None
        if self._is_lost and now >= self._reopen_at:
            self.reopen()
            self._heard_at = now
            # A peer that hangs up at once must not make us spin, and a thousand clients must not come back together.
            self._reopen_at = now + random.uniform(0.05, 0.15)
        if now - self._pinged_at >= self.heartbeat_s:
            self._pinged_at = now
            if self.welcome:
                self.send([_PING])
        next_ping_at = self._pinged_at + self.heartbeat_s
        return min(next_ping_at, self._reopen_at) if self._is_lost else next_ping_at

    def reopen(self) -> None:
        """Replies that were already here are read on by nobody: their requests are sent again under the same id."""
        self.close()
        self._open()

    def close(self) -> None:
        # LINGER 0 and an explicit close: the default waits for ever for a peer that is gone (pyzmq#1003, #1512).
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)
        self.welcome = None

    def _open(self) -> None:
        self._socket = self._context.socket(zmq.DEALER)
        # No HEARTBEAT_IVL: libzmq aborts the process when its heartbeats meet a full pipe (libzmq#3937, #4767), and its
        # answers come from a thread that knows nothing of a hung program. No routing id (libzmq#4503). See docs/protocol.md.
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 20)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.connect(self._endpoint)
        self.sessions += 1
        self._is_lost = False
        self.send([self._hello()])

    def _disconnected(self) -> bool:
        """The kernel told libzmq that the peer closed: milliseconds after its death, seconds before silence shows it."""
        lost = False
        while receive(self._monitor):
            lost = True
        return lost
