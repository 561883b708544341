"""Shell: what pictures cost from the bytes of a file to the input of a network: the fast path beside torchvision's transforms.

    python -m bench.pictures [--rounds 5] [--pictures 1000]
    python -m bench.pictures --side fast|reference FILE        one side on one picture; prints a figure for each line it reads

One thread. Each side has a process of its own, as in a server, and they take turns. There are several pairs of them, because
a process's luck with addresses decides whether malloc gives memory back and gets it anew for each picture: the reference then
takes 14 ms for 1280 x 960 instead of 10, with 2,700 page faults. Then whether both paths name the same class for varied
pictures, with the demo's model, trained first if need be.
"""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

import argparse
import io
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torchvision import transforms
from torchvision.models import resnet18

from examples.shapes.pictures import LABELS
from examples.shapes.train import Settings, make_model
from hotpool.manifest import Preprocess, Preprocessing
from workers.pictures import decode
from workers.preprocess import Preprocessor

from .drawn import jpeg, photo, varied
from .measure import in_turn, machine, summary

# Width, height, JPEG quality (for about 45 KB, 290 KB and 2.9 MB), the ratio that is allowed.
CASES = ((500, 375, 93, 0.80), (1280, 960, 92, 0.40), (4032, 3024, 95, 0.27))
LEAST_AGREEMENT = 0.995
SEED = 1
MAX_BYTES = MAX_PIXELS = 100_000_000
MODEL_FOLDER = Path("var/demo/model")
BATCH = 50
PAIRS = 3

PREPROCESSING = Preprocessing()
FAST = Preprocessor(PREPROCESSING)
ROW = np.empty((PREPROCESSING.crop, PREPROCESSING.crop, 3), np.float32)
STEPS = transforms.Compose(
    [
        transforms.Resize(PREPROCESSING.resize),
        transforms.CenterCrop(PREPROCESSING.crop),
        transforms.ToTensor(),
        transforms.Normalize(PREPROCESSING.mean, PREPROCESSING.std),
    ]
)


def time_case(width: int, height: int, quality: int, bar: float, rounds: int) -> dict[str, Any]:
    """Both sides on a picture of this size."""
    reference_ms: list[float] = []
    fast_ms: list[float] = []
    data = jpeg(photo(width, height, SEED), quality)
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(data)
        file.flush()
        for _ in range(PAIRS):
            with _side("reference", file.name) as reference_side, _side("fast", file.name) as fast_side:
                figures = in_turn([partial(_figure, reference_side), partial(_figure, fast_side)], rounds)
            reference_ms += figures[0]
            fast_ms += figures[1]
    fast, reference = run_fast(data), run_reference(data)
    difference = np.abs(fast - reference.permute(1, 2, 0).numpy())
    return {
        "name": f"{width} x {height}",
        "bytes": len(data),
        "reference_ms": summary(reference_ms),
        "fast_ms": summary(fast_ms),
        "ratio": summary([ours / theirs for ours, theirs in zip(fast_ms, reference_ms, strict=True)]),
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "bar": bar,
    }


@contextmanager
def _side(name: str, path: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "bench.pictures", "--side", name, path]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.communicate()  # the end of its input ends it


def _figure(side: "subprocess.Popen[str]") -> float:
    assert side.stdin
    assert side.stdout
    print(file=side.stdin, flush=True)
    return float(side.stdout.readline())


def serve_side(name: str, path: Path) -> None:
    """The process of one side: milliseconds of one picture, for each line that comes."""
    torch.set_num_threads(1)
    data = path.read_bytes()
    side = run_fast if name == "fast" else run_reference
    repeats = max(1, 500_000 // len(data))
    for _ in sys.stdin:
        begin = perf_counter()
        for _ in range(repeats):
            side(data)
        print((perf_counter() - begin) * 1e3 / repeats, flush=True)


def run_reference(data: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(data)) as image:
        tensor: torch.Tensor = STEPS(image.convert("RGB"))
    return tensor


def run_fast(data: bytes) -> np.ndarray:
    FAST.write(decode(data, MAX_BYTES, MAX_PIXELS, FAST.least_side), ROW)
    return ROW


def compare_answers(n: int, console: Console) -> dict[str, Any]:
    """The share of n varied pictures that get the same class by both paths."""
    accuracy = make_model(MODEL_FOLDER, console)
    model = resnet18(num_classes=len(LABELS))
    model.load_state_dict(torch.load(MODEL_FOLDER / "v2.pth", weights_only=True))
    model.eval()
    side = Settings().resolution
    ways: tuple[Preprocess, ...] = ("fast", "exact")
    sides = [Preprocessor(Preprocessing(resize=side, crop=side), way) for way in ways]
    kinds: list[str] = []
    inputs: list[list[torch.Tensor]] = [[] for _ in sides]
    for kind, data in varied(n, SEED):
        kinds.append(kind)
        for preprocessor, made in zip(sides, inputs, strict=True):
            made.append(preprocessor.input(decode(data, MAX_BYTES, MAX_PIXELS, preprocessor.least_side)))
    with torch.inference_mode():
        classes = [torch.cat([model(part).argmax(1) for part in torch.cat(made).split(BATCH)]) for made in inputs]
    differ = [kinds[i] for i in torch.nonzero(classes[0] != classes[1]).flatten().tolist()]
    return {"n": n, "agreement": 1 - len(differ) / n, "differ": differ, "model_accuracy": accuracy["v2"],
            "kinds": dict(Counter(kind.rsplit(" ", 3)[0] for kind in kinds))}  # fmt: skip


def run(rounds: int = 5, n_pictures: int = 1000, console: Console | None = None) -> dict[str, Any]:
    """All of it. Times in milliseconds."""
    torch.set_num_threads(1)
    cases = [time_case(*case, rounds) for case in CASES]
    agreement = {**compare_answers(n_pictures, console or Console(stderr=True)), "bar": LEAST_AGREEMENT}
    return {"machine": machine(), "times": cases, "agreement": agreement}


def _in_words(value: dict[str, float]) -> str:
    return f"{value['median']:.3g} ({value['min']:.3g} to {value['max']:.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pictures", description="What pictures cost.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--side", nargs=2, metavar=("SIDE", "FILE"))
    arguments = parser.parse_args()
    if arguments.side:
        serve_side(arguments.side[0], Path(arguments.side[1]))
    else:
        _print(run(arguments.rounds, arguments.pictures))


def _print(found: dict[str, Any]) -> None:
    print(found["machine"])
    for case in found["times"]:
        print(
            f"{case['name']}, {case['bytes'] / 1e3:.0f} KB: reference {_in_words(case['reference_ms'])} ms, "
            f"fast {_in_words(case['fast_ms'])} ms, ratio {_in_words(case['ratio'])}, at most {case['bar']}; "
            f"values differ by {case['largest_difference']:.2g} at most, {case['mean_difference']:.2g} on average"
        )
    same = found["agreement"]
    print(
        f"{same['agreement']:.4f} of {same['n']} pictures get the same class by both paths, at least {same['bar']}; "
        f"not these: {', '.join(same['differ']) or 'none'}"
    )


if __name__ == "__main__":
    main()
