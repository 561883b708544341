"""Shell: a worker process with the real serve loop and a model that does nothing: what remains is the cost of hotpool itself.

    python -m bench.noop HOME worker-0

Its answers still prove where they come from: the class is a function of the first pixel and of the version (`noop_class`).
"""

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache

import numpy as np

from hotpool.config import Config
from hotpool.digest import digest_bytes
from hotpool.errors import BadVersion
from hotpool.home import Home
from hotpool.manifest import Manifest, Preprocessing
from workers.batch import FloatArray
from workers.cores import allowed_cores, lower_priority
from workers.orders import Settings
from workers.pictures import Picture
from workers.worker import LoadFunction, serve

MODEL = "noop"
N_CLASSES = 10
N_VERSIONS = 200


def noop_class(first_pixel: int, version: str) -> int:
    """What version `v7` answers to a picture whose first value (red, top left) is `first_pixel`."""
    return (first_pixel + int(version[1:])) % N_CLASSES


@cache
def noop_manifest(version: str) -> Manifest:
    """Of `v0`, `v1`, ...; each has a digest of its own."""
    sha256 = digest_bytes(version.encode())
    return Manifest(
        model=MODEL,
        arch="noop",
        classes=N_CLASSES,
        labels=tuple(f"class-{index}" for index in range(N_CLASSES)),
        preprocessing=Preprocessing(),
        weights_sha256=sha256,
        tensors_sha256=sha256,
        golden_sha256=sha256,
        name=version,
        source="bench",
        added_by="bench",
        added_ts=datetime(2026, 1, 1, tzinfo=UTC),
    )


@cache
def _by_digest() -> dict[str, str]:
    return {noop_manifest(f"v{number}").digest: f"v{number}" for number in range(N_VERSIONS)}


class NoopVersion:
    """Any tensor and any pixels will do."""

    load_s = verify_s = 0.0
    side, least_side = 1, None

    def __init__(self, version: str) -> None:
        self.manifest = noop_manifest(version)

    def picture(self, picture: Picture, row: FloatArray) -> None:
        row[0, 0] = picture.image.getpixel((0, 0))

    def check(self, rows: FloatArray) -> None:
        pass

    def logits(self, rows: FloatArray) -> FloatArray:
        logits = np.zeros((len(rows), N_CLASSES), np.float32)
        for index, first in enumerate(rows[:, 0, 0, 0]):
            logits[index, noop_class(int(first), self.manifest.name)] = 10.0
        return logits


def load_noop(home: Home, digest: str, *, on_state: Callable[[str], None]) -> NoopVersion:
    """In place of `load_verified`."""
    on_state("loading")
    if digest not in _by_digest():
        raise BadVersion(f"{digest[:12]} is none of v0 to v{N_VERSIONS - 1}")
    on_state("verifying")
    return NoopVersion(_by_digest()[digest])


def main(arguments: list[str], load: LoadFunction = load_noop) -> int:
    """arguments: home, worker, and the incarnation if it is not the first. load: tests bring versions that do something."""
    home, worker, incarnation = (*arguments, "1")[:3]
    config = Config()
    cores = tuple(core.id for core in allowed_cores())  # any: what is measured is not computing
    settings = Settings(
        home, MODEL, worker, int(incarnation), cores, 1, config.pool.max_batch, config.pictures.max_bytes,
        config.pictures.max_pixels,
    )  # fmt: skip
    lower_priority()  # as the template does for the workers that it forks
    # Ends when whoever started it does: its standard input is a pipe that only the parent holds open.
    return serve(settings, load, lifeline=None if os.isatty(0) else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
