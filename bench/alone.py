"""Shell: a version without a pool: the engine and preprocessing of a worker in a plain process, without a server.

    python -m bench.alone HOME DIGEST CORE PICTURE

For each line of standard input, a number of seconds and a batch size, classifies the picture for so long, so many at once, and
prints how many milliseconds each batch took as one line of JSON.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from hotpool.config import Config
from hotpool.home import Home
from workers.pictures import decode
from workers.torch_version import limit_threads, load_torch_version

MAX_BATCH = Config().pool.max_batch


class Alone:
    """A version, loaded and verified as in a worker."""

    def __init__(self, home: Home, digest: str) -> None:
        self._version = load_torch_version(home, digest, on_state=lambda state: None)
        self._limits = Config().pictures
        side = self._version.side
        self._rows = np.empty((MAX_BATCH, side, side, 3), np.float32)

    def logits(self, pictures: Sequence[bytes]) -> NDArray[np.float32]:
        """(n, classes) for the bytes of n picture files, at most MAX_BATCH."""
        rows = self._rows[: len(pictures)]
        for row, data in zip(rows, pictures, strict=True):
            picture = decode(data, self._limits.max_bytes, self._limits.max_pixels, self._version.least_side)
            self._version.picture(picture, row)
        return self._version.logits(rows.transpose(0, 3, 1, 2))


def main() -> None:
    home, digest, core, picture = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})
    limit_threads(1)
    alone, data = Alone(Home(Path(home)), digest), Path(picture).read_bytes()
    for line in sys.stdin:
        seconds, batch = line.split()
        pictures, times = [data] * int(batch), []
        begin = perf_counter()
        end = begin + float(seconds)
        while begin < end:
            alone.logits(pictures).argmax(axis=1)
            now = perf_counter()
            times.append((now - begin) * 1e3)
            begin = now
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
