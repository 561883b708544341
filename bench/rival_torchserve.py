"""Shell: TorchServe with two workers that take the bytes of the body; `rival_work.py` says what they compute.

    python -m bench.rival_torchserve PORT

Each line of standard input is what they compute from then on: another version of the model is registered, becomes the default,
and the one before is unregistered, as its documentation has it. Wants a Java machine, version 17 or newer.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any

import psutil

from .load import free_port
from .rival_work import WORK, Work, at_once, make_work

ROOT = Path(__file__).parent.parent
NAME, WORKERS, PATIENCE_S = "classifier", 2, 60.0
# It would write a line or two for each request.
QUIET = '<Configuration><Loggers><Root level="error"/></Loggers></Configuration>'

_works: list[Work] = []


def handle(data: Sequence[Any] | None, context: Any) -> list[int]:
    """Called by its worker: once without data, when the model is to be loaded, then with a batch."""
    if data is None:
        _works[:] = [make_work((Path(context.system_properties["model_dir"]) / "work").read_text())]
        return []
    return _works[0]([bytes(one["body"]) for one in data])


class Management:
    """Of the models that it serves."""

    def __init__(self, server: "subprocess.Popen[bytes]", port: int, store: Path) -> None:
        self._server, self._port, self._store, self._n = server, port, store, 0

    def wait(self) -> None:
        """Until it answers. RuntimeError: it has ended."""
        while self._server.poll() is None:
            with suppress(OSError):
                self._ask("GET", "/models")
                return
            sleep(0.1)
        raise RuntimeError(f"TorchServe ended with exit code {self._server.returncode}; it wants Java 17 or newer")

    def deploy(self, work: str) -> None:
        self._n += 1
        self._write(work)
        workers = f"initial_workers={WORKERS}&synchronous=true&batch_size={at_once()}&max_batch_delay=1"
        self._ask("POST", f"/models?url=v{self._n}&model_name={NAME}&{workers}")
        self._ask("PUT", f"/models/{NAME}/{self._n}.0/set-default")
        if self._n > 1:
            self._ask("DELETE", f"/models/{NAME}/{self._n - 1}.0")

    def _write(self, work: str) -> None:
        """What `torch-model-archiver --archive-format no-archive` makes."""
        folder = self._store / f"v{self._n}"
        (folder / "MAR-INF").mkdir(parents=True)
        model = {"modelName": NAME, "modelVersion": f"{self._n}.0", "handler": "handler.py"}
        manifest = {"runtime": "python", "model": model, "archiverVersion": "0.12.0"}
        (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
        (folder / "handler.py").write_text(f"from {__spec__.name} import handle\n")
        (folder / "work").write_text(work)

    def _ask(self, method: str, path: str) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        connection.request(method, path)
        response = connection.getresponse()
        if response.status >= 300:
            raise RuntimeError(f"TorchServe: {method} {path}: {response.status} {response.read().decode()}")
        connection.close()


@contextmanager
def serving(port: int) -> Iterator[Management]:
    with TemporaryDirectory(prefix="ts") as name:
        folder, management = Path(name), free_port()
        addresses = {"inference": port, "management": management, "metrics": free_port()}
        lines = [f"{what}_address=http://127.0.0.1:{number}" for what, number in addresses.items()]
        lines += [f"grpc_{what}_port={free_port()}" for what in ("inference", "management")]
        (folder / "store").mkdir()
        (folder / "config.properties").write_text("\n".join(lines))
        (folder / "log4j2.xml").write_text(QUIET)
        command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground"]
        options = ["--model-store", "store", "--ts-config", "config.properties", "--log-config", "log4j2.xml"]
        options += ["--ncs", "--disable-token-auth", "--enable-model-api"]  # --ncs: no snapshots of its configuration
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": name, "TEMP": name}
        with subprocess.Popen([*command, *options], cwd=folder, env=environment, stdin=subprocess.DEVNULL) as server:
            try:
                yield Management(server, management, folder / "store")
            finally:
                for process in psutil.Process().children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        process.kill()


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with serving(int(sys.argv[1])) as management:
        management.wait()
        management.deploy(os.environ[WORK])
        for line in sys.stdin:
            management.deploy(line.strip())


if __name__ == "__main__":
    main()
