"""Shell: a pool for benchmarks: services as `hotpool up` starts them, and ResNet-18s with seeded weights to serve."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from time import monotonic, sleep

import numpy as np
import psutil
from msgspec.structs import asdict
from PIL import Image

from control import orders
from control.journal import Journal
from control.services import module_command
from control.settings import Settings
from hotpool.admin import Admin
from hotpool.config import Config
from hotpool.errors import BrokerUnreachable
from hotpool.home import Home
from hotpool.messages import Report
from hotpool.states import Phase, Strategy, WorkerState

ROOT = Path(__file__).parent.parent
MODEL = "resnet18"
MADE = "HOTPOOL_BENCH_MADE"  # environment: a folder of homes by what is in them, for the benchmarks after this one
PATIENCE_S, ROLLOUT_PATIENCE_S = 60.0, 120.0
N_CALIBRATION = 24
BAKE_S = 0.5  # a longer one would only fill the time of a rollout with requests that notice nothing
# In a process of its own: torch's threads and memory are no part of what is measured.
_SAVE = """
import sys, hotpool.torchvision_ops, torch
from torchvision.models import resnet18
torch.manual_seed(int(sys.argv[1]))
torch.save(resnet18().state_dict(), sys.argv[2])
"""

STOP_S = 15.0  # a supervisor lets its workers finish what they hold


@contextmanager
def running_pool(
    home: Home,
    n_workers: int,
    modules: Sequence[str] = ("broker", "workers"),
    *,
    model: str = MODEL,
    settings: str = "",
    own_sessions: bool = True,
) -> Iterator[dict[str, int]]:
    """The process id of each service; when the block begins all workers are ready, when it ends all are stopped.

    modules: in the order of their start; settings: further sections; own_sessions: as `hotpool up` starts them.
    """
    config = home.root / "hotpool.toml"
    config.write_text(f'[pool]\nmodel = "{model}"\nworkers = {n_workers}\nallow_oversubscription = true\n{settings}\n')
    options = ["--home", str(home.root), "--config", str(config)]
    with ExitStack() as stack:
        log = stack.enter_context((home.root / "services.log").open("ab"))
        pids = {}
        for module in modules:
            process = subprocess.Popen(
                module_command(module, options), cwd=ROOT, stdin=subprocess.DEVNULL, stderr=log,
                start_new_session=own_sessions,
            )  # fmt: skip
            stack.callback(_stop, process)
            pids[module] = process.pid
        wait_until_ready(home, n_workers)
        yield pids


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait(STOP_S)


def wait_until_ready(home: Home, n_workers: int) -> Report:
    """The broker's report once so many workers are ready."""
    deadline = monotonic() + PATIENCE_S
    with Admin(home.endpoint("admin")) as admin:
        while monotonic() < deadline:
            try:
                report = admin.report(timeout_s=1.0)
            except BrokerUnreachable:
                continue
            if sum(worker.state is WorkerState.READY for worker in report.workers) == n_workers:
                return report
            sleep(0.02)
    raise TimeoutError(
        f"not all {n_workers} workers became ready within {PATIENCE_S:g} s; see {home.root}/services.log"
    )


def worker_pids(report: Report) -> dict[str, int]:
    return {worker.worker: worker.pid for worker in report.workers}


@contextmanager
def homes(precisions: Iterable[str], n: int = 1) -> Iterator[dict[str, Home]]:
    """A new home for each precision with n versions in it, all filled at the same time."""
    with ExitStack() as stack:
        filled = {one: Home(Path(stack.enter_context(TemporaryDirectory(prefix="hp")))) for one in precisions}
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda one: add_versions(filled[one], one, n), filled))
        yield filled


def add_versions(home: Home, precision: str, n: int = 1) -> None:
    """v1, v2, ... of a ResNet-18 with seeded random weights; v1 is stable. The home must be new."""
    made = Path(os.environ[MADE]) / f"{precision}-{n}" if MADE in os.environ else None
    if made and made.exists():
        shutil.copytree(made, home.root, dirs_exist_ok=True)
        return
    if n > 1:
        add_versions(home, precision, n - 1)
    add_version(home, n, precision)
    if made:
        made.parent.mkdir(exist_ok=True)
        part = mkdtemp(dir=made.parent)  # whoever is ended in the middle leaves nothing that looks whole
        shutil.copytree(home.root, part, dirs_exist_ok=True)
        Path(part).rename(made)


def add_version(home: Home, number: int, precision: str) -> None:
    """v`number`, through the command line, as a user would. int8 is calibrated by few pictures: the weights are random, and
    drawing and comparing 464 of them took ten seconds."""
    home.root.mkdir(parents=True, exist_ok=True)
    weights, options = home.root / f"v{number}.pth", ["--precision", precision]
    subprocess.run([sys.executable, "-c", _SAVE, str(number), str(weights)], cwd=ROOT, check=True)
    if precision == "int8":
        pictures = write_pictures(home.root / "pictures", N_CALIBRATION)
        options += ["--calibrate", str(pictures), "--min-agreement", "0"]
    command = module_command("control.cli", ["--home", str(home.root), "versions", "add", str(weights)])
    subprocess.run(
        [*command, "--model", MODEL, "--name", f"v{number}", *options], cwd=ROOT, check=True, capture_output=True
    )
    weights.unlink()


def roll_out(home: Home, version: str, strategy: Strategy) -> Phase:
    """As `hotpool rollout start` orders it; how it ended."""
    settings = Settings(**asdict(Config().rollout) | {"bake_s": BAKE_S, "strategy": strategy, "steps": "none"})
    with Admin(home.endpoint("admin")) as admin, Journal(home.database) as journal:
        workers = admin.report().workers
        orders.start(journal, model=MODEL, version=version, workers=workers, settings=settings, operator="bench")
        deadline = monotonic() + ROLLOUT_PATIENCE_S
        while monotonic() < deadline:
            rollout = orders.read(journal).last(MODEL)
            if rollout is not None and rollout.is_over:
                return rollout.phase
            sleep(0.05)
    raise TimeoutError(
        f"the rollout to {version} did not end within {ROLLOUT_PATIENCE_S:g} s; see {home.root}/services.log"
    )


def write_pictures(folder: Path, n: int) -> Path:
    """The folder, with other pictures than benchmarks ask for: to calibrate int8 by."""
    folder.mkdir(exist_ok=True)
    for seed in range(n):
        (folder / f"{seed}.jpg").write_bytes(make_jpeg(1000 + seed))
    return folder


def make_jpeg(seed: int, width: int = 500, height: int = 375) -> bytes:
    """A picture of about 45 KB: soft blotches under fine noise."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height))
    noise = random.integers(-12, 13, (height, width, 1), dtype=np.int16)
    picture = np.clip(np.asarray(coarse, np.int16) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "jpeg", quality=80)
    return buffer.getvalue()


def private_bytes(pid: int) -> int:
    """Unique set size: what ending the process would give back."""
    return int(psutil.Process(pid).memory_full_info().uss)
