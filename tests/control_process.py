"""The controller as `python -m control` runs it, for pools of no-op workers: their versions have nothing to preflight.

python -m tests.control_process HOME    the configuration is HOME/hotpool.toml
"""

import sys
from pathlib import Path

from control.__main__ import serve
from control.settings import Settings
from control.view import Finding
from hotpool.config import load_config
from hotpool.home import Home
from hotpool.locks import hold
from hotpool.logs import log_to_stderr


class GoodPreflight:
    """Finds every version good at once."""

    def start(self, digest: str, settings: Settings, stable: str) -> None:
        pass

    def poll(self) -> Finding:
        return Finding(True)

    def stop(self) -> None:
        pass


def run(home: Home) -> None:
    log_to_stderr()
    with hold(home.lock("control"), "another controller (process {pid}) runs here; stop it first"):
        serve(home, load_config(home.root / "hotpool.toml"), GoodPreflight())


if __name__ == "__main__":
    run(Home(Path(sys.argv[1])))
