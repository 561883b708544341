"""Shell: the controller, for threads and for the event loop."""

from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from anyio import CapacityLimiter, to_thread

from hotpool.control_client import DEFAULT_TIMEOUT_S, ControlClient
from hotpool.errors import ControllerUnreachable
from hotpool.home import Home
from hotpool.locks import holder
from hotpool.states import Executed

AT_ONCE, ORDERS_AT_ONCE, MAX_WAITING = 6, 2, 64
STATUS_TIMEOUT_S = 2.0  # it answers in milliseconds; what the broker knows is told instead
AGAIN_S = 0.5  # after a look that had no answer


class Controller:
    """Raises like `ControlClient.call`, and ControllerUnreachable at once when there is no controller."""

    def __init__(self, home: Home, control: ControlClient) -> None:
        self._lock, self._control = home.lock("control"), control
        self._looks, self._statuses, self._orders = (CapacityLimiter(n) for n in (AT_ONCE, AT_ONCE, ORDERS_AT_ONCE))
        self._silence, self._ask_again_at = "", 0.0

    def call(self, verb: str, timeout_s: float = DEFAULT_TIMEOUT_S, **arguments: Any) -> Any:
        """Blocks: for a thread."""
        if (pid := holder(self._lock)) is None:
            raise ControllerUnreachable("no controller is running; start it with: hotpool up")
        try:
            return self._control.call(verb, timeout_s, **arguments)
        except ControllerUnreachable as error:
            raise ControllerUnreachable(
                f"the controller (process {pid}) runs but did not answer within {timeout_s:g} s; its log may say why",
                executed=error.executed,
            ) from None

    async def ask(self, verb: str, timeout_s: float = DEFAULT_TIMEOUT_S, **arguments: Any) -> Any:
        """For the event loop. Raises ControllerUnreachable also when too many wait for the controller already."""
        return await self._in_thread(self._looks, partial(self._look, verb, timeout_s, **arguments))

    async def status(self) -> dict[str, Any]:
        """As `ask`. No other look keeps it waiting, and a silent controller not for long."""
        status: dict[str, Any] = await self._in_thread(self._statuses, partial(self._look, "status", STATUS_TIMEOUT_S))
        return status

    async def order(self, verb: str, timeout_s: float = DEFAULT_TIMEOUT_S, **arguments: Any) -> Any:
        """As `ask`. Anybody may look, so those who only look must not keep an abort waiting."""
        try:
            return await self._in_thread(self._orders, partial(self.call, verb, timeout_s, **arguments))
        except ControllerUnreachable as error:
            if error.executed is Executed.NO:
                raise
            words = f"{error}; what was ordered may be written down all the same: look before you order it again"
            raise ControllerUnreachable(words, executed=error.executed) from None

    def _look(self, verb: str, timeout_s: float, **arguments: Any) -> Any:
        """At once where a look had no answer a moment ago: those that wait here would wait one after the other."""
        if monotonic() < self._ask_again_at:
            raise ControllerUnreachable(self._silence, executed=Executed.MAYBE)
        try:
            return self.call(verb, timeout_s, **arguments)
        except ControllerUnreachable as error:
            if error.executed is Executed.MAYBE:
                self._silence, self._ask_again_at = str(error), monotonic() + AGAIN_S
            raise

    async def _in_thread(self, limiter: CapacityLimiter, call: Callable[[], Any]) -> Any:
        if limiter.statistics().tasks_waiting >= MAX_WAITING:
            raise ControllerUnreachable("too many calls wait for the controller; try again later")
        return await to_thread.run_sync(call, limiter=limiter)

    def close(self) -> None:
        self._control.close()
