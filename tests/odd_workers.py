"""Worker processes whose versions differ in kind, for rollouts that judge.

    python -m tests.odd_workers HOME worker-0 [INCARNATION]      one alone; a supervisor with such: tests.odd_supervisor

Versions whose numbers have the same last digit give the same answers (`bench.noop.noop_class`), but for what their kind adds.
What happens to a picture follows from its second value alone (green, top left, 0 to 249 evenly), so that it happens again.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from time import sleep, thread_time

import numpy as np

from bench.noop import N_CLASSES, NoopVersion, load_noop, main, noop_class
from hotpool.home import Home
from workers.batch import FloatArray
from workers.pictures import Picture

COMPUTES_S = 0.002
# By version number; all others compute as v1 does.
ERRS, ERRS_OFTEN, DISAGREES, SLOWER, SPIKES, COLLAPSED = 31, 41, 51, 61, 71, 81


def held_loads(home: Home) -> Path:
    """While this file is there, no load ends: neither that of a rollout nor that of a process which starts."""
    return home.root / "loads-wait"


def odd_class(first: int, second: int, version: str) -> int:
    """What a version answers to a picture whose first values (red and green, top left) are these."""
    if int(version[1:]) == COLLAPSED:
        return 0
    changed = int(version[1:]) == DISAGREES and second / 250 < 0.1
    return (noop_class(first, version) + changed) % N_CLASSES


class OddVersion(NoopVersion):
    def __init__(self, version: str) -> None:
        super().__init__(version)
        self._number = int(version[1:])

    def picture(self, picture: Picture, row: FloatArray) -> None:
        row[0, 0] = picture.image.getpixel((0, 0))

    def logits(self, rows: FloatArray) -> FloatArray:
        logits = np.zeros((len(rows), N_CLASSES), np.float32)
        for row, (first, second) in zip(logits, rows[:, :2, 0, 0], strict=True):
            self._compute(float(second) / 250)
            row[odd_class(int(first), int(second), self.manifest.name)] = 10.0
        return logits

    def _compute(self, chance: float) -> None:
        """Of the processor's time, as a model would: it does not get shorter when the machine is busy."""
        if chance < {ERRS: 0.05, ERRS_OFTEN: 0.2}.get(self._number, 0.0):
            raise RuntimeError("this picture fails")
        factor = 1.3 if self._number == SLOWER else 3.0 if self._number == SPIKES and chance < 0.15 else 1.0
        ends_at = thread_time() + COMPUTES_S * factor
        while thread_time() < ends_at:
            pass


def load_odd(home: Home, digest: str, *, on_state: Callable[[str], None]) -> OddVersion:
    loaded = OddVersion(load_noop(home, digest, on_state=on_state).manifest.name)
    while held_loads(home).exists():
        sleep(0.001)
    return loaded


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], load_odd))
