"""Shell: what pictures cost from the bytes of a file to the input of a network: the fast path beside torchvision's transforms.

    python -m bench pictures

One thread. Then whether both paths name the same class for varied pictures, with the demo's model, trained first if need be.

Each side has processes of its own, as in a server, and several, because a process's luck with addresses decides whether
malloc gives memory back and gets it anew for each picture: the reference then takes 14 ms for 1280 x 960 instead of 10, with
2,700 page faults.
"""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

import io
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from torchvision import transforms
from torchvision.models import ResNet, resnet18

from examples.shapes.pictures import LABELS
from examples.shapes.train import Settings, make_model
from hotpool.manifest import Preprocessing
from workers.pictures import decode
from workers.preprocess import Preprocessor

from .drawn import jpeg, photo, varied
from .figures import Bar, Figure, Findings, ratios
from .machine import usable_cores
from .measure import asked

LEAST_AGREEMENT = 0.995
SEED = 1
MAX_BYTES = MAX_PIXELS = 100_000_000
MODEL_FOLDER = Path("var/demo/model")
N_PICTURES, ROUNDS, PAIRS = 1000, 2, 4
PART = 20  # pictures that are classified together
MODULE = "bench.pictures"
FAST, REFERENCE = "hotpool", "torchvision's transforms"

PREPROCESSING = Preprocessing()
PREPROCESSOR = Preprocessor(PREPROCESSING)
ROW = np.empty((PREPROCESSING.crop, PREPROCESSING.crop, 3), np.float32)
STEPS = transforms.Compose(
    [
        transforms.Resize(PREPROCESSING.resize),
        transforms.CenterCrop(PREPROCESSING.crop),
        transforms.ToTensor(),
        transforms.Normalize(PREPROCESSING.mean, PREPROCESSING.std),
    ]
)


@dataclass(frozen=True, slots=True)
class Case:
    """A JPEG. repeats: calls for one figure; most: what the fast path may take of the reference's time."""

    width: int
    height: int
    quality: int
    repeats: int
    most: float

    @property
    def name(self) -> str:
        return f"{self.width} x {self.height}"

    @cache  # noqa: B019  there are three of them, for as long as the process
    def draw(self) -> bytes:
        return jpeg(photo(self.width, self.height, SEED), self.quality)


# About 45 KB, 290 KB and 2.9 MB.
CASES = (Case(500, 375, 93, 8, 0.80), Case(1280, 960, 92, 3, 0.40), Case(4032, 3024, 95, 1, 0.27))
Times = dict[str, list[float]]  # milliseconds, of each side


def run(quick: bool = False) -> Findings:
    torch.set_num_threads(1)
    figures: list[Figure] = []
    notes: list[str] = []
    n_rounds, n_pairs = (2, 1) if quick else (ROUNDS, PAIRS)
    for case, times in time_cases(n_rounds, n_pairs).items():
        figures += describe(case, times)
        notes.append(note_of(case))
    same, note = compare_answers(100 if quick else N_PICTURES)
    return Findings((*figures, same), (*notes, note))


def time_cases(n_rounds: int, n_pairs: int) -> dict[Case, Times]:
    """Both paths on each picture, in turn."""
    times: dict[Case, Times] = {case: {FAST: [], REFERENCE: []} for case in CASES}
    with TemporaryDirectory(prefix="hp") as folder:
        for case in CASES:
            (Path(folder) / case.name).write_bytes(case.draw())
        for _ in range(n_pairs):
            with asked(MODULE, FAST, folder) as fast, asked(MODULE, REFERENCE, folder) as reference:
                for case in CASES:
                    for number in range(n_rounds + 1):
                        for side, process in ((FAST, fast), (REFERENCE, reference)):
                            took_ms = float(process.ask(str(CASES.index(case))))
                            times[case][side] += [took_ms] if number else []  # the first is warm-up
    return times


