"""Shell: `/api/...`: looking at the pool, and giving orders to it. The work is the controller's."""

from collections.abc import Awaitable
from functools import partial
from typing import Any, TypeVar

from msgspec import to_builtins
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute

from hotpool.errors import ControllerUnreachable, NothingToDo
from hotpool.states import Executed

from .backend import Backend
from .bodies import read_json
from .failures import BadRequest, NotFound
from .openapi import document
from .openapi_paths import PATHS
from .orders import Order, Promote, Start, Undo
from .resource import Handler, resource, told
from .status import status_without_controller

NEWEST, MAX_NEWEST = "100", 1000  # of events and of rollouts: a list is sent whole, and grows for ever
# A report is a page without script. Whatever came through into one would find itself on a site of its own.
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; sandbox"

T = TypeVar("T")


def routes(backend: Backend) -> list[BaseRoute]:
    look, order = Looks(backend), Orders(backend)
    rollout = "/api/rollouts/{number}"
    return [
        resource("/api/status", GET=look.status),
        resource("/api/workers", GET=look.workers),
        resource("/api/audit", GET=look.audit),
        resource("/api/events", GET=look.events),
        resource("/api/openapi.json", GET=look.openapi),
        resource("/api/rollouts", GET=look.rollouts, POST=order.start),
        resource("/api/rollouts/undo", POST=order.undo),
        resource(rollout, GET=look.rollout),
        resource(f"{rollout}/report", GET=look.report),
        resource(f"{rollout}/promote", POST=order.promote),
        *(resource(f"{rollout}/{verb}", POST=order.plain(verb)) for verb in ("pause", "resume", "abort")),
    ]


class Looks:
    """Open to all who reach the port."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self._controller = backend, backend.controller

    async def status(self, request: Request) -> Response:
        return told(await self._status())

    async def workers(self, request: Request) -> Response:
        return told((await self._status())["workers"])

    async def audit(self, request: Request) -> Response:
        return told(await self._controller.ask("audit", n=newest(request)))

    async def rollouts(self, request: Request) -> Response:
        return told(await self._controller.ask("rollouts", n=newest(request)))

    async def rollout(self, request: Request) -> Response:
        return told(await found(self._controller.ask("rollout", number=number_in(request))))

    async def report(self, request: Request) -> Response:
        page = await found(self._controller.ask("report", number=number_in(request)))
        headers = {"content-security-policy": REPORT_POLICY, "cache-control": "no-store"}
        return Response(page["html"], headers=headers, media_type="text/html")

    async def events(self, request: Request) -> Response:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        events = iter(()) if request.method == "HEAD" else self._backend.live.listen()
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def openapi(self, request: Request) -> Response:
        return told(document(PATHS))

    async def _status(self) -> dict[str, Any]:
        try:
            return await self._controller.status()
        except ControllerUnreachable as error:
            report, is_running = await self._backend.broker.get(), error.executed is Executed.MAYBE
            return status_without_controller(report, self._backend.config.pool.model, is_running)


class Orders:
    """For whoever has the admin token."""

    def __init__(self, backend: Backend) -> None:
        self._guard, self._controller = backend.guard, backend.controller

    async def start(self, request: Request) -> Response:
        operator = await self._guard.require_admin(request)
        asked = await read_json(request, Start)
        made = await self._controller.order("start", **to_builtins(asked), operator=operator)
        return told(made, 202 if made["result"] == "ordered" else 200)

    async def undo(self, request: Request) -> Response:
        operator = await self._guard.require_admin(request)
        asked = await read_json(request, Undo)
        made = await self._controller.order("undo", **to_builtins(asked), operator=operator)
        return told(made, 200 if asked.dry_run else 202)

    async def promote(self, request: Request) -> Response:
        return await self._command(request, "promote", Promote)

    def plain(self, verb: str) -> Handler:
        return partial(self._command, verb=verb, kind=Order)

    async def _command(self, request: Request, verb: str, kind: type[Order]) -> Response:
        operator = await self._guard.require_admin(request)
        asked = await read_json(request, kind)
        number = number_in(request)
        made = await self._controller.order(verb, number=number, **to_builtins(asked), operator=operator)
        return told(made, 202)


def newest(request: Request) -> int:
    """How many are asked for."""
    text = request.query_params.get("n", NEWEST)
    n = whole_number(text)
    if n is None or not 1 <= n <= MAX_NEWEST:
        raise BadRequest(f"n is {text[:100]!r}: expected 1 to {MAX_NEWEST}")
    return n


def number_in(request: Request) -> int:
    """Of a rollout or a job, in the path."""
    text: str = request.path_params["number"]
    number = whole_number(text)
    if number is None or not 1 <= number < 2**53:
        raise NotFound(f"there is no number {text[:30]}")
    return number


def whole_number(text: str) -> int | None:
    """Of at most 16 digits: Python refuses to read thousands of them, and a longer one is none of ours."""
    return int(text) if len(text) <= 16 and text.isascii() and text.isdigit() else None


async def found(answer: Awaitable[T]) -> T:
    """Who only looks at what is not there has not asked for anything that can't be done."""
    try:
        return await answer
    except NothingToDo as error:
        raise NotFound(str(error)) from None
