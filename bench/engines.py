"""Shell: what a forward pass takes on one thread: hotpool's engines beside torch eager, ONNX Runtime and OpenVINO.

    python -m bench engines

One ResNet-18 for all, with random weights; the same inputs. Each side has a process of its own, as in a server; they take turns
on one core.
"""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision
import gc
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import safetensors.torch
import torch
import torchvision.models
from msgspec import convert, json
from PIL import Image

from bench import rivals
from bench.figures import Bar, Figure, Findings, ratios
from bench.machine import pin_to_one_core
from bench.measure import Asked, asked
from bench.pool import write_pictures
from bench.rivals import FloatArray, Forward, Prepare
from hotpool.manifest import MANIFEST, WEIGHTS, Manifest, Precision, Preprocessing, manifest_json
from workers import operators
from workers.calibration import Wish
from workers.engine import Engine, make_engine, map_tensors
from workers.preprocess import Preprocessor
from workers.scratch import build

ARCH, CROP = "resnet18", 224
EAGER, LAST = "torch eager fp32", "torch eager fp32, channels_last"
FP32, INT8 = "hotpool fp32", "hotpool int8"
ORT, VINO, VINO_INT8 = "ONNX Runtime fp32", "OpenVINO fp32", "OpenVINO int8"
SIDES = (EAGER, LAST, FP32, ORT, VINO, INT8, VINO_INT8)
BARS = {(FP32, EAGER): 0.70, (FP32, ORT): 1.10, (INT8, EAGER): 0.20, (INT8, VINO_INT8): 1.20}  # at batch 1
# Batch size -> rounds, timed runs of each side in a round.
ROUNDS = {1: (8, 5), 8: (2, 1)}
QUICK = {1: (2, 2), 8: (1, 1)}
N_CALIBRATION, N_HELD_OUT, N_PICTURES = 64, 16, 64
NETWORK, ONNX, QUANTISED = "network.safetensors", "network.onnx", "network.xml"
PICTURES, HELD_OUT, LOGITS = "pictures", "held-out.npy", "logits"
WITHOUT_VNNI = "no VNNI here: int8 takes three instructions for one of its (docs/performance.md, Where machines differ)"
# What a side needs that may be missing.
PACKAGES = {ORT: ("onnx", "onnxruntime"), VINO: ("onnx", "openvino"), VINO_INT8: ("onnx", "openvino", "nncf")}
# Sums in another order differ by 1e-5 at most on logits of this size; int8 was seen at 0.988 (OpenVINO).
LARGEST_FP32_DIFFERENCE, LEAST_COSINE = 1e-3, 0.95


@dataclass(frozen=True, slots=True)
class Agreement:
    """With torch eager, of one side over the held-out inputs."""

    largest_difference: float
    cosine: float
    top1: float


def run(quick: bool = False) -> Findings:
    lacking = {side: packages for side in SIDES if (packages := missing_packages(side))}
    with TemporaryDirectory(prefix="hp") as name, ExitStack() as stack:
        folder, sides = Path(name), [side for side in SIDES if side not in lacking]
        write_work(folder, sides, *((8, 8) if quick else (N_CALIBRATION, N_HELD_OUT)))
        processes = {side: stack.enter_context(asked("bench.engines", side, str(folder))) for side in sides}
        for process in processes.values():  # they make themselves ready at the same time
            process.hear()
        pinned = pin_to_one_core()
        times = {n: take_turns(processes, n, *rounds) for n, rounds in (QUICK if quick else ROUNDS).items()}
        logits = {side: np.load(process.ask(LOGITS)) for side, process in processes.items()}
        agreements = {side: compare(side, logits[EAGER], got) for side, got in logits.items()}
    notes = [
        f"one thread, {pinned}; {ARCH}, 1000 classes, random weights, inputs of 3 x {CROP} x {CROP}",
        "each side in a process of its own, which has loaded and computed and nothing else, as in a server",
        "rival: ONNX Runtime for fp32, OpenVINO for int8",
        "agreement: with torch eager, on logits less their mean",
        *[WITHOUT_VNNI] * operators.cuts_sums(),
        *(
            f"{side}: not installed: {', '.join(packages)} (requirements-bench.txt)"
            for side, packages in lacking.items()
        ),
    ]
    return Findings((*time_figures(times), *agreement_figures(agreements)), tuple(notes))


def missing_packages(side: str) -> list[str]:
    return [package for package in PACKAGES.get(side, ()) if find_spec(package) is None]


def write_work(folder: Path, sides: Sequence[str], n_calibration: int, n_held_out: int) -> None:
    """What these sides load, and what they compute with."""
    calibration, held_out = make_inputs(n_calibration, seed=1), make_inputs(n_held_out, seed=2)
    np.save(folder / HELD_OUT, held_out)
    network = make_network(calibration)
    safetensors.torch.save_file(network.state_dict(), folder / NETWORK)
    write_pictures(folder / PICTURES, N_PICTURES)
    for precision in ("fp32", "int8"):
        write_version(precision, folder)
    if {ORT, VINO, VINO_INT8} & set(sides):
        rivals.write_onnx(network, calibration[:1], folder / ONNX)
    if VINO_INT8 in sides:
        rivals.write_int8(folder / ONNX, calibration, folder / QUANTISED)


