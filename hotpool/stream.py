"""Shell: one connection between a DEALER and a ROUTER over a Unix socket, read and written by its owner's own thread.

Not libzmq's: that has a thread of its own between a socket and its owner, which has to be woken on the way in and on the way
out. A request and its answer pass through eight such ends (docs/performance.md, "One request in flight").
"""

import contextlib
import os
import selectors
import socket
from collections import deque
from collections.abc import Sequence

from .errors import RemoteProtocolError
from .zmtp import Incoming, Piece, opening, pack

# Of the usual kernel's buffer for a Unix socket, 208 KB, a third: a picture of the usual size is read at once.
READ_BYTES = 64 * 1024
READS_AT_ONCE = 4  # of one peer before the others have their turn
# A caller's own program may have SIGPIPE end it. macOS has no such flag.
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
_NOTHING = memoryview(b"")
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
            max_bytes: of one message; whoever sends a larger one loses the connection.
            high_water: messages that wait to be written, at most.
        """
        self._socket, self._selector, self._buffer, self._high_water = connected, selector, buffer, high_water
        self._incoming = Incoming(max_bytes)
        self._waiting: deque[Piece] = deque()  # whole messages, but the first: of that, what is left
        self._selected = _READ
        self._owner = os.getpid()
        self.is_lost = False
        self.is_deaf = False  # the other end takes nothing any more; what it said before may still be here
        self.refusal = ""  # what of the other end's made us hang up
        selector.register(connected, _READ, self)
        self._write([opening(kind)])  # nothing was ever written to it: there is room

    @property
    def is_open(self) -> bool:
        """The other end has begun: it takes messages."""
        return self._incoming.is_open

    @property
    def is_waiting(self) -> bool:
        """Something that was sent is not written yet."""
        return bool(self._waiting)

    @property
    def has_more(self) -> bool:
        """Whether `receive` would get on although there is nothing to read."""
        return not self.is_lost and self._incoming.has_more

    def send(self, frames: Sequence[Piece]) -> bool:
        """One message. False: nothing of it was sent, since the other end is gone, or does not read and too many wait already.
        That it is gone may show later, too."""
        if self._waiting and self.is_open:
            self.flush()
        if self.is_deaf or len(self._waiting) >= self._high_water:
            return False
        pieces = pack(frames)
        n_written = 0 if self._waiting or not self.is_open else self._write(pieces)
        if n_written < sum(map(len, pieces)) and not self.is_deaf:
            self._waiting.append(memoryview(b"".join(pieces))[n_written:])
            self._select()
        return not self.is_deaf

    def receive(self) -> list[list[bytes]]:
        """The messages that are here; of very many, the first. Goes on with what waits to be written, too."""
        messages: list[list[bytes]] = []
        try:
            messages = self._incoming.feed(_NOTHING) if self.has_more else self._read()
        except BlockingIOError:
            pass
        except RemoteProtocolError as error:
            self.is_lost, self.refusal = True, str(error)
            self._hang_up()
        except OSError:
            self.is_lost = True
        if self._waiting and self.is_open:
            self.flush()
        return messages

    def close(self) -> None:
        self.is_lost = True
        if self._owner == os.getpid():  # a forked child shares the selector's list with its parent
            with contextlib.suppress(KeyError):  # a Ctrl-C came in between the last time
                self._selector.unregister(self._socket)
        self._socket.close()

    def flush(self) -> None:
        """Writes what waits, as far as the other end takes it."""
        while self._waiting:
            first = self._waiting[0]
            n_written = self._write([first])
            if self.is_deaf:
                break
            if n_written < len(first):
                self._waiting[0] = first[n_written:]
                break
            self._waiting.popleft()
        self._select()

    def _read(self) -> list[list[bytes]]:
        for _ in range(READS_AT_ONCE):
            n_read = self._socket.recv_into(self._buffer)
            self.is_lost = n_read == 0
            messages = self._incoming.feed(self._buffer[:n_read])
            if messages or n_read < len(self._buffer):
                return messages
        return []

    def _write(self, pieces: Sequence[Piece]) -> int:
        """How many bytes were taken."""
        try:
            return self._socket.sendmsg(pieces, (), _NO_SIGNAL)
        except BlockingIOError:
            return 0
        except OSError:
            self.is_deaf = True
            self._waiting.clear()
            self._hang_up()
            return 0

    def _hang_up(self) -> None:
        """From now on it is readable, to its end, so that whoever has to `close` it is told."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _select(self) -> None:
        """Until the other end has begun, its word is what is waited for, not room to write."""
        wanted = _READ_AND_WRITE if self._waiting and self.is_open else _READ
        if wanted != self._selected:
            self._selector.modify(self._socket, wanted, self)
            self._selected = wanted
