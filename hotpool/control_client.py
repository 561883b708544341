"""Shell: calls of the controller, for any number of threads.

A connection belongs to one call at a time: while it is idle any call may take it, and it is thrown away when its answer did not
come, so that a late answer is never taken for another call's.
"""

import socket
from collections.abc import Mapping
from itertools import count
from threading import Condition
from time import monotonic
from types import TracebackType
from typing import Any, Self

from .dealer import Dealer
from .errors import BadInput, ControllerUnreachable, LocalProtocolError, TooLarge, error_from
from .messages import Answer, Ask
from .states import Executed
from .wire import MAX_ASK_BYTES, decode_value, encode, encode_value, from_control

DEFAULT_TIMEOUT_S = 5.0
CLOSE_S = 1.0  # calls end at once; one that a Ctrl-C ended may not have been counted


class ControlClient:
    """Connects in the background and survives restarts of the controller.

    with ControlClient(home.endpoint("control")) as control:
        print(control.call("status")["health"])
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._seq = count(1)
        self._changed = Condition()  # and the lock of what follows
        self._idle: list[Dealer] = []
        self._n_calls = 0  # under way
        self._is_closed = False
        self._given_up, self._give_up = socket.socketpair()  # the first is readable once this client is closed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Calls that are open end at once, with LocalProtocolError."""
        with self._changed:
            self._is_closed = True
            while self._idle:
                self._idle.pop().close()
            self._give_up.close()
            self._changed.wait_for(lambda: not self._n_calls, CLOSE_S)
            self._given_up.close()

    def call(self, verb: str, /, timeout_s: float = DEFAULT_TIMEOUT_S, **arguments: Any) -> Any:
        """The result, of plain values; docs/protocol.md has the verbs. An argument that is None is left out.

        Raises:
            HotpoolError: what the controller reported. BadInput: the verb or an argument is wrong, named in the message.
            ControllerUnreachable: no answer within `timeout_s`, or the controller was lost first; an order may or
                may not have been written down.
            RemoteProtocolError: what answers there does not speak this protocol.
            LocalProtocolError: this client was closed.
        """
        seq = next(self._seq)
        header = _encode(seq, verb, {name: value for name, value in arguments.items() if value is not None})
        dealer = self._take()
        answer, deadline = None, monotonic() + timeout_s
        try:
            answer = self._exchange(dealer, header, seq, deadline)
        finally:
            self._put(dealer, is_clean=answer is not None)
        if answer is None and self._is_closed:
            raise _closed()
        if answer is None:
            how = f"within {timeout_s:g} s" if monotonic() >= deadline else "before it was lost"
            raise ControllerUnreachable(
                f"no controller answered at {self._endpoint} {how}; is the pool running? start it with: hotpool up",
                executed=Executed.MAYBE,
            )
        if answer.code:
            raise error_from(answer.code, answer.message, Executed.NO, None)
        return decode_value(answer.result)

    def _take(self) -> Dealer:
        with self._changed:
            if self._is_closed:
                raise _closed()
            dealer = self._idle.pop() if self._idle else Dealer(self._endpoint)
            self._n_calls += 1
            return dealer

    def _put(self, dealer: Dealer, *, is_clean: bool) -> None:
        with self._changed:
            self._n_calls -= 1
            self._changed.notify_all()
            if is_clean and not self._is_closed:
                self._idle.append(dealer)
            else:
                dealer.close()

    def _exchange(self, dealer: Dealer, header: bytes, seq: int, deadline: float) -> Answer | None:
        """The answer, or None when none came in time, or before the controller or this client ended."""
        for frames in dealer.ask(header, deadline, self._given_up.fileno()):
            answer, _ = from_control.decode(frames)
            if answer.seq == seq:
                return answer
        return None


def _encode(seq: int, verb: str, arguments: Mapping[str, Any]) -> bytes:
    try:
        header = encode(Ask(seq, verb, encode_value(arguments)))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadInput(f"an argument of {verb} can't be sent: {error}") from None
    if len(header) > MAX_ASK_BYTES:
        raise TooLarge(f"the arguments of {verb} have {len(header)} bytes, allowed are {MAX_ASK_BYTES}")
    return header


def _closed() -> LocalProtocolError:
    return LocalProtocolError("this client of the controller was closed")
