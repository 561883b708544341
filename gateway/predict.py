"""Shell: `POST /predict`: a picture, as a form's file or as the body itself; its best classes, as JSON or as a page."""

import html
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from hotpool.answers import ClassScore, Prediction, prediction_of
from hotpool.errors import HotpoolError
from hotpool.messages import MAX_CLASSES, Work

from .backend import Backend
from .failures import BadRequest, UnsupportedType, body_of, status_of
from .multipart import Begin, Data, End, Form
from .questions import (
    ask,
    check_plain,
    headers_in,
    headers_of_answers,
    headers_of_failure,
    options_of,
    read_body,
    send_answer,
)

PATH = "/predict"
DEFAULT_TOP = 3
JSON, HTML = b"application/json", b"text/html; charset=utf-8"
# The page has nothing but text, so nothing needs to be allowed.
PAGE_HEADERS = [
    (b"content-security-policy", b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
]


class Predicted(msgspec.Struct):
    """The answer as JSON."""

    model: str
    version: str
    digest: str
    worker: str
    queue_ms: float
    service_ms: float
    predictions: tuple[ClassScore, ...]


def routes(backend: Backend) -> list[BaseRoute]:
    return [Route(PATH, Predict(backend), methods=["POST"])]


class Predict:
    """An ASGI application of its own: what a request object and a response object would cost, each answer would pay."""

    def __init__(self, backend: Backend) -> None:
        self._client, self._guard, self._model = backend.client, backend.guard, backend.config.pool.model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_in(scope)
        wants_page = prefers_html(headers.get(b"accept", b""))
        try:
            await self._guard.require_inference(scope)
            top, version = read_query(scope["query_string"])
            options = options_of(headers, self._model, version)
            check_plain(headers)
            picture = picture_in(await read_body(receive), headers.get(b"content-type", b""))
            answers = await ask(self._client, [(Work("picture", top), picture)], options, receive)
            prediction = prediction_of(answers[0])
        except HotpoolError as error:
            body = failure_page(error) if wants_page else body_of(error)
            more, status = headers_of_failure(self._model, error), status_of(error)
        else:
            body = page(prediction) if wants_page else json_of(prediction)
            more, status = headers_of_answers(answers), 200
        if wants_page:
            more += PAGE_HEADERS
        await send_answer(send, status, HTML if wants_page else JSON, body, more)


def read_query(query: bytes) -> tuple[int, str | None]:
    """`top` and `version`. Raises BadRequest: also for others, since a misspelt version would mean any version."""
    if not query:
        return DEFAULT_TOP, None
    given: dict[str, Any] = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    top, version = given.pop("top", str(DEFAULT_TOP)), given.pop("version", None)
    if given:
        raise BadRequest(f"there is no parameter {next(iter(given))[:100]!r}; there are top and version")
    if not (top.isascii() and top.isdigit() and len(top) < 10 and 1 <= int(top) <= MAX_CLASSES):
        raise BadRequest(f"top is {top[:100]!r}, expected a whole number from 1 to {MAX_CLASSES}")
    return int(top), version


def picture_in(body: bytes, content_type: bytes) -> bytes:
    """Raises UnsupportedType, BadRequest."""
    kind = content_type.partition(b";")[0].strip().lower()
    if kind == b"multipart/form-data":
        picture = file_in(body, content_type.decode("latin-1"))
    elif not kind or kind == b"application/octet-stream" or kind.startswith(b"image/"):
        picture = body
    else:
        raise UnsupportedType(
            f"Content-Type is {kind.decode('latin-1')[:100]!r}; send the picture as multipart/form-data with a field named "
            "file (curl -F file=@cat.jpg), or as the body itself with image/jpeg or another image type"
        )
    if not picture:
        raise BadRequest("there is no picture in the request")
    return picture


def file_in(body: bytes, content_type: str) -> bytes:
    """The field `file` of a form."""
    form, picture, is_ours = Form(content_type), [], False
    found = False
    for piece in form.feed(body):
        match piece:
            case Begin(name, _):
                if name == "file" and found:
                    raise BadRequest("the form has several fields named file; send one picture a request")
                is_ours = name == "file"
                found |= is_ours
            case Data(data):
                if is_ours:
                    picture.append(data)
            case End():
                is_ours = False
    form.finish()
    if not found:
        raise BadRequest("the form has no field named file")
    return picture[0] if len(picture) == 1 else b"".join(picture)


def prefers_html(accept: bytes) -> bool:
    """As browsers ask, and unlike `*/*`."""
    if b"html" not in accept.lower():
        return False  # most callers, and they should pay nothing for the others
    weights = {b"text/html": 0.0, b"application/json": 0.0}
    for part in accept.lower().split(b","):
        kind, *parameters = (word.strip() for word in part.split(b";"))
        if kind in weights:
            weights[kind] = next((_weight(word[2:]) for word in parameters if word.startswith(b"q=")), 1.0)
    return weights[b"text/html"] > weights[b"application/json"]


def _weight(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def json_of(prediction: Prediction) -> bytes:
    return msgspec.json.encode(
        Predicted(
            prediction.model, prediction.version, prediction.digest, prediction.worker, prediction.queue_ms,
            prediction.service_ms, prediction.classes,
        )
    )  # fmt: skip


def page(prediction: Prediction) -> bytes:
    rows = "".join(f"<tr><td>{html.escape(one.label)}<td>{one.probability:.1%}" for one in prediction.classes)
    return _page(
        prediction.label,
        f"<table><tr><th>class<th>probability{rows}</table><p>Answered by {html.escape(prediction.version)} "
        f"({html.escape(prediction.digest[:12])}) on {html.escape(prediction.worker)} in "
        f"{prediction.queue_ms + prediction.service_ms:.1f} ms.",
    )


def failure_page(error: HotpoolError) -> bytes:
    return _page("No answer", f"<p>{html.escape(str(error))}<p>{html.escape(error.code)}")


def _page(title: str, content: str) -> bytes:
    """User text is in it, escaped: content is markup, the title is not."""
    title = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta name="color-scheme" content="light dark"><title>{title} - hotpool</title><main><h1>{title}</h1>{content}</main>'
    ).encode()
