"""Shell: questions and commands to the broker's admin socket, one at a time.

Used by the controller, the CLI and the gateway, each instance from one thread.
"""

from collections.abc import Callable
from itertools import count
from time import monotonic
from types import TracebackType
from typing import Self

from hotpool.dealer import Dealer
from hotpool.errors import BrokerUnreachable
from hotpool.evidence import Counts
from hotpool.messages import Ack, Changed, Evidence, FromAdmin, GetEvidence, GetReport, Report, Watch
from hotpool.wire import encode, to_admin

DEFAULT_TIMEOUT_S = 2.0
WATCH_AGAIN_S = 0.2
SETTLE_S = 0.2  # a broker takes a connection within milliseconds


class Admin:
    """A connection to the broker that survives its restarts: each call that gets no answer ends with a new one."""

    def __init__(self, endpoint: str, *, watch: bool = False) -> None:
        """watch: let the broker send `Changed` messages, for `changes`."""
        self._endpoint, self._watch = endpoint, watch
        self._seq = count(1)
        self._changes: list[Changed] = []
        self._dealer = Dealer(endpoint)
        if watch:
            self._ask_to_watch()
            self._dealer.settle(SETTLE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._dealer.close()

    def request(
        self, make: Callable[[int], FromAdmin], timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> Ack | Report | Evidence:
        """Sends the message made for this call's number and returns the broker's answer to it.

        Raises:
            BrokerUnreachable: no answer within `timeout_s`, or the broker was lost first; a command may or may not have been
                carried out.
            RemoteProtocolError: what answers there does not speak this protocol.
        """
        seq = next(self._seq)
        deadline = monotonic() + timeout_s
        for frames in self._dealer.ask(encode(make(seq)), deadline):
            message = self._heard(frames)
            if not isinstance(message, Changed) and message.seq == seq:
                return message
        self._dealer.connect()  # a late answer, or an order that still waits, goes nowhere
        if self._watch:
            self._ask_to_watch()
        how = f"within {timeout_s:g} s" if monotonic() >= deadline else "before it was lost"
        raise BrokerUnreachable(
            f"no broker answered at {self._endpoint} {how}; is the pool running? start it with: hotpool up"
        )

    def report(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> Report:
        """The whole state of the broker now. Raises like `request`."""
        answer = self.request(GetReport, timeout_s)
        assert isinstance(answer, Report), answer
        return answer

    def evidence(self, model: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> Counts | None:
        """What was counted of a model's two arms since its policy was set; None: the broker does not know the model.

        Raises like `request`.
        """
        answer = self.request(lambda seq: GetEvidence(seq, model), timeout_s)
        return answer.counts if isinstance(answer, Evidence) else None

    def changes(self, timeout_s: float) -> list[Changed]:
        """What changed since the last call. Waits up to `timeout_s` for the first change."""
        if self._watch and monotonic() - self._watched_at > WATCH_AGAIN_S:
            self._ask_to_watch()
        deadline = monotonic() + timeout_s
        while True:
            for frames in self._dealer.receive():
                self._heard(frames)
            left_s = deadline - monotonic()
            if self._changes or left_s <= 0:
                break
            if self._dealer.is_lost:
                self._dealer.disconnect()  # so that the wait is one; the next call looks for the broker again
            self._dealer.wait(left_s)
        changes, self._changes = self._changes, []
        return changes

    def _heard(self, frames: list[bytes]) -> Ack | Report | Changed | Evidence:
        message, _ = to_admin.decode(frames)
        if isinstance(message, Changed):
            self._changes.append(message)
        return message

    def _ask_to_watch(self) -> None:
        """Again and again: a broker that was restarted knows nothing of us."""
        self._watched_at = monotonic()
        if self._dealer.is_lost:
            self._dealer.connect()
        self._dealer.send([encode(Watch(next(self._seq)))])
