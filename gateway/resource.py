"""Shell: paths that take several methods, and answers in JSON."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Handler = Callable[[Request], Awaitable[Response]]


def resource(path: str, **by_method: Handler) -> Route:
    """`resource("/api/session", GET=show, POST=log_in)`: one route, so that what is said of the path's methods is true."""

    async def answer(request: Request) -> Response:
        return await by_method["GET" if request.method == "HEAD" else request.method](request)

    return Route(path, answer, methods=list(by_method))


def told(view: Any, status: int = 200) -> Response:
    """As JSON, for no cache to keep. What JSON has no number for, such as infinity, becomes null."""
    return Response(msgspec.json.encode(view), status, {"cache-control": "no-store"}, "application/json")
