"""The controller as `python -m control` runs it, for pools of no-op workers: their versions have nothing to preflight.

python -m tests.control_process HOME    the configuration is HOME/hotpool.toml

It has one more verb, `held`: what is in its memory.
"""

import sys
from pathlib import Path
from typing import Any

from control import __main__ as service
from control import verbs
from control.asks import Nothing
from control.controller import Controller
from control.settings import Settings
from control.view import Finding
from hotpool.config import load_config
from hotpool.home import Home
from hotpool.locks import hold
from hotpool.logs import log_to_stderr
from tests import held


class GoodPreflight:
    """Finds every version good at once."""

    def start(self, digest: str, settings: Settings, stable: str) -> None:
        pass

    def poll(self) -> Finding:
        return Finding(True)

    def stop(self) -> None:
        pass


class OpenController(Controller):
    """Tells what it holds; the desk has only read the same journal."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        verbs.VERBS[held.VERB] = verbs.Verb(Nothing, lambda desk, asked: held.as_told(self._ledger))


def run(home: Home) -> None:
    log_to_stderr()
    service.Controller = OpenController
    with hold(home.lock("control"), "another controller (process {pid}) runs here; stop it first"):
        service.serve(home, load_config(home.root / "hotpool.toml"), GoodPreflight())


if __name__ == "__main__":
    run(Home(Path(sys.argv[1])))
