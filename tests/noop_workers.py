"""Worker processes without torch, for tests of everything around the model.

    python -m tests.noop_workers --home DIR [--workers N] [--broker-gone-s S]     a supervisor with such workers
    python -m tests.noop_workers CONTROL_FD LIFELINE_FD SOCKET                    its template (the supervisor starts it)

A version is its digest: digests that begin with `bad` can't be loaded, those that begin with `bug` end the process, and the
load of those that begin with `slow` lasts until there is a file `go`. While there is a file `wrong-PID`, that process answers
wrongly. Logits are (sum, number of rows, 0); a row that begins
with one of the values below does what its name says.
"""

import argparse
import os
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from hotpool.config import Config, Pool
from hotpool.errors import BadVersion
from hotpool.home import Home
from hotpool.logs import log_to_stderr
from workers.orders import Settings
from workers.pinning import Plan
from workers.supervisor import Supervisor
from workers.template import main as template_main
from workers.worker import serve

FAIL, HANG, CRASH, BUG = -1.0, -2.0, -3.0, -4.0
ARRIVED = "computing"  # written to the home by a row that hangs, so that a test knows


class NoopVersion:
    side, least_side = 1, None

    def __init__(self, home: Home, digest: str) -> None:
        self.manifest = SimpleNamespace(
            model="default", name=f"v{digest[:1]}", digest=digest, labels=("sum", "rows", "zero")
        )
        self.load_s, self.verify_s = 0.001, 0.002
        self._home = home

    def picture(self, picture, row):
        row[...] = np.asarray(picture.image)[:1, :1]

    def check(self, rows):
        pass

    def logits(self, rows):
        for value in rows[:, 0, 0, 0]:
            self._misbehave(float(value))
        n = len(rows)
        wrong = 5.0 * (self._home.root / f"wrong-{os.getpid()}").exists()
        sums = rows.sum(axis=(1, 2, 3)) + np.float32(wrong)
        return np.stack([sums, np.full(n, n, np.float32), np.zeros(n, np.float32)], axis=1)

    def _misbehave(self, value: float) -> None:
        if value == FAIL:
            raise RuntimeError("this row fails")
        if value == CRASH:
            os._exit(9)
        if value == BUG:
            raise AttributeError("a bug in the engine")
        if value == HANG:
            (self._home.root / ARRIVED).touch()
            time.sleep(60)


def load_noop(home, digest, *, on_state):
    if digest.startswith("slow"):
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        (home.root / "nice").write_text(str(nice))
    on_state("loading")
    if digest.startswith("slow"):
        while not (home.root / "go").exists():
            time.sleep(0.001)
    if digest.startswith("huge"):
        raise MemoryError
    if digest.startswith("bug"):
        raise AttributeError("a bug in the loading of versions")
    if digest.startswith("bad"):
        raise BadVersion("tensor fc.weight has 3 of 10 values that are NaN or infinite")
    on_state("verifying")
    return NoopVersion(home, digest)


def serve_noop(settings: Settings, lifeline: int, broker_gone_s: float = 60.0) -> int:
    changed = {name: getattr(settings, name) for name in settings.__struct_fields__} | {"broker_gone_s": broker_gone_s}
    return serve(Settings(**changed), load_noop, lifeline)


def supervise(home: Path, n_workers: int) -> None:
    log_to_stderr()
    cores = sorted(os.sched_getaffinity(0))
    plan = Plan(tuple((cores[i % len(cores)],) for i in range(n_workers)), threads=1)
    Supervisor(Home(home), Config(pool=Pool(max_batch=4)), plan, template="tests.noop_workers").run()


def main() -> None:
    if sys.argv[1].isdigit():
        gone_s = float(os.environ.get("NOOP_BROKER_GONE_S", "60"))
        template_main(lambda: partial(serve_noop, broker_gone_s=gone_s))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    supervise(arguments.home, arguments.workers)


if __name__ == "__main__":
    main()
