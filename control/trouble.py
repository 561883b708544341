"""Shell: what the system refuses us, in a line for people."""

import errno
import sqlite3
from pathlib import Path

from hotpool.disk import describe
from hotpool.errors import HotpoolError, Unwritable

TROUBLE = (OSError, sqlite3.Error)
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def as_error(error: OSError | sqlite3.Error) -> HotpoolError:
    """What is told of it: with a code of its own when it is for an operator to mend."""
    return (Unwritable if _is_of_the_disk(error) else HotpoolError)(_describe(error))


def _is_of_the_disk(error: OSError | sqlite3.Error) -> bool:
    return isinstance(error, OSError) and bool(error.filename) and error.errno in _DISK_ERRORS


def _describe(error: OSError | sqlite3.Error) -> str:
    if isinstance(error, sqlite3.Error):
        return f"the database can't be used: {error}"
    text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return f"{text}; {describe(Path(error.filename))}" if _is_of_the_disk(error) else text
