"""Shell: what every route needs: the pool's home, its configuration, and connections to broker and controller."""

from dataclasses import dataclass
from functools import partial

import msgspec

from hotpool import AsyncClient
from hotpool.admin import Admin
from hotpool.config import Config
from hotpool.control_client import ControlClient
from hotpool.home import Home
from hotpool.messages import Family, Report

from .auth import Guard, make_guard
from .controller import Controller
from .fresh import Fresh
from .live import Live
from .observed import HttpMetrics
from .store import Store

LOOK_TIMEOUT_S = 1.0  # broker and controller answer in milliseconds


@dataclass(frozen=True)
class Backend:
    """Connections are shared by all requests; `close` ends them.

    client: for the event loop. broker: its report. rollout_metrics: of the controller.
    """

    home: Home
    config: Config
    client: AsyncClient
    controller: Controller
    admin: Admin
    broker: Fresh[Report]
    rollout_metrics: Fresh[list[Family]]
    store: Store
    http: HttpMetrics
    guard: Guard
    live: Live

    def close(self) -> None:
        """When the event loop has ended. The client was closed in it."""
        self.broker.close()
        self.rollout_metrics.close()
        self.admin.close()
        self.controller.close()


def connect(home: Home, config: Config) -> Backend:
    """Raises ConfigError: a token file can't be used."""
    http = HttpMetrics()
    guard = make_guard(home, config.gateway.inference_token, http.refused)
    controller, admin = Controller(home, ControlClient(home.endpoint("control"))), Admin(home.endpoint("admin"))
    return Backend(
        home,
        config,
        AsyncClient(home.endpoint("clients")),
        controller,
        admin,
        Fresh(partial(admin.report, LOOK_TIMEOUT_S), "hotpool-report"),
        Fresh(partial(_rollout_metrics, controller), "hotpool-rollouts"),
        Store(home),
        http,
        guard,
        Live(home, config.pool.model, controller),
    )


def _rollout_metrics(controller: Controller) -> list[Family]:
    """Raises ControllerUnreachable, at once when none runs."""
    return msgspec.convert(controller.call("metrics", LOOK_TIMEOUT_S), list[Family], strict=False)
