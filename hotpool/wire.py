"""Pure: messages to frames and back. The decoder is total: any frames give a message or `RemoteProtocolError`, nothing else.

A message is one header frame, `b"HP"`, the protocol's major number as one byte, then the msgpack array of `messages.py`; a
payload frame may follow. The broker never looks into payloads. No pickle anywhere: unpickling a peer's bytes runs its code
(CVE-2024-50050 and its family are just that, over an open socket of ZeroMQ).
"""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from .errors import RemoteProtocolError
from .messages import (
    PROTOCOL,
    FromAdmin,
    FromClient,
    FromControl,
    FromWorker,
    Message,
    Result,
    ToAdmin,
    ToClient,
    ToControl,
    ToWorker,
    Work,
)

PREFIX = b"HP" + bytes([PROTOCOL])
MAX_HEADER_BYTES = (
    64 * 1024
)  # the largest honest header to the broker is SetVersions: 400 versions of 128 characters each
MAX_ASK_BYTES = 8 * 1024 * 1024  # the labels of 100,000 classes
MAX_ANSWER_BYTES = 16 * 1024 * 1024  # grows with rollouts and versions

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """The header frame of a message."""
    return PREFIX + _encoder.encode(message)


def encode_body(body: Work | Result) -> msgspec.Raw:
    """A part that the broker passes on undecoded."""
    return msgspec.Raw(_encoder.encode(body))


def encode_value(value: object) -> msgspec.Raw:
    """Arguments or result of a call to the controller: what JSON has, and infinity.

    Raises:
        TypeError, ValueError, OverflowError, RecursionError: there is no such value on the wire.
    """
    return msgspec.Raw(_encoder.encode(value))


class Decoder(Generic[T]):
    """Turns the frames of one kind of peer into its messages."""

    def __init__(self, union: object, max_header_bytes: int = MAX_HEADER_BYTES) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(union)
        self._max_header_bytes = max_header_bytes

    def decode(self, frames: Sequence[bytes]) -> tuple[T, bytes | None]:
        """The message and its payload frame, if it has one.

        Raises:
            RemoteProtocolError: whatever else the frames are; the message says what is wrong with them.
        """
        if not 1 <= len(frames) <= 2:
            raise RemoteProtocolError(f"expected 1 or 2 frames, got {len(frames)}")
        header = frames[0]
        if len(header) > self._max_header_bytes:
            raise RemoteProtocolError(f"header of {len(header)} bytes, allowed are {self._max_header_bytes}")
        if header[:3] != PREFIX:
            raise RemoteProtocolError(f"expected a header that starts with {PREFIX!r}, got {header[:8]!r}")
        return _parse(self._decoder, memoryview(header)[3:]), frames[1] if len(frames) == 2 else None


def _parse(decoder: "msgspec.msgpack.Decoder[T]", body: memoryview | msgspec.Raw) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise RemoteProtocolError(f"not a message: {error}") from None


_work: "msgspec.msgpack.Decoder[Work]" = msgspec.msgpack.Decoder(Work)
_result: "msgspec.msgpack.Decoder[Result]" = msgspec.msgpack.Decoder(Result)
_value: "msgspec.msgpack.Decoder[Any]" = msgspec.msgpack.Decoder()


def decode_work(raw: msgspec.Raw) -> Work:
    """Raises RemoteProtocolError."""
    return _parse(_work, raw)


def decode_result(raw: msgspec.Raw) -> Result:
    """Raises RemoteProtocolError."""
    return _parse(_result, raw)


def decode_value(raw: msgspec.Raw) -> Any:
    """Raises RemoteProtocolError."""
    return _parse(_value, raw)


from_client: Decoder[FromClient] = Decoder(FromClient)
to_client: Decoder[ToClient] = Decoder(ToClient)
from_worker: Decoder[FromWorker] = Decoder(FromWorker, max_header_bytes=1024 * 1024)  # Seats of 1,024 workers
to_worker: Decoder[ToWorker] = Decoder(ToWorker)
from_admin: Decoder[FromAdmin] = Decoder(FromAdmin)
to_admin: Decoder[ToAdmin] = Decoder(
    ToAdmin, max_header_bytes=16 * 1024 * 1024
)  # a report grows with workers and versions
to_control: Decoder[ToControl] = Decoder(ToControl, max_header_bytes=MAX_ASK_BYTES)
from_control: Decoder[FromControl] = Decoder(FromControl, max_header_bytes=MAX_ANSWER_BYTES)
