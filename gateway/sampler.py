"""Shell: a thread that looks at the pool, for all who listen."""

import contextlib
import logging
import time
from collections.abc import Callable
from threading import Event
from time import monotonic
from typing import Any

from hotpool.admin import Admin
from hotpool.errors import ControllerUnreachable, HotpoolError, NothingToDo
from hotpool.home import Home
from hotpool.states import Executed

from .controller import Controller
from .status import status_without_controller
from .traffic import Totals, totals, traffic

LOOK_S = 0.25  # while somebody watches
TIMEOUT_S = 1.0  # of each question

log = logging.getLogger("hotpool.gateway")


class Sampler:
    """tell: is called in the thread with what was seen, by its kind: status, rollout, traffic or down."""

    def __init__(
        self,
        home: Home,
        model: str,
        controller: Controller,
        is_watched: Callable[[], bool],
        tell: Callable[[str, Any], None],
    ) -> None:
        self._home, self._model, self._controller = home, model, controller
        self._is_watched, self._tell = is_watched, tell
        self._before: Totals | None = None
        self._second_at = 0.0
        self._woken, self._is_stopping = Event(), False

    def run(self) -> None:
        """Until `stop`."""
        with Admin(self._home.endpoint("admin")) as admin:
            while not self._is_stopping:
                self._woken.wait(LOOK_S)
                self._woken.clear()
                try:
                    self._look(admin, monotonic())
                except HotpoolError as error:
                    self._tell("down", {"error": str(error)})
                except Exception:  # the outermost level of a look: a bug must not leave pages without news for ever
                    log.exception("event=look_failed")
                    self._tell("down", {"error": "the gateway failed to look; its log says how"})

    def wake(self) -> None:
        """Looks at once: somebody has begun to watch."""
        self._woken.set()

    def stop(self) -> None:
        self._is_stopping = True
        self._woken.set()

    def _look(self, admin: Admin, now: float) -> None:
        is_second = now >= self._second_at
        if is_second:
            self._second_at = max(now, self._second_at + 1.0)
            self._sample_traffic(admin)
        if self._is_watched():
            status = self._status(admin)
            self._tell("status", status)
            if status["controller"]["pid"] and (is_second or status["rollout"]):
                self._look_at_rollout()

    def _status(self, admin: Admin) -> dict[str, Any]:
        try:
            status: dict[str, Any] = self._controller.call("status", TIMEOUT_S)
        except ControllerUnreachable as error:
            is_running = error.executed is Executed.MAYBE
            return status_without_controller(admin.report(TIMEOUT_S), self._model, is_running)
        return status

    def _sample_traffic(self, admin: Admin) -> None:
        after = totals(admin.report(TIMEOUT_S), self._model)
        before, self._before = self._before, after
        if before is not None and (sample := traffic(before, after, time.time())):
            self._tell("traffic", sample)

    def _look_at_rollout(self) -> None:
        # There may have been none yet, or the controller has ended just now: the next status will say so.
        with contextlib.suppress(NothingToDo, ControllerUnreachable):
            self._tell("rollout", self._controller.call("rollout", TIMEOUT_S))
