"""Shell: load over HTTP, by wrk (Debian's package): closed loops that post one picture all the time."""

import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from urllib.request import Request, urlopen

PATIENCE_S = 60.0
# What was asked last is still computed when the clients have gone: 16 pictures of 12 ms, by two workers. That is nobody's turn.
SETTLE_S = 0.2
BOUNDARY = "hotpool-boundary"
SCRIPT = """
local file = io.open("{file}", "rb"); wrk.body = file:read("*a"); file:close()
wrk.method = "POST"; wrk.headers["Content-Type"] = "{kind}"
"""


def require_wrk() -> None:
    if shutil.which("wrk") is None:
        raise FileNotFoundError("wrk is missing: make load-generator")


@dataclass(frozen=True, slots=True)
class Answered:
    """rate: requests per second."""

    rate: float
    p50_ms: float


@dataclass(frozen=True, slots=True)
class Load:
    """What is posted. script: tells wrk of it."""

    body: bytes
    kind: str
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
        return cls(body, kind, script)

    def run(self, url: str, clients: int, seconds: int) -> Answered:
        """Returns after a pause, when whoever was asked should be idle again.

        Raises RuntimeError: not every request was answered with 2xx.
        """
        command: Sequence[str] = (
            "wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s", "--latency", "-s", str(self.script), url
        )  # fmt: skip
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if "Non-2xx" in said or "Socket errors" in said:
            raise RuntimeError(f"{url}: not every request was answered:\n{said}")
        sleep(SETTLE_S)
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


def wait_until_taken(port: int) -> None:
    """Until somebody listens there."""
    deadline = monotonic() + PATIENCE_S
    while monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            sleep(0.01)
        else:
            return
    raise TimeoutError(f"nobody listens at port {port} after {PATIENCE_S:g} s")


def wait_for_answer(url: str, load: Load) -> str:
    """The URL, once a picture is answered there."""
    deadline = monotonic() + PATIENCE_S
    while monotonic() < deadline:
        try:
            urlopen(Request(url, load.body, {"Content-Type": load.kind}), timeout=10).close()
        except OSError:  # nobody listens yet, or has no model yet
            sleep(0.1)
        else:
            return url
    raise TimeoutError(f"no picture was answered at {url} within {PATIENCE_S:g} s")
