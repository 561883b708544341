"""Shell: one HTTP request's questions to the pool: what its headers ask for, its end when the client hangs up, and what the
headers of the answer tell."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from hotpool import AsyncClient
from hotpool.answers import Answer
from hotpool.asking import DEFAULT_TIMEOUT_S, MAX_TIMEOUT_S, Options
from hotpool.errors import BadInput, HotpoolError, NoReadyWorker, UnknownVersion
from hotpool.messages import MAX_NAME, Work

from .failures import BadRequest, Headers, UnsupportedType, Unusable, headers_of
from .tensors import Part

Question = tuple[Work, Part]

T = TypeVar("T")

_SOURCE = (b"x-hotpool-model", b"x-hotpool-version", b"x-hotpool-digest", b"x-hotpool-worker")
PATIENCE_S = 0.02  # before a client that has hung up is noticed
LEAST_S = 1e-3  # of a deadline that has passed: then the outcome is that of the pool, which knows what it waited for
ALIKE_ATTEMPTS = 3  # to get all answers of one version, while versions change


def headers_in(scope: Scope) -> dict[bytes, bytes]:
    """By name in small letters, of several the last."""
    return dict(scope["headers"])


def options_of(headers: dict[bytes, bytes], model: str, version: str | None) -> Options:
    """Raises BadRequest."""
    _check_name("the model", model)
    options: Options = {"model": model}
    if version is not None:
        _check_name("the version", version)
        options["version"] = version
    if (given := headers.get(b"x-request-timeout-seconds")) is not None:
        options["timeout_s"] = _seconds(given)
    if (given := headers.get(b"x-hotpool-route-key")) is not None:
        key = given.decode("utf-8", "replace")
        _check_name("X-Hotpool-Route-Key", key)
        options["route_key"] = key
    return options


def check_plain(headers: dict[bytes, bytes]) -> None:
    """Raises UnsupportedType: the body is compressed."""
    coding = headers.get(b"content-encoding", b"identity")
    if coding.lower() != b"identity":
        raise UnsupportedType(f"Content-Encoding is {coding.decode('latin-1')[:100]!r}: bodies are read as they come")


async def read_body(receive: Receive) -> bytes:
    """Raises ClientDisconnect."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        return message.get("body", b"")  # type: ignore[no-any-return]
    parts = []
    while message["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()
    raise ClientDisconnect


async def ask(client: AsyncClient, questions: Sequence[Question], options: Options, receive: Receive) -> list[Answer]:
    """The answers in order, all of one version. A full queue is the outcome at once: HTTP's clients can come back.

    Raises:
        HotpoolError: of one of them; then the others were cancelled.
        ClientDisconnect: the client hung up; then all were cancelled.
    """
    if len(questions) == 1:
        return [await _unless_hung_up(_asked(client, *questions[0], options), receive)]
    options = {**options}
    options.setdefault("route_key", secrets.token_hex(8))  # all go the way of one
    return await _unless_hung_up(asyncio.ensure_future(_alike(client, questions, options)), receive)


async def _alike(client: AsyncClient, questions: Sequence[Question], options: Options) -> list[Answer]:
    """While versions change, even questions with one route key may be answered by two. Then the fewer are asked again."""
    now = asyncio.get_running_loop().time
    ends_at = now() + options.get("timeout_s", DEFAULT_TIMEOUT_S)
    for _ in range(ALIKE_ATTEMPTS):
        left: Options = {**options, "timeout_s": max(LEAST_S, ends_at - now())}
        answers = await _all(client, questions, left)
        for digest, _ in Counter(reply.digest for reply, _ in answers).most_common():
            others = [i for i, (reply, _) in enumerate(answers) if reply.digest != digest]
            again: Options = {**options, "version": digest, "timeout_s": max(LEAST_S, ends_at - now())}
            try:
                asked_again = await _all(client, [questions[i] for i in others], again)
            except UnknownVersion:
                continue  # it has just left
            for i, answer in zip(others, asked_again, strict=True):
                answers[i] = answer
            return answers
    raise NoReadyWorker("the pool changed its version while it answered; try again")


async def _all(client: AsyncClient, questions: Sequence[Question], options: Options) -> list[Answer]:
    futures: list[asyncio.Future[Answer]] = []
    try:
        for question in questions:
            futures.append(_asked(client, *question, options))
        return await asyncio.gather(*futures)
    finally:
        while futures:  # see `_unless_hung_up`
            futures.pop().cancel()


def _asked(client: AsyncClient, work: Work, part: Part, options: Options) -> "asyncio.Future[Answer]":
    return client.call(work, part, _whole, options, retries=False)


def _whole(answer: Answer) -> Answer:
    return answer


async def _unless_hung_up(future: "asyncio.Future[T]", receive: Receive) -> T:
    watch = _Watch(future, receive)
    try:
        return await future
    except asyncio.CancelledError:
        if watch.has_seen_it:
            raise ClientDisconnect from None
        raise
    except BadInput as error:
        raise _unusable(error) if type(error) is BadInput else error from None
    finally:
        watch.end()
        # An error holds this frame, and with it who asked, and what: up to 16 MiB. If the frame held the future that has
        # the error, all of it would stay until the garbage is looked through.
        del watch, future


class _Watch:
    """Cancels the future when the client hangs up. Most answers are there before it begins to look, and cost no task."""

    def __init__(self, future: "asyncio.Future[Any]", receive: Receive) -> None:
        self._future, self._receive = future, receive
        self.has_seen_it = False
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._begin)

    def end(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            self._task = None  # see `_unless_hung_up`

    def _begin(self) -> None:
        self._task = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":  # the body was read before: nothing else can come
            pass
        self.has_seen_it = True
        self._future.cancel()


def _unusable(error: BadInput) -> Unusable:
    unusable = Unusable(str(error), executed=error.executed)
    unusable.version, unusable.digest, unusable.worker = error.version, error.digest, error.worker
    return unusable


def headers_of_answers(answers: Sequence[Answer]) -> Headers:
    """Who answered, and how long it took; of several pictures the longest."""
    reply, _ = answers[0]
    workers, queue_us, service_us = reply.worker, reply.queue_us, reply.service_us
    if len(answers) > 1:
        replies = [reply for reply, _ in answers]
        workers = ", ".join(dict.fromkeys(one.worker for one in replies))
        queue_us, service_us = max(one.queue_us for one in replies), max(one.service_us for one in replies)
    return [
        *_source(reply.model, reply.version, reply.digest, workers),
        (b"server-timing", b"queue;dur=%.3f, service;dur=%.3f" % (queue_us / 1e3, service_us / 1e3)),
    ]


def headers_of_failure(model: str, error: HotpoolError) -> Headers:
    """As far as it is known who failed."""
    return [*headers_of(error), *_source(model, error.version, error.digest, error.worker)]


@lru_cache(maxsize=256)  # of some workers and versions, the same for each answer
def _source(model: str, version: str, digest: str, worker: str) -> tuple[tuple[bytes, bytes], ...]:
    named = zip(_SOURCE, (model, version, digest, worker), strict=True)
    # A model's name may come from a path that was refused for it: not every text may stand in a header.
    return tuple((name, value.encode("latin-1", "replace")) for name, value in named if value and value.isprintable())


async def send_answer(send: Send, status: int, content_type: bytes, body: bytes, headers: Headers) -> None:
    start = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


def _seconds(given: bytes) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise BadRequest(
            f"X-Request-Timeout-Seconds is {given.decode('latin-1')[:100]!r}, expected more than 0, at most {MAX_TIMEOUT_S:g}"
        )
    return seconds


def _check_name(what: str, name: str) -> None:
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise BadRequest(f"{what} is {name[:MAX_NAME]!r}: expected 1 to {MAX_NAME} printable characters")
