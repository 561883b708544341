"""Shell: what computes. The engine for a version, by its architecture, its precision and what this machine can do."""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

import functools
import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torchvision.models import ResNet

from hotpool.errors import BadVersion
from hotpool.manifest import WEIGHTS, Manifest, Precision

from . import onednn
from .architecture import build_empty, expected_tensors, specs
from .fp32 import FoldedModule, Fp32ResNet, FusedConv, PlainConv
from .fp32_prepared import PreparedFp32ResNet
from .int8 import FusedInt8Conv, Int8ResNet, PlainInt8Conv, expected_int8
from .int8_prepared import PreparedInt8ResNet
from .operators import Way, cuts_sums, note_fallback, ways
from .layout import Layout
from .quantise import fits_pairs
from .resnet import Tensors, read_layout
from .verify import find_misfit


class Engine(Protocol):
    """A network with its weights, ready to compute."""

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """(n, classes) float32 logits of an (n, 3, crop, crop) float32 batch; row i belongs to batch[i]. Blocks."""


def map_tensors(weights: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, mapped and not copied, so that all processes on a host share its pages.

    Raises:
        BadVersion: the file is missing or damaged.
    """
    try:
        return safetensors.torch.load_file(weights)
    except (OSError, SafetensorError) as error:
        raise BadVersion(f"{weights.name} can't be read: {error}; remove this version and add it again") from None


def as_arrays(tensors: Tensors) -> dict[str, NDArray[Any]]:
    """Views of the same memory: what a digest is taken of."""
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def make_engine(tensors: Tensors, manifest: Manifest) -> Engine:
    """The fastest engine for these tensors that this machine has. Thread counts are those of the process.

    Raises:
        BadVersion: the tensors don't fit the architecture; names the tensor.
    """
    size = manifest.arch, manifest.classes, manifest.preprocessing.crop
    return make_int8(tensors, *size) if manifest.precision == "int8" else make_fp32(tensors, *size)


def make_fp32(tensors: Tensors, arch: str, classes: int, crop: int, *, way: Way | None = None) -> Engine:
    """way: of a ResNet; None for the fastest on this machine. Raises BadVersion, as `make_engine`."""
    model = reference_model(tensors, arch, classes, crop)
    if not isinstance(model, ResNet):
        return FoldedModule(model)
    layout = read_layout(model, crop)

    def make(way: Way) -> Engine:
        if way is Way.PREPARED:
            return PreparedFp32ResNet(layout, tensors)
        return Fp32ResNet(layout, tensors, FusedConv if way is Way.FUSED else PlainConv)

    return make(way) if way else _make_fastest("fp32", make)


def make_int8(tensors: Tensors, arch: str, classes: int, crop: int, *, way: Way | None = None) -> Engine:
    """way: None for the fastest on this machine. Raises BadVersion, as `make_engine`."""
    layout = resnet_layout(arch, classes, crop)
    if misfit := find_misfit(expected_int8(layout, classes), specs(tensors), f"{arch} in int8"):
        raise BadVersion(f"{WEIGHTS}: {misfit}")
    if off := [name for name, one in tensors.items() if name.endswith(".scale") and not 0 < float(one) < math.inf]:
        raise BadVersion(f"{WEIGHTS}: tensor {off[0]} is {float(tensors[off[0]]):g}; a scale is above 0 and finite")

    def make(way: Way) -> Engine:
        if way is Way.PREPARED:
            return PreparedInt8ResNet(layout, tensors)
        return Int8ResNet(layout, tensors, FusedInt8Conv if way is Way.FUSED else PlainInt8Conv)

    if way is None and (name := _find_cut_off(layout, tensors)):
        # An earlier hotpool stored larger weights.
        reason = f"without VNNI this CPU cuts off sums of {name}: int8 is slow until the version is added anew, by another name"
        note_fallback("int8", next(ways("int8")), reason)
        way = Way.PLAIN
    return make(way) if way else _make_fastest("int8", make)


def _find_cut_off(layout: Layout, tensors: Tensors) -> str:
    """The first weight with which int8's fast operators compute wrongly on this CPU, or empty."""
    if not cuts_sums():
        return ""
    names = (f"{conv.name}.weight" for conv in layout.convs())
    return next((name for name in names if not fits_pairs(tensors[name].numpy())), "")


# With each load of such a network it would be the same.
_note_once = functools.cache(note_fallback)


def _make_fastest(precision: Precision, make: Callable[[Way], Engine]) -> Engine:
    for way in ways(precision):
        try:
            return make(way)
        except onednn.NoKernelError as error:
            # For a convolution of this very network: for those that were tried there are kernels.
            _note_once(precision, way, str(error))
    raise AssertionError("public operators are always there")


def reference_model(tensors: Tensors, arch: str, classes: int, crop: int) -> torch.nn.Module:
    """torchvision's own module with these tensors, where they lie: what each float32 engine is compared with.

    Raises:
        BadVersion: as `make_engine`.
    """
    model = build_empty(arch, classes, crop)
    if misfit := find_misfit(expected_tensors(model), specs(tensors), arch):
        raise BadVersion(f"{WEIGHTS}: {misfit}")
    state = OrderedDict(tensors)
    # MNASNet refuses tensors that don't tell the version of its layout, and plain ones don't. What came so far fits this one.
    state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(False)


def is_resnet(arch: str) -> bool:
    """Whether there is an int8 engine for this architecture of torchvision's."""
    return isinstance(build_empty(arch, 1, 224), ResNet)


def resnet_layout(arch: str, classes: int, crop: int) -> Layout:
    """Raises BadVersion: the architecture is no ResNet, so there is no int8 engine for it."""
    model = build_empty(arch, classes, crop)
    if not isinstance(model, ResNet):
        raise BadVersion(f"int8 is there for torchvision's ResNets, and {arch} is none; leave --precision out")
    return read_layout(model, crop)
