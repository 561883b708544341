"""Shell: waiting for what can be read, asleep or awake.

Who sleeps is woken late, and with cold caches: on a core that has slept for 10 ms the broker's part in an answer takes three
times as long as on one that was awake. So whoever knows when something will come is awake then, and looks again and again
(hybrid polling). Between two looks anyone may have the core.
"""

import os
from math import ceil, inf
from time import monotonic

import zmq

Watched = int | zmq.Socket[bytes]
Window = tuple[float, float]  # from and until when (monotonic seconds)

NEVER: Window = -inf, -inf


def wait(poller: zmq.Poller, until: float, awake: Window = NEVER) -> dict[Watched, int]:
    """What can be read, and how (zmq.POLLIN, ...), as soon as there is something; empty at `until` (monotonic seconds).

    A poll counts whole milliseconds, so the caller is awake up to one before the window begins.
    """
    begin, end = awake
    if begin < until:
        if (early_s := begin - monotonic()) > 0 and (ready := dict(poller.poll(int(early_s * 1000)))):
            return ready
        while monotonic() < min(end, until):
            if ready := dict(poller.poll(0)):
                return ready
            os.sched_yield()
    # Rounded up: never wake early and spin.
    return dict(poller.poll(max(0, ceil((until - monotonic()) * 1000))))
