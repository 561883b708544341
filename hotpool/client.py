"""Shell: the client library: `Client` for threads, `AsyncClient` for asyncio."""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypedDict, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from .calls import Call
from .config import find_home
from .courier import Answer, Courier, Ticket
from .errors import BadInput, HotpoolError, LocalProtocolError, RemoteProtocolError
from .inputs import picture_work, tensor_work
from .messages import MAX_NAME, Request, Work
from .states import Executed, Priority
from .wire import decode_result, encode_body

if TYPE_CHECKING:
    from .inputs import ImageLike

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 10.0
MAX_TIMEOUT_S = 3600.0
PIPELINE = 64  # open calls of `classify_many`: 16 workers in batches of 4 stay busy, and the pictures fit into memory

PriorityName = Literal["high", "normal", "low"]


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class of a prediction. probability: softmax over all classes of the version, 0..1."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """Classes, the most probable first, and which version on which worker said so.

    attempt: 1, or more if workers were lost on the way. queue_ms: from the broker's receipt to the lease; service_ms: in the
    worker, decoding included.
    """

    classes: tuple[ClassScore, ...]
    model: str
    version: str
    digest: str
    worker: str
    attempt: int
    queue_ms: float
    service_ms: float

    @property
    def label(self) -> str:
        """Of the most probable class."""
        return self.classes[0].label


class Options(TypedDict, total=False):
    """model: default that of the pool. version: alias or digest; default: whatever the pool serves. timeout_s: 10.
    route_key: who asks, such as a user's name: while a new version answers only a share of the requests, all with the
    same key get the same version. Default: each request for itself."""

    model: str | None
    version: str | None
    timeout_s: float
    priority: PriorityName
    route_key: str | None


class PictureOptions(Options, total=False):
    """top: how many classes the prediction lists; 3."""

    top: int


class Client:
    """A connection to a pool, for any number of threads.

        with Client() as client:
            print(client.classify("cat.jpg").label)

    Each call ends in exactly one outcome, by its deadline: the answer, or a `HotpoolError`. Until then the client keeps the
    request, and sends it again under the same id when the broker was restarted or the queue was full.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        """endpoint: the broker's, as `ipc://...`; by default that of the pool in `HOTPOOL_HOME` (or ./var).

        Connects in the background: a pool that starts later is found, if it starts within a call's `timeout_s`.
        """
        self._courier = Courier(endpoint or find_home(None).endpoint("clients"))
        self._numbers = count(1)
        self._pid = os.getpid()
        self._is_closed = False

    def classify(self, image: "ImageLike", **options: Unpack[PictureOptions]) -> Prediction:
        """What is in the picture.

        Args:
            image: path, bytes of an image file, PIL image, or (h, w, 3) uint8 RGB array.
            options: `top=3`, `model=None`, `version=None`, `timeout_s=10.0`, `priority="normal"` (`"high"`, `"low"`),
                `route_key=None` (see `Options`).

        Raises:
            BadInput: not an image as above; BadImage: the bytes can't be decoded; TooLarge: more bytes than allowed.
            UnknownModel, UnknownVersion: not served here.
            DeadlineExceeded, QueueFull, BrokerUnreachable, WorkerLost: no answer within `timeout_s`, and why.
            PoisonRequest: the request ended two workers.
        """
        return self._wait(self._call(*picture_work(image, options.pop("top", 3)), _prediction, options, waits=True))

    def classify_many(
        self, images: "Iterable[ImageLike]", *, return_exceptions: bool = False, **options: Unpack[PictureOptions]
    ) -> Iterator[Prediction | HotpoolError]:
        """`classify` for many pictures, up to 64 under way at once; the predictions come in the order of the images.

        An image that fails raises at its turn; with `return_exceptions` its error is yielded in its place.
        """
        waiting: deque[Future[Prediction]] = deque()
        try:
            for image in images:
                waiting.append(self._submitted(image, options))
                if len(waiting) >= PIPELINE:
                    yield _outcome(waiting.popleft(), return_exceptions)
            while waiting:
                yield _outcome(waiting.popleft(), return_exceptions)
        finally:
            for future in waiting:
                future.cancel()

    def infer(self, array: NDArray[np.float32], **options: Unpack[Options]) -> NDArray[np.float32]:
        """Logits for a batch that is preprocessed already.

        Args:
            array: (n, 3, h, w) float32, normalised as the version's manifest says; h and w its crop. A version in int8 takes
                values that no pixel has for the nearest one that a pixel may have.

        Returns:
            (n, classes) float32 logits, not softmaxed; row i belongs to array[i].

        Raises: as `classify`.
        """
        return self._wait(self._call(*tensor_work(array), _logits, options, waits=True))

    def submit(self, image: "ImageLike", **options: Unpack[PictureOptions]) -> "Future[Prediction]":
        """`classify` without waiting. `future.cancel()`: the caller sees nothing more; the work may still be done.

        Raises: BadInput, when the image can't be sent at all.
        """
        return self._call(*picture_work(image, options.pop("top", 3)), _prediction, options)

    def submit_tensor(self, array: NDArray[np.float32], **options: Unpack[Options]) -> "Future[NDArray[np.float32]]":
        """`infer` without waiting, as `submit`."""
        return self._call(*tensor_work(array), _logits, options)

    def close(self) -> None:
        """Ends the connection; calls that are open in other threads end with `LocalProtocolError`."""
        if not self._is_closed:
            self._is_closed = True
            self._courier.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submitted(self, image: "ImageLike", options: PictureOptions) -> "Future[Prediction]":
        try:
            return self.submit(image, **options)
        except BadInput as error:
            failed: Future[Prediction] = Future()
            failed.set_exception(error)
            return failed

    def _call(
        self,
        work: Work,
        payload: bytes | memoryview,
        convert: Callable[[Answer], T],
        options: Options,
        *,
        waits: bool = False,
    ) -> "Future[T]":
        if self._is_closed:
            raise LocalProtocolError("the client is closed")
        if self._pid != os.getpid():
            raise LocalProtocolError("this client was made before a fork; make a new one in each process")
        for option in ("model", "version", "route_key"):
            _check_name(option, options.get(option))
        timeout_s, priority = options.get("timeout_s", DEFAULT_TIMEOUT_S), options.get("priority", "normal")
        if not 0 < timeout_s <= MAX_TIMEOUT_S:
            raise BadInput(f"timeout_s = {timeout_s!r}: expected more than 0, at most {MAX_TIMEOUT_S:g} seconds")
        if priority.upper() not in Priority.__members__:
            raise BadInput(f"priority = {priority!r}: expected high, normal or low")
        request_id = self._courier.nonce + next(self._numbers).to_bytes(8, "big")
        request = Request(
            request_id, options.get("model"), options.get("version"), Priority[priority.upper()], 0, encode_body(work),
            route=_route(options.get("route_key")),
        )  # fmt: skip
        future: Future[T] = Future()
        now = monotonic()
        self._courier.post(Call(request, payload, Ticket(future, convert), now, now + timeout_s), waits=waits)
        future.add_done_callback(lambda done: self._courier.cancel(request_id) if done.cancelled() else None)
        return future

    def _wait(self, future: "Future[T]") -> T:
        """The courier ends every call by its deadline, so there is no timeout here."""
        try:
            self._courier.receive_for(future)
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C while waiting: nobody wants the answer any more
            raise


