"""Shell: how a process that checks a version gives way to those that serve."""

import contextlib
import os
from pathlib import Path

# Of a process that checks a version: low enough that requests hardly notice, not so low that a busy pool makes it take minutes.
# The first counts within a session, the second between sessions.
_NICE, _SESSION_NICE = 10, 5


def give_way() -> None:
    """In a child that has a session of its own, before it runs anything: the pool's work goes first.

    Linux shares the processor among sessions before it looks at niceness, unless control groups decide.
    """
    os.nice(_NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(_SESSION_NICE))
