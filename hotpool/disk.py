"""Shell: the disk that a path lies on, for what is said when it takes nothing more; and how to write where it is full."""

import os
import shutil
from pathlib import Path

_FULL_BYTES = 64 * 1024  # an event takes some pages of 4 KB: with less it hardly finds room


def describe(path: Path) -> str:
    """`the disk at /var has 0.0 MB free`. path: need not exist."""
    return f"the disk at {_mount_point(path)} has {_free_bytes(path) / 1e6:.1f} MB free"


def full_disk(path: Path) -> str:
    """The same if it is full (to all but root), else empty. Microseconds: made to be polled."""
    return describe(path) if _free_bytes(path) < _FULL_BYTES else ""


def overwrite(path: Path, text: str) -> None:
    """Puts a short text where the old one lies: on a full disk that goes well, while a file emptied first would stay empty."""
    data = text.encode()
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        os.write(file, data)
        os.ftruncate(file, len(data))
    finally:
        os.close(file)


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside, sync, rename, sync the folder.

    Raises:
        OSError: names the file, which is as it was.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None  # else nobody would know which file
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes a rename in this folder survive a power failure."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(_there(path)).free


def _mount_point(path: Path) -> Path:
    there = _there(path)
    return next(one for one in (there, *there.parents) if one.is_mount())


def _there(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    whole = path.absolute()
    return next(one for one in (whole, *whole.parents) if one.exists())