def describe(case: Case, times: Times) -> list[Figure]:
    fast_ms, reference_ms = tuple(times[FAST]), tuple(times[REFERENCE])
    bar = Bar(f"fast path / torchvision's transforms, {case.name}", "≤", case.most)
    return [
        Figure(FAST, case.name, fast_ms, "ms"),
        Figure(FAST, f"{case.name} / reference", ratios(fast_ms, reference_ms), bar=bar),
        Figure(REFERENCE, case.name, reference_ms, "ms"),
    ]


def note_of(case: Case) -> str:
    """How large its file is, and how the values differ that both paths give."""
    data = case.draw()
    values = np.abs(by_fast(data) - by_reference(data))
    differ = f"values differ by {values.max():.2g} at most, by {values.mean():.2g} on average"
    return f"{case.name}: {len(data) / 1e3:,.0f} KB; {differ}"


def by_reference(data: bytes) -> NDArray[np.float32]:
    with Image.open(io.BytesIO(data)) as image:
        array: NDArray[np.float32] = STEPS(image.convert("RGB")).permute(1, 2, 0).numpy()
    return array


def by_fast(data: bytes) -> NDArray[np.float32]:
    PREPROCESSOR.write(decode(data, MAX_BYTES, MAX_PIXELS, PREPROCESSOR.least_side), ROW)
    return ROW


def serve_side(side: str, folder: Path) -> None:
    """The process of one side: milliseconds of one picture, for each line with the number of a case."""
    torch.set_num_threads(1)
    way = by_fast if side == FAST else by_reference
    for line in sys.stdin:
        case = CASES[int(line)]
        data = (folder / case.name).read_bytes()
        begin = perf_counter()
        for _ in range(case.repeats):
            way(data)
        print((perf_counter() - begin) * 1e3 / case.repeats, flush=True)


def compare_answers(n: int) -> tuple[Figure, str]:
    """The share of n varied pictures that get the same class by both paths, and which don't. Not timed, so by all cores."""
    make_model(MODEL_FOLDER, Console(stderr=True))
    spawn, parts = multiprocessing.get_context("spawn"), [range(n)[i : i + PART] for i in range(0, n, PART)]
    with ProcessPoolExecutor(
        len(usable_cores()), mp_context=spawn, initializer=torch.set_num_threads, initargs=(1,)
    ) as processes:
        differ = [kind for part in processes.map(classify, parts) for kind, fast, exact in part if fast != exact]
    bar = Bar("same class by the fast path and by torchvision's transforms", "≥", LEAST_AGREEMENT)
    note = f"{n} varied pictures, the demo's model; another class for {', '.join(differ) or 'none'}"
    return Figure(FAST, "same class", (1 - len(differ) / n,), bar=bar), note


def classify(part: range) -> list[tuple[str, int, int]]:
    """What each of these varied pictures is, and its class by the fast and by the reference path."""
    kinds, files = zip(*(varied(i, SEED) for i in part), strict=True)
    classes = []
    for preprocessor in paths():
        pictures = [decode(data, MAX_BYTES, MAX_PIXELS, preprocessor.least_side) for data in files]
        with torch.inference_mode():
            classes.append(model()(torch.cat([preprocessor.input(picture) for picture in pictures])).argmax(1).tolist())
    return list(zip(kinds, *classes, strict=True))


@cache
def paths() -> tuple[Preprocessor, Preprocessor]:
    side = Settings().resolution
    preprocessing = Preprocessing(resize=side, crop=side)
    return Preprocessor(preprocessing, "fast"), Preprocessor(preprocessing, "exact")


@cache
def model() -> ResNet:
    """The demo's second version."""
    network = resnet18(num_classes=len(LABELS))
    network.load_state_dict(torch.load(MODEL_FOLDER / "v2.pth", weights_only=True))
    return network.eval()


if __name__ == "__main__":
    serve_side(sys.argv[1], Path(sys.argv[2]))
