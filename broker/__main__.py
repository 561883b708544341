"""Shell: `python -m broker`: arguments, configuration, lock, signals."""

import argparse
import logging
import signal
import sys
from pathlib import Path

from hotpool.config import load_config
from hotpool.environment import find_config, find_home
from hotpool.errors import HotpoolError
from hotpool.locks import hold
from hotpool.logs import log_to_stderr

from .server import Server

log = logging.getLogger("hotpool.broker")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m broker", description="The broker: spreads requests over the workers."
    )
    parser.add_argument(
        "--home", type=Path, help="folder of sockets, versions and logs (default: HOTPOOL_HOME or ./var)"
    )
    parser.add_argument("--config", type=Path, help="TOML file (default: HOTPOOL_CONFIG or ./hotpool.toml)")
    arguments = parser.parse_args()
    log_to_stderr()
    try:
        home, config = find_home(arguments.home), load_config(find_config(arguments.config))
        # A second bind on a Unix socket's path silently takes it over (pitfall 8): the lock is what keeps brokers apart.
        with hold(home.lock("broker"), "another broker (process {pid}) runs here; stop it first"):
            serve(Server(home, config))
    except HotpoolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def serve(server: Server) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.stop)
    log.info("started")
    try:
        server.run()
    finally:
        server.close()
    log.info("stopped")


if __name__ == "__main__":
    sys.exit(main())
