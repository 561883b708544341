"""Shell: what a child process does about itself before anything else."""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None)  # before any fork: the child must not load libraries
# Of a process that checks a version: low enough that requests hardly notice, not so low that a busy pool makes it take minutes.
# The first counts within a session, the second between sessions.
NICE, _SESSION_NICE = 10, 5
# From all who are not root together, Linux takes one such wish in a tenth of a second.
_AUTOGROUP = Path("/proc/self/autogroup")
_N_WISHES, _BETWEEN_WISHES_S = 3, 0.1


def give_way() -> None:
    """Of a process that has a session of its own: the pool's work goes first.

    Linux shares the processor among sessions before it looks at niceness, unless control groups decide.
    """
    os.nice(NICE)
    for _ in range(_N_WISHES):
        try:
            _AUTOGROUP.write_text(str(_SESSION_NICE))
        except BlockingIOError:
            time.sleep(_BETWEEN_WISHES_S)
        except OSError:
            return
        else:
            return


def end_with(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """When the parent ends, however it ends, the kernel sends this process the signal (Linux only)."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)  # it ended before we asked
