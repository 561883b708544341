"""Shell: at most one running process of a service per home, by flock on a file that names the process.

The kernel frees the lock when its holder ends, however it ends: a file left by a SIGKILL or a reboot is no obstacle.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .disk import overwrite
from .errors import Conflict

# `holder` takes the lock for an instant to see whether it is free; one that comes for good asks more than once.
_ATTEMPTS, _PAUSE_S = 5, 0.02


@contextmanager
def hold(path: Path, refusal: str) -> Iterator[None]:
    """Holds the lock inside the block.

    refusal: what the error says; `{pid}` in it becomes the holder's process id.

    Raises:
        Conflict: another process holds it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("a+") as file:
        if not _take_patiently(file):
            raise Conflict(refusal.format(pid=_read_pid(path) or "unknown"))
        try:
            overwrite(path, f"{os.getpid()}\n")
        except OSError:  # a full disk: the lock holds all the same, and names nobody rather than the one before
            file.truncate(0)
        yield


def holder(path: Path) -> int | None:
    """The process id of who holds the lock now; 0 when that is not readable yet, None when it is free."""
    try:
        with path.open() as file:
            return None if _take(file, fcntl.LOCK_SH) else _read_pid(path)
    except FileNotFoundError:
        return None


def _take_patiently(file: IO[str]) -> bool:
    for _ in range(_ATTEMPTS):
        if _take(file, fcntl.LOCK_EX):
            return True
        time.sleep(_PAUSE_S)
    return False


def _take(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_pid(path: Path) -> int:
    text = path.read_text().strip()
    return int(text) if text.isdigit() else 0