class AsyncClient:
    """`Client` for asyncio: the same calls, awaited. Cancelling the task cancels the request.

    async with AsyncClient() as client:
        prediction = await client.classify("cat.jpg")
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self._client = Client(endpoint)

    async def classify(self, image: "ImageLike", **options: Unpack[PictureOptions]) -> Prediction:
        """As `Client.classify`."""
        # In a thread: reading a file or converting a large picture must not hold up the loop.
        return await asyncio.wrap_future(await asyncio.to_thread(self._client.submit, image, **options))

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
        return await asyncio.wrap_future(await asyncio.to_thread(self._client.submit_tensor, array, **options))

    async def close(self) -> None:
        """As `Client.close`."""
        await asyncio.to_thread(self._client.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _check_name(option: str, value: object) -> None:
    """A name that can't travel would be dropped by the broker without a word."""
    if value is None:
        return
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or not value.isprintable():
        raise BadInput(f"{option} = {value!r}: expected a name of 1 to {MAX_NAME} printable characters, or None")


def _route(key: str | None) -> bytes:
    """What travels in a route key's place: the broker needs to tell keys apart, not to know them."""
    return blake2b(key.encode(), digest_size=16).digest() if key is not None else b""


def _outcome(future: "Future[Prediction]", return_exceptions: bool) -> Prediction | HotpoolError:
    try:
        return future.result()
    except HotpoolError as error:
        if not return_exceptions:
            raise
        return error


async def _awaited(task: "asyncio.Task[Prediction]", return_exceptions: bool) -> Prediction | HotpoolError:
    try:
        return await task
    except HotpoolError as error:
        if not return_exceptions:
            raise
        return error


def _prediction(answer: Answer) -> Prediction:
    reply, _ = answer
    classes = tuple(ClassScore(*score) for score in decode_result(reply.result).classes)
    if not classes:
        raise RemoteProtocolError("the reply lists no classes", executed=Executed.YES)
    return Prediction(
        classes, reply.model, reply.version, reply.digest, reply.worker, reply.attempt,
        reply.queue_us / 1e3, reply.service_us / 1e3,
    )  # fmt: skip


def _logits(answer: Answer) -> NDArray[np.float32]:
    reply, payload = answer
    shape = decode_result(reply.result).shape
    if payload is None or len(shape) != 2 or min(shape) < 1 or len(payload) != 4 * shape[0] * shape[1]:
        raise RemoteProtocolError(f"the reply's logits do not have the shape {shape} it names", executed=Executed.YES)
    return np.frombuffer(payload, "<f4").reshape(shape)
