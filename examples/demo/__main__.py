"""Shell: `python -m examples.demo`: plays the main job and reports; exit code 0 only if every claim held."""

import argparse
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from msgspec.structs import asdict
from rich.console import Console

from bench.callers import Callers, History
from control.journal import Journal
from control.recorder import report_path
from control.registry import add
from control.versions import find_version, prepare
from examples.shapes.train import UnexpectedAccuracy, make_model
from hotpool import Client, Prediction
from hotpool.config import Config
from hotpool.manifest import WEIGHTS, Manifest, version_folder

from .bad_versions import flip_a_bit, forgetful, retrained, swap_classes
from .expected import expected_classes
from .observer import Observer
from .pool import MODEL, DemoPool, Result
from .report import Report, RolloutReport, save, show

N_WORKERS = 2
N_CALLERS = 4
BETWEEN = 150  # answers between two scenes, so that each is seen under load
OPERATOR = "demo"

Ask = Callable[[int], tuple[Any, Any]]
Check = Callable[[int, Any, Prediction], str | None]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description="The main job, end to end.")
    parser.add_argument("--out", type=Path, default=Path("var/demo"), help="folder for all of it (default: var/demo)")
    out = parser.parse_args().out
    console, begin = Console(highlight=False), monotonic()
    try:
        make_model(out / "model", console)
    except UnexpectedAccuracy as error:
        console.print(f"[red]{error}")
        return 1
    shutil.rmtree(out / "home", ignore_errors=True)
    pool = DemoPool(out, N_WORKERS)
    try:
        report = play(pool, out / "model", console)
    finally:
        with console.status("shutting down"):
            pool.hotpool("down", may_fail=True)
    report.seconds = round(monotonic() - begin, 1)
    save(report, out / "report.json")
    show(report, console)
    console.print(f"The same as JSON: {out / 'report.json'}")
    return 0 if report.passed else 1


def play(pool: DemoPool, model: Path, console: Console) -> Report:
    accuracy = json.loads((model / "accuracy.json").read_text())
    report = Report(N_WORKERS, N_CALLERS, {name: accuracy[name] for name in ("v1", "v2")})
    pictures = sorted((model / "pictures").iterdir())[::5]  # every fifth: all classes, JPEG and PNG
    with console.status("adding v1 and v2: every tensor is checked"):
        versions = {name: add_version(pool, model, name) for name in ("v1", "v2")}
    console.print("added v1 and v2")
    with console.status("starting the pool"):
        pool.hotpool("up", "--detach")
    console.print(f"the pool is up: {N_WORKERS} workers on v1")
    with console.status("computing what each version answers to each picture, without the pool"):
        expected = {name: expected_classes(pool.home, version.digest, pictures) for name, version in versions.items()}
    ask, check = questions(pictures, expected)
    begin = monotonic()
    with (
        Observer(pool.home.endpoint("admin"), N_WORKERS) as observer,
        Client(pool.home.endpoint("clients")) as client,
        Callers(client, N_CALLERS, ask, check) as callers,
    ):
        scenes(pool, callers, observer, report, console)
    report.requests_per_s = callers.history.answered / (monotonic() - begin)
    count(report, callers.history, observer)
    report.stable_at_the_end = stable_name(pool)
    return report


def scenes(pool: DemoPool, load: Callers, observer: Observer, report: Report, console: Console) -> None:
    """What happens to the pool while the callers go on asking."""
    load.wait_for(BETWEEN)
    with console.status("killing a worker (SIGKILL)"), observer.fault():
        report.injected.append(pool.kill_worker())
    console.print("killed a worker; it is back")
    load.wait_for(BETWEEN)

    labelled = label_folders(pool.home.root.parent)
    report.rollouts.append(roll(pool, "v2", "trained longer", console, "--eval", str(labelled)))
    load.wait_for(BETWEEN)

    with console.status("killing the broker (SIGKILL)"), observer.fault():
        pool.kill_broker()
    report.injected.append("the broker")
    console.print("killed the broker; all workers are back")
    load.wait_for(BETWEEN)

    with console.status("adding v3, then one bit of its weights flips on the disk"):
        flip_a_bit(version_folder(pool.home, add_retrained(pool, "v3").digest))
    report.rollouts.append(roll(pool, "v3", "corrupted on the disk", console))
    with console.status("adding v4, whose outputs are wrong"):
        add_wrong(pool, "v4")
    report.rollouts.append(roll(pool, "v4", "built wrong: classes swapped", console))
    with console.status("adding v5, which is whole and has forgotten a class"):
        add_forgetful(pool, "v5")
    report.rollouts.append(roll(pool, "v5", "whole, but a class is forgotten", console))
    load.wait_for(BETWEEN)


def add_version(pool: DemoPool, model: Path, name: str) -> Manifest:
    """`hotpool versions add`, as a user does it."""
    resolution = str(json.loads((model / "accuracy.json").read_text())["resolution"])
    pool.hotpool(
        "versions", "add", str(model / f"{name}.pth"), "--name", name, "--labels", str(model / "labels.txt"),
        "--resize", resolution, "--crop", resolution,
    )  # fmt: skip
    return find_version(pool.home, MODEL, name)


