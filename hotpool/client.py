"""Shell: the client library for threads. `async_client.py` has the same for asyncio."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import count
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from .answers import Answer, Prediction, logits_of, prediction_of
from .asking import Options, PictureOptions, new_call
from .courier import Courier
from .environment import find_home
from .errors import BadInput, HotpoolError, LocalProtocolError
from .exchange import Ticket
from .inputs import picture_work, tensor_work
from .messages import Work

if TYPE_CHECKING:
    from .inputs import ImageLike

T = TypeVar("T")

PIPELINE = 64  # open calls of `classify_many`: 16 workers in batches of 4 stay busy, and the pictures fit into memory


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
        return self._ask(*picture_work(image, options.pop("top", 3)), prediction_of, options)

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
        return self._ask(*tensor_work(array), logits_of, options)

    def submit(self, image: "ImageLike", **options: Unpack[PictureOptions]) -> "Future[Prediction]":
        """`classify` without waiting. `future.cancel()`: the caller sees nothing more; the work may still be done.

        Raises: BadInput, when the image can't be sent at all.
        """
        return self.call(*picture_work(image, options.pop("top", 3)), prediction_of, options)

    def submit_tensor(self, array: NDArray[np.float32], **options: Unpack[Options]) -> "Future[NDArray[np.float32]]":
        """`infer` without waiting, as `submit`."""
        return self.call(*tensor_work(array), logits_of, options)

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

    def call(
        self, work: Work, payload: bytes | memoryview, convert: Callable[[Answer], T], options: Options
    ) -> "Future[T]":
        """What `submit` is made of, for who wants the reply as it came.

        Args:
            payload: must not change any more.
            convert: the reply and its payload as the caller wants them; runs in the client's thread, so it must be quick.

        Raises: BadInput, when it can't be sent at all.
        """
        request_id, future = self._post(work, payload, convert, options, waits=False)
        future.add_done_callback(lambda done: self._courier.cancel(request_id) if done.cancelled() else None)
        return future

    def _ask(self, work: Work, payload: bytes | memoryview, convert: Callable[[Answer], T], options: Options) -> T:
        """`call`, and its outcome. The courier ends every call by its deadline, so there is no timeout here."""
        request_id, future = self._post(work, payload, convert, options, waits=True)
        try:
            self._courier.receive_for(future)
            return future.result()
        except BaseException:
            if future.cancel():  # Ctrl-C while waiting: nobody wants the answer any more
                self._courier.cancel(request_id)
            raise

    def _post(
        self,
        work: Work,
        payload: bytes | memoryview,
        convert: Callable[[Answer], T],
        options: Options,
        *,
        waits: bool,
    ) -> "tuple[bytes, Future[T]]":
        """The request's id, and what will have its outcome. waits: see `Courier.post`."""
        if self._is_closed:
            raise LocalProtocolError("the client is closed")
        if self._pid != os.getpid():
            raise LocalProtocolError("this client was made before a fork; make a new one in each process")
        request_id = self._courier.nonce + next(self._numbers).to_bytes(8, "big")
        future: Future[T] = Future()
        call = new_call(request_id, work, payload, Ticket(future, convert), options, monotonic())
        self._courier.post(call, waits=waits)
        return request_id, future


def _outcome(future: "Future[Prediction]", return_exceptions: bool) -> Prediction | HotpoolError:
    try:
        return future.result()
    except HotpoolError as error:
        if not return_exceptions:
            raise
        return error
