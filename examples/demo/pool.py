"""Shell: the pool of the demo, driven through the command line as a user would."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotpool.admin import Admin
from hotpool.home import Home
from hotpool.locks import holder
from hotpool.states import WorkerState

ROOT = Path(__file__).parent.parent.parent
MODEL = "shapes"
# A demo can't watch each step for minutes.
QUICK = """[rollout]
bake_s = 1.0
steps = "shadow,50"
step_min_s = 2.0
step_max_s = 90.0
[gates]
min_windows = 5
"""


@dataclass(frozen=True)
class Result:
    """Of one command: what it printed and its exit code."""

    exit_code: int
    output: str
    errors: str

    def json(self) -> Any:
        return json.loads(self.output)


class DemoPool:
    """`hotpool --home HOME --config CONFIG ...`"""

    def __init__(self, folder: Path, n_workers: int) -> None:
        self.home = Home((folder / "home").absolute())
        self.config = folder / "hotpool.toml"
        self.n_workers = n_workers
        # Two workers even where a machine grants fewer cores: the demo must run there too.
        pool = f'[pool]\nmodel = "{MODEL}"\nworkers = {n_workers}\nallow_oversubscription = true\n'
        self.config.write_text(f"[gateway]\nenabled = false\n{pool}{QUICK}")

    def hotpool(self, *arguments: str, may_fail: bool = False) -> Result:
        """Runs one command to its end."""
        command = [sys.executable, "-m", "control.cli", "--home", str(self.home.root), "--config", str(self.config)]
        done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode and not may_fail:
            raise RuntimeError(
                f"hotpool {' '.join(arguments)} ended with {done.returncode}: {done.stderr or done.stdout}"
            )
        return Result(done.returncode, done.stdout, done.stderr)

    def kill_worker(self) -> str:
        """SIGKILL to the process of the worker that has the most to do. Returns its name."""
        with Admin(self.home.endpoint("admin")) as admin:
            ready = [worker for worker in admin.report().workers if worker.state is WorkerState.READY]
            busiest = max(ready, key=lambda worker: worker.in_flight)
        os.kill(busiest.pid, signal.SIGKILL)
        return busiest.worker

    def kill_broker(self) -> None:
        pid = holder(self.home.lock("broker"))
        if not pid:
            raise RuntimeError("the broker is not running")
        os.kill(pid, signal.SIGKILL)
