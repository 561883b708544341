"""Shell: `/api/events`: what changes, as it changes, for any number of pages that listen."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any, NamedTuple

import msgspec

from hotpool.home import Home

from .controller import Controller
from .failures import TooManyConnections
from .sampler import Sampler

HISTORY = 15 * 60  # samples of traffic, one a second
COMMENT_S = 15.0  # so that no proxy takes the connection for dead
MAX_LISTENERS = 128
MAX_WAITING = 64  # events for one listener, of ten seconds and more: who is further behind may connect again

JSON = msgspec.json.encode
Listener = asyncio.Queue[bytes | None]  # None: the stream ends


class _Seen(NamedTuple):
    """same: what is compared to tell whether anything has changed."""

    same: bytes
    data: bytes


class Live:
    """For the event loop; the sampler's thread only hands over what it has seen."""

    def __init__(self, home: Home, model: str, controller: Controller) -> None:
        self._sampler = Sampler(home, model, controller, lambda: bool(self._listeners), self._hand_over)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: set[Listener] = set()
        self._newest: dict[str, _Seen] = {}  # by kind: what a new listener gets at once, while others listen
        self._history: deque[msgspec.Raw] = deque(maxlen=HISTORY)  # encoded, which takes a third of the memory
        self._is_stopping = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Enter it in the event loop."""
        self._loop = asyncio.get_running_loop()
        thread = Thread(target=self._sampler.run, name="hotpool-sampler")
        thread.start()
        try:
            yield
        finally:
            self.stop()
            thread.join()

    def stop(self) -> None:
        """Ends all streams: they are answers that would never be complete, and a server waits for its answers when it stops."""
        self._is_stopping = True
        self._sampler.stop()
        for listener in list(self._listeners):
            self._dismiss(listener)

    def listen(self) -> AsyncIterator[bytes]:
        """The events for one listener, encoded. Raises TooManyConnections."""
        if len(self._listeners) >= MAX_LISTENERS:
            raise TooManyConnections(f"{MAX_LISTENERS} pages listen already; try again later")
        if not self._listeners:
            self._newest.clear()  # it is of the time when somebody listened last
        listener: Listener = asyncio.Queue(MAX_WAITING)
        listener.put_nowait(b"retry: 1000\n\n" + _event("history", JSON({"samples": list(self._history)})))
        for kind, seen in self._newest.items():
            listener.put_nowait(_event(kind, seen.data))
        self._listeners.add(listener)
        self._sampler.wake()
        if self._is_stopping:
            self._dismiss(listener)
        return self._stream(listener)

    async def _stream(self, listener: Listener) -> AsyncIterator[bytes]:
        try:
            while (data := await _next(listener)) is not None:
                yield data
        finally:
            self._listeners.discard(listener)

    def _hand_over(self, kind: str, seen: dict[str, Any]) -> None:
        """In the sampler's thread."""
        assert self._loop is not None
        if not self._is_stopping:
            self._loop.call_soon_threadsafe(self._take, kind, seen)

    def _take(self, kind: str, seen: dict[str, Any]) -> None:
        data = JSON(seen)
        match kind:
            case "traffic":
                self._history.append(msgspec.Raw(data))
            case "down":
                self._newest.clear()
            case _:
                same = JSON(_without_clock(seen))
                if kind in self._newest and self._newest[kind].same == same:
                    return
                self._newest[kind] = _Seen(same, data)
        event = _event(kind, data)  # one for all: a queue of their own copies is what slow listeners would hold
        for listener in list(self._listeners):
            if listener.full():
                self._dismiss(listener)
            else:
                listener.put_nowait(event)

    def _dismiss(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        while not listener.empty():
            listener.get_nowait()
        listener.put_nowait(None)


async def _next(listener: Listener) -> bytes | None:
    try:
        return await asyncio.wait_for(listener.get(), COMMENT_S)
    except TimeoutError:
        return b":\n\n"


def _event(kind: str, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), data)


def _without_clock(seen: dict[str, Any]) -> dict[str, Any]:
    """How long the broker has been running is no news."""
    return {**seen, "broker": {**seen["broker"], "uptime_s": 0}} if "broker" in seen else seen
