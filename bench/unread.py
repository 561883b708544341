"""Shell: a worker process whose model does nothing and does not even look at the picture, as other servers' no-ops.

python -m bench.unread HOME worker-0
"""

import sys
from collections.abc import Callable

from hotpool.home import Home
from workers.batch import FloatArray
from workers.pictures import Picture

from .noop import NoopVersion, load_noop, main


class UnreadVersion(NoopVersion):
    """Takes every picture for a black one."""

    def picture(self, picture: Picture, row: FloatArray) -> None:
        row[:] = 0


def load_unread(home: Home, digest: str, *, on_state: Callable[[str], None]) -> UnreadVersion:
    """In place of `load_verified`."""
    return UnreadVersion(load_noop(home, digest, on_state=on_state).manifest.name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], load_unread))
