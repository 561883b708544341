"""Shell: the connecting end: a socket that speaks with one ROUTER at a time, and begins anew when told to."""

import select
import selectors
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from math import ceil
from time import monotonic

from .errors import RemoteProtocolError
from .home import socket_path
from .stream import READ_BYTES, Stream
from .zmtp import Piece

# Of one message, to say no to what is no broker; there is none of a GiB.
MAX_BYTES = 1 << 30
HIGH_WATER = 1000
CONNECT_AGAIN_S = 0.05  # who asks, and finds nobody


class Dealer:
    """Connected, or lost: then what is sent goes nowhere, until `connect`. Waits in `wait`, `settle` and `ask` alone. For one
    thread at a time."""

    def __init__(self, endpoint: str, *, high_water: int = HIGH_WATER) -> None:
        """high_water: messages that wait while the other end does not read. Raises BadInput: the endpoint is none."""
        self._path, self._high_water = socket_path(endpoint), high_water
        # Its descriptor is the same for life and tells of all there is to do, so owners register it once.
        self._selector = selectors.DefaultSelector()
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._stream: Stream | None = None
        self._messages: deque[list[bytes]] = deque()
        self.connect()

    def connect(self) -> None:
        """Begins anew, with nothing sent or read; `is_lost` says whether anybody is there."""
        self.disconnect()
        self._messages.clear()
        connected = _connect(self._path)
        if connected is not None:
            self._stream = Stream(
                connected, b"DEALER", self._selector, self._buffer, max_bytes=MAX_BYTES, high_water=self._high_water
            )

    def disconnect(self) -> None:
        """What has been read can still be taken."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def close(self) -> None:
        self.disconnect()
        self._selector.close()

    @property
    def is_lost(self) -> bool:
        return self._stream is None or self._stream.is_lost

    def fileno(self) -> int:
        """Readable when `receive` has something to do; also when the connection is lost, until `disconnect` or `connect`."""
        return self._selector.fileno()

    def wait(self, timeout_s: float) -> bool:
        """Until `receive` has something to do; False: it has not, after all this time."""
        return self.has_input or bool(self._selector.select(timeout_s))

    def settle(self, timeout_s: float) -> None:
        """Until what was sent is on its way, if the connection is new, or so long at most: for who then looks elsewhere."""
        deadline = monotonic() + timeout_s
        while self._stream is not None and not self.is_lost and self._stream.is_waiting:
            if (left_s := deadline - monotonic()) <= 0:
                return
            self._selector.select(left_s)
            self._messages.extend(self._stream.receive())

    @property
    def has_input(self) -> bool:
        """Whether there are messages that were read and not taken: of those `fileno` does not tell."""
        return bool(self._messages) or (self._stream is not None and self._stream.has_more)

    def send(self, frames: Sequence[Piece]) -> bool:
        """One message. False: the other end does not read, and nothing of it was sent."""
        stream = self._stream
        return stream is None or stream.is_lost or stream.send(frames) or stream.is_deaf

    def receive(self) -> Iterator[list[bytes]]:
        """The messages that are here, by their frames; `fileno` tells of more. Goes on with what waits to be written, too.

        Whoever stops early finds the others at the next call.
        """
        messages = self._messages
        if not messages and self._stream is not None and not self._stream.is_lost:
            messages.extend(self._stream.receive())
        while messages:
            yield messages.popleft()

    def ask(self, question: bytes, deadline: float, given_up: int | None = None) -> Iterator[list[bytes]]:
        """The frames of all that arrives once the question is sent, until the deadline (monotonic seconds).

        While nobody is there to take the question, it looks for somebody. A question that was taken is not sent again, since it
        may have been an order; when who took it is gone, nothing more comes.

        Raises RemoteProtocolError: what answers there does not speak ZMTP 3.

        given_up: a descriptor that becomes readable when nobody waits for the answer any more; then nothing more comes, either.
        """
        poller = select.poll()
        for watched in (self, given_up):
            if watched is not None:
                poller.register(watched, select.POLLIN)
        self.send([question])
        is_taken, connects_at = self._takes, 0.0
        while (now := monotonic()) < deadline:
            until = deadline
            if self.is_lost:
                if self._stream is not None and self._stream.refusal:
                    raise RemoteProtocolError(self._stream.refusal)
                if is_taken:
                    return
                self.disconnect()  # or the poll would be over at once
                if now >= connects_at:
                    connects_at = now + CONNECT_AGAIN_S
                    self.connect()
                    self.send([question])
                until = min(deadline, connects_at) if self.is_lost else deadline
            if given_up in {fd for fd, _ in poller.poll(ceil((until - now) * 1000))}:
                return
            yield from self.receive()
            while self.has_input:  # of this the poll would not tell
                yield from self.receive()
            is_taken |= self._takes

    @property
    def _takes(self) -> bool:
        """What was sent is on its way to somebody."""
        stream = self._stream
        return stream is not None and stream.is_open and not stream.is_lost and not stream.is_deaf


def _connect(path: str) -> socket.socket | None:
    """None: nobody is there, it is not allowed yet, too many come at once, or no descriptor is left. It may be over soon."""
    try:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError:
        return None
    connected.setblocking(False)
    try:
        connected.connect(path)
    except OSError:
        connected.close()
        return None
    return connected
