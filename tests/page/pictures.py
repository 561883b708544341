"""Makes the pictures of the page in docs/: a pool of the demo's model works, with some rollouts behind it and one under way.

python -m tests.page.pictures [FOLDER]    docs/ by default; takes about four minutes, and one more the first time
"""

import json
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any

from PIL import Image
from playwright.sync_api import Locator, expect
from rich.console import Console

from bench.callers import Callers
from examples.demo.__main__ import label_folders
from examples.demo.bad_versions import forgetful
from examples.shapes.train import make_model
from hotpool import Client
from hotpool.control_client import ControlClient
from hotpool.manifest import WEIGHTS, version_folder
from tests.command_line import CommandLine
from tests.pool import ROOT, eventually, short_home

from .browser import DESK, PHONE, Visit, chromium, visit
from .site import CHECKED_MS, VIEWS, free_port

DEMO = ROOT / "var" / "demo"
SHARP = 2  # pixels of a picture for each of the page
PATIENCE_S = 900.0  # for a whole rollout on a machine with other work
# Times are not judged: whoever makes pictures has other programs running.
CONFIG = """
[pool]
model = "shapes"
workers = 4
allow_oversubscription = true
[rollout]
steps = "shadow,25"
step_min_s = 5.0
bake_s = 1.0
watch_s = 0.0
[gates]
min_windows = 5
accuracy_margin = 0.05
latency_ratio = 5.0
tail_ratio = 5.0
[gateway]
port = {port}
"""


def main() -> None:
    into = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs"
    make_model(DEMO / "model", Console())
    with TemporaryDirectory() as folder, running_pool(Path(folder)) as pool:
        pool.add("v1", DEMO / "model" / "v1.pth", "the first")
        eventually(pool.is_ready, "all workers are ready")
        with calling(pool), chromium(device_scale_factor=SHARP) as browser, visit(browser, pool.url) as one:
            live_a_little(pool, Path(folder))
            take_all(one, pool, into)


@dataclass(frozen=True)
class Pool:
    hotpool: CommandLine
    control: ControlClient
    url: str

    def add(self, name: str, source: Path, reason: str, **more: Any) -> str:
        """The digest of the new version."""
        size = json.loads((DEMO / "model" / "accuracy.json").read_text())["resolution"]
        labels = (DEMO / "model" / "labels.txt").read_text().splitlines()
        made = {"arch": "resnet18", "labels": labels, "resize": size, "crop": size, **more}
        job = self.control.call("add", source=str(source), name=name, operator="Ada", reason=reason, **made)["job"]
        eventually(lambda: self.control.call("job", job=job)["state"] != "running", f"{name} is checked", PATIENCE_S)
        digest: str = self.control.call("job", job=job)["version"]["digest"]
        return digest

    def roll(self, version: str, operator: str, reason: str, *, phase: str, **more: Any) -> None:
        """To its end, in this phase."""
        self.control.call("start", version=version, operator=operator, reason=reason, **more)
        eventually(lambda: self.control.call("status")["rollout"] is None, f"the rollout to {version} ends", PATIENCE_S)
        ended = self.control.call("rollout")["rollout"]
        assert ended["phase"] == phase, f"try again, on a machine with less to do: {ended['phase']}, {ended['ending']}"

    def is_ready(self) -> bool:
        return all(worker["state"] == "ready" for worker in self.control.call("status")["workers"])


@contextmanager
def running_pool(folder: Path) -> Iterator[Pool]:
    port = free_port()
    (folder / "pool.toml").write_text(CONFIG.format(port=port))
    with short_home() as home, ControlClient(home.endpoint("control")) as control:
        hotpool = CommandLine(home, folder / "pool.toml")
        hotpool("up", "--detach")
        try:
            yield Pool(hotpool, control, f"http://127.0.0.1:{port}")
        finally:
            hotpool("down")


