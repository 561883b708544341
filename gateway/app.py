"""Shell: all routes of the gateway in one application. Each part has `routes(backend)`; each error has one form."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hotpool.errors import HotpoolError

from . import api, health, page, predict, session, v2, versions
from .backend import Backend
from .failures import BadRequest, MethodNotAllowed, NotFound, body_of, headers_of, status_of
from .limits import Limits
from .observed import Observed

PARTS = (predict, v2, health, api, session, versions, page)  # routes are looked through in this order

log = logging.getLogger("hotpool.gateway")


def make_app(backend: Backend) -> ASGIApp:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with backend.client:
            with backend.live.running():
                yield

    routes = [route for part in PARTS for route in part.routes(backend)]
    app = Starlette(routes=routes, exception_handlers=HANDLERS, lifespan=lifespan)
    app.router.redirect_slashes = False  # a path with a slash too many is another path
    predicting = next(route for route in routes if isinstance(route, Route) and route.path == predict.PATH)
    return Observed(Limits(Direct(app, predicting), backend.config, backend.http.refused), backend.http)


class Direct:
    """The application, and past its layers one route that answers its own errors: without them
    1.08 times as many requests were answered, of a model that does nothing (docs/performance.md)."""

    def __init__(self, app: ASGIApp, route: Route) -> None:
        self._app, self._route, self._methods = app, route, route.methods or ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._route.path or scope["method"] not in self._methods:
            return await self._app(scope, receive, send)
        scope["route"] = self._route
        try:
            await self._route.app(scope, receive, send)
        except ClientDisconnect:
            raise
        except Exception:
            await BROKEN(scope, receive, send)
            raise
        return None


def failure(error: HotpoolError) -> Response:
    """The answer that tells of this error."""
    response = Response(body_of(error), status_of(error), media_type="application/json")
    response.raw_headers += headers_of(error)
    return response


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HotpoolError), error
    return failure(error)


async def _refused(request: Request, error: Exception) -> Response:
    """What Starlette itself finds: no such path, or not with this method."""
    assert isinstance(error, HTTPException), error
    path = request.scope["path"]  # request.url would be made of the header Host, which may be anything
    if error.status_code == 404:
        return failure(NotFound(f"nothing at {path}"))
    if error.status_code == 405:
        response = failure(MethodNotAllowed(f"{path} does not know the method {request.method}"))
        response.headers["allow"] = (error.headers or {}).get("Allow", "")
        return response
    return failure(BadRequest(error.detail))


async def _gone(request: Request, error: Exception) -> None:
    """The client hung up: nobody is there to be told, and nothing is wrong with us."""


async def _broken(request: Request, error: Exception) -> Response:
    return BROKEN


# A bug. The log has the traceback, the caller no word of it.
BROKEN = failure(HotpoolError("the gateway failed on this request; its log says how"))
HANDLERS: dict[Any, Any] = {
    HotpoolError: _failed,
    HTTPException: _refused,
    ClientDisconnect: _gone,
    Exception: _broken,
}
