"""Shell: the golden inputs of a version and the logits it gave for them when it was added."""

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError

from hotpool.errors import BadVersion

from .engine import Engine
from .preprocess import Preprocessor

N_INPUTS = 8
# What is computed at once: one too, since some engines have operations of their own for each number; and no more than four, as
# that would only need more memory for what lies between the layers, in every worker.
_AT_ONCE = (1, 3, 4)
_SEED = 20_180_129  # any; the inputs are stored with the version, so only new versions see a change
_BLOTCHES = 5
_NOISE = 24


def make_inputs(crop: int, n: int = N_INPUTS, seed: int = _SEED) -> torch.Tensor:
    """(n, 3, crop, crop) uint8: soft blotches of colour under fine noise, because flat or white-noise inputs leave most
    of a network's channels idle, and a wrong weight there would go unseen."""
    random = np.random.default_rng(seed)
    pictures = []
    for _ in range(n):
        coarse = Image.fromarray(random.integers(0, 256, (_BLOTCHES, _BLOTCHES, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((crop, crop), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = smooth + random.integers(-_NOISE, _NOISE + 1, smooth.shape, dtype=np.int16)
        pictures.append(np.clip(noisy, 0, 255).astype(np.uint8).transpose(2, 0, 1))
    return torch.from_numpy(np.ascontiguousarray(np.stack(pictures)))


def compute_logits(engine: Engine, preprocessor: Preprocessor, inputs: torch.Tensor) -> NDArray[np.float32]:
    """Raises BadVersion: the network can't compute on inputs of this size."""
    try:
        parts = [engine(preprocessor.normalise(part)) for part in _parts(inputs)]
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        first_line = str(error).partition("\n")[0]
        raise BadVersion(f"the network can't compute on inputs of {tuple(inputs.shape[1:])}: {first_line}") from None
    logits: NDArray[np.float32] = torch.cat(parts).numpy()
    return logits


def _parts(inputs: torch.Tensor) -> Iterator[torch.Tensor]:
    sizes = cycle(_AT_ONCE)
    while len(inputs):
        part, inputs = inputs[: (n := next(sizes))], inputs[n:]
        yield part


def write_golden(path: Path, inputs: torch.Tensor, logits: NDArray[np.float32]) -> None:
    safetensors.torch.save_file({"inputs": inputs, "logits": torch.from_numpy(logits)}, path)


def read_golden(path: Path, crop: int, classes: int) -> tuple[torch.Tensor, NDArray[np.float32]]:
    """Raises BadVersion: the file is missing, damaged, or not for inputs and classes of these sizes."""
    try:
        held = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadVersion(f"{path.name} can't be read: {error}; remove this version and add it again") from None
    expected = {"inputs": (torch.uint8, (3, crop, crop)), "logits": (torch.float32, (classes,))}
    for name, (dtype, shape) in expected.items():
        if name not in held or held[name].dtype != dtype or tuple(held[name].shape[1:]) != shape or not len(held[name]):
            raise BadVersion(f"{path.name}: tensor {name} is not {dtype} (n, {', '.join(map(str, shape))})")
    return held["inputs"], held["logits"].numpy()
