"""Shell: what every route needs: the pool's home, its configuration, and connections to broker and controller."""

from dataclasses import dataclass
from functools import partial

import msgspec

from hotpool import AsyncClient
from hotpool.admin import Admin
from hotpool.config import Config
from hotpool.control_client import ControlClient
from hotpool.errors import ControllerUnreachable
from hotpool.home import Home
from hotpool.locks import holder
from hotpool.messages import Family, Report

from .fresh import Fresh
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
    control: ControlClient
    admin: Admin
    broker: Fresh[Report]
    rollout_metrics: Fresh[list[Family]]
    store: Store
    http: HttpMetrics

    def close(self) -> None:
        """When the event loop has ended. The client was closed in it."""
        self.broker.close()
        self.rollout_metrics.close()
        self.admin.close()
        self.control.close()


def connect(home: Home, config: Config) -> Backend:
    control, admin = ControlClient(home.endpoint("control")), Admin(home.endpoint("admin"))
    return Backend(
        home,
        config,
        AsyncClient(home.endpoint("clients")),
        control,
        admin,
        Fresh(partial(admin.report, LOOK_TIMEOUT_S), "hotpool-report"),
        Fresh(partial(_rollout_metrics, home, control), "hotpool-rollouts"),
        Store(home),
        HttpMetrics(),
    )


def _rollout_metrics(home: Home, control: ControlClient) -> list[Family]:
    """Raises ControllerUnreachable, at once when none runs."""
    if holder(home.lock("control")) is None:
        raise ControllerUnreachable("no controller is running; start it with: hotpool up")
    return msgspec.convert(control.call("metrics", timeout_s=LOOK_TIMEOUT_S), list[Family], strict=False)
