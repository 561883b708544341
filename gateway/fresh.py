"""Shell: what a call that blocks has found, not older than a moment, however many ask."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")

KEPT_S = 0.1  # short for whoever looks at it, long against what a storm of scrapes would cost the broker


class Fresh(Generic[T]):
    """look: runs in one thread, and only one at a time. For one event loop."""

    def __init__(self, look: Callable[[], T], name: str) -> None:
        self._look = look
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._found: asyncio.Future[T] | None = None
        self._found_at = 0.0

    async def get(self) -> T:
        """Raises what `look` has raised. Whoever comes while it runs waits for the same result."""
        loop = asyncio.get_running_loop()
        if self._found is None or (self._found.done() and loop.time() - self._found_at > KEPT_S):
            self._found = loop.run_in_executor(self._thread, self._look)
            self._found.add_done_callback(lambda _: self._note_time(loop))
        return await asyncio.shield(self._found)  # one that gives up must not take it from the others

    def close(self) -> None:
        """Waits for a look that is under way."""
        self._thread.shutdown()

    def _note_time(self, loop: asyncio.AbstractEventLoop) -> None:
        self._found_at = loop.time()
