"""Shell: pictures and arrays to what a version's network takes, exactly as torchvision's reference transforms do it."""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from hotpool.errors import BadImage, BadInput
from hotpool.manifest import Preprocessing

MAX_TENSOR_INPUTS = 256
# Resizing the shorter side of a 1 x 50,000,000 picture to 256 would ask for 10 terabytes.
MAX_RESIZED_PIXELS = 50_000_000


class Preprocessor:
    """One version's way from a picture to its input. Holds no state beside the manifest's numbers."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._resize = preprocessing.resize
        self._crop = preprocessing.crop
        self._interpolation = InterpolationMode(preprocessing.interpolation)
        self._mean, self._std = list(preprocessing.mean), list(preprocessing.std)

    def picture(self, image: Image.Image) -> torch.Tensor:
        """(3, crop, crop) float32 from a picture in mode RGB.

        Raises:
            BadImage: so narrow that resizing its shorter side would need absurd amounts of memory.
        """
        self._check_shape(image.width, image.height)
        resized = transforms.resize(image, [self._resize], interpolation=self._interpolation, antialias=True)
        cropped = transforms.center_crop(resized, [self._crop])
        return self.normalise(transforms.pil_to_tensor(cropped)).contiguous()

    def pixels(self, array: NDArray[np.uint8]) -> torch.Tensor:
        """(3, crop, crop) float32 from an (h, w, 3) uint8 array.

        Raises:
            BadInput: another shape or dtype.
        """
        if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape or array.dtype != np.uint8:
            raise BadInput(f"expected pixels as uint8 (h, w, 3), got {array.dtype} {array.shape}")
        return self.picture(Image.fromarray(np.ascontiguousarray(array)))

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (..., 3, h, w) to float32 of the same shape."""
        scaled = transforms.convert_image_dtype(images, torch.float)
        normalised: torch.Tensor = transforms.normalize(scaled, mean=self._mean, std=self._std)
        return normalised

    def _check_shape(self, width: int, height: int) -> None:
        if min(width, height) < 1:
            raise BadImage(f"the picture has no pixels: it is {width} x {height}")
        resized_pixels = self._resize * (self._resize * max(width, height) // min(width, height))
        if resized_pixels > MAX_RESIZED_PIXELS:
            raise BadImage(
                f"the picture is {width} x {height}, too narrow: with its shorter side resized to {self._resize} "
                f"it would have {resized_pixels} pixels, allowed are {MAX_RESIZED_PIXELS}"
            )


def check_tensor(array: NDArray[np.float32], preprocessing: Preprocessing) -> None:
    """Whether an array may go into the network as it is: (n, 3, crop, crop) float32, finite, 1 <= n <= 256.

    Raises:
        BadInput: names what was expected and what came.
    """
    crop = preprocessing.crop
    expected = f"expected float32 (n, 3, {crop}, {crop}) with 1 <= n <= {MAX_TENSOR_INPUTS}"
    if array.dtype != np.float32:
        raise BadInput(f"{expected}, got dtype {array.dtype}")
    if array.ndim != 4 or array.shape[1:] != (3, crop, crop) or not 1 <= array.shape[0] <= MAX_TENSOR_INPUTS:
        raise BadInput(f"{expected}, got shape {array.shape}")
    finite = np.isfinite(array)
    if not finite.all():
        bad = int(array.size - np.count_nonzero(finite))
        raise BadInput(f"expected finite values, got {bad} of {array.size} that are NaN or infinite")
