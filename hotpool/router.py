"""Shell: a socket that many peers connect to: how it is bound, and whose messages are heard on it."""

import resource
from typing import TypeVar

import zmq

from .errors import RemoteProtocolError
from .frames import Socket
from .wire import Decoder, check_count

T = TypeVar("T")


def bind(context: "zmq.Context[Socket]", endpoint: str, *, max_bytes: int, high_water: int) -> Socket:
    """max_bytes: of one frame; who sends a larger one loses the connection. high_water: messages that wait for one peer."""
    router = context.socket(zmq.ROUTER)
    # An unknown or full peer must be an error, not a silent loss (pitfall 5); NOBLOCK on every send, or one full peer
    # would block us all. No HANDOVER: it lets a stranger take over a name (pitfall 4). No HEARTBEAT_IVL (pitfalls 1, 2).
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.MAXMSGSIZE, max_bytes)
    router.setsockopt(zmq.SNDHWM, high_water)
    router.setsockopt(zmq.BACKLOG, 1024)
    router.setsockopt(zmq.HANDSHAKE_IVL, 5000)
    router.bind(endpoint)
    return router


def decode(decoder: Decoder[T], frames: list[zmq.Frame]) -> tuple[bytes, T, zmq.Frame | None]:
    """The connection it came on, the message, and its payload, which is not looked into and not copied.

    Raises:
        RemoteProtocolError: it is no message of such a peer.
    """
    connection = frames[0].bytes
    if len(connection) != 5 or connection[0] != 0:
        # Only ROUTER itself makes such ids; a peer that brings a name of its own wants to be taken for another (pitfall 4).
        raise RemoteProtocolError("the connection has a name of its own; hotpool's peers have none")
    check_count(len(frames) - 1)
    return connection, decoder.decode_header(frames[1].bytes), frames[2] if len(frames) == 3 else None


def raise_file_limit() -> None:
    """libzmq aborts the process when it runs out of file descriptors on a Unix socket (libzmq#1306, pitfall 9)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
