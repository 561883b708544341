"""The gateway as `python -m gateway` runs it, and the controller beside it, for a pool of tests/pool.py."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from bench.noop import MODEL, noop_manifest
from control.events import EventKind
from control.journal import Journal
from hotpool.home import Home
from hotpool.manifest import MANIFEST, WEIGHTS, manifest_json, version_folder
from tests.pool import PATIENCE_S, ROOT, Pool, eventually, running_pool

ANY_PORT = "[gateway]\nport = 0\n"  # what a pool's configuration needs


@dataclass
class Gateway:
    """A running process. url: `http://127.0.0.1:1234`."""

    process: "subprocess.Popen[bytes]"
    log: Path
    _seen: int = 0  # of the log, before this process
    url: str = field(init=False, default="")

    def wait(self) -> None:
        """Until it has said where it listens."""
        eventually(self._has_url, f"the gateway listens; it said: {self.log.read_text()[-2000:]}")

    def client(self, **options) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE_S, **options)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def _has_url(self) -> bool:
        assert self.process.poll() is None, f"the gateway ended: {self.log.read_text()[-2000:]}"
        said = self.log.read_bytes()[self._seen :].decode(errors="replace")
        _, found, rest = said.partition("url=")
        self.url = rest.partition("\n")[0] if found and "\n" in rest else ""
        return bool(self.url)


@contextmanager
def running_gateway(home: Home, config: Path, name: str = "gateway") -> Iterator[Gateway]:
    """name: of the log file, when there are several."""
    path = home.root / f"{name}.log"
    with path.open("ab") as log:
        seen = log.tell()
        command = [sys.executable, "-m", "gateway", "--home", str(home.root), "--config", str(config)]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    gateway = Gateway(process, path, seen)
    try:
        gateway.wait()
        yield gateway
    finally:
        process.kill()
        process.wait()


@contextmanager
def running_site(n_workers: int = 2, config: str = "", module: str = "bench.noop") -> Iterator[tuple[Pool, Gateway]]:
    """A pool of no-op workers with a gateway, and no controller."""
    with (
        running_pool(n_workers, config if "[gateway]" in config else ANY_PORT + config, module) as pool,
        running_gateway(pool.home, pool.config) as gateway,
    ):
        yield pool, gateway


def add_noop_versions(home: Home, *names: str) -> None:
    """As `hotpool versions add` leaves them; the first is stable. No-op workers know versions by their digest, the
    controller wants to see weights before it commits."""
    with Journal(home.database) as journal:
        for number, name in enumerate(names):
            manifest = noop_manifest(name)
            folder = version_folder(home, manifest.digest)
            folder.mkdir(parents=True)
            (folder / MANIFEST).write_bytes(manifest_json(manifest))
            (folder / WEIGHTS).write_bytes(name.encode())
            body = {"name": name, "digest": manifest.digest, "reason": ""}
            journal.append(EventKind.VERSION_ADDED, model=MODEL, operator="test", body=body)
            if number == 0:
                journal.append(EventKind.STABLE_SET, model=MODEL, operator="test", body=body)


def start_controller(pool: Pool) -> None:
    """Ends with the pool, or by `pool.kill("control")`."""
    with (pool.home.root / "control.log").open("ab") as log:
        pool.processes["control"] = subprocess.Popen(
            [sys.executable, "-m", "tests.control_process", str(pool.home.root)], cwd=ROOT,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