@contextmanager
def calling(pool: Pool) -> Iterator[None]:
    """Some callers with the model's own pictures, now more, now less busy."""
    pictures = [path.read_bytes() for path in sorted((DEMO / "model" / "pictures").iterdir())]

    def ask(n: int) -> tuple[bytes, None]:
        sleep(0.05 + 0.03 * math.sin(n / 100))
        return pictures[n * 7 % len(pictures)], None

    with (
        Client(pool.hotpool.home.endpoint("clients")) as client,
        Callers(client, 2, ask, lambda n, remembered, prediction: None),
    ):
        yield


def live_a_little(pool: Pool, folder: Path) -> None:
    """One rollout that succeeds, one that a gate takes back, one that somebody ends, and one under way."""
    labelled = str(label_folders(DEMO))
    digest = pool.add("v2", DEMO / "model" / "v2.pth", "700 pictures more")
    pool.roll("v2", "Ada", "trained on 700 pictures more", phase="succeeded", eval_folder=labelled)
    bad = forgetful(version_folder(pool.hotpool.home, digest) / WEIGHTS, folder / "v3.safetensors")
    pool.add("v3", bad, "with the pictures of March")
    pool.roll("v3", "Grace", "with the pictures of March", phase="rolled_back")
    calibrated = {"precision": "int8", "calibrate": str(DEMO / "model" / "pictures")}
    pool.add("v2-int8", DEMO / "model" / "v2.pth", "smaller and faster", **calibrated)
    pool.control.call("start", version="v2-int8", operator="Grace", reason="smaller and faster")
    eventually(lambda: phase(pool) == "analyzing", "the canary is compared", PATIENCE_S)
    pool.control.call("abort", operator="Grace", reason="not on a Friday evening")
    eventually(lambda: pool.control.call("status")["rollout"] is None, "it goes back", PATIENCE_S)
    pool.control.call("start", version="v2-int8", operator="Ada", reason="smaller and faster", eval_folder=labelled)


def phase(pool: Pool) -> Any:
    return pool.control.call("rollout")["rollout"]["phase"]


def take_all(one: Visit, pool: Pool, into: Path) -> None:
    one.page.set_viewport_size({**DESK, "height": 600})  # a picture is as high as what is on it, or as this
    main = one.show("pool")
    one.log_in((pool.hotpool.home.root / "admin-token").read_text().strip())
    expect(main.locator(".stage.now")).to_contain_text("25 %", timeout=1000 * PATIENCE_S)
    expect(main.locator(".shares .meter-said").nth(1)).to_have_text(re.compile(r"of \d\d\d$"), timeout=CHECKED_MS)
    for view in ("pool", "rollouts", "versions", "classify"):
        one.show(view)
        if view == "classify":
            classify(main)
        save(picture(one), into / f"page-{view}.png")
    one.page.emulate_media(color_scheme="dark")
    one.page.set_viewport_size(PHONE)
    save(beside_each_other([screen(one, view) for view in VIEWS]), into / "page-phone.png")


def classify(main: Locator) -> None:
    chosen = sorted((DEMO / "model" / "pictures").iterdir())[60::160]
    main.locator("input[type=file]").set_input_files(chosen)
    expect(main.locator("li.picture.answered")).to_have_count(len(chosen))


def screen(one: Visit, view: str) -> Image.Image:
    one.show(view)
    return picture(one, full_page=False)


def picture(one: Visit, full_page: bool = True) -> Image.Image:
    made = one.page.screenshot(animations="disabled", full_page=full_page)
    return Image.open(BytesIO(made)).convert("RGB")


def beside_each_other(screens: list[Image.Image]) -> Image.Image:
    """With a little of a neutral grey between them."""
    width, height = screens[0].size
    step = width + 24 * SHARP
    whole = Image.new("RGB", (step * len(screens) - 24 * SHARP, height), (128, 128, 128))
    for n, one in enumerate(screens):
        whole.paste(one, (n * step, 0))
    return whole


def save(made: Image.Image, path: Path) -> None:
    """In 256 colours: half the size, and nobody sees it."""
    made.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
