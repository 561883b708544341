"""Shell: where a worker waits: at its connection to the broker, and at what else may happen to it.

Just after it has computed it looks again and again instead of sleeping. Whoever has one request in flight asks again within
half a millisecond, and to wake a core that sleeps takes a quarter of that. Between two looks anyone may have the core.
"""

import os
from collections.abc import Sequence
from math import ceil
from time import monotonic

import zmq

# How long it looks: at most a part of what it has just computed for, so that what it costs stays small beside the work; and no
# longer than a client takes to ask again.
AWAKE_SHARE, AWAKE_S = 0.1, 0.001

Watched = int | zmq.Socket[bytes]


class Lookout:
    """always: file descriptors that are watched besides the connection, also while there is none."""

    def __init__(self, always: Sequence[int]) -> None:
        self._always = always
        self._awake_until = 0.0
        self.watch(())

    def watch(self, sockets: Sequence[Watched]) -> None:
        """From now on these are the connection."""
        self._poller = zmq.Poller()
        for watched in (*sockets, *self._always):
            self._poller.register(watched, zmq.POLLIN)

    def computed(self, began_at: float) -> None:
        """Until now, and from this time (monotonic)."""
        now = monotonic()
        self._awake_until = now + min(AWAKE_S, AWAKE_SHARE * (now - began_at))

    def wait(self, until: float) -> set[Watched]:
        """Those of the watched that can be read, as soon as there is one; none at this time (monotonic)."""
        while monotonic() < min(self._awake_until, until):
            if ready := self._poller.poll(0):
                return {watched for watched, _ in ready}
            os.sched_yield()
        return {watched for watched, _ in self._poller.poll(max(0, ceil((until - monotonic()) * 1000)))}
