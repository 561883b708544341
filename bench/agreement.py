"""Shell: how often int8 names the class that fp32 names: the demo's trained ResNet-18 on its held-out pictures.

    python -m bench agreement

The model is trained first if need be. int8 is calibrated once by pictures of the same kind, as with `hotpool versions add
--calibrate`, and once by drawn ones, as without it; none of them is a held-out picture.
"""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console

from control.versions import prepare, publish
from examples.shapes.pictures import LABELS, draw_many
from examples.shapes.train import ACCURACY, PICTURES, make_model
from hotpool.config import Pictures
from hotpool.home import Home
from hotpool.manifest import Manifest
from workers.loading import load_verified
from workers.pictures import decode

from .figures import Bar, Figure, Findings

MODEL_FOLDER = Path("var/demo/model")
FP32, GIVEN, DRAWN = "fp32", "int8, calibrated by such pictures", "int8, calibrated by drawn ones"
LEAST_AGREEMENT = 0.99
N_CALIBRATION, SEED = 464, 100  # 64 to choose ranges by, 400 to compare on; a seed that the training does not use
BATCH, MEMORY_MB = 50, 8192


def run(quick: bool = False) -> Findings:
    make_model(MODEL_FOLDER, Console(stderr=True))
    files = sorted((MODEL_FOLDER / PICTURES).iterdir())[:: 10 if quick else 1]
    right = torch.tensor([LABELS.index(file.name.split("-")[0]) for file in files])
    with TemporaryDirectory(prefix="hp") as folder:
        home = Home(Path(folder))
        such = home.root / "pictures"
        draw_into(such, N_CALIBRATION // 4 if quick else N_CALIBRATION)
        wishes = {FP32: ("fp32", None), GIVEN: ("int8", such), DRAWN: ("int8", None)}
        with ThreadPoolExecutor() as threads:  # each waits for a process that computes
            adding = {side: threads.submit(add, home, *wish) for side, wish in wishes.items()}
        versions = {side: added.result() for side, added in adding.items()}
        named = {side: classes(home, manifest, files) for side, manifest in versions.items()}
    figures = [Figure(FP32, "named rightly", (share(named[FP32], right),))]
    for side in (GIVEN, DRAWN):
        bar = Bar(f"same class as fp32, {side}", "≥", LEAST_AGREEMENT) if side == GIVEN else None
        agreement = versions[side].agreement
        assert agreement is not None
        figures += [
            Figure(side, "named rightly", (share(named[side], right),)),
            Figure(side, "same class as fp32", (share(named[side], named[FP32]),), bar=bar),
            Figure(side, "said when it was added", (agreement.top1,)),
        ]
    return Findings(tuple(figures), (f"v2 of the demo's model, {len(files)} held-out pictures",))


def draw_into(folder: Path, n: int) -> None:
    folder.mkdir()
    for i, (picture, label) in enumerate(draw_many(n, SEED)):
        picture.save(folder / f"{LABELS[label]}-{i:03d}.jpg", quality=90)


def add(home: Home, precision: str, calibrate: Path | None) -> Manifest:
    """As `hotpool versions add` does it."""
    side = json.loads((MODEL_FOLDER / ACCURACY).read_text())["resolution"]
    name = f"{precision}-{'given' if calibrate else 'drawn'}"
    made = prepare(
        home, str(MODEL_FOLDER / "v2.pth"), model="shapes", name=name, operator="bench", memory_mb=MEMORY_MB,
        preprocessing={"resize": side, "crop": side}, precision=precision, calibrate=calibrate, min_agreement=0.0,
    )  # fmt: skip
    return publish(made)


def classes(home: Home, manifest: Manifest, files: list[Path]) -> torch.Tensor:
    """What the version names each picture."""
    version, limits = load_verified(home, manifest.digest), Pictures()
    least_side = version.preprocessor.least_side
    pictures = [decode(file.read_bytes(), limits.max_bytes, limits.max_pixels, least_side) for file in files]
    inputs = torch.cat([version.preprocessor.input(picture) for picture in pictures])
    return torch.cat([version.engine(part).argmax(1) for part in inputs.split(BATCH)])


def share(some: torch.Tensor, others: torch.Tensor) -> float:
    return float((some == others).float().mean())
