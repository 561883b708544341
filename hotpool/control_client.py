"""Shell: calls of the controller, for any number of threads.

A socket belongs to one call at a time: while it is idle any call may take it, and it is thrown away when its answer did not
come, so that a late answer is never taken for another call's.
"""

from collections.abc import Mapping
from itertools import count
from math import ceil
from threading import Lock
from time import monotonic
from types import TracebackType
from typing import Any, Self

import zmq

from .errors import BadInput, ControllerUnreachable, LocalProtocolError, TooLarge, error_from
from .frames import Socket
from .messages import Answer, Ask
from .states import Executed
from .wire import MAX_ASK_BYTES, decode_value, encode, encode_value, from_control

DEFAULT_TIMEOUT_S = 5.0


class ControlClient:
    """Connects in the background and survives restarts of the controller.

    with ControlClient(home.endpoint("control")) as control:
        print(control.call("status")["health"])
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._context: zmq.Context[Socket] = zmq.Context()
        self._seq = count(1)
        self._lock = Lock()  # of the two below
        self._idle: list[Socket] = []
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Calls that are open end at once, with LocalProtocolError."""
        with self._lock:
            self._is_closed = True
            while self._idle:
                self._idle.pop().close(linger=0)
        self._context.term()

    def call(self, verb: str, /, timeout_s: float = DEFAULT_TIMEOUT_S, **arguments: Any) -> Any:
        """The result, of plain values; docs/protocol.md has the verbs. An argument that is None is left out.

        Raises:
            HotpoolError: what the controller reported. BadInput: the verb or an argument is wrong, named in the message.
            ControllerUnreachable: no answer within `timeout_s`; an order may or may not have been written down.
            RemoteProtocolError: what answers there does not speak this protocol.
            LocalProtocolError: this client was closed.
        """
        seq = next(self._seq)
        header = _encode(seq, verb, {name: value for name, value in arguments.items() if value is not None})
        socket = self._take()
        answer = None
        try:
            answer = _exchange(socket, header, seq, timeout_s)
        except zmq.ContextTerminated:
            raise _closed() from None
        finally:
            self._put(socket, is_clean=answer is not None)
        if answer is None:
            raise ControllerUnreachable(
                f"no controller answered at {self._endpoint} within {timeout_s:g} s; "
                "is the pool running? start it with: hotpool up",
                executed=Executed.MAYBE,
            )
        if answer.code:
            raise error_from(answer.code, answer.message, Executed.NO, None)
        return decode_value(answer.result)

    def _take(self) -> Socket:
        with self._lock:
            if self._is_closed:
                raise _closed()
            return self._idle.pop() if self._idle else self._open()

    def _put(self, socket: Socket, *, is_clean: bool) -> None:
        with self._lock:
            if is_clean and not self._is_closed:
                self._idle.append(socket)
            else:
                socket.close(linger=0)

    def _open(self) -> Socket:
        # LINGER 0: an order that was not answered must not reach a later controller behind the caller's back.
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 20)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
        socket.connect(self._endpoint)
        return socket


def _encode(seq: int, verb: str, arguments: Mapping[str, Any]) -> bytes:
    try:
        header = encode(Ask(seq, verb, encode_value(arguments)))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadInput(f"an argument of {verb} can't be sent: {error}") from None
    if len(header) > MAX_ASK_BYTES:
        raise TooLarge(f"the arguments of {verb} have {len(header)} bytes, allowed are {MAX_ASK_BYTES}")
    return header


def _exchange(socket: Socket, header: bytes, seq: int, timeout_s: float) -> Answer | None:
    """The answer, or None when none came in time."""
    deadline = monotonic() + timeout_s
    socket.send(header)
    while (left_s := deadline - monotonic()) > 0 and socket.poll(ceil(left_s * 1000)):
        answer, _ = from_control.decode(socket.recv_multipart())
        if answer.seq == seq:
            return answer
    return None


def _closed() -> LocalProtocolError:
    return LocalProtocolError("this client of the controller was closed")
