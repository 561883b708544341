"""Shell: torch behind the serve loop: a loaded version with numpy arrays in and out, and torch's threads."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from hotpool.home import Home

from .loading import LoadedVersion, load_verified
from .pictures import Picture
from .preprocess import check_tensor

FloatArray = NDArray[np.float32]


class TorchVersion:
    """See `worker.Loaded`."""

    def __init__(self, version: LoadedVersion) -> None:
        self._version = version
        self.manifest = version.manifest
        self.load_s, self.verify_s = version.load_s, version.verify_s
        self.side, self.least_side = version.manifest.preprocessing.crop, version.preprocessor.least_side

    def picture(self, picture: Picture, row: FloatArray) -> None:
        self._version.preprocessor.write(picture, row)

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
