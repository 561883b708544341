"""Shell: what is to happen once the controller has added a version: its file is removed, or it is rolled out.

Kept in memory alone. Killing the gateway in between loses little: old uploads are removed at the next start, and who wanted a
rollout finds the version in the list and orders it again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from hotpool.errors import ControllerUnreachable, HotpoolError

from .controller import Controller

LOOK_S = 0.5
MAX_UNANSWERED = 600  # looks, five minutes: then nobody adds anything any more
KEPT = 100

Job = dict[str, Any]


class Jobs:
    """For the event loop."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._tasks: set[asyncio.Task[None]] = set()
        self._followed: set[int] = set()
        self._outcomes: dict[int, Job] = {}  # by number, what replaces in the view

    def follow(self, number: int, then: Callable[[Job | None], Awaitable[int | None]]) -> None:
        """then: gets the job when it has ended, or None when nobody knows; it returns the rollout that it ordered."""
        self._followed.add(number)
        task = asyncio.create_task(self._follow(number, then))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def view(self, number: int) -> Job:
        """As the controller tells it, and the rollout that followed. Its error is that of the order, if that failed. It is not
        done before that is ordered."""
        job: Job = await self._controller.ask("job", job=number)
        if job["state"] == "done" and number in self._followed:
            job["state"] = "running"
        return {**job, "rollout": None, **self._outcomes.get(number, {})}

    async def _follow(self, number: int, then: Callable[[Job | None], Awaitable[int | None]]) -> None:
        try:
            job = await self._ended(number)
            self._outcomes[number] = {"rollout": await then(job)}
        except HotpoolError as error:
            self._outcomes[number] = {"code": error.code, "error": str(error)}
        finally:
            self._followed.discard(number)
        for old in list(self._outcomes)[:-KEPT]:
            del self._outcomes[old]

    async def _ended(self, number: int) -> Job | None:
        n_unanswered = 0
        while n_unanswered < MAX_UNANSWERED:
            try:
                job: Job = await self._controller.ask("job", job=number)
                if job["state"] != "running":
                    return job
                n_unanswered = 0
            except ControllerUnreachable:
                n_unanswered += 1
            except HotpoolError:  # a controller that was started again does not know it
                return None
            await asyncio.sleep(LOOK_S)
        return None
