"""Shell: where a worker waits: at its connection to the broker, and at what else may happen to it.

Just after it has computed it stays awake. Whoever has one request in flight asks again within half a millisecond, and to wake a
core that sleeps takes a quarter of that.
"""

import select
from collections.abc import Sequence
from time import monotonic

from hotpool.lookout import NEVER, wait

# How long it stays awake: at most a part of what it has just computed for, so that what it costs stays small beside the work;
# and no longer than a client takes to ask again.
AWAKE_SHARE, AWAKE_S = 0.1, 0.001


class Lookout:
    """watched: file descriptors."""

    def __init__(self, watched: Sequence[int]) -> None:
        self._awake = NEVER
        self._poller = select.poll()
        for fd in watched:
            self._poller.register(fd, select.POLLIN)

    def computed(self, began_at: float) -> None:
        """Until now, and from this time (monotonic)."""
        now = monotonic()
        self._awake = now, now + min(AWAKE_S, AWAKE_SHARE * (now - began_at))

    def wait(self, until: float) -> set[int]:
        """Those of the watched that can be read, as soon as there is one; none at this time (monotonic)."""
        return wait(self._poller, until, self._awake)
