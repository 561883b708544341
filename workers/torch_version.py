"""Shell: torch behind the serve loop: a loaded version with numpy arrays in and out, and torch's threads."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from hotpool.home import Home

from .loading import LoadedVersion, load_verified
from .preprocess import check_tensor

FloatArray = NDArray[np.float32]


class TorchVersion:
    """See `worker.Loaded`."""

    def __init__(self, version: LoadedVersion) -> None:
        self._version = version
        self.manifest = version.manifest
        self.load_s, self.verify_s = version.load_s, version.verify_s

    def picture(self, image: Image.Image) -> FloatArray:
        array: FloatArray = self._version.preprocessor.picture(image).numpy()
        return array

    def check(self, rows: FloatArray) -> None:
        check_tensor(rows, self.manifest.preprocessing)

    def logits(self, rows: FloatArray) -> FloatArray:
        # A view of received bytes can't be written to, and torch has no such tensors.
        batch = torch.from_numpy(rows if rows.flags.writeable else rows.copy())
        array: FloatArray = self._version.engine(batch).numpy()
        return array


def limit_threads(threads: int) -> None:
    """What torch's own pools may use, and through torch OpenMP and MKL. Before the first operator."""
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)


def load_torch_version(home: Home, digest: str, *, on_state: Callable[[str], None]) -> TorchVersion:
    """Raises BadVersion."""
    return TorchVersion(load_verified(home, digest, on_state=on_state))
