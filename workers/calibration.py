"""Shell: int8 weights from float32 ones, by pictures: which range each activation needs, and how often the answers agree.

Run once, in the scratch process that adds a version; serving knows nothing of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from hotpool.config import Pictures
from hotpool.errors import BadVersion, HotpoolError
from hotpool.manifest import Agreement, Precision, Preprocessing

from .engine import Engine, is_resnet, make_fp32, make_int8, resnet_layout
from .fp32 import Fp32ResNet, PlainConv
from .golden import make_inputs
from .layout import INPUT, Conv, Layout
from .operators import Way, ways
from .pictures import decode, sniff
from .preprocess import Preprocessor
from .quantise import N_BINS, best_range, quantise_weight, scale_for
from .resnet import ConvOperator, Tensors, fold
from .verify import find_not_finite

# 400 pictures tell an agreement of 0.98 from one of 0.96: the standard error of a share of 0.98 of them is 0.007.
N_CALIBRATION = 64
N_HELD_OUT = 400
LEAST_PICTURES = 20
_DRAWN_SEED = 20_180_130  # another than that of the golden inputs, by which the ranges are chosen then
_AT_ONCE = 8

T = TypeVar("T")
See = Callable[[str, torch.Tensor], None]
Ranges = dict[str, tuple[float, float]]  # by activation


@dataclass(frozen=True, slots=True)
class Wish:
    """precision: `auto` is int8 if it agrees with float32 on at least `min_agreement` of the held-out pictures.

    calibrate: a folder with pictures like those that will come; without it, drawn ones are used.
    """

    precision: Literal["fp32", "int8", "auto"] = "fp32"
    calibrate: Path | None = None
    min_agreement: float = 0.98


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is stored. agreement: that of int8 with float32, where int8 was tried."""

    precision: Precision
    tensors: Tensors
    agreement: Agreement | None = None


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a network is calibrated on and compared on; no picture is in both. (n, 3, crop, crop) float32 each."""

    calibration: torch.Tensor
    held_out: torch.Tensor
    source: str


def choose(tensors: Tensors, arch: str, classes: int, preprocessing: Preprocessing, wish: Wish) -> Chosen:
    """The tensors to store, in the precision that was wished for.

    Raises:
        BadVersion: int8 was asked for, and there is none for this architecture or it agrees too rarely with float32; or there
            are too few pictures.
    """
    size = arch, classes, preprocessing.crop
    if wish.precision == "fp32" or (wish.precision == "auto" and not _may_be_int8(arch)):
        return Chosen("fp32", tensors)
    inputs = read_inputs(wish.calibrate, preprocessing)
    stored = quantise(tensors, arch, classes, preprocessing, inputs.calibration)
    agreement = measure_agreement(make_fp32(tensors, *size), make_int8(stored, *size), inputs)
    if agreement.top1 >= wish.min_agreement:
        return Chosen("int8", stored, agreement)
    if wish.precision == "auto":
        return Chosen("fp32", tensors, agreement)
    raise BadVersion(
        f"int8 names the same class as fp32 for only {agreement.top1:.3f} of {agreement.pictures} held-out pictures "
        f"({agreement.source}), at least {wish.min_agreement:g} is needed; leave --precision out, or give --calibrate a folder "
        "with pictures like those that will come"
    )


def _may_be_int8(arch: str) -> bool:
    """By public operators alone, int8 is slower than float32."""
    return is_resnet(arch) and next(ways("int8")) is not Way.PLAIN


def read_inputs(folder: Path | None, preprocessing: Preprocessing) -> Inputs:
    """Pictures spread evenly over the folder and those below it; files that can't be read as pictures are passed over.

    Raises:
        BadVersion: no such folder, or fewer than 20 pictures in it.
    """
    preprocessor = Preprocessor(preprocessing)
    if folder is None:
        crop = preprocessing.crop
        drawn = make_inputs(crop), make_inputs(crop, N_HELD_OUT, _DRAWN_SEED)
        return Inputs(preprocessor.normalise(drawn[0]), preprocessor.normalise(drawn[1]), "drawn")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and _looks_like_a_picture(path))
    pictures = [picture for path in _spread(files, N_CALIBRATION + N_HELD_OUT) for picture in _read(path, preprocessor)]
    if len(pictures) < LEAST_PICTURES:
        raise BadVersion(
            f"{folder}: {len(pictures)} pictures found, at least {LEAST_PICTURES} are needed: some to calibrate by, the others "
            "to compare int8 with fp32 on"
        )
    chosen = set(_spread(range(len(pictures)), min(N_CALIBRATION, len(pictures) // 4)))
    rest = [picture for i, picture in enumerate(pictures) if i not in chosen]
    return Inputs(torch.stack([pictures[i] for i in sorted(chosen)]), torch.stack(rest), str(folder.absolute()))


def _looks_like_a_picture(path: Path) -> bool:
    """By its first bytes, so that files of another kind beside the pictures don't take their places in the sample."""
    try:
        with path.open("rb") as file:
            sniff(file.read(16))
    except (HotpoolError, OSError):
        return False
    return True


