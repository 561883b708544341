"""Shell: what HTTP costs: the gateway beside bare processes, beside the client library, and beside other servers.

    python -m bench http

The load comes from wrk (Debian's package), on the same cores as everything else.
"""

import re
import shutil
import socket
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

from control.versions import list_versions
from hotpool import Client
from hotpool.home import Home
from hotpool.manifest import write_stable

from .figures import Bar, Figure, Findings, ratios
from .measure import round_trips_ms, running
from .noop import MODEL as NOOP
from .noop import noop_manifest
from .pool import add_resnet18, make_jpeg, running_pool, wait_until_ready
from .serving import ask_bare, bare_process

MODEL, WORKERS, CLIENTS = "serving", 2, 16
ROUNDS, QUICK_ROUNDS, TURN_S, PATIENCE_S = 5, 1, 2.0, 60.0
RATE = Bar("HTTP's rate / that of bare processes, int8, 16 clients", "≥", 0.88)
LATER = Bar("HTTP's p50 above the client library's, int8, one client", "≤", 1.0)  # ms
AGAINST_MOSEC = Bar("no-op, 45 KB over HTTP, 16 clients: rate / Mosec's", "≥", 0.35)
AGAINST_LITSERVE = Bar("no-op, 45 KB over HTTP, 16 clients: rate / LitServe's", "≥", 2.0)
BOUNDARY = "hotpool-boundary"
SCRIPT = """
local file = io.open("{file}", "rb"); wrk.body = file:read("*a"); file:close()
wrk.method = "POST"; wrk.headers["Content-Type"] = "{kind}"
"""


def run(quick: bool = False) -> Findings:
    if shutil.which("wrk") is None:
        raise FileNotFoundError("wrk is missing: apt-get install wrk")
    rounds = QUICK_ROUNDS if quick else ROUNDS
    figures = (*_served(rounds), *_unread(rounds))
    notes = (
        f"JPEG of 45 KB; wrk with one thread and {CLIENTS} connections; {WORKERS} workers of one thread each",
        "no-op: the picture is received and not looked into, in all servers",
    )
    return Findings(figures, notes)


def _served(rounds: int) -> list[Figure]:
    """An int8 ResNet-18: over HTTP, through the client library, and in bare processes."""
    found: dict[str, list[float]] = {name: [] for name in ("http", "bare", "http p50", "client p50")}
    with TemporaryDirectory(prefix="hp") as folder, ExitStack() as stack:
        home, picture, port = Home(Path(folder)), make_jpeg(0), free_port()
        add_resnet18(home, MODEL, "v1", 0, "int8")
        load = Load.of_bytes(home.root, picture)
        (home.root / "picture.jpg").write_bytes(picture)
        settings = f'model = "{MODEL}"\n[gateway]\nport = {port}'
        stack.enter_context(running_pool(home, settings, WORKERS, ("broker", "workers", "gateway")))
        client = stack.enter_context(Client(home.endpoint("clients")))
        (version,) = list_versions(home)
        bare = [stack.enter_context(bare_process(home, version.digest, core)) for core in range(WORKERS)]
        url = wait_for_port(port, "/predict")
        for _ in range(rounds):
            found["bare"].append(sum(len(times) for times in ask_bare(bare, TURN_S)) / TURN_S)
            found["http"].append(load.run(url, CLIENTS, TURN_S).rate)
            found["client p50"].append(
                statistics.median(round_trips_ms(lambda: client.classify(picture, timeout_s=60), 60))
            )
            found["http p50"].append(load.run(url, 1, TURN_S).p50_ms)
    http, bare_rate, http_p50, client_p50 = (tuple(values) for values in found.values())
    later = tuple(ours - theirs for ours, theirs in zip(http_p50, client_p50, strict=True))
    return [
        Figure("int8 ResNet-18 over HTTP", "rate", http, "pictures/s"),
        Figure("int8 ResNet-18 over HTTP", "/ bare processes", ratios(http, bare_rate), bar=RATE),
        Figure("int8 ResNet-18 over HTTP", "p50, one client", http_p50, "ms"),
        Figure("int8 ResNet-18 over HTTP", "p50 - client library's", later, "ms", LATER),
        Figure("client library", "p50, one client", client_p50, "ms"),
        Figure("bare processes", "rate", bare_rate, "pictures/s"),
    ]


