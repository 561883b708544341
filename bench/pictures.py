"""Shell: what pictures cost from the bytes of a file to the input of a network: the fast path beside torchvision's transforms.

    python -m bench pictures

One thread. Then whether both paths name the same class for varied pictures, with the demo's model, trained first if need be.
"""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

import io
from dataclasses import dataclass
from pathlib import Path

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
from .figures import Bar, Figure, Findings, ratios
from .measure import in_turn

LEAST_AGREEMENT = 0.995
SEED = 1
MAX_BYTES = MAX_PIXELS = 100_000_000
MODEL_FOLDER = Path("var/demo/model")
BATCH = 50
N_PICTURES, ROUNDS = 1000, 15
FAST, REFERENCE = "hotpool", "torchvision's transforms"


@dataclass(frozen=True, slots=True)
class Case:
    """A JPEG. repeats: calls for one figure; most: what the fast path may take of the reference's time."""

    width: int
    height: int
    quality: int
    repeats: int
    most: float


# About 45 KB, 290 KB and 2.9 MB.
CASES = (Case(500, 375, 93, 8, 0.80), Case(1280, 960, 92, 3, 0.40), Case(4032, 3024, 95, 1, 0.27))


def run(quick: bool = False) -> Findings:
    torch.set_num_threads(1)
    figures: list[Figure] = []
    notes: list[str] = []
    for case in CASES:
        made, note = time_case(case, 2 if quick else ROUNDS)
        figures += made
        notes.append(note)
    same, note = compare_answers(100 if quick else N_PICTURES)
    return Findings((*figures, same), (*notes, note))


def time_case(case: Case, n_rounds: int) -> tuple[list[Figure], str]:
    """Both paths on one picture, in turn; and how their values differ."""
    data = jpeg(photo(case.width, case.height, SEED), case.quality)
    preprocessing = Preprocessing()
    fast, row = Preprocessor(preprocessing), np.empty((preprocessing.crop, preprocessing.crop, 3), np.float32)
    steps = transforms.Compose(
        [
            transforms.Resize(preprocessing.resize),
            transforms.CenterCrop(preprocessing.crop),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )

    def by_reference() -> torch.Tensor:
        with Image.open(io.BytesIO(data)) as image:
            tensor: torch.Tensor = steps(image.convert("RGB"))
        return tensor

    def by_fast() -> None:
        fast.write(decode(data, MAX_BYTES, MAX_PIXELS, fast.least_side), row)

    reference_ms, fast_ms = in_turn([by_reference, by_fast], n_rounds, case.repeats)
    difference = np.abs(row - by_reference().permute(1, 2, 0).numpy())
    name = f"{case.width} x {case.height}"
    bar = Bar(f"fast path / torchvision's transforms, {name}", "≤", case.most)
    figures = [
        Figure(FAST, name, fast_ms, "ms"),
        Figure(FAST, f"{name} / reference", ratios(fast_ms, reference_ms), bar=bar),
        Figure(REFERENCE, name, reference_ms, "ms"),
    ]
    differ = f"values differ by {difference.max():.2g} at most, by {difference.mean():.2g} on average"
    return figures, f"{name}: {len(data) / 1e3:,.0f} KB; {differ}"


def compare_answers(n: int) -> tuple[Figure, str]:
    """The share of n varied pictures that get the same class by both paths, and which don't."""
    make_model(MODEL_FOLDER, Console(stderr=True))
    model = resnet18(num_classes=len(LABELS))
    model.load_state_dict(torch.load(MODEL_FOLDER / "v2.pth", weights_only=True))
    model.eval()
    side = Settings().resolution
    ways: tuple[Preprocess, ...] = ("fast", "exact")
    sides = [Preprocessor(Preprocessing(resize=side, crop=side), way) for way in ways]
    kinds, inputs = [], [[], []]  # type: tuple[list[str], list[list[torch.Tensor]]]
    for kind, data in varied(n, SEED):
        kinds.append(kind)
        for preprocessor, made in zip(sides, inputs, strict=True):
            made.append(preprocessor.input(decode(data, MAX_BYTES, MAX_PIXELS, preprocessor.least_side)))
    with torch.inference_mode():
        classes = [torch.cat([model(part).argmax(1) for part in torch.cat(made).split(BATCH)]) for made in inputs]
    differ = [kinds[i] for i in torch.nonzero(classes[0] != classes[1]).flatten().tolist()]
    bar = Bar("same class by the fast path and by torchvision's transforms", "≥", LEAST_AGREEMENT)
    note = f"{n} varied pictures, the demo's model; another class for {', '.join(differ) or 'none'}"
    return Figure(FAST, "same class", (1 - len(differ) / n,), bar=bar), note
