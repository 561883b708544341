"""Shell: `python -m control`: arguments, configuration, lock, signals."""

import argparse
import logging
import signal
import sys
from contextlib import closing
from pathlib import Path
from threading import Event

from hotpool.admin import Admin
from hotpool.config import Config, load_config
from hotpool.environment import find_config, find_home
from hotpool.errors import HotpoolError, Unwritable
from hotpool.home import Home
from hotpool.locks import hold
from hotpool.logs import log_to_stderr

from .checks import Scratch
from .controller import HOLD_S, NO_PROBES, Controller, Preflight
from .controller import Prober as AnyProber
from .desk_socket import open_desk
from .exits import exit_for
from .journal import Journal
from .prober import Prober
from .services import module_command
from .versions import picture_options

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
            check = ["check", f"--load-memory-mb={config.pool.load_memory_mb}", *picture_options(config.pictures)]
            scratch = Scratch(home, module_command("workers.scratch_call", [home.socket("scratch"), *check]))
            with closing(Prober(home, config.probe.interval_s)) as prober:
                serve(home, config, scratch, prober)
    except HotpoolError as error:
        print(f"error: {error}", file=sys.stderr)
        return exit_for(error)
    return 0


def serve(home: Home, config: Config, preflight: Preflight, prober: AnyProber = NO_PROBES) -> None:
    stopping = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    if journal := _open_journal(home.database, stopping):
        with (
            journal,
            Admin(home.endpoint("admin"), watch=True) as broker,
            open_desk(home, config, stopping),
        ):
            Controller(home, config.pool.model, journal, broker, preflight, "controller", prober).run(stopping)
    log.info("stopped")


def _open_journal(path: Path, stopping: Event) -> Journal | None:
    """Waits for a disk that takes it: whoever starts us again and again would give us up at last. None: we shall stop."""
    is_said = False
    while not stopping.is_set():
        try:
            return Journal(path)
        except (Unwritable, OSError) as error:
            if not is_said:
                log.warning("holding reason=%s", error)
            is_said = True
            stopping.wait(HOLD_S)
    return None


if __name__ == "__main__":
    sys.exit(main())
