"""Shell: a version without a pool: the engine and preprocessing of a worker in a plain process, without a server.

    python -m bench.alone HOME DIGEST CORE PICTURE

For each line of standard input, a number of seconds, classifies the picture for so long, one after another, and prints how
many milliseconds each took as one line of JSON.
"""

import json
import os
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from hotpool.config import Config
from hotpool.home import Home
from workers.pictures import decode
from workers.torch_version import limit_threads, load_torch_version


class Alone:
    """A version, loaded and verified as in a worker."""

    def __init__(self, home: Home, digest: str) -> None:
        self._version = load_torch_version(home, digest, on_state=lambda state: None)
        self._limits = Config().pictures
        side = self._version.side
        self._rows = np.empty((1, side, side, 3), np.float32)

    def logits(self, data: bytes) -> NDArray[np.float32]:
        """(classes,) for the bytes of a picture file."""
        picture = decode(data, self._limits.max_bytes, self._limits.max_pixels, self._version.least_side)
        self._version.picture(picture, self._rows[0])
        row: NDArray[np.float32] = self._version.logits(self._rows.transpose(0, 3, 1, 2))[0]
        return row


def main() -> None:
    home, digest, core, picture = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})
    limit_threads(1)
    alone, data = Alone(Home(Path(home)), digest), Path(picture).read_bytes()
    for line in sys.stdin:
        end, times = perf_counter() + float(line), []
        begin = perf_counter()
        while begin < end:
            alone.logits(data).argmax()
            now = perf_counter()
            times.append((now - begin) * 1e3)
            begin = now
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
