"""Pure: ZeroMQ's wire protocol (ZMTP 3, https://rfc.zeromq.org/spec/37/) between a DEALER and a ROUTER, without encryption.

Both ends say a greeting, then a READY; then come messages of one or more frames.
"""

from collections.abc import Sequence

from .errors import RemoteProtocolError

Piece = bytes | memoryview

_MORE, _LONG, _COMMAND = 1, 2, 4  # flags of a frame
_SHORT_MAX_BYTES = 255
_GREETING_BYTES = 64
_COMMAND_MAX_BYTES = 4096
# More than any message has. Those that have one too many are the reader's to judge; here it is what a peer may make us keep.
_MAX_FRAMES = 64
_FRAMES_AT_ONCE = 128  # of one peer, however small they are, before others have their turn


def opening(kind: bytes) -> bytes:
    """What an end begins with. kind: DEALER or ROUTER.

    Signature, version 3.0, mechanism NULL; then READY at once: the other end's greeting could change nothing of it.
    """
    greeting = b"\xff" + bytes(8) + b"\x7f" + bytes((3, 0)) + b"NULL".ljust(20, b"\0") + bytes(32)
    ready = b"\x05READY" + b"\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
    return greeting + bytes((_COMMAND, len(ready))) + ready


def pack(frames: Sequence[Piece]) -> list[Piece]:
    """What to write for one message, piece by piece; the frames themselves are not copied. A memoryview must be of bytes."""
    pieces: list[Piece] = []
    more = _MORE
    for i, frame in enumerate(frames, start=1):
        n = len(frame)
        if i == len(frames):
            more = 0
        pieces.append(bytes((more, n)) if n <= _SHORT_MAX_BYTES else bytes((more | _LONG,)) + n.to_bytes(8, "big"))
        pieces.append(frame)
    return pieces


class Incoming:
    """From what arrives on a connection to its messages."""

    def __init__(self, max_bytes: int) -> None:
        """max_bytes: of one message."""
        self.is_open = False  # the other end has said READY: from now on it takes messages
        self._max_bytes = max_bytes
        self._is_greeted = False
        self._rest = bytearray()  # a frame that is not whole yet
        self._needed = _GREETING_BYTES  # so long must the rest be until there is something to do
        self._frames: list[bytes] = []  # of a message that is not whole yet
        self._n_bytes = 0  # of these

    @property
    def has_more(self) -> bool:
        """Whether feeding nothing would get on."""
        return bool(self._rest) and len(self._rest) >= self._needed

    def feed(self, data: memoryview) -> list[list[bytes]]:
        """The messages that are whole with this; of very many, the first. Nothing of `data` is kept.

        Raises:
            RemoteProtocolError: the other end does not speak ZMTP 3, wants encryption, refuses us, or says too much at once.
        """
        if not self._rest and self._is_greeted:
            begin, messages = self._messages(data)
            self._rest += data[begin:]
            return messages
        self._rest += data
        if not self._is_greeted:
            self._check_greeting()
        messages = []
        if len(self._rest) >= self._needed:
            with memoryview(self._rest) as rest:
                begin, messages = self._messages(rest, self._greet(rest))
            del self._rest[:begin]
        return messages

    def _messages(self, data: memoryview, i: int = 0) -> tuple[int, list[list[bytes]]]:
        """Where in the data the first frame begins that is not whole, and the messages before it."""
        messages: list[list[bytes]] = []
        end = len(data)
        for _ in range(_FRAMES_AT_ONCE):
            head = 9 if i < end and data[i] & _LONG else 2
            self._needed = head
            if end - i < head:
                return i, messages
            flags, size = data[i], data[i + 1] if head == 2 else int.from_bytes(data[i + 1 : i + 9], "big")
            self._needed += size
            allowed = _COMMAND_MAX_BYTES if flags & _COMMAND else self._max_bytes - self._n_bytes
            is_one_too_many = flags & _MORE and len(self._frames) + 1 >= _MAX_FRAMES
            if messages and (size > allowed or is_one_too_many or flags & _COMMAND):
                break  # what came before is heard, whatever this is
            if size > allowed:
                raise RemoteProtocolError(f"a frame of {size} bytes, allowed are {allowed}")
            if is_one_too_many:
                raise RemoteProtocolError(f"a message of more than {_MAX_FRAMES} frames")
            if end - i < self._needed:
                return i, messages
            content = bytes(data[i + head : i + self._needed])
            i += self._needed
            if flags & _COMMAND:
                self._obey(content)
                continue
            self._frames.append(content)
            self._n_bytes += size
            if not flags & _MORE:
                messages.append(self._frames)
                self._frames, self._n_bytes = [], 0
        self._needed = 0
        return i, messages

    def _check_greeting(self) -> None:
        """As far as it is here."""
        begin = bytes(self._rest[:11])
        if (
            begin[:1] not in (b"", b"\xff")
            or (len(begin) > 9 and not begin[9] & 1)
            or (len(begin) > 10 and begin[10] < 3)
        ):
            raise RemoteProtocolError(f"the other end does not speak ZMTP 3, it begins with {begin!r}")

    def _greet(self, data: memoryview) -> int:
        """Where in the data the greeting ends, if that is still to come."""
        if self._is_greeted:
            return 0
        if (mechanism := bytes(data[12:32]).rstrip(b"\0")) != b"NULL":
            raise RemoteProtocolError(f"the other end wants the mechanism {mechanism!r}; known here is NULL")
        self._is_greeted = True
        return _GREETING_BYTES

    def _obey(self, command: bytes) -> None:
        name = command[1 : 1 + command[0]] if command else b""
        if name == b"READY":
            self.is_open = True
        elif name == b"ERROR":
            raise RemoteProtocolError(f"the other end refuses us: {command[7:].decode(errors='replace')}")
