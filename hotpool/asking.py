"""Pure: what a caller asks for, checked, as a call."""

from hashlib import blake2b
from typing import Literal, TypedDict, TypeVar

from .calls import Call
from .errors import BadInput
from .messages import MAX_NAME, Request, Work
from .states import Priority
from .wire import encode_body

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 10.0
MAX_TIMEOUT_S = 3600.0

PriorityName = Literal["high", "normal", "low"]
_PRIORITIES = {
    priority.name.lower(): priority for priority in Priority
}  # an enum looks its names up four times as slowly


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


def new_call(
    request_id: bytes, work: Work, payload: bytes | memoryview, ticket: T, options: Options, now: float
) -> Call[T]:
    """Raises BadInput: an option is not what it may be, or the payload does not lie in one piece."""
    for option in ("model", "version", "route_key"):
        if (name := options.get(option)) is not None:
            _check_name(option, name)
    timeout_s, priority = options.get("timeout_s", DEFAULT_TIMEOUT_S), options.get("priority", "normal")
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise BadInput(f"timeout_s = {timeout_s!r}: expected more than 0, at most {MAX_TIMEOUT_S:g} seconds")
    if priority not in _PRIORITIES:
        raise BadInput(f"priority = {priority!r}: expected high, normal or low")
    if isinstance(payload, memoryview):
        if not payload.c_contiguous:
            raise BadInput("payload: expected bytes that lie one after another; pass .tobytes() of it")
        payload = payload.cast("B")
    request = Request(
        request_id, options.get("model"), options.get("version"), _PRIORITIES[priority], 0, encode_body(work),
        route=_route(options.get("route_key")),
    )  # fmt: skip
    return Call(request, payload, ticket, now, now + timeout_s)


def _check_name(option: str, value: object) -> None:
    """A name that can't travel would be dropped by the broker without a word."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or not value.isprintable():
        raise BadInput(f"{option} = {value!r}: expected a name of 1 to {MAX_NAME} printable characters, or None")


def _route(key: str | None) -> bytes:
    """What travels in a route key's place: the broker needs to tell keys apart, not to know them."""
    return blake2b(key.encode(), digest_size=16).digest() if key is not None else b""
