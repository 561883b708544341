"""Shell: one connection between a DEALER and a ROUTER over a Unix socket, read and written by its owner's own thread.

Not libzmq's: that has a thread of its own between a socket and its owner, which has to be woken on the way in and on the way
out. A request and its answer pass through eight such ends (docs/performance.md, "One request in flight").
"""

import selectors
import socket
from collections import deque
from collections.abc import Sequence

from .errors import RemoteProtocolError
from .zmtp import Incoming, Piece, opening, pack

# Of the usual kernel's buffer for a Unix socket, 208 KB, a third: a picture of the usual size is read at once.
READ_BYTES = 64 * 1024
_READ, _READ_AND_WRITE = selectors.EVENT_READ, selectors.EVENT_READ | selectors.EVENT_WRITE


class Stream:
    """Never waits. Once it is lost, all that is left to do is `close`."""

    def __init__(
        self,
        connected: socket.socket,
        kind: bytes,
        selector: selectors.BaseSelector,
        buffer: memoryview,
        *,
        max_bytes: int,
        high_water: int,
    ) -> None:
        """Registers itself as data: whoever waits with the selector calls `receive` then.

        Args:
            connected: without waiting; the stream's own from now on.
            kind: DEALER or ROUTER, what this end is.
            buffer: for what is read, and soon parsed; other streams of this thread may have the same.
            max_bytes: of one frame; whoever sends a larger one loses the connection.
            high_water: messages that wait to be written, at most.
        """
        self._socket, self._selector, self._buffer, self._high_water = connected, selector, buffer, high_water
        self._incoming = Incoming(max_bytes)
        self._waiting: deque[Piece] = deque()  # whole messages, but the first: of that, what is left
        self._selected = _READ
        self.is_lost = False
        selector.register(connected, _READ, self)
        self._write([opening(kind)])  # nothing was ever written to it: there is room

    @property
    def is_open(self) -> bool:
        """The other end has begun: it takes messages."""
        return self._incoming.is_open

    def send(self, frames: Sequence[Piece]) -> bool:
        """One message. False: too many wait already, since the other end does not read; nothing of it was sent."""
        if len(self._waiting) >= self._high_water:
            return False
        pieces = pack(frames)
        n_written = 0 if self._waiting or not self.is_open else self._write(pieces)
        if n_written < sum(map(len, pieces)):
            self._waiting.append(memoryview(b"".join(pieces))[n_written:])
            self._select()
        return True

    def receive(self) -> list[list[bytes]]:
        """The messages that are here. Goes on with what waits to be written, too."""
        messages: list[list[bytes]] = []
        try:
            while not messages:
                n_read = self._socket.recv_into(self._buffer)
                messages = self._incoming.feed(self._buffer[:n_read])
                self.is_lost = n_read == 0
                if n_read < len(self._buffer):
                    break
        except BlockingIOError:
            pass
        except (OSError, RemoteProtocolError):
            self.is_lost = True
        if self._waiting and self.is_open:
            self._flush()
        return messages

    def close(self) -> None:
        self.is_lost = True
        self._selector.unregister(self._socket)
        self._socket.close()

    def _flush(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            n_written = self._write([first])
            if n_written < len(first):
                self._waiting[0] = first[n_written:]
                break
            self._waiting.popleft()
        self._select()

    def _write(self, pieces: Sequence[Piece]) -> int:
        """How many bytes were taken."""
        try:
            return self._socket.sendmsg(pieces)
        except BlockingIOError:
            return 0
        except OSError:
            self.is_lost = True
            return 0

    def _select(self) -> None:
        """Until the other end has begun, its word is what is waited for, not room to write."""
        wanted = _READ_AND_WRITE if self._waiting and self.is_open else _READ
        if wanted != self._selected:
            self._selector.modify(self._socket, wanted, self)
            self._selected = wanted
