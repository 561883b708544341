"""Shell: what a forward pass takes on one thread: hotpool's engines beside torch eager, ONNX Runtime and OpenVINO.

    python -m bench engines

One ResNet-18 for all, with random weights; the same inputs; taking turns on one core.
"""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

import gc
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import safetensors.torch
import torch
import torchvision.models
from PIL import Image

from bench import rivals
from bench.figures import Bar, Figure, Findings, ratios
from bench.machine import pin_to_one_core
from bench.pool import write_pictures
from bench.rivals import FloatArray, Forward, Prepare
from hotpool.manifest import WEIGHTS, Manifest, Precision, Preprocessing
from workers.calibration import Wish
from workers.engine import Engine, map_tensors
from workers.engine import make_engine as make_served
from workers.preprocess import Preprocessor
from workers.scratch import build

ARCH, CROP = "resnet18", 224
EAGER, LAST = "torch eager fp32", "torch eager fp32, channels_last"
FP32, INT8 = "hotpool fp32", "hotpool int8"
ORT, VINO, VINO_INT8 = "ONNX Runtime fp32", "OpenVINO fp32", "OpenVINO int8"
SIDES = (EAGER, LAST, FP32, ORT, VINO, INT8, VINO_INT8)
BARS = {(FP32, EAGER): 0.70, (FP32, ORT): 1.10, (INT8, EAGER): 0.20, (INT8, VINO_INT8): 1.20}  # at batch 1
# Batch size -> rounds, timed runs of each side in a round: a minute together.
ROUNDS = {1: (14, 5), 8: (4, 2)}
QUICK = {1: (2, 2), 8: (1, 1)}
N_CALIBRATION, N_HELD_OUT, N_PICTURES = 128, 64, 64
# Sums in another order differ by 1e-5 at most on logits of this size; int8 was seen at 0.988 (OpenVINO).
LARGEST_FP32_DIFFERENCE, LEAST_COSINE = 1e-3, 0.95


@dataclass(frozen=True, slots=True)
class Agreement:
    """With torch eager, of one side over the held-out inputs."""

    largest_difference: float
    cosine: float
    top1: float


def run(quick: bool = False) -> Findings:
    torch.set_num_threads(1)
    notes = [f"one thread, {pin_to_one_core()}; {ARCH}, 1000 classes, random weights, inputs of 3 x {CROP} x {CROP}"]
    calibration, held_out = make_inputs(N_CALIBRATION, seed=1), make_inputs(8 if quick else N_HELD_OUT, seed=2)
    network = make_network(calibration[:64])
    with TemporaryDirectory(prefix="hp") as folder:
        sides, missing = make_sides(network, calibration[:8] if quick else calibration, Path(folder))
        agreements = {name: compare(name, prepare, sides[EAGER], held_out) for name, prepare in sides.items()}
        gc.freeze()  # as in a worker: looking through all that was ever imported is no part of a forward pass
        times = {
            n: take_turns({name: prepare(held_out[:n]) for name, prepare in sides.items()}, *rounds)
            for n, rounds in (QUICK if quick else ROUNDS).items()
        }
    notes += [
        "rival: ONNX Runtime for fp32, OpenVINO for int8",
        "agreement: with torch eager, on logits less their mean",
    ]
    return Findings((*time_figures(times), *agreement_figures(agreements)), (*notes, *missing))


def make_inputs(n: int, seed: int) -> FloatArray:
    """(n, 3, 224, 224), normalised: blotches of colour, coarse or fine, under more or less noise."""
    random = np.random.default_rng(seed)
    pictures = np.empty((n, 3, CROP, CROP), np.uint8)
    for picture in pictures:
        blotches, noise = int(random.integers(2, 12)), int(random.integers(1, 60))
        coarse = Image.fromarray(random.integers(0, 256, (blotches, blotches, 3), np.uint8))
        smooth = np.asarray(coarse.resize((CROP, CROP), Image.Resampling.BICUBIC), np.int16)
        noisy = smooth + random.integers(-noise, noise + 1, smooth.shape, np.int16)
        picture[:] = np.clip(noisy, 0, 255).astype(np.uint8).transpose(2, 0, 1)
    return np.ascontiguousarray(Preprocessor(Preprocessing()).normalise(torch.from_numpy(pictures)).numpy())


