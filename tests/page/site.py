"""A real pool with its page: broker, workers, controller, gateway, weights. The tests share it; each looks up which version is
stable, so that their order does not matter."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any

import httpx
import numpy as np
from PIL import Image

from bench.callers import Callers
from control.journal import Journal
from control.registry import reconcile
from hotpool import Client
from hotpool.home import Home
from tests.command_line import CommandLine
from tests.pool import PATIENCE_S, eventually, short_home
from tests.small_versions import CLASSES, add_version, make_tensors, save

from .browser import Visit

CHECKED_S = 90.0  # a version is checked by a process that gives way to all others
CHECKED_MS = 1000 * CHECKED_S
VIEWS = ("classify", "pool", "rollouts", "versions")
MARKUP = "<img src=x onerror=alert(1)>"
LABELS = ("circle", "square", MARKUP, "<b>star</b>", "ring")
LABELLED = 10  # pictures
# Gates that have enough evidence within seconds; times are not judged, the machine has other work.
CONFIG = """
[pool]
workers = 2
allow_oversubscription = true
[rollout]
steps = "shadow,25"
step_min_s = 1.0
step_max_s = 300.0
bake_s = 1.0
watch_s = 0.0
[gates]
min_replies = 30
drift_min_replies = 50
latency_ratio = 50.0
tail_ratio = 50.0
collapse_margin = 0.9
accuracy_margin = 0.9
[gateway]
port = {port}
"""


@dataclass
class Site:
    """A running pool with its page."""

    hotpool: CommandLine
    url: str
    folder: Path  # of weights and pictures

    @property
    def token(self) -> str:
        return (self.hotpool.home.root / "admin-token").read_text().strip()

    def ask(self, path: str) -> Any:
        """What the page asks too: sooner answered than a command."""
        return httpx.get(f"{self.url}/api/{path}", timeout=PATIENCE_S).json()

    def order(self, path: str, **body: Any) -> None:
        answer = httpx.post(
            f"{self.url}/api/{path}", json=body, headers={"Authorization": f"Bearer {self.token}"}, timeout=PATIENCE_S
        )
        assert answer.status_code == 202, answer.text

    def stable(self) -> Any:
        return self.ask("status")["stable"]["name"]

    def is_idle(self) -> bool:
        return self.ask("status")["rollout"] is None

    def until_idle(self) -> None:
        eventually(self.is_idle, "no rollout is under way", patience_s=CHECKED_S)


@contextmanager
def running_site(folder: Path) -> Iterator[Site]:
    """folder: for weights, pictures and the configuration."""
    make_files(folder)
    port = free_port()
    (folder / "pool.toml").write_text(CONFIG.format(port=port))
    with short_home() as home:
        add_versions(home, folder)
        hotpool = CommandLine(home, folder / "pool.toml")
        said = hotpool("up", "--detach").stdout
        try:
            assert f"the Web page is at http://127.0.0.1:{port}" in said
            yield Site(hotpool, f"http://127.0.0.1:{port}", folder)
        finally:
            hotpool("down")


def add_versions(home: Home, folder: Path) -> None:
    """In this process, which has loaded torch already; uploads show the long way."""
    for name in ("v1", "v2"):
        add_version(home, folder / f"{name}.pth", name, model="default", labels=folder / "labels.txt")
    with Journal(home.database) as journal:
        reconcile(journal, home, "test")


def free_port() -> int:
    """Fixed in the configuration, so that a gateway that is started again is found where it was."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_files(folder: Path) -> None:
    """Weights of two versions that name the same classes, labels, and pictures."""
    assert len(LABELS) == CLASSES
    tensors = make_tensors(1)
    save(tensors, folder / "v1.pth")
    save({**tensors, "fc.weight": tensors["fc.weight"] * 1.001}, folder / "v2.pth")
    (folder / "labels.txt").write_text("\n".join(LABELS))
    (folder / "bad.png").write_bytes(b"this is no picture")
    (folder / "bad.pth").write_bytes(b"these are no weights")
    random = np.random.default_rng(7)
    for name in ("one.png", "two.jpg"):
        _noise(random).save(folder / name)
    for n in range(LABELLED):
        of_class = folder / "labelled" / str(n % CLASSES)
        of_class.mkdir(parents=True, exist_ok=True)
        _noise(random).save(of_class / f"{n}.png")


def _noise(random: np.random.Generator) -> Image.Image:
    return Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8))


@contextmanager
def traffic(site: Site) -> Iterator[Callers]:
    """Pictures that all differ, at a rate that leaves the pool time for more."""
    random = np.random.default_rng(11)

    def ask(n: int) -> tuple[Any, None]:
        sleep(0.01)  # paces the callers, waits for nothing
        return random.integers(0, 256, (8, 8, 3), np.uint8), None

    with (
        Client(site.hotpool.home.endpoint("clients")) as client,
        Callers(client, 2, ask, lambda n, remembered, prediction: None) as callers,
    ):
        yield callers
    assert callers.history.errors == []
    assert callers.history.lost == 0


def assert_no_markup(visit: Visit) -> None:
    """A picture that does not exist would be asked for: the policy does not forbid that."""
    assert visit.page.locator("img[src=x], main b").count() == 0
