"""Shell: `/healthz`: the gateway itself is alive."""

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Route

from .backend import Backend


def routes(backend: Backend) -> list[BaseRoute]:
    return [Route("/healthz", _alive)]


async def _alive(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok\n")
