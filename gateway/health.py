"""Shell: `/healthz`: the gateway is alive. `/readyz`: the pool would answer. `/metrics`: what all of it has counted."""

from collections.abc import Awaitable, Sequence

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from hotpool import AsyncClient
from hotpool.errors import BrokerUnreachable, HotpoolError
from hotpool.exposition import to_prometheus
from hotpool.messages import Family
from hotpool.metrics import gauge

from . import models
from .backend import Backend

TEXT = "text/plain; version=0.0.4; charset=utf-8"


def routes(backend: Backend) -> list[BaseRoute]:
    health = Health(backend)
    return [Route("/healthz", health.alive), Route("/readyz", health.ready), Route("/metrics", health.metrics)]


class Health:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def alive(self, request: Request) -> Response:
        if error := broken(self._backend.client):
            raise error
        return PlainTextResponse("ok\n")

    async def ready(self, request: Request) -> Response:
        """503 when no broker answers or no worker is ready. A rollout keeps workers ready, so it stays 200 meanwhile."""
        models.require_ready(await self._backend.broker.get(), self._backend.config.pool.model)
        return PlainTextResponse("ok\n")

    async def metrics(self, request: Request) -> Response:
        """Of broker and controller too, if they answer: without them a scrape still tells that they don't."""
        broker, of_broker = await _of(self._of_broker())
        controller, of_controller = await _of(self._backend.rollout_metrics.get())
        families = [
            *of_broker,
            *of_controller,
            *self._backend.http.families(),
            *up_families(broker, controller),
        ]
        return Response(to_prometheus(families), media_type=TEXT)

    async def _of_broker(self) -> Sequence[Family]:
        return (await self._backend.broker.get()).metrics


def broken(client: AsyncClient) -> BrokerUnreachable | None:
    """Why this process can ask nobody any more, if it can't; whoever watches over it should start it again."""
    if not client.is_closed:
        return None
    return BrokerUnreachable("the gateway's own connection to the broker has failed: start the gateway again")


def up_families(broker: bool, controller: bool) -> list[Family]:
    return [
        gauge("hotpool_broker_up", "Whether the broker answered.", [((), float(broker))]),
        gauge("hotpool_controller_up", "Whether the controller answered.", [((), float(controller))]),
    ]


async def _of(asked: Awaitable[Sequence[Family]]) -> tuple[bool, Sequence[Family]]:
    try:
        return True, await asked
    except HotpoolError:
        return False, ()
