"""Shell: `python -m gateway`: arguments, configuration, sockets, signals."""

import argparse
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from hotpool.config import load_config
from hotpool.environment import find_config, find_home
from hotpool.errors import Conflict, HotpoolError
from hotpool.logs import log_to_stderr

from .app import make_app
from .backend import connect
from .connections import Connection, allow_files, protocol_for

BACKLOG = 1024
STOP_S = 8  # for what is under way; `hotpool up` kills after 10
KEEP_ALIVE_S = 60  # idle connections cost little, and a new one costs a client a round trip

log = logging.getLogger("hotpool.gateway")


def main() -> int:
    """The exit code: 0 after SIGTERM or SIGINT, 2 for a wrong configuration, 6 when the port is taken."""
    parser = argparse.ArgumentParser(prog="python -m gateway", description="HTTP and the Web page of a pool.")
    parser.add_argument(
        "--home", type=Path, help="folder of sockets, versions and logs (default: HOTPOOL_HOME or ./var)"
    )
    parser.add_argument("--config", type=Path, help="TOML file (default: HOTPOOL_CONFIG or ./hotpool.toml)")
    arguments = parser.parse_args()
    log_to_stderr()
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it tells of each step of its own
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of each byte after a form's end
    try:
        home, config = find_home(arguments.home), load_config(find_config(arguments.config))
        allow_files(config.gateway.max_connections)
        listener = _listen(config.gateway.host, config.gateway.port)
        backend = connect(home, config)
    except Conflict as error:
        print(f"error: {error}", file=sys.stderr)
        return 6
    except HotpoolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    log.info("url=%s", _url(listener))
    try:
        _serve(
            Server(_settings(make_app(backend), protocol_for(config.gateway, backend.http.refused)), backend.live.stop),
            listener,
        )
    finally:
        backend.close()
    log.info("stopped")
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """Raises Conflict: the port is taken, or the address is not of this host."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise Conflict(f"can't listen on {host}:{port}: {error.strerror}; set gateway.port to another one") from None


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Tells when it begins to wait for the answers that are under way: some would never end by themselves."""

    def __init__(self, settings: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(settings)
        self._on_stop = on_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stop()
        await super().shutdown(sockets)


def _settings(app: ASGIApp, protocol: type[Connection]) -> uvicorn.Config:
    return uvicorn.Config(
        app, loop="uvloop", http=protocol, ws="none", log_config=None, access_log=False, server_header=False,
        proxy_headers=False,  # whoever may set them could name any address as their own
        backlog=BACKLOG, timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=STOP_S,
    )  # fmt: skip


def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    """Returns after SIGTERM or SIGINT, when what was under way has been answered."""

    def stop(*_: object) -> None:
        server.should_exit = True

    # uvicorn raises the signal that ended it once more when it is done; without a handler that would end us at once.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    gc.freeze()  # what lives from here to the end need not be scanned again
    server.run([listener])


if __name__ == "__main__":
    sys.exit(main())
