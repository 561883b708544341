"""Shell: all routes of the gateway in one application."""

from starlette.applications import Starlette

from . import health
from .backend import Backend

PARTS = (health,)


def make_app(backend: Backend) -> Starlette:
    return Starlette(routes=[route for part in PARTS for route in part.routes(backend)])
