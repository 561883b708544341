"""Shell: the binding end: a socket that many peers connect to, and that knows which of them said what."""

import contextlib
import errno
import logging
import os
import resource
import selectors
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from time import monotonic

from .home import socket_path
from .stream import READ_BYTES, Stream
from .zmtp import Piece

log = logging.getLogger("hotpool.router")

Connection = bytes  # names a peer for as long as it is connected; never given twice

BACKLOG = 1024
ACCEPT_AT_ONCE = 64
HANDSHAKE_S = 5.0  # a peer that has not begun by then is hung up on when the next one comes


class Router:
    """Waits in `wait` alone. For one thread."""

    def __init__(self, endpoint: str, *, max_bytes: int, high_water: int) -> None:
        """A socket that a dead process left there is replaced; that no living one is there is the caller's to know.

        max_bytes: of one message; who sends a larger one loses the connection. high_water: messages that wait for one peer.
        """
        self._max_bytes, self._high_water = max_bytes, high_water
        path = socket_path(endpoint)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(path)
        self._listener.listen(BACKLOG)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._n_accepted = 0
        self._is_full = False  # the last one that came was turned away
        self._peers: dict[Connection, Stream] = {}
        self._names: dict[Stream, Connection] = {}
        self._beginners: deque[tuple[float, Stream]] = deque()  # until when they may take to begin
        self._half_read: list[Stream] = []  # those that have more than what was read of them
        self._messages: deque[tuple[Connection, list[bytes]]] = deque()
        self._refusals: list[str] = []
        self._spare = _open_spare()

    def close(self) -> None:
        for stream in self._names:
            stream.close()
        self._listener.close()
        self._selector.close()
        if self._spare is not None:
            os.close(self._spare)

    def fileno(self) -> int:
        """Readable when `receive` has something to do."""
        return self._selector.fileno()

    def wait(self, timeout_s: float) -> None:
        """Until `receive` has something to do, so long at most."""
        if not self.has_input:
            self._selector.select(timeout_s)

    @property
    def has_input(self) -> bool:
        """Whether there are messages that were read and not taken: of those `fileno` does not tell."""
        return bool(self._messages or self._half_read)

    def receive(self, most: int) -> Iterator[tuple[Connection, list[bytes]]]:
        """So many of the messages that are here, at most: who sent it, and its frames. Also takes on who connects.

        `has_input` and `fileno` tell of more. Whoever stops early finds the others at the next call.
        """
        messages, half_read, is_anybody_new = self._messages, self._half_read, False
        is_reading = not messages
        if is_reading and half_read:
            self._half_read = []
            for stream in half_read:
                self._read(stream)
        for key, events in self._selector.select(0):
            if key.data is None:
                is_anybody_new = True
            elif is_reading:
                if key.data not in half_read:  # of each once
                    self._read(key.data)
            elif events & selectors.EVENT_WRITE:
                key.data.flush()  # what waits for it does not wait until the messages of others are taken
        if is_anybody_new:  # last: of who says nothing it is known by now
            self._accept()
        for _ in range(min(most, len(messages))):
            yield messages.popleft()

    def take_refusals(self) -> list[str]:
        """Why peers were hung up on since the last call."""
        refusals, self._refusals = self._refusals, []
        return refusals

    def send(self, connection: Connection, frames: Sequence[Piece]) -> bool:
        """False: this peer is gone or does not read, and nothing was sent."""
        stream = self._peers.get(connection)
        return stream is not None and stream.send(frames)

    def _read(self, stream: Stream) -> None:
        connection = self._names.get(stream)
        if connection is None:
            return  # it was lost in this very round
        for frames in stream.receive():
            self._messages.append((connection, frames))
        if stream.refusal:
            self._refusals.append(stream.refusal)
        if stream.is_lost:
            self._drop(stream)
        elif stream.has_more:
            self._half_read.append(stream)

    def _accept(self) -> None:
        self._hang_up_on_the_silent()
        for _ in range(ACCEPT_AT_ONCE):
            try:
                connected, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._turn_away(error)
                return  # or who wanted to connect is gone already
            self._take_on(connected)

    def _take_on(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        stream = Stream(
            connected, b"ROUTER", self._selector, self._buffer, max_bytes=self._max_bytes, high_water=self._high_water
        )
        self._n_accepted += 1
        connection = self._n_accepted.to_bytes(8, "big")
        self._peers[connection], self._names[stream] = stream, connection
        self._is_full = False
        self._beginners.append((monotonic() + HANDSHAKE_S, stream))

    def _turn_away(self, error: OSError) -> None:
        """Who waits would make the listener readable for ever. By a descriptor kept for this it is taken and hung up on, and
        tries again later."""
        if not self._is_full:
            log.warning("peers are turned away: %s", error.strerror)
        self._is_full = True
        if self._spare is not None:
            os.close(self._spare)
        with contextlib.suppress(OSError):
            self._listener.accept()[0].close()
        self._spare = _open_spare()

    def _hang_up_on_the_silent(self) -> None:
        now = monotonic()
        while self._beginners and (self._beginners[0][0] <= now or self._beginners[0][1].is_open):
            _, stream = self._beginners.popleft()
            if not stream.is_open and stream in self._names:
                self._refusals.append(f"said nothing for {HANDSHAKE_S:g} s")
                self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        stream.close()
        del self._peers[self._names.pop(stream)]


def _open_spare() -> int | None:
    """None: somebody else was faster."""
    try:
        return os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return None


def raise_file_limit() -> None:
    """Each peer is an open file, and the usual limit is 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
