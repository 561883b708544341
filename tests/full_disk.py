"""A full disk without a disk: beyond a limit the kernel refuses each write (RLIMIT_FSIZE), with EFBIG where a disk says ENOSPC.

Below the limit a file may be written in place, as on a disk that is full. Linux only.
"""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

needs_limits = pytest.mark.skipif(sys.platform != "linux", reason="limits of a process that runs are Linux's")
NO_LIMIT = resource.RLIM_INFINITY
_PROGRAM = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""


@contextmanager
def full_disk(pid: int | None = None, limit: int = 0) -> Iterator[None]:
    """For a process that runs, or our own, and for what it has started and starts. limit: how long a file may become."""
    _limit(pid or os.getpid(), limit)
    try:
        yield
    finally:
        _limit(pid or os.getpid(), NO_LIMIT)


def on_full_disk(module: str) -> tuple[str, ...]:
    """A command that runs a module for which the disk is full."""
    return (sys.executable, "-c", _PROGRAM, module)


def _limit(pid: int, limit: int) -> None:
    process = psutil.Process(pid)
    for one in (process, *process.children(recursive=True)):
        resource.prlimit(one.pid, resource.RLIMIT_FSIZE, (limit, NO_LIMIT))
