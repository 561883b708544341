"""Shell: `/api/session`: a browser logs in with the admin token, and holds a cookie in its place."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from .auth import COOKIE
from .backend import Backend
from .bodies import read_json
from .orders import Login
from .resource import resource, told
from .tokens import SESSION_S


def routes(backend: Backend) -> list[BaseRoute]:
    guard = backend.guard

    def view(operator: str | None) -> Response:
        needs_token = guard.inference is not None
        return told({"is_admin": operator is not None, "operator": operator, "inference_needs_token": needs_token})

    async def show(request: Request) -> Response:
        session = guard.session(request)
        return view(session.operator if session else None)

    async def log_in(request: Request) -> Response:
        login = await read_json(request, Login)
        cookie = await guard.log_in(request, login.token, login.operator)
        response = view(login.operator)
        is_tls = request.headers.get("origin", "").startswith("https:")
        response.set_cookie(COOKIE, cookie, SESSION_S, httponly=True, samesite="strict", secure=is_tls)
        return response

    async def log_out(request: Request) -> Response:
        response = view(None)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    return [resource("/api/session", GET=show, POST=log_in, DELETE=log_out)]
