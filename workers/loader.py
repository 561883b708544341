"""Shell: loads versions in a thread of their own, so that a worker serves, and can be told to stop, meanwhile.

One load at a time and the newest order counts: a load can't be stopped half way, so one that was overtaken runs to its end and
its version is dropped. The owner polls `fileno` and asks for `news`.
"""

import contextlib
import os
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from hotpool.messages import Load, LoadState

V = TypeVar("V")

# Of a thread that loads while another one serves: it gets a quarter of a core that both want (weights 335 and 1024).
# Tried were 0, 5 and 10. With 5 requests hardly notice it, and a load under full work takes four times as long, not ten times.
NICE = 5


class Loader(Generic[V]):
    """V: a loaded version."""

    def __init__(self, load: Callable[[str, Callable[[str], None]], V]) -> None:
        """load: of a digest; calls its second argument with the state of the load. Runs in the thread."""
        self._load = load
        self._under_way: tuple[Load, Future[V]] | None = None
        self._next: Load | None = None
        self._states: deque[LoadState] = deque()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        return self._reader.fileno()

    def close(self) -> None:
        """Once nobody polls any more."""
        self._reader.close()
        self._writer.close()

    def begin(self, order: Load) -> None:
        if self._under_way is not None:
            self._next = order
            return
        # A new thread for each load: its niceness can't be taken back, and what the libraries keep for it goes with it.
        executor = ThreadPoolExecutor(1, "load")
        try:
            future = executor.submit(self._run, order)
        except RuntimeError as error:  # no thread is to be had now
            future = Future()
            future.set_exception(error)
        self._under_way = order, future
        future.add_done_callback(lambda _: self._wake())
        executor.shutdown(wait=False)

    def news(self) -> tuple[list[LoadState], "tuple[Load, Future[V]] | None"]:
        """How it went on since the last call, and the newest order with its end when it has ended."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(64)
        ended = None
        if self._under_way is not None and self._under_way[1].done():
            ended, self._under_way = self._under_way, None
            _let_go(ended[1].exception())
        states = [self._states.popleft() for _ in range(len(self._states))]
        if ended and self._next is not None:
            ended, order, self._next = None, self._next, None
            self.begin(order)
        return states, ended

    def _run(self, order: Load) -> V:
        if order.beside:
            yield_core()
        return self._load(order.digest, lambda state: self._tell(LoadState(order.token, state)))

    def _tell(self, state: LoadState) -> None:
        self._states.append(state)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it is awake; closed: nobody polls any more
            self._writer.send(b"\0")


def _let_go(error: BaseException | None) -> None:
    """Of what a load that failed had in its hands: half a version, which its exception would keep."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def yield_core() -> None:
    """Lets other threads of this process go first from now on. Linux alone gives threads a niceness of their own."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICE)
