"""Shell: what every route needs: the pool's home, its configuration, and connections to broker and controller."""

from dataclasses import dataclass

from hotpool import Client
from hotpool.config import Config
from hotpool.home import Home


@dataclass(frozen=True)
class Backend:
    """Connections are shared by all requests; `close` ends them."""

    home: Home
    config: Config
    client: Client

    def close(self) -> None:
        self.client.close()


def connect(home: Home, config: Config) -> Backend:
    return Backend(home, config, Client(home.endpoint("clients")))
