"""Shell: builds or checks a version in a process of its own, with little memory, so that a hostile file hurts nothing.

    python -m workers.scratch build SOURCE FOLDER [--arch A] [--labels FILE] [--preprocessing JSON]
        [--preprocess fast|exact] [--sha256 H] [--md5 H] [--precision P] [--calibrate DIR] [--min-agreement A]
    python -m workers.scratch check FOLDER [--load-memory-mb N] [--eval DIR --stable FOLDER --pictures N]
    python -m workers.scratch evaluate FOLDER --eval DIR

Prints a line of JSON, {"ok": true, "reason": "", ...} or {"ok": false, "reason": "...", "code": "..."} (the code of an error of
ours), and exits 0 or 1. Run by control.
With `--eval` lines like {"pictures": 100} come before it: how many it has been through.
"""

import argparse
import json
import os
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import safetensors.torch
import torch
from msgspec import to_builtins
from msgspec.structs import asdict
from safetensors import SafetensorError

from hotpool.config import Pictures
from hotpool.digest import digest_bytes, digest_tensors
from hotpool.disk import describe
from hotpool.errors import BadVersion, HotpoolError, Unwritable
from hotpool.manifest import (
    GOLDEN,
    WEIGHTS,
    Precision,
    Preprocess,
    Preprocessing,
    read_manifest,
    read_preprocessing,
)

from .architecture import TRANSFORMS_INPUT
from .calibration import Wish, choose
from .engine import Engine, as_arrays, make_int8, map_tensors, reference_model
from .evaluate import Tell, compare, measure
from .golden import compute_logits, make_inputs, write_golden
from .loading import check_file, load_folder
from .operators import Way
from .preprocess import Preprocessor
from .resnet import Tensors
from .room import check_limit, ran_out
from .sources import check_hashes, find_source, fit, read_tensors, torchvision_preprocessing
from .verify import find_not_finite

DEFAULT_ARCH = "resnet18"
MAX_LABELS_BYTES = 4 * 1024 * 1024


def build(
    source: str,
    folder: Path,
    *,
    arch: str | None = None,
    labels: Path | None = None,
    preprocessing: Mapping[str, object] | None = None,
    preprocess: Preprocess = "fast",
    sha256: str | None = None,
    md5: str | None = None,
    wish: Wish = Wish(),  # noqa: B008  frozen
) -> dict[str, Any]:
    """Writes the weights and golden files of a new version into an empty folder; gives what its manifest says of them.

    `preprocessing`: fields that win over those the source knows of itself.

    Raises:
        BadVersion: what is wrong with the source, and what to do.
    """
    found = find_source(source)
    if found.arch and arch not in (None, found.arch):
        raise BadVersion(f"{source} is a {found.arch}, not a {arch}; leave --arch out")
    check_hashes(found.path, sha256, md5)
    arch = found.arch or arch or DEFAULT_ARCH
    used = _merge(arch, found.preprocessing, preprocessing or {})
    classes, tensors = fit(read_tensors(found.path), arch, used.crop)
    names = _labels(labels, classes, found.labels)
    chosen = choose(tensors, arch, classes, used, wish)
    if reason := find_not_finite(as_arrays(chosen.tensors)):
        raise BadVersion(f"in {chosen.precision}, {reason}; such a network answers nonsense: train it again")
    with _writing(folder / WEIGHTS):
        safetensors.torch.save_file(dict(chosen.tensors), folder / WEIGHTS)
    del tensors
    # From the written file: what is compared later must have come the same way.
    held = map_tensors(folder / WEIGHTS)
    _write_golden(folder / GOLDEN, _reference_engine(held, chosen.precision, arch, classes, used.crop), used)
    return {
        "arch": arch,
        "classes": classes,
        "labels": names,
        "preprocessing": to_builtins(used),
        "precision": chosen.precision,
        "agreement": to_builtins(chosen.agreement),
        "preprocess": preprocess,
        "weights_sha256": digest_bytes((folder / WEIGHTS).read_bytes()),
        "tensors_sha256": digest_tensors(as_arrays(held)),
        "golden_sha256": digest_bytes((folder / GOLDEN).read_bytes()),
    }


def check(folder: Path) -> dict[str, Any]:
    """All that is known of a stored version, compared with what its files hold now; gives the numbers.

    Raises:
        BadVersion: what differs, and what to do.
    """
    manifest = read_manifest(folder)
    check_file(folder / WEIGHTS, manifest.weights_sha256)
    loaded = load_folder(folder)
    tensors = as_arrays(map_tensors(folder / WEIGHTS))
    if reason := find_not_finite(tensors):
        raise BadVersion(f"{WEIGHTS}: {reason}; remove this version")
    return {
        "tensors": len(tensors),
        "max_difference": loaded.verdict.max_difference,
        "allowed": loaded.verdict.allowed,
        "load_s": round(loaded.load_s, 4),
        "verify_s": round(loaded.verify_s, 4),
    }


def _merge(arch: str, known: Preprocessing | None, asked: Mapping[str, object]) -> Preprocessing:
    merged = {**(asdict(known) if known else {}), **asked}
    if arch in TRANSFORMS_INPUT and not {"mean", "std"} <= merged.keys():
        theirs = torchvision_preprocessing(arch, "DEFAULT")
        raise BadVersion(
            f"a weights file of {arch} doesn't say how its inputs are normalised: give --mean and --std, both "
            f"{' '.join(map(str, theirs.mean))} if the network was made from torchvision's weights (transform_input=True), "
            f"else what it was trained with; and its size (torchvision's: --resize {theirs.resize} --crop {theirs.crop})"
        )
    return read_preprocessing(merged)


