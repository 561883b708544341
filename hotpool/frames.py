"""Shell: whole messages through one socket, never waiting.

pyzmq's `send_multipart` and `recv_multipart` look at every frame twice and turn option numbers into enums: with a payload of
10 KB, half of what a message costs. Here is what remains when frames are known to be bytes.
"""

from collections.abc import Sequence

import zmq

Socket = zmq.Socket[bytes]

_WAIT_NOT = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_POLLIN = int(zmq.POLLIN)


def is_readable(socket: Socket) -> bool:
    """Whether a message is here."""
    # Not `zmq_poll`, which would be quicker but gives up the interpreter lock, for milliseconds where another thread is busy.
    return bool(int(socket.getsockopt(zmq.EVENTS)) & _POLLIN)


def receive(socket: Socket) -> list[bytes] | None:
    """The next message that is here, or None."""
    frames = receive_frames(socket)
    return None if frames is None else [frame.bytes for frame in frames]


def receive_frames(socket: Socket, *, is_polled: bool = False) -> list[zmq.Frame] | None:
    """As `receive`, but as the message lies in memory, for who passes it on unread. is_polled: a poll has just told of one."""
    # An exception from an empty socket costs three times as much as to look first, and each turn ends with one.
    if not is_polled and not is_readable(socket):
        return None
    try:
        frames = [socket.recv(_WAIT_NOT, copy=False)]
    except zmq.Again:
        return None
    while frames[-1].more:
        frames.append(socket.recv(_WAIT_NOT, copy=False))
    return frames


def send(socket: Socket, frames: Sequence[bytes | memoryview | zmq.Frame]) -> bool:
    """False when the peer is gone or does not read; nothing was sent then: both are checked at the first frame.

    Copies all but frames that were received: below some 100 KB zero-copy costs more than the copy, and a caller's buffer could
    change on its way (pyzmq#1364).
    """
    try:
        for frame in frames[:-1]:
            socket.send(frame, _MORE)
        socket.send(frames[-1], _WAIT_NOT)
    except zmq.ZMQError as error:
        if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
            return False
        raise
    return True
