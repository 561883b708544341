"""Shell: weights files that come by HTTP, under `home/uploads/` until their version is added or refused."""

import contextlib
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import BinaryIO

from anyio import to_thread

from hotpool.errors import Conflict

from .failures import BadRequest, NoRoom
from .multipart import Begin, Data, Form, Piece
from .orders import Fields

FILE = "file"
FIELDS = Fields.__struct_fields__
SUFFIXES = (".safetensors", ".pth", ".pt")
MAX_FIELD_BYTES = 1024 * 1024  # labels of 100,000 classes need no more
SPARE_BYTES = 256 * 1024 * 1024  # that stay free on the disk: the journal is on it too
OLD_S = 3600.0  # checking one takes minutes at most: what nobody has written to for so long is nobody's

log = logging.getLogger("hotpool.gateway")

Check = Callable[[Mapping[str, str]], None]  # of what came before the file; it may block


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that was received whole, and what came with it."""

    path: Path
    fields: Mapping[str, str]

    async def remove(self) -> None:
        await _remove(self.path.parent)


class Uploads:
    """One at a time: versions are added one at a time, and a second file would take the disk's room in vain."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_busy = False

    def sweep(self) -> None:
        """Removes what a gateway or a controller that was killed has left behind."""
        for folder in self._folder.glob("*/"):
            with contextlib.suppress(FileNotFoundError):  # another gateway was faster
                newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
                if time.time() - newest > OLD_S:
                    log.info("event=upload_removed path=%s", folder)
                    shutil.rmtree(folder, ignore_errors=True)

    async def receive(self, form: Form, body: AsyncIterator[bytes], check: Check) -> Upload:
        """What has come of it is removed again when it does not come whole.

        Raises:
            BadRequest, NoRoom; Conflict: another upload is under way; what `check` raises.
        """
        if self._is_busy:
            raise Conflict("another upload is under way; versions are added one at a time, wait for its end")
        self._is_busy = True
        folder = self._folder / secrets.token_hex(8)
        try:
            await to_thread.run_sync(self.sweep)
            return await _receive(form, body, folder, check)
        except BaseException:
            await _remove(folder)
            raise
        finally:
            self._is_busy = False


async def _remove(folder: Path) -> None:
    await to_thread.run_sync(partial(shutil.rmtree, folder, ignore_errors=True))


async def _receive(form: Form, body: AsyncIterator[bytes], folder: Path, check: Check) -> Upload:
    parts = _Parts(folder, check)
    try:
        await to_thread.run_sync(partial(folder.mkdir, mode=0o700, parents=True))
        async for piece in body:
            await to_thread.run_sync(parts.take, form.feed(piece))  # a thread: the disk may be slow
        form.finish()
        return await to_thread.run_sync(parts.finish)
    except OSError as error:
        raise NoRoom(f"the file can't be stored: {error.strerror}") from None
    finally:
        await to_thread.run_sync(parts.close)


class _Parts:
    """The form's parts as they come: the file goes to the disk, fields to memory."""

    def __init__(self, folder: Path, check: Check) -> None:
        self._folder, self._check = folder, check
        self._path: Path | None = None
        self._file: BinaryIO | None = None
        self._fields: dict[str, bytearray] = {}
        self._into: bytearray | None = None  # None: into the file

    def take(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            match piece:
                case Begin(name, filename) if name == FILE:
                    self._begin_file(filename)
                case Begin(name):
                    self._begin_field(name)
                case Data(data) if self._into is not None:
                    self._append(self._into, data)
                case Data(data) if self._file is not None:
                    self._file.write(data)
        if shutil.disk_usage(self._folder).free < SPARE_BYTES:
            raise NoRoom(f"the disk of {self._folder.parent} is nearly full")

    def finish(self) -> Upload:
        if self._path is None or self._file is None:
            raise BadRequest(f"the form has no part {FILE!r} with a file name")
        self._file.flush()
        return Upload(self._path, self._texts())

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # told by `finish`, if it matters
                self._file.close()

    def _begin_file(self, filename: str | None) -> None:
        if filename is None or self._path is not None:
            raise BadRequest(f"the form has a part {FILE!r} {'twice' if self._path else 'without a file name'}")
        self._path = self._folder / safe_name(filename)
        self._check(self._texts())
        self._file = open(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")  # noqa: SIM115
        self._into = None

    def _begin_field(self, name: str) -> None:
        if name not in FIELDS or name in self._fields:
            known = ", ".join((FILE, *FIELDS))
            raise BadRequest(f"the form has a part {name!r} {'twice' if name in FIELDS else ''}; known are {known}")
        self._into = self._fields[name] = bytearray()

    def _texts(self) -> dict[str, str]:
        try:
            return {name: value.decode() for name, value in self._fields.items()}
        except UnicodeDecodeError:
            raise BadRequest("a field of the form is not UTF-8") from None

    def _append(self, field: bytearray, data: bytes) -> None:
        field += data
        if len(field) > MAX_FIELD_BYTES:
            raise BadRequest(f"a field of the form has more than {MAX_FIELD_BYTES} bytes")


def safe_name(filename: str) -> str:
    """What a client calls its file, as a name without any path. Raises BadRequest: it is no weights file by its name."""
    path = PureWindowsPath(filename)  # knows both kinds of separators
    if path.suffix.lower() not in SUFFIXES:
        raise BadRequest(f"{filename[:100]!r}: expected a file that ends in {', '.join(SUFFIXES)}")
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", path.stem).lstrip(".-")[:64]
    return f"{stem or 'weights'}{path.suffix.lower()}"
