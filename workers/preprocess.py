"""Shell: pictures and arrays to what a version's network takes: as torchvision's reference transforms do it, or faster."""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from hotpool.errors import BadImage, BadInput
from hotpool.manifest import Preprocess, Preprocessing
from hotpool.pictures import upright

from .crop import centre_crop, in_file
from .pictures import Picture

MAX_TENSOR_INPUTS = 256
# Resizing the shorter side of a 1 x 50,000,000 picture to 256 would ask for 10 terabytes.
MAX_RESIZED_PIXELS = 50_000_000

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Preprocessor:
    """One version's way from a picture to its input. Holds no state beside the manifest's numbers.

    preprocess: "exact" gives what the reference transforms give, bit for bit. "fast" decodes JPEGs at a fraction of their size
        where more is not needed, and resizes only what the crop keeps; values differ by a few hundredths of a deviation.
    """

    def __init__(self, preprocessing: Preprocessing, preprocess: Preprocess = "fast") -> None:
        self._resize = preprocessing.resize
        self._crop = preprocessing.crop
        self._interpolation = InterpolationMode(preprocessing.interpolation)
        self._mean, self._std = list(preprocessing.mean), list(preprocessing.std)
        # `nearest` takes single pixels: there is little to save, and of a reduced picture it would take others.
        self._resampling = _RESAMPLING.get(preprocessing.interpolation) if preprocess == "fast" else None
        # For a whole row of the input: numpy is five times slower when it has to repeat three values for each pixel.
        std, mean = np.array(preprocessing.std), np.array(preprocessing.mean)
        self._scale = np.tile(1 / (255 * std), self._crop).astype(np.float32)
        self._shift = np.tile(-mean / std, self._crop).astype(np.float32)

    @property
    def least_side(self) -> int | None:
        """How many pixels the shorter side of a picture must keep when it is decoded; None: all.

        No more than it is resized to: with 1.5 and 2 times as many, no more of 1,000 varied pictures (bench/pictures.py) got
        the class that the reference gives (0.998 each), and 12 megapixels took 1.3 times as long.
        """
        return self._resize if self._resampling is not None else None

    def input(self, picture: Picture) -> torch.Tensor:
        """A batch of this one picture: (1, 3, crop, crop) float32, channels last."""
        rows = np.empty((1, self._crop, self._crop, 3), np.float32)
        self.write(picture, rows[0])
        return torch.from_numpy(rows.transpose(0, 3, 1, 2))

    def write(self, picture: Picture, row: NDArray[np.float32]) -> None:
        """Puts the input for a picture into (crop, crop, 3) float32, C-contiguous.

        Raises:
            BadImage: so narrow that resizing its shorter side would need absurd amounts of memory.
        """
        if self._resampling is None:
            row[...] = self._reference(picture.upright()).permute(1, 2, 0).numpy()
            return
        size = picture.upright_size
        self._check_shape(*size)
        crop = centre_crop(size, self._resize, self._crop)
        box, small_size = in_file(crop, size, picture.reduction, picture.orientation)
        small = upright(picture.image.resize(small_size, self._resampling, box), picture.orientation)
        self._scale_into(row, np.asarray(small), crop.across.at, crop.down.at)

    def _scale_into(self, row: NDArray[np.float32], pixels: NDArray[np.uint8], left: int, top: int) -> None:
        """One multiplication and one addition for each value, from the picture's memory into the batch's."""
        n_rows, n_values = pixels.shape[0], pixels.shape[1] * 3
        flat = row.reshape(self._crop, -1)
        if pixels.shape != row.shape:
            flat[...] = self._shift  # black, around a picture that is smaller than the crop
        part = flat[top : top + n_rows, left * 3 : left * 3 + n_values]
        np.multiply(pixels.reshape(n_rows, n_values), self._scale[:n_values], out=part)
        part += self._shift[:n_values]

    def picture(self, image: Image.Image) -> torch.Tensor:
        """(3, crop, crop) float32 from a picture in mode RGB, by the reference transforms.

        Raises:
            BadImage: so narrow that resizing its shorter side would need absurd amounts of memory.
        """
        return self._reference(image).contiguous()

    def _reference(self, image: Image.Image) -> torch.Tensor:
        """As `picture`, but as the transforms leave it in memory: channels last."""
        self._check_shape(image.width, image.height)
        resized = transforms.resize(image, [self._resize], interpolation=self._interpolation, antialias=True)
        cropped = transforms.center_crop(resized, [self._crop])
        return self.normalise(transforms.pil_to_tensor(cropped))

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
