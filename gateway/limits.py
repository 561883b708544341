"""Shell: around the application: how large a body may be, how many bytes of bodies may be held, and what each answer has."""

import re
import secrets
from collections.abc import Iterable
from itertools import count

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hotpool.config import Config
from hotpool.errors import TooLarge
from hotpool.metrics import Counter

from .failures import TooMuchHeld

JSON_BYTES = 64 * 1024  # of an order, and wherever nothing larger can be meant
FORM_BYTES = 2 * 1024 * 1024  # what comes with an uploaded file: borders, labels
AROUND_BYTES = 64 * 1024  # what comes with a picture: borders, or a header of JSON
UNREAD_BYTES = 64 * 1024  # of a body that nobody reads: more is not waited for, and the connection is closed
REQUEST_ID, _ID = b"x-request-id", re.compile(rb"[\x21-\x7e]{1,128}")
NO_SNIFFING = (b"x-content-type-options", b"nosniff")  # whatever came through into an answer, it is what its type says
_NONCE, _NUMBERS = secrets.token_hex(6).encode(), count(1)


class Limits:
    """An application whose requests have limits. refused: counts by reason."""

    def __init__(self, app: ASGIApp, config: Config, refused: Counter) -> None:
        self._app, self._config = app, config
        self.refused = refused
        self.held_bytes = 0  # of bodies whose requests are not answered yet; what goes to the disk is not held
        self.max_held_bytes = config.dispatch.queue_max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        exchange = _Exchange(self, scope, receive, send)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            pass  # nobody is there to be told
        finally:
            self.held_bytes -= exchange.held_bytes
        return None

    def body_limit(self, path: str) -> int:
        if is_upload(path):
            return self._config.gateway.max_upload_bytes + FORM_BYTES
        if path == "/predict" or path.endswith("/infer"):
            return self._config.pictures.max_bytes + AROUND_BYTES
        return JSON_BYTES


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The request's own, if it may stand in a header, else a new one."""
    given = next((value for name, value in headers if name == REQUEST_ID and _ID.fullmatch(value)), None)
    return given or b"%s-%x" % (_NONCE, next(_NUMBERS))


def is_upload(path: str) -> bool:
    """Its body goes to the disk as it comes."""
    return path == "/api/versions"


class _Exchange:
    """One request and its answer, as they pass."""

    def __init__(self, limits: Limits, scope: Scope, receive: Receive, send: Send) -> None:
        self._limits, self._receive, self._send = limits, receive, send
        self._id, self._declared_bytes, self._is_chunked = request_id(scope["headers"]), 0, False
        for name, value in scope["headers"]:
            if name == b"content-length":
                self._declared_bytes = int(value)
            elif name == b"transfer-encoding":
                self._is_chunked = True
        self._max_bytes = limits.body_limit(scope["path"])
        self._is_held = not is_upload(scope["path"])
        self._read_bytes = 0
        self._is_whole = not self._declared_bytes and not self._is_chunked
        self.held_bytes = 0

    async def receive(self) -> Message:
        if self._declared_bytes > self._max_bytes:
            self._refuse(self._declared_bytes)
        message = await self._receive()
        self._is_whole = not message.get("more_body", False)
        if body := message.get("body"):
            self._count(len(body))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (REQUEST_ID, self._id), NO_SNIFFING]
            if not self._is_whole and (self._is_chunked or self._declared_bytes > UNREAD_BYTES):
                headers.append((b"connection", b"close"))
            message["headers"] = headers
        await self._send(message)

    def _count(self, n: int) -> None:
        self._read_bytes += n
        if self._read_bytes > self._max_bytes:
            self._refuse(self._read_bytes)
        if self._is_held:
            self.held_bytes += n
            self._limits.held_bytes += n
            if self._limits.held_bytes > self._limits.max_held_bytes:
                self._limits.refused[TooMuchHeld.code,] += 1
                raise TooMuchHeld("the requests under way hold all memory that is theirs; try again later")

    def _refuse(self, n: int) -> None:
        self._limits.refused[TooLarge.code,] += 1
        raise TooLarge(f"the body has {n} bytes or more, allowed are {self._max_bytes}")
