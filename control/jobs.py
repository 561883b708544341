"""Shell: work that takes longer than a caller waits: adding versions, one at a time, in a thread of the controller's process.

Nothing remembers jobs but this process. What a job leaves is whole or not there, as with `hotpool versions add`.
"""

import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from time import monotonic
from typing import Any

from hotpool.admin import Admin
from hotpool.config import Config
from hotpool.errors import Conflict, HotpoolError, NothingToDo
from hotpool.home import Home
from hotpool.manifest import Manifest, public_view, read_manifest, version_folder

from . import intake, registry
from .asks import Add
from .health import ordinary
from .journal import Journal
from .trouble import TROUBLE, as_error
from .versions import Prepared, discard, overrides, prepare

KEPT = 100  # whose end can still be asked for

log = logging.getLogger("hotpool.control")


@dataclass(frozen=True, slots=True)
class Added:
    """A version that is stored now. rollout: the one that was ordered to it. error: why none was, though it was wanted."""

    manifest: Manifest
    is_stable: bool
    rollout: int | None = None
    error: HotpoolError | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """added: None when nothing was. error: why, or that of `added`."""

    seconds: float
    added: Added | None = None
    error: HotpoolError | None = None


@dataclass(frozen=True, slots=True)
class _Job:
    began_at: float
    end: Future[Ended]


class Jobs:
    """For one thread, beside the one that works. Close it: that waits for the job under way."""

    def __init__(self, stopping: Event) -> None:
        """stopping: once it is set, a job under way is given up."""
        self._stopping = stopping
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hotpool-job")
        # By the clock, so that no caller takes a job for one of the controller before.
        self._numbers = count(int(time.time()))
        self._jobs: dict[int, _Job] = {}

    def begin(self, work: Callable[[Event], Added]) -> int:
        """The number of the job.

        Raises:
            Conflict: another job is under way.
        """
        running = [number for number, job in self._jobs.items() if not job.end.done()]
        if running:
            raise Conflict(f"job {running[0]} is under way; versions are added one at a time, wait for its end")
        number, now = next(self._numbers), monotonic()
        self._jobs[number] = _Job(now, self._thread.submit(self._run, number, work, now))
        for old in list(self._jobs)[:-KEPT]:
            del self._jobs[old]
        return number

    def view(self, number: int) -> dict[str, Any]:
        """As plain values. Raises NothingToDo: it is not known."""
        if number not in self._jobs:
            raise NothingToDo(f"there is no job {number}; the controller forgets its jobs when it is started again")
        job = self._jobs[number]
        ended = job.end.result() if job.end.done() else None
        added, error = (ended.added, ended.error) if ended else (None, None)
        return {
            "job": number,
            "state": "running" if ended is None else "done" if added else "failed",
            "seconds": round(ended.seconds if ended else monotonic() - job.began_at, 3),
            "version": public_view(added.manifest) if added else None,
            "is_stable": bool(added and added.is_stable),
            "rollout": added.rollout if added else None,
            "code": error.code if error else "",
            "error": str(error) if error else "",
        }

    def close(self) -> None:
        self._thread.shutdown()

    def _run(self, number: int, work: Callable[[Event], Added], began_at: float) -> Ended:
        try:
            added = work(self._stopping)
        except HotpoolError as error:
            log.info("job=%d code=%s reason=%r", number, error.code, str(error))
            return Ended(monotonic() - began_at, error=error)
        except TROUBLE as error:
            return Ended(monotonic() - began_at, error=as_error(error))
        except Exception:  # the outermost level of a job: who waits for it must learn that it has ended
            log.exception("job=%d", number)
            return Ended(monotonic() - began_at, error=HotpoolError("a bug in hotpool; see the log of control"))
        return Ended(monotonic() - began_at, added, added.error)


def add_version(home: Home, config: Config, asked: Add, stopping: Event) -> Added:
    """As `hotpool versions add`, then as `hotpool rollout start` if that was asked. An upload has served its purpose then.

    Raises like `versions.prepare` and `registry.add`.
    """
    try:
        with TemporaryDirectory(prefix="labels-", dir=home.run) as folder, Journal(home.database) as journal:
            prepared = prepare(
                home, asked.source, model=config.pool.model, name=asked.name, operator=asked.operator,
                memory_mb=config.rollout.preflight_memory_mb, arch=asked.arch,
                labels=_write_labels(Path(folder), asked.labels),
                preprocessing=overrides(asked.resize, asked.crop, asked.mean, asked.std),
                preprocess=asked.preprocess, sha256=asked.sha256, md5=asked.md5, precision=asked.precision,
                calibrate=Path(asked.calibrate) if asked.calibrate else None, min_agreement=asked.min_agreement,
                stopping=stopping,
            )  # fmt: skip
            if not asked.then_start:
                return _add(journal, prepared, asked)
            added = _find_same(journal, prepared, asked) or _add(journal, prepared, asked)
            return added if added.is_stable else _start(home, config, journal, added, asked)
    finally:
        remove_upload(home, asked.source)


def remove_upload(home: Home, source: str) -> None:
    """What lies elsewhere belongs to somebody."""
    folder = Path(source).resolve().parent
    if folder.parent == home.uploads.resolve():
        shutil.rmtree(folder, ignore_errors=True)


def _add(journal: Journal, prepared: Prepared, asked: Add) -> Added:
    is_first = registry.add(journal, prepared, operator=asked.operator, reason=asked.reason)
    return Added(prepared.manifest, is_first)


def _find_same(journal: Journal, prepared: Prepared, asked: Add) -> Added | None:
    """The version that has these weights, served in this way, by whatever name."""
    folder = version_folder(prepared.home, prepared.manifest.digest)
    if not folder.exists():
        return None
    discard(prepared)
    registry.reconcile(journal, prepared.home, asked.operator)
    return Added(read_manifest(folder), is_stable=False)


def _start(home: Home, config: Config, journal: Journal, added: Added, asked: Add) -> Added:
    """Whether it can be rolled out or not, the version stays."""
    try:
        with Admin(home.endpoint("admin")) as admin:
            workers = ordinary(admin.report(), config.pool.model)
        made = intake.start(
            journal, config, model=config.pool.model, version=added.manifest.digest, workers=workers, chosen={},
            operator=asked.operator, reason=asked.reason, dry_run=False, force=False,
        )  # fmt: skip
    except HotpoolError as error:
        return replace(added, error=error)
    except TROUBLE as error:
        return replace(added, error=as_error(error))
    return replace(added, is_stable=made is None, rollout=made.number if made else None)


def _write_labels(folder: Path, labels: tuple[str, ...] | None) -> Path | None:
    if labels is None:
        return None
    path = folder / "labels"
    path.write_text("".join(f"{label}\n" for label in labels), "utf-8")
    return path
