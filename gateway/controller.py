"""Shell: the controller, for threads and for the event loop."""

from collections.abc import Callable
from functools import partial
from typing import Any

from anyio import CapacityLimiter, to_thread

from hotpool.control_client import DEFAULT_TIMEOUT_S, ControlClient
from hotpool.errors import ControllerUnreachable
from hotpool.home import Home
from hotpool.locks import holder

AT_ONCE, ORDERS_AT_ONCE, MAX_WAITING = 6, 2, 64


class Controller:
    """Raises like `ControlClient.call`, and ControllerUnreachable at once when there is no controller."""

    def __init__(self, home: Home, control: ControlClient) -> None:
        self._lock, self._control = home.lock("control"), control
        self._looks, self._orders = CapacityLimiter(AT_ONCE), CapacityLimiter(ORDERS_AT_ONCE)

    def call(self, verb: str, timeout_s: float = DEFAULT_TIMEOUT_S, **arguments: Any) -> Any:
        """Blocks: for a thread."""
        if holder(self._lock) is None:
            raise ControllerUnreachable("no controller is running; start it with: hotpool up")
        return self._control.call(verb, timeout_s, **arguments)

    async def ask(self, verb: str, timeout_s: float = DEFAULT_TIMEOUT_S, **arguments: Any) -> Any:
        """For the event loop. Raises ControllerUnreachable also when too many wait for the controller already."""
        return await self._in_thread(self._looks, partial(self.call, verb, timeout_s, **arguments))

    async def order(self, verb: str, timeout_s: float = DEFAULT_TIMEOUT_S, **arguments: Any) -> Any:
        """As `ask`. Anybody may look, so those who only look must not keep an abort waiting."""
        return await self._in_thread(self._orders, partial(self.call, verb, timeout_s, **arguments))

    async def _in_thread(self, limiter: CapacityLimiter, call: Callable[[], Any]) -> Any:
        if limiter.statistics().tasks_waiting >= MAX_WAITING:
            raise ControllerUnreachable("too many calls wait for the controller; try again later")
        return await to_thread.run_sync(call, limiter=limiter)

    def close(self) -> None:
        self._control.close()