def serve_side(side: str, folder: Path) -> None:
    """The process of one side. When it is ready it writes an empty line. Then it answers each batch size and number of runs by
    the median of their milliseconds, and the question for its logits of the held-out inputs by the file that has them."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # others' engines print too
    torch.set_num_threads(1)
    pin_to_one_core()
    prepare, held_out = load_side(side, folder), np.load(folder / HELD_OUT)
    forward = cache(lambda n: prepare(held_out[:n]))
    for n in ROUNDS:
        forward(n)()
    gc.freeze()  # as in a worker: looking through all that was ever imported is no part of a forward pass
    print(file=answers, flush=True)
    for line in map(str.strip, sys.stdin):
        print(
            write_logits(prepare, held_out, folder / side) if line == LOGITS else time_runs(forward, line),
            file=answers,
            flush=True,
        )


def write_logits(prepare: Prepare, inputs: FloatArray, stem: Path) -> Path:
    """Last of all: it is not timed, and leaves a heap that no server has."""
    file = stem.with_suffix(".npy")
    np.save(file, prepare(inputs)())
    return file


def time_runs(forward: Callable[[int], Forward], line: str) -> float:
    n, n_runs = map(int, line.split())
    forward(n)()  # not timed: the caches are another side's
    return statistics.median(time_ms(forward(n)) for _ in range(n_runs))


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


def write_version(precision: Precision, folder: Path) -> None:
    """What `hotpool versions add` stores."""
    version = folder / precision
    version.mkdir()
    content = build(
        str(folder / NETWORK), version, arch=ARCH, wish=Wish(precision, folder / PICTURES, min_agreement=0.0)
    )
    provenance = {
        "model": "bench",
        "name": precision,
        "source": NETWORK,
        "added_by": "bench",
        "added_ts": datetime.now(UTC),
    }
    (version / MANIFEST).write_bytes(manifest_json(convert({**content, **provenance}, Manifest)))


def load_side(side: str, folder: Path) -> Prepare:
    loaders: dict[str, Callable[[], Prepare]] = {
        EAGER: lambda: rivals.eager(read_network(folder / NETWORK), torch.contiguous_format),
        LAST: lambda: rivals.eager(read_network(folder / NETWORK), torch.channels_last),
        FP32: lambda: prepare_hotpool(load_engine(folder / "fp32")),
        ORT: lambda: rivals.onnx_runtime(folder / ONNX),
        VINO: lambda: rivals.openvino_fp32(folder / ONNX),
        INT8: lambda: prepare_hotpool(load_engine(folder / "int8")),
        VINO_INT8: lambda: rivals.openvino_int8(folder / QUANTISED),
    }
    return loaders[side]()


def read_network(file: Path) -> torch.nn.Module:
    network: torch.nn.Module = torchvision.models.get_model(ARCH, weights=None)
    network.load_state_dict(safetensors.torch.load_file(file))
    return network.eval().requires_grad_(False)


def load_engine(version: Path) -> Engine:
    """As in a worker."""
    return make_engine(map_tensors(version / WEIGHTS), json.decode((version / MANIFEST).read_bytes(), type=Manifest))


def prepare_hotpool(engine: Engine) -> Prepare:
    def prepare(batch: FloatArray) -> Forward:
        tensor = torch.from_numpy(batch).contiguous(memory_format=torch.channels_last)  # as a worker lays pictures out
        return lambda: engine(tensor).numpy()

    return prepare


def compare(side: str, expected: FloatArray, got: FloatArray) -> Agreement:
    """Raises ValueError: this side computes something else; its times would mean nothing."""
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(got, axis=1)
    agreement = Agreement(
        float(np.abs(expected - got).max()),
        float(np.median((expected * got).sum(axis=1) / lengths)),
        float((expected.argmax(axis=1) == got.argmax(axis=1)).mean()),
    )
    is_same = agreement.largest_difference <= LARGEST_FP32_DIFFERENCE or "int8" in side
    if not is_same or not agreement.cosine >= LEAST_COSINE:
        raise ValueError(f"{side} does not compute what torch eager does: {agreement}")
    return agreement


def take_turns(processes: Mapping[str, Asked], n: int, n_rounds: int, n_runs: int) -> dict[str, tuple[float, ...]]:
    """Milliseconds of each side's forward pass at batch size n: the median of its runs in each round."""
    sides = list(processes)
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(n_rounds):
        first = number % len(sides)  # so that nobody always runs after the same other
        for side in (*sides[first:], *sides[:first]):
            times[side].append(float(processes[side].ask(f"{n} {n_runs}")))
    return {side: tuple(values) for side, values in times.items()}


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


if __name__ == "__main__":
    serve_side(sys.argv[1], Path(sys.argv[2]))