def add_retrained(pool: DemoPool, name: str) -> Manifest:
    stable = find_version(pool.home, MODEL, "v2")
    source = retrained_from(pool, stable, name)
    options = ("--labels", str(labels_file(pool)), *size_options(stable))
    pool.hotpool("versions", "add", str(source), "--name", name, *options)
    return find_version(pool.home, MODEL, name)


def add_wrong(pool: DemoPool, name: str) -> None:
    """Not through the command line, which would build it right."""
    stable = find_version(pool.home, MODEL, "v2")
    source = retrained_from(pool, stable, name)
    prepared = prepare(
        pool.home, str(source), model=MODEL, name=name, operator=OPERATOR, labels=labels_file(pool),
        preprocessing=asdict(stable.preprocessing), memory_mb=Config().rollout.preflight_memory_mb,
    )  # fmt: skip
    with Journal(pool.home.database) as journal:
        add(journal, swap_classes(prepared), operator=OPERATOR, reason="the demo's wrong version")


def add_forgetful(pool: DemoPool, name: str) -> None:
    stable = find_version(pool.home, MODEL, "v2")
    source = forgetful(
        version_folder(pool.home, stable.digest) / WEIGHTS, pool.home.root.parent / f"{name}.safetensors"
    )
    options = ("--labels", str(labels_file(pool)), *size_options(stable))
    pool.hotpool("versions", "add", str(source), "--name", name, *options)


def label_folders(out: Path) -> Path:
    """Some of the held-out pictures in a folder for each label, as `--eval` takes them."""
    folder = out / "labelled"
    shutil.rmtree(folder, ignore_errors=True)
    for picture in sorted((out / "model" / "pictures").iterdir())[::3]:
        label = picture.stem.rpartition("-")[0]
        (folder / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder / label)
    return folder


def retrained_from(pool: DemoPool, stable: Manifest, name: str) -> Path:
    weights = version_folder(pool.home, stable.digest) / WEIGHTS
    return retrained(weights, pool.home.root.parent / f"{name}.safetensors", seed=len(name))


def labels_file(pool: DemoPool) -> Path:
    return pool.home.root.parent / "model" / "labels.txt"


def size_options(manifest: Manifest) -> tuple[str, ...]:
    return "--resize", str(manifest.preprocessing.resize), "--crop", str(manifest.preprocessing.crop)


def roll(pool: DemoPool, version: str, what: str, console: Console, *options: str) -> RolloutReport:
    """`hotpool rollout start`, to its end."""
    with console.status(f"rolling out {version} ({what})"):
        order = ("rollout", "start", "--version", version, "--reason", what, *options, "-o", "json")
        done = pool.hotpool(*order, may_fail=True)
    found = rollout_report(pool, version, what, done)
    console.print(f"{version}: {found.outcome}{': ' + found.why if found.why else ''}")
    return found


def rollout_report(pool: DemoPool, version: str, what: str, done: Result) -> RolloutReport:
    if not done.output.strip():  # refused before it began
        return RolloutReport(version, what, "not started", done.exit_code, done.errors.strip())
    view = done.json()["rollout"]
    steps = [
        {"worker": step["worker"], **step["seconds"]} for step in view["ended_steps"] if step["outcome"] == "finished"
    ]
    page = os.path.relpath(report_path(pool.home, view["number"]))
    return RolloutReport(version, what, view["phase"], done.exit_code, view["ending"], steps, view["cause"], page)


def questions(pictures: list[Path], expected: dict[str, dict[Path, frozenset[str]]]) -> tuple[Ask, Check]:
    """What the callers ask, and what is wrong with an answer: not of a version that may serve, or not what that one gives.

    expected: for each version that may serve, the classes it may give each picture.
    """

    def ask(n: int) -> tuple[Path, Path]:
        picture = pictures[n % len(pictures)]
        return picture, picture

    def check(n: int, picture: Path, prediction: Prediction) -> str | None:
        right = expected.get(prediction.version, {}).get(picture, frozenset())
        return None if prediction.label in right else f"{prediction.version} would not say {prediction.label}"

    return ask, check


def count(report: Report, history: History, observer: Observer) -> None:
    report.sent, report.answered, report.lost = history.sent, history.answered, history.lost
    report.errors = dict(Counter(error.code for error in history.errors))
    report.wrong_version, report.answers_by_version = history.wrong, dict(history.by_version)
    report.answers_after_retry, report.slowest_answer_s = history.retried, history.slowest_s
    report.fewest_ready = observer.fewest_ready
    report.fewest_ready_in_injected_kills = observer.fewest_ready_in_faults


def stable_name(pool: DemoPool) -> str:
    versions = pool.hotpool("versions", "list", "-o", "json").json()
    return next((version["name"] for version in versions if version["use"] == "stable"), "none")


if __name__ == "__main__":
    sys.exit(main())
