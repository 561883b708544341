"""Shell: where a worker waits: at its connection to the broker, and at what else may happen to it.

Just after it has computed it stays awake. Whoever has one request in flight asks again within half a millisecond, and to wake a
core that sleeps takes a quarter of that.
"""

from collections.abc import Sequence
from time import monotonic

import zmq

from hotpool.lookout import NEVER, Watched, wait

# How long it stays awake: at most a part of what it has just computed for, so that what it costs stays small beside the work;
# and no longer than a client takes to ask again.
AWAKE_SHARE, AWAKE_S = 0.1, 0.001


class Lookout:
    """always: file descriptors that are watched besides the connection, also while there is none."""

    def __init__(self, always: Sequence[int]) -> None:
        self._always = always
        self._awake = NEVER
        self.watch(())

    def watch(self, sockets: Sequence[Watched]) -> None:
        """From now on these are the connection."""
        self._poller = zmq.Poller()
        for watched in (*sockets, *self._always):
            self._poller.register(watched, zmq.POLLIN)

    def computed(self, began_at: float) -> None:
        """Until now, and from this time (monotonic)."""
        now = monotonic()
        self._awake = now, now + min(AWAKE_S, AWAKE_SHARE * (now - began_at))

    def wait(self, until: float) -> set[Watched]:
        """Those of the watched that can be read, as soon as there is one; none at this time (monotonic)."""
        return set(wait(self._poller, until, self._awake))