def _labels(path: Path | None, classes: int, known: tuple[str, ...] | None) -> tuple[str, ...]:
    if path is None:
        return known or tuple(str(i) for i in range(classes))
    try:
        with path.open("rb") as file:
            text = file.read(MAX_LABELS_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise BadVersion(f"{path}: labels can't be read: {error}; expected UTF-8 text, one label a line") from None
    labels = tuple(line.strip() for line in text.rstrip().splitlines())
    if "" in labels:
        raise BadVersion(f"{path}: line {labels.index('') + 1} is empty; expected one label a line")
    if len(labels) != classes:
        raise BadVersion(
            f"{path} has {len(labels)} labels, the weights have {classes} classes; one label a line is needed"
        )
    return labels


def _reference_engine(held: Tensors, precision: Precision, arch: str, classes: int, crop: int) -> Engine:
    """By public operators alone, so that the golden logits also check the faster engine that serves."""
    if precision == "int8":
        return make_int8(held, arch, classes, crop, way=Way.PLAIN)
    model = reference_model(held, arch, classes, crop)
    return torch.inference_mode()(model)


def _write_golden(path: Path, engine: Engine, preprocessing: Preprocessing) -> None:
    inputs = make_inputs(preprocessing.crop)
    logits = compute_logits(engine, Preprocessor(preprocessing), inputs)
    if reason := find_not_finite({"logits": logits}):
        raise BadVersion(f"the weights are finite, but on ordinary inputs {reason}; they are unusable")
    with _writing(path):
        write_golden(path, inputs, logits)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raises Unwritable: it is not the version that is at fault."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise Unwritable(f"{path} can't be written: {error}; {describe(path)}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """The process. Its own standard output is kept for the one line; whatever else prints goes to standard error."""
    args = _parser().parse_args(arguments)
    out = os.dup(1)
    os.dup2(2, 1)

    def say(line: dict[str, Any]) -> None:
        os.write(out, json.dumps(line).encode() + b"\n")

    torch.set_num_threads(1)
    _limit_memory(args.memory_mb)
    try:
        answer = {"ok": True, "reason": "", **_run(args, lambda pictures: say({"pictures": pictures}))}
    except HotpoolError as error:
        answer = {"ok": False, "reason": str(error), "code": error.code}
    except Exception as error:  # noqa: BLE001  the outermost level of a process that reads hostile files
        answer = {"ok": False, "reason": _explain(error, args.memory_mb)}
    say(answer)
    return 0 if answer["ok"] else 1


def _run(args: argparse.Namespace, tell: Tell) -> dict[str, Any]:
    if args.command == "check":
        if args.load_memory_mb:
            check_limit(args.folder / WEIGHTS, args.load_memory_mb)
        return check(args.folder) | (
            compare(args.eval, args.stable, args.folder, args.pictures, _limits(args), tell) if args.eval else {}
        )
    if args.command == "evaluate":
        return measure(args.eval, args.folder, _limits(args), tell)
    return build(
        args.source,
        args.folder,
        arch=args.arch,
        labels=args.labels,
        preprocessing=json.loads(args.preprocessing),
        preprocess=args.preprocess,
        sha256=args.sha256,
        md5=args.md5,
        wish=Wish(args.precision, args.calibrate, args.min_agreement),
    )


def _limits(args: argparse.Namespace) -> Pictures:
    return Pictures(max_bytes=args.max_bytes, max_pixels=args.max_pixels)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="workers.scratch", description="Builds or checks one version; run by control."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build")
    building.add_argument("source")
    building.add_argument("folder", type=Path)
    building.add_argument("--arch")
    building.add_argument("--labels", type=Path)
    building.add_argument("--preprocessing", default="{}")
    building.add_argument("--preprocess", choices=get_args(Preprocess), default="fast")
    building.add_argument("--sha256")
    building.add_argument("--md5")
    building.add_argument("--precision", choices=["fp32", "int8", "auto"], default="fp32")
    building.add_argument("--calibrate", type=Path)
    building.add_argument("--min-agreement", type=float, default=0.98)
    checking = commands.add_parser("check")
    checking.add_argument("folder", type=Path)
    checking.add_argument("--load-memory-mb", type=int)
    checking.add_argument("--eval", type=Path)
    checking.add_argument("--stable", type=Path)
    checking.add_argument("--pictures", type=int)
    evaluating = commands.add_parser("evaluate")
    evaluating.add_argument("folder", type=Path)
    evaluating.add_argument("--eval", type=Path, required=True)
    for command in (checking, evaluating):
        command.add_argument("--max-bytes", type=int, default=Pictures().max_bytes, help="of a labelled picture's file")
        command.add_argument("--max-pixels", type=int, default=Pictures().max_pixels)
    for command in (building, checking, evaluating):
        command.add_argument(
            "--memory-mb", type=int, default=8192, help="beyond what the interpreter and libraries take"
        )
    return parser


def _limit_memory(memory_mb: int) -> None:
    if sys.platform != "linux":  # macOS accepts the limit and doesn't enforce it
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory_mb * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _explain(error: Exception, memory_mb: int) -> str:
    text = str(error).partition("\n")[0]
    if ran_out(error):
        return f"it needs more than the {memory_mb} MB of memory that are allowed (rollout.preflight_memory_mb)"
    return f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    sys.exit(main())
