"""Shell: `python -m gateway`: arguments, configuration, sockets, signals."""

import argparse
import socket
import sys
from pathlib import Path

import uvicorn

from hotpool.config import find_config, find_home, load_config
from hotpool.errors import Conflict, HotpoolError
from hotpool.logs import log_to_stderr

from .app import make_app
from .backend import connect


def main() -> int:
    """The exit code: 0 after SIGTERM or SIGINT, 2 for a wrong configuration, 6 when the port is taken."""
    parser = argparse.ArgumentParser(prog="python -m gateway", description="HTTP and the Web page of a pool.")
    parser.add_argument(
        "--home", type=Path, help="folder of sockets, versions and logs (default: HOTPOOL_HOME or ./var)"
    )
    parser.add_argument("--config", type=Path, help="TOML file (default: HOTPOOL_CONFIG or ./hotpool.toml)")
    arguments = parser.parse_args()
    log_to_stderr()
    try:
        home, config = find_home(arguments.home), load_config(find_config(arguments.config))
        listener = _listen(config.gateway.host, config.gateway.port)
    except Conflict as error:
        print(f"error: {error}", file=sys.stderr)
        return 6
    except HotpoolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    backend = connect(home, config)
    try:
        server = uvicorn.Server(uvicorn.Config(make_app(backend), log_config=None, access_log=False))
        server.run([listener])
    finally:
        backend.close()
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """Raises Conflict: the port is taken, or the address is not of this host."""
    try:
        return socket.create_server((host, port), backlog=1024)
    except OSError as error:
        raise Conflict(f"can't listen on {host}:{port}: {error.strerror}; set gateway.port to another one") from None


if __name__ == "__main__":
    sys.exit(main())
