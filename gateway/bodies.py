"""Shell: bodies of requests, read and checked against what a route takes."""

from typing import TypeVar

import msgspec
from starlette.requests import Request

from .failures import BadRequest, UnsupportedType

T = TypeVar("T", bound=msgspec.Struct)


async def read_json(request: Request, kind: type[T]) -> T:
    """Raises UnsupportedType, BadRequest; TooLarge by whoever limits the body."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "application/json":
        raise UnsupportedType(f"Content-Type is {given!r}, expected application/json")
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not as it should be: {error}") from None
