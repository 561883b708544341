"""Shell: the connecting end: a socket that speaks with one ROUTER at a time, and begins anew when told to."""

import select
import selectors
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from math import ceil
from time import monotonic

from .home import socket_path
from .stream import READ_BYTES, Stream
from .zmtp import Piece

# Of one frame, to say no to what is no broker; there is none of a GiB.
MAX_BYTES = 1 << 30
HIGH_WATER = 1000  # messages that wait while the other end does not read
CONNECT_AGAIN_S = 0.05  # who asks, and finds nobody


class Dealer:
    """Connected, or lost: then what is sent goes nowhere, until `connect`. Waits in `wait` alone. For one thread at a time."""

    def __init__(self, endpoint: str) -> None:
        """Raises BadInput: the endpoint is none."""
        self._path = socket_path(endpoint)
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
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.setblocking(False)
        try:
            connected.connect(self._path)
        except OSError:  # nobody there, not allowed yet, or too many at once: it may be over soon
            connected.close()
            return
        self._stream = Stream(
            connected, b"DEALER", self._selector, self._buffer, max_bytes=MAX_BYTES, high_water=HIGH_WATER
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
        return bool(self._messages or self._selector.select(timeout_s))

    @property
    def has_input(self) -> bool:
        """Whether there are messages that were read and not taken: of those `fileno` does not tell."""
        return bool(self._messages)

    def send(self, frames: Sequence[Piece]) -> bool:
        """One message. False: the other end does not read, and nothing of it was sent."""
        return self._stream is None or self._stream.is_lost or self._stream.send(frames)

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

        given_up: a descriptor that becomes readable when nobody waits for the answer any more; then nothing more comes, either.
        """
        poller = select.poll()
        for watched in (self, given_up):
            if watched is not None:
                poller.register(watched, select.POLLIN)
        self.send([question])
        is_taken = self._takes
        while (left_s := deadline - monotonic()) > 0:
            if self.is_lost:
                if is_taken:
                    return
                self.connect()
                self.send([question])
            wait_s = min(left_s, CONNECT_AGAIN_S) if self.is_lost else left_s
            if given_up in {fd for fd, _ in poller.poll(ceil(wait_s * 1000))}:
                return
            yield from self.receive()
            is_taken |= self._takes

    @property
    def _takes(self) -> bool:
        """What was sent is on its way to somebody."""
        return self._stream is not None and self._stream.is_open and not self._stream.is_lost
