"""Shell: what each version answers to each picture, computed without the pool."""

from pathlib import Path

import torch

from hotpool.config import Pictures
from hotpool.home import Home
from workers.loading import load_verified
from workers.pictures import decode

CLOSE = 1e-3  # of two logits: so near each other, another batch size or thread count may turn them round


def expected_classes(home: Home, digest: str, pictures: list[Path]) -> dict[Path, frozenset[str]]:
    """For each picture the label with the highest logit, and any other within 0.001 of it."""
    version, limits = load_verified(home, digest), Pictures()
    found = {}
    for picture in pictures:
        preprocessor = version.preprocessor
        decoded = decode(picture.read_bytes(), limits.max_bytes, limits.max_pixels, preprocessor.least_side)
        logits = version.engine(preprocessor.input(decoded))[0]
        near = torch.nonzero(logits >= logits.max() - CLOSE).flatten().tolist()
        found[picture] = frozenset(version.manifest.labels[index] for index in near)
    return found
