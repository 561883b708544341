"""Shell: what pictures cost from the bytes of a file to the input of a network: the fast path beside torchvision's transforms.

    python -m bench.pictures [--rounds 15] [--pictures 1000]

One thread. Then whether both paths name the same class for varied pictures, with the demo's model, trained first if need be.
"""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

import argparse
import io
from collections import Counter
from pathlib import Path
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

# Width, height, JPEG quality (for about 45 KB, 290 KB and 2.9 MB), calls for one figure, the ratio that is allowed.
CASES = ((500, 375, 93, 8, 0.80), (1280, 960, 92, 3, 0.40), (4032, 3024, 95, 1, 0.27))
LEAST_AGREEMENT = 0.995
SEED = 1
MAX_BYTES = MAX_PIXELS = 100_000_000
MODEL_FOLDER = Path("var/demo/model")
BATCH = 50


def time_case(width: int, height: int, quality: int, repeats: int, rounds: int) -> dict[str, Any]:
    """Both paths on one picture, in turn."""
    data = jpeg(photo(width, height, SEED), quality)
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

    reference_ms, fast_ms = in_turn([by_reference, by_fast], rounds, repeats)
    difference = np.abs(row - by_reference().permute(1, 2, 0).numpy())
    return {
        "name": f"{width} x {height}",
        "bytes": len(data),
        "reference_ms": summary(reference_ms),
        "fast_ms": summary(fast_ms),
        "ratio": summary([ours / theirs for ours, theirs in zip(fast_ms, reference_ms, strict=True)]),
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
    }


def compare_answers(n: int, console: Console) -> dict[str, Any]:
    """The share of n varied pictures that get the same class by both paths."""
    accuracy = make_model(MODEL_FOLDER, console)
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
    return {"n": n, "agreement": 1 - len(differ) / n, "differ": differ, "model_accuracy": accuracy["v2"],
            "kinds": dict(Counter(kind.rsplit(" ", 3)[0] for kind in kinds))}  # fmt: skip


def run(rounds: int = 15, n_pictures: int = 1000, console: Console | None = None) -> dict[str, Any]:
    """All of it. Times in milliseconds."""
    torch.set_num_threads(1)
    cases = []
    for width, height, quality, repeats, bar in CASES:
        cases.append({**time_case(width, height, quality, repeats, rounds), "bar": bar})
    agreement = {**compare_answers(n_pictures, console or Console(stderr=True)), "bar": LEAST_AGREEMENT}
    return {"machine": machine(), "times": cases, "agreement": agreement}


def _in_words(value: dict[str, float]) -> str:
    return f"{value['median']:.3g} ({value['min']:.3g} to {value['max']:.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pictures", description="What pictures cost.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--pictures", type=int, default=1000)
    arguments = parser.parse_args()
    found = run(arguments.rounds, arguments.pictures)
    print(found["machine"])
    for case in found["times"]:
        print(
            f"{case['name']}, {case['bytes'] / 1e3:.0f} KB: reference {_in_words(case['reference_ms'])} ms, "
            f"fast {_in_words(case['fast_ms'])} ms, ratio {_in_words(case['ratio'])}, at most {case['bar']}; "
            f"values differ by {case['largest_difference']:.2g} at most, {case['mean_difference']:.2g} on average"
        )
    found = found["agreement"]
    print(
        f"{found['agreement']:.4f} of {found['n']} pictures get the same class by both paths, at least {found['bar']}; "
        f"not these: {', '.join(found['differ']) or 'none'}"
    )


if __name__ == "__main__":
    main()
