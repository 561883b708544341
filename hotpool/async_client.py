"""Shell: the client library for asyncio."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import count
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from .answers import Answer, Prediction, logits_of, prediction_of
from .asking import Options, PictureOptions, new_call
from .async_courier import AsyncCourier
from .client import PIPELINE
from .environment import find_home
from .errors import HotpoolError
from .exchange import Ticket
from .inputs import picture_work, tensor_work
from .messages import Work

if TYPE_CHECKING:
    from .inputs import ImageLike

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio: the same calls, awaited. Cancelling the task cancels the request.

        async with AsyncClient() as client:
            prediction = await client.classify("cat.jpg")

    It belongs to the event loop in which it is first used.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self._courier = AsyncCourier(endpoint or find_home(None).endpoint("clients"))
        self._numbers = count(1)

    @property
    def is_closed(self) -> bool:
        """By `close`, or because it has failed: then a new one is needed."""
        return self._courier.is_closed

    async def classify(self, image: "ImageLike", **options: Unpack[PictureOptions]) -> Prediction:
        """As `Client.classify`."""
        top = options.pop("top", 3)
        if isinstance(image, bytes):
            work, payload = picture_work(image, top)
        else:  # in a thread: reading a file or converting a large picture must not hold up the loop
            work, payload = await asyncio.to_thread(picture_work, image, top)
        return await self.call(work, payload, prediction_of, options)

    async def classify_many(
        self, images: "Iterable[ImageLike]", *, return_exceptions: bool = False, **options: Unpack[PictureOptions]
    ) -> AsyncIterator[Prediction | HotpoolError]:
        """As `Client.classify_many`."""
        waiting: deque[asyncio.Task[Prediction]] = deque()
        try:
            for image in images:
                waiting.append(asyncio.create_task(self.classify(image, **options)))
                if len(waiting) >= PIPELINE:
                    yield await _awaited(waiting.popleft(), return_exceptions)
            while waiting:
                yield await _awaited(waiting.popleft(), return_exceptions)
        finally:
            for task in waiting:
                task.cancel()

    async def infer(self, array: NDArray[np.float32], **options: Unpack[Options]) -> NDArray[np.float32]:
        """As `Client.infer`."""
        work, payload = await asyncio.to_thread(tensor_work, array)  # which copies it
        return await self.call(work, payload, logits_of, options)

    def call(
        self,
        work: Work,
        payload: bytes | memoryview,
        convert: Callable[[Answer], T],
        options: Options,
        *,
        retries: bool = True,
    ) -> "asyncio.Future[T]":
        """As `Client.call`. Without `retries` a full queue is the outcome at once, for who passes it on to callers that can
        come back themselves.

        Raises: BadInput, when it can't be sent at all.
        """
        request_id = self._courier.nonce + next(self._numbers).to_bytes(8, "big")
        future: asyncio.Future[T] = self._courier.future()
        call = new_call(request_id, work, payload, Ticket(future, convert), options, monotonic())
        call.retries = retries
        self._courier.post(call)
        future.add_done_callback(lambda done: self._courier.cancel(request_id) if done.cancelled() else None)
        return future

    async def close(self) -> None:
        """Ends the connection; calls that are open end with `LocalProtocolError`."""
        self._courier.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _awaited(task: "asyncio.Task[Prediction]", return_exceptions: bool) -> Prediction | HotpoolError:
    try:
        return await task
    except HotpoolError as error:
        if not return_exceptions:
            raise
        return error