def _unread(rounds: int) -> list[Figure]:
    """A model that does nothing: the gateway, Mosec and LitServe take turns."""
    rates: dict[str, list[float]] = {}
    with _no_ops() as sides:
        for name, ask in sides.items():
            ask()
            rates[name] = []
        for _ in range(rounds):
            for name, ask in sides.items():
                rates[name].append(ask())
    ours, mosec, litserve = (tuple(rates[name]) for name in ("hotpool", "Mosec", "LitServe"))
    return [
        Figure("no-op, hotpool", "rate", ours, "requests/s"),
        Figure("no-op, hotpool", "/ Mosec", ratios(ours, mosec), bar=AGAINST_MOSEC),
        Figure("no-op, hotpool", "/ LitServe", ratios(ours, litserve), bar=AGAINST_LITSERVE),
        Figure("no-op, Mosec", "rate", mosec, "requests/s"),
        Figure("no-op, LitServe", "rate", litserve, "requests/s"),
    ]


@contextmanager
def _no_ops() -> Iterator[dict[str, Callable[[], float]]]:
    """All stand ready; who is not asked is idle."""
    with TemporaryDirectory(prefix="hp") as folder, ExitStack() as stack:
        home, picture = Home(Path(folder)), make_jpeg(0)
        write_stable(home, NOOP, noop_manifest("v1").digest)
        ports = {name: free_port() for name in ("hotpool", "Mosec", "LitServe")}
        config = home.root / "hotpool.toml"
        config.write_text(f'[pool]\nmodel = "{NOOP}"\n[gateway]\nport = {ports["hotpool"]}\n')
        options = ["--home", folder, "--config", str(config)]
        stack.enter_context(running("broker", *options))
        for number in range(WORKERS):
            stack.enter_context(running("bench.blind", folder, f"worker-{number}"))
        stack.enter_context(running("gateway", *options))
        stack.enter_context(running("bench.rival_mosec", "--port", str(ports["Mosec"]), "--address", "127.0.0.1"))
        stack.enter_context(running("bench.rival_litserve", str(ports["LitServe"])))
        wait_until_ready(home, WORKERS)
        bytes_, form = Load.of_bytes(home.root, picture), Load.of_form(home.root, picture)
        loads = {"hotpool": ("/predict", bytes_), "Mosec": ("/inference", bytes_), "LitServe": ("/predict", form)}
        urls = {name: wait_for_port(ports[name], path) for name, (path, _) in loads.items()}

        def side(name: str) -> Callable[[], float]:
            return lambda: loads[name][1].run(urls[name], CLIENTS, TURN_S).rate

        yield {name: side(name) for name in loads}


@dataclass(frozen=True, slots=True)
class Answered:
    """rate: requests per second."""

    rate: float
    p50_ms: float


@dataclass(frozen=True, slots=True)
class Load:
    """script: for wrk, what it posts."""

    script: Path

    @classmethod
    def of_bytes(cls, folder: Path, picture: bytes) -> "Load":
        return cls._write(folder / "bytes", picture, "image/jpeg")

    @classmethod
    def of_form(cls, folder: Path, picture: bytes) -> "Load":
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n'
        head += "Content-Type: image/jpeg\r\n\r\n"
        body = head.encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()
        return cls._write(folder / "form", body, f"multipart/form-data; boundary={BOUNDARY}")

    @classmethod
    def _write(cls, path: Path, body: bytes, kind: str) -> "Load":
        path.write_bytes(body)
        script = path.with_suffix(".lua")
        script.write_text(SCRIPT.format(file=path, kind=kind))
        return cls(script)

    def run(self, url: str, clients: int, seconds: float) -> Answered:
        """Raises RuntimeError: not every request was answered with 2xx."""
        command: Sequence[str] = (
            "wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "30s", "--latency", "-s", str(self.script), url
        )  # fmt: skip
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if "Non-2xx" in said or "Socket errors" in said:
            raise RuntimeError(f"{url}: not every request was answered:\n{said}")
        return Answered(float(_after("Requests/sec:", said)), _milliseconds(_after("50%", said)))


def _after(word: str, said: str) -> str:
    found = re.search(rf"^\s*{word}\s+(\S+)", said, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk did not say {word!r}:\n{said}")
    return found[1]


def _milliseconds(text: str) -> float:
    """Of `812.00us`, `7.31ms` or `1.02s`."""
    for unit, factor in (("us", 1e-3), ("ms", 1.0), ("s", 1e3)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    raise ValueError(f"{text!r} is no time of wrk's")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for_port(port: int, path: str) -> str:
    """The URL, once somebody listens."""
    deadline = monotonic() + PATIENCE_S
    while monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            sleep(0.05)
        else:
            return f"http://127.0.0.1:{port}{path}"
    raise TimeoutError(f"nobody listens on port {port} after {PATIENCE_S:g} s")