def make_network(inputs: FloatArray) -> torch.nn.Module:
    """torchvision's own random weights; batch norms that have seen these inputs, without which the signal dies on its way
    through the layers, and a head that gives different inputs different classes."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(ARCH, weights=None)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
    with torch.no_grad():
        for batch in torch.from_numpy(inputs).split(16):
            network.train()(batch)
        network.eval().requires_grad_(False)
        network.fc.weight *= 10  # logits of an ordinary size
        network.fc.bias -= network(torch.from_numpy(inputs)).mean(0)
    made: torch.nn.Module = network
    return made


def make_sides(network: torch.nn.Module, calibration: FloatArray, folder: Path) -> tuple[dict[str, Prepare], list[str]]:
    """Those that can be made here, and why others can't."""
    onnx = cache(lambda: rivals.write_onnx(network, calibration[:1]))
    makers: dict[str, Callable[[], Prepare]] = {
        EAGER: lambda: rivals.eager(network, torch.contiguous_format),
        LAST: lambda: rivals.eager(network, torch.channels_last),
        FP32: lambda: prepare_hotpool(make_engine(network, "fp32", folder)),
        ORT: lambda: rivals.onnx_runtime(onnx()),
        VINO: lambda: rivals.openvino_fp32(onnx()),
        INT8: lambda: prepare_hotpool(make_engine(network, "int8", folder)),
        VINO_INT8: lambda: rivals.openvino_int8(onnx(), calibration),
    }
    sides, missing = {}, []
    for name in SIDES:
        try:
            sides[name] = makers[name]()
        except ModuleNotFoundError as error:
            missing.append(f"{name}: {error.name} is not installed (pip install -r requirements-bench.txt)")
    return sides, missing


def make_engine(network: torch.nn.Module, precision: Precision, folder: Path) -> Engine:
    """What a worker gets that loads a version of this precision."""
    source, version = folder / f"{precision}.safetensors", folder / precision
    safetensors.torch.save_file(network.state_dict(), source)
    version.mkdir()
    pictures = write_pictures(folder / "pictures", N_PICTURES)
    content = build(str(source), version, arch=ARCH, wish=Wish(precision, pictures, min_agreement=0.0))
    provenance = {
        "model": "bench",
        "name": precision,
        "source": source.name,
        "added_by": "bench",
        "added_ts": datetime.now(UTC),
    }
    return make_served(map_tensors(version / WEIGHTS), Manifest.model_validate({**content, **provenance}))


def prepare_hotpool(engine: Engine) -> Prepare:
    def prepare(batch: FloatArray) -> Forward:
        tensor = torch.from_numpy(batch).contiguous(memory_format=torch.channels_last)  # as a worker lays pictures out
        return lambda: engine(tensor).numpy()

    return prepare


def compare(name: str, prepare: Prepare, reference: Prepare, inputs: FloatArray) -> Agreement:
    """Raises ValueError: this side computes something else; its times would mean nothing."""
    expected, got = reference(inputs)(), prepare(inputs)()
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(got, axis=1)
    agreement = Agreement(
        float(np.abs(expected - got).max()),
        float(np.median((expected * got).sum(axis=1) / lengths)),
        float((expected.argmax(axis=1) == got.argmax(axis=1)).mean()),
    )
    is_same = agreement.largest_difference <= LARGEST_FP32_DIFFERENCE or "int8" in name
    if not is_same or not agreement.cosine >= LEAST_COSINE:
        raise ValueError(f"{name} does not compute what torch eager does: {agreement}")
    return agreement


def take_turns(forwards: Mapping[str, Forward], n_rounds: int, n_runs: int) -> dict[str, tuple[float, ...]]:
    """Milliseconds of each side's forward pass: the median of its runs in each round."""
    names = list(forwards)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(n_rounds):
        first = number % len(names)  # so that nobody always runs after the same other
        for name in (*names[first:], *names[:first]):
            forwards[name]()  # not timed: the caches are the other side's
            times[name].append(statistics.median(time_ms(forwards[name]) for _ in range(n_runs)))
    return {name: tuple(values) for name, values in times.items()}


def time_ms(forward: Forward) -> float:
    begin = perf_counter()
    forward()
    return (perf_counter() - begin) * 1e3


def time_figures(times: Mapping[int, Mapping[str, tuple[float, ...]]]) -> list[Figure]:
    """times: by batch size and side. Sides without any are there too, as not measured."""
    figures = []
    for n, of in times.items():
        for side in SIDES:
            values = of.get(side, ())
            figures.append(Figure(side, f"batch {n}", tuple(ms / n for ms in values), "ms an image"))
            for column, other in others(side).items():
                limit = BARS.get((side, other)) if n == 1 else None
                bar = Bar(f"{side} / {other}, one thread, batch {n}", "≤", limit) if limit else None
                figures.append(Figure(side, f"batch {n} / {column}", ratios(values, of.get(other, ())), bar=bar))
    return figures


def others(side: str) -> dict[str, str]:
    """Column -> whom this side is held against there."""
    eager = {} if side == EAGER else {"eager": EAGER}
    return eager | {FP32: {"rival": ORT}, INT8: {"rival": VINO_INT8}}.get(side, {})


def agreement_figures(agreements: Mapping[str, Agreement]) -> list[Figure]:
    return [
        Figure(side, name, (value,))
        for side, agreement in agreements.items()
        for name, value in (
            ("largest difference", agreement.largest_difference),
            ("cosine", agreement.cosine),
            ("same top-1", agreement.top1),
        )
    ]
