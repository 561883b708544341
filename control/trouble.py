"""Shell: what the system refuses us, in a line for people."""

import errno
import sqlite3
from pathlib import Path

from hotpool.disk import describe

TROUBLE = (OSError, sqlite3.Error)
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def is_of_the_disk(error: OSError | sqlite3.Error) -> bool:
    """For an operator, as `Unwritable` is."""
    return isinstance(error, OSError) and bool(error.filename) and error.errno in _DISK_ERRORS


def describe_trouble(error: OSError | sqlite3.Error) -> str:
    if isinstance(error, sqlite3.Error):
        return f"the database can't be used: {error}"
    text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return f"{text}; {describe(Path(error.filename))}" if is_of_the_disk(error) else text
