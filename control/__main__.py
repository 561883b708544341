"""Shell: `python -m control`: arguments, configuration, lock, signals."""

import argparse
import logging
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from threading import Event

from hotpool.admin import Admin
from hotpool.config import Config, find_config, find_home, load_config
from hotpool.errors import HotpoolError
from hotpool.home import Home
from hotpool.locks import hold
from hotpool.logs import log_to_stderr

from .checks import Scratch
from .controller import NO_PROBES, Controller, Preflight
from .controller import Prober as AnyProber
from .desk_socket import open_desk
from .exits import Exit, exit_for
from .journal import Journal
from .prober import Prober
from .services import module_command

log = logging.getLogger("hotpool.control")


def main() -> int:
    """The exit code, from the same table as the CLI's."""
    parser = argparse.ArgumentParser(prog="python -m control", description="The controller: carries out rollouts.")
    parser.add_argument(
        "--home", type=Path, help="folder of sockets, versions and logs (default: HOTPOOL_HOME or ./var)"
    )
    parser.add_argument("--config", type=Path, help="TOML file (default: HOTPOOL_CONFIG or ./hotpool.toml)")
    arguments = parser.parse_args()
    log_to_stderr()
    try:
        home, config = find_home(arguments.home), load_config(find_config(arguments.config))
        # The journal's transactions and the epoch would stop a second controller too, but only once it has begun to act.
        with hold(home.lock("control"), "another controller (process {pid}) runs here; stop it first"):
            options = ["check", f"--load-memory-mb={config.pool.load_memory_mb}"]
            scratch = Scratch(home, module_command("workers.scratch", options))
            with closing(Prober(home, config.probe.interval_s)) as prober:
                serve(home, config, scratch, prober)
    except HotpoolError as error:
        print(f"error: {error}", file=sys.stderr)
        return exit_for(error)
    except sqlite3.Error as error:  # such as a full disk: what can't be written down is not done
        print(f"error: the journal can't be used: {error}; nothing is changed until it can", file=sys.stderr)
        return Exit.UNEXPECTED
    return 0


def serve(home: Home, config: Config, preflight: Preflight, prober: AnyProber = NO_PROBES) -> None:
    stopping = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with (
        Admin(home.endpoint("admin"), watch=True) as broker,
        Journal(home.database) as journal,
        open_desk(home, config, stopping),
    ):
        Controller(home, config.pool.model, journal, broker, preflight, "controller", prober).run(stopping)
    log.info("stopped")


if __name__ == "__main__":
    sys.exit(main())
