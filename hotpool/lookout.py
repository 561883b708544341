"""Shell: waiting for what can be read, asleep or awake.

Who sleeps is woken late, and with cold caches: on a core that has slept for 10 ms the broker's part in an answer takes three
times as long as on one that was awake. So whoever knows when something will come is awake then, and looks again and again
(hybrid polling). Between two looks anyone may have the core.
"""

import os
import select
from collections.abc import Callable
from math import ceil, inf
from time import monotonic

Window = tuple[float, float]  # from and until when (monotonic seconds)

NEVER: Window = -inf, -inf
REHEARSAL_S = 0.0003  # what the broker's takes when its caches are cold; 0.05 ms when they are not


def wait(
    poller: "select.poll", until: float, awake: Window = NEVER, rehearse: Callable[[float], object] | None = None
) -> set[int]:
    """The descriptors that can be read, as soon as there is one; none at `until` (monotonic seconds).

    A poll counts whole milliseconds, so the caller is awake up to one earlier than it has to be. Whoever has slept until then
    calls `rehearse` first, with the time, and early enough to be done with it when the window begins.
    """
    begin, end = awake
    if begin < until:
        if (early_s := begin - REHEARSAL_S - monotonic()) >= 0.001:
            if ready := poller.poll(int(early_s * 1000)):
                return {fd for fd, _ in ready}
            if rehearse is not None and (now := monotonic()) < begin:
                rehearse(now)
        while monotonic() < min(end, until):
            if ready := poller.poll(0):
                return {fd for fd, _ in ready}
            os.sched_yield()
    # Rounded up: never wake early and spin.
    return {fd for fd, _ in poller.poll(max(0, ceil((until - monotonic()) * 1000)))}
