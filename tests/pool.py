"""Real processes for tests: a broker, and workers with the real serve loop around a model that does nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

from bench.noop import MODEL, noop_manifest
from hotpool import Client
from hotpool.admin import Admin
from hotpool.errors import BrokerUnreachable
from hotpool.home import Home
from hotpool.messages import Report
from hotpool.stable import write_stable
from hotpool.states import WorkerState

ROOT = Path(__file__).parent.parent
PATIENCE_S = 20.0  # for what takes milliseconds on an idle machine; only a failing test waits so long


class Pool:
    """A broker and no-op workers, each a process of its own. `kill` and `stop` send signals to exactly these."""

    def __init__(self, home: Home, config: str = "", module: str = "bench.noop") -> None:
        """module: what runs as a worker."""
        self.home, self._module = home, module
        self.config = home.root / "hotpool.toml"
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text(f'[pool]\nmodel = "{MODEL}"\n{config}')
        write_stable(home, MODEL, noop_manifest("v1").digest)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._incarnations: dict[str, int] = {}

    def start_broker(self) -> None:
        self._start("broker", "broker", "--home", str(self.home.root), "--config", str(self.config))

    def start_worker(self, name: str) -> None:
        self._incarnations[name] = self._incarnations.get(name, 0) + 1
        self._start(name, self._module, str(self.home.root), name, str(self._incarnations[name]))

    def start_supervisor(self, module: str) -> None:
        """Workers as `hotpool up` has them: whoever is lost is replaced. module: what runs as the supervisor."""
        self._start("workers", module, "--home", str(self.home.root), "--config", str(self.config))

    def start_control(self, module: str = "tests.control_process") -> None:
        """The versions of the home must be in its journal by now. module: what runs as the controller."""
        self._start("control", module, str(self.home.root))

    def end_control(self) -> None:
        """It is asked to end, does, and has had no fault that nobody expected."""
        control = self.processes["control"]
        control.terminate()
        assert control.wait(10) == 0
        assert "Traceback" not in (self.home.root / "control.log").read_text()

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        self.processes[name].send_signal(number)
        if number == signal.SIGKILL:
            self.processes[name].communicate()

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.communicate()

    def client(self) -> Client:
        return Client(self.home.endpoint("clients"))

    def report(self) -> Report:
        with Admin(self.home.endpoint("admin")) as admin:
            return admin.report(timeout_s=PATIENCE_S)

    def ready(self) -> int:
        try:
            return sum(worker.state is WorkerState.READY for worker in self.report().workers)
        except BrokerUnreachable:
            return 0

    def _start(self, name: str, *arguments: str) -> None:
        if (before := self.processes.get(name)) is not None and before.stdin is not None:
            before.stdin.close()
        log = (self.home.root / f"{name}.log").open("ab")
        with log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log
            )


def eventually(claim: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> float:
    """Waits until the claim holds; seconds that took. Fails naming `what`."""
    begin = monotonic()
    while not claim():
        assert monotonic() - begin < patience_s, f"not within {patience_s:g} s: {what}"
        sleep(0.002)
    return monotonic() - begin


@contextmanager
def short_home() -> Iterator[Home]:
    """A folder whose path is short enough for Unix sockets."""
    with TemporaryDirectory(prefix="hp", dir="/tmp" if os.path.isdir("/tmp") else None) as folder:
        yield Home(Path(folder))


@contextmanager
def running_pool(n_workers: int = 2, config: str = "", module: str = "bench.noop") -> Iterator[Pool]:
    """Who of the workers is lost is not replaced."""
    with short_home() as home:
        pool = Pool(home, config, module)
        try:
            pool.start_broker()
            for number in range(n_workers):
                pool.start_worker(f"worker-{number}")
            eventually(lambda: pool.ready() == n_workers, f"{n_workers} workers ready")
            yield pool
        finally:
            pool.stop()


@contextmanager
def supervised_pool(
    n_workers: int, module: str, fill: Callable[[Home], None], *, has_controller: bool = False
) -> Iterator[Pool]:
    """module: what runs as the supervisor. fill: puts versions into the home, one of them stable."""
    with short_home() as home:
        pool = Pool(home, f"workers = {n_workers}\nallow_oversubscription = true\n")
        fill(home)
        try:
            pool.start_broker()
            pool.start_supervisor(module)
            if has_controller:
                pool.start_control()
            eventually(lambda: pool.ready() == n_workers, f"{n_workers} workers ready", patience_s=60)
            yield pool
        finally:
            pool.stop()