def _read(path: Path, preprocessor: Preprocessor) -> list[torch.Tensor]:
    """One input, or none."""
    limits = Pictures()
    try:
        if path.stat().st_size > limits.max_bytes:
            return []
        picture = decode(path.read_bytes(), limits.max_bytes, limits.max_pixels, preprocessor.least_side)
        return [preprocessor.input(picture)[0]]
    except (HotpoolError, OSError):
        return []


def _spread(items: Sequence[T], n: int) -> list[T]:
    """n of them, evenly spaced, or all."""
    if len(items) <= n:
        return list(items)
    return [items[i * len(items) // n] for i in range(n)]


class Observed:
    """A `ConvOperator` that shows its outputs."""

    def __init__(self, conv: ConvOperator, name: str, see: See) -> None:
        self._conv, self._name, self._see = conv, name, see

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = self._conv(x)
        self._see(self._name, y)
        return y

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        y = self._conv.add(x, residual)
        self._see(self._name, y)
        return y


def quantise(
    tensors: Tensors, arch: str, classes: int, preprocessing: Preprocessing, calibration: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The tensors of the int8 version (see `int8.expected_int8`) of a ResNet whose float32 tensors these are.

    Activations have the whole range that was seen, or what `best_range` leaves of it: whichever, found by one half of the
    inputs, brings the logits for the other half nearer to float32's. For the same half cut ranges look better than they are.

    Raises:
        BadVersion: a batch norm makes weights that are not finite, or pictures do so with activations: it would go unseen in
            eight bits.
    """
    layout = resnet_layout(arch, classes, preprocessing.crop)
    weights = _quantise_weights(layout, tensors)

    def store(ranges: Ranges) -> dict[str, torch.Tensor]:
        return {**weights, **_scales({INPUT: _input_range(preprocessing), **ranges})}

    half, others = _observe(layout, tensors, calibration[::2]), calibration[1::2]
    expected = _compute(make_fp32(tensors, arch, classes, preprocessing.crop), others)

    def distance(ranges: Ranges) -> float:
        logits = _compute(make_int8(store(ranges), arch, classes, preprocessing.crop), others)
        return float((logits - expected).square().sum().nan_to_num(inf))

    seen = _observe(layout, tensors, calibration)
    return store(seen.cut() if distance(half.cut()) < distance(half.ends) else seen.ends)


def _quantise_weights(layout: Layout, tensors: Tensors) -> dict[str, torch.Tensor]:
    folded = {conv.name: fold(conv, tensors) for conv in layout.convs()}
    weights = {f"{name}.weight with its batch norm": weight.numpy() for name, (weight, _) in folded.items()}
    if reason := find_not_finite(weights):
        raise BadVersion(f"{reason}; such a network answers nonsense: train it again or take an earlier checkpoint")
    stored: dict[str, torch.Tensor] = {}
    for name, (weight, bias) in {**folded, "fc": (tensors["fc.weight"], tensors["fc.bias"])}.items():
        whole, weight_scale = quantise_weight(weight.numpy(), in_pairs=name in folded)  # `fc` computes in float32
        stored[f"{name}.weight"] = torch.from_numpy(whole)
        stored[f"{name}.weight_scale"] = torch.from_numpy(weight_scale)
        stored[f"{name}.bias"] = bias.clone()
    return stored


def _scales(ranges: Ranges) -> dict[str, torch.Tensor]:
    stored: dict[str, torch.Tensor] = {}
    for name, (low, high) in ranges.items():
        scale, zero_point = scale_for(low, high)
        stored[f"{name}.scale"] = torch.tensor([scale], dtype=torch.float32)
        stored[f"{name}.zero_point"] = torch.tensor([zero_point], dtype=torch.int32)
    return stored


def measure_agreement(first: Engine, second: Engine, inputs: Inputs) -> Agreement:
    """How often both name the same class for the held-out pictures."""
    batches = torch.split(inputs.held_out, _AT_ONCE)
    pairs = [(first(batch), second(batch)) for batch in batches]
    same = sum(
        int(((a.argmax(1) == b.argmax(1)) & a.isfinite().all(1)).sum()) for a, b in pairs
    )  # NaN agrees with nothing
    n = len(inputs.held_out)
    return Agreement(top1=same / n, pictures=n, source=inputs.source)


def _input_range(preprocessing: Preprocessing) -> tuple[float, float]:
    """That of any picture: pixels are 0 to 1 before they are normalised."""
    channels = list(zip(preprocessing.mean, preprocessing.std, strict=True))
    return min(-mean / std for mean, std in channels), max((1 - mean) / std for mean, std in channels)


@dataclass(frozen=True, slots=True)
class Seen:
    """Of a float32 network with some inputs. ends: least and largest value of each activation; counts: a histogram of the
    values between them, without the exact zeros."""

    ends: Ranges
    counts: dict[str, NDArray[np.int64]]

    def cut(self) -> Ranges:
        """The ends without what is large and rare, see `best_range`."""
        return {name: best_range(self.counts[name], *ends) for name, ends in self.ends.items()}


def _observe(layout: Layout, tensors: Tensors, inputs: torch.Tensor) -> Seen:
    """In two passes: the ends of each activation, then the histogram between them."""
    ends: Ranges = {}

    def see_ends(name: str, y: torch.Tensor) -> None:
        low, high = ends.get(name, (0.0, 0.0))
        ends[name] = min(low, float(y.min())), max(high, float(y.max()))

    counts = {conv.name: np.zeros(N_BINS, dtype=np.int64) for conv in layout.convs()}

    def see_counts(name: str, y: torch.Tensor) -> None:
        low, high = ends[name]
        if low < high:  # else all of it is 0
            counts[name] += torch.histc(y[y != 0], N_BINS, low, high).numpy().astype(np.int64)

    logits = _compute(_observed(layout, tensors, see_ends), inputs)
    if not (logits.isfinite().all() and np.isfinite(list(ends.values())).all()):
        raise BadVersion(
            "for the pictures to calibrate by, this network computes values that are not finite; train it again"
        )
    _compute(_observed(layout, tensors, see_counts), inputs)
    return Seen(ends, counts)


def _compute(engine: Engine, inputs: torch.Tensor) -> torch.Tensor:
    return torch.cat([engine(batch) for batch in torch.split(inputs, _AT_ONCE)])


def _observed(layout: Layout, tensors: Tensors, see: See) -> Fp32ResNet:
    def make(conv: Conv, weight: torch.Tensor, bias: torch.Tensor) -> ConvOperator:
        return Observed(PlainConv(conv, weight, bias), conv.name, see)

    return Fp32ResNet(layout, tensors, make)
