"""Shell: what computes. One engine for each way to run a network; today float32 by torch itself."""

from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from hotpool.errors import BadVersion
from hotpool.manifest import WEIGHTS, Manifest

from .architecture import build_empty, expected_tensors, specs
from .verify import find_misfit


class Engine(Protocol):
    """A network with its weights, ready to compute."""

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """(n, classes) float32 logits of an (n, 3, crop, crop) float32 batch; row i belongs to batch[i]. Blocks."""

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tensors it really computes with, as views: what a digest must be taken of."""


class EagerEngine:
    """Float32, one torch operator after the other."""

    def __init__(self, weights: Path, arch: str, classes: int, crop: int) -> None:
        """Maps the file and copies nothing, so that all processes on a host share its pages.

        Raises:
            BadVersion: the file is missing, damaged, or does not fit the architecture; names the tensor.
        """
        held = _map(weights)
        self._model = build_empty(arch, classes, crop)
        if misfit := find_misfit(expected_tensors(self._model), specs(held), arch):
            raise BadVersion(f"{weights.name}: {misfit}")
        self._model.load_state_dict(held, strict=True, assign=True)
        self._model.requires_grad_(False)

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = self._model(batch)
        return logits

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {name: tensor.numpy() for name, tensor in self._model.state_dict().items()}


def load_engine(folder: Path, manifest: Manifest) -> Engine:
    """The engine for this version's precision. Thread counts are those of the process.

    Raises:
        BadVersion: as `EagerEngine`.
    """
    crop = manifest.preprocessing.crop
    return EagerEngine(folder / WEIGHTS, manifest.arch, manifest.classes, crop)


def _map(weights: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(weights)
    except (OSError, SafetensorError) as error:
        raise BadVersion(f"{weights.name} can't be read: {error}; remove this version and add it again") from None
