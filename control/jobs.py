"""Shell: work that takes longer than a caller waits: adding versions, one at a time, in a thread of the controller's process.

Nothing remembers jobs but this process. What a job leaves is whole or not there, as with `hotpool versions add`.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from time import monotonic
from typing import Any

from hotpool.config import Config
from hotpool.errors import Conflict, HotpoolError, NothingToDo
from hotpool.home import Home
from hotpool.manifest import Manifest, public_view

from . import registry
from .asks import Add
from .journal import Journal
from .trouble import TROUBLE, describe_trouble
from .versions import overrides, prepare

KEPT = 100  # whose end can still be asked for

log = logging.getLogger("hotpool.control")


@dataclass(frozen=True, slots=True)
class Ended:
    """manifest: of the version that was added; None when none was. error: why."""

    seconds: float
    manifest: Manifest | None = None
    is_stable: bool = False
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

    def begin(self, work: Callable[[Event], tuple[Manifest, bool]]) -> int:
        """The number of the job. work: adds a version; says whether it is stable at once.

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
        state = "running" if ended is None else "failed" if ended.error else "done"
        return {
            "job": number,
            "state": state,
            "seconds": round(ended.seconds if ended else monotonic() - job.began_at, 3),
            "version": public_view(ended.manifest) if ended and ended.manifest else None,
            "is_stable": bool(ended and ended.is_stable),
            "code": ended.error.code if ended and ended.error else "",
            "error": str(ended.error) if ended and ended.error else "",
        }

    def close(self) -> None:
        self._thread.shutdown()

    def _run(self, number: int, work: Callable[[Event], tuple[Manifest, bool]], began_at: float) -> Ended:
        try:
            manifest, is_stable = work(self._stopping)
        except HotpoolError as error:
            log.info("job=%d code=%s reason=%r", number, error.code, str(error))
            return Ended(monotonic() - began_at, error=error)
        except TROUBLE as error:
            return Ended(monotonic() - began_at, error=HotpoolError(describe_trouble(error)))
        except Exception:  # the outermost level of a job: who waits for it must learn that it has ended
            log.exception("job=%d", number)
            return Ended(monotonic() - began_at, error=HotpoolError("a bug in hotpool; see the log of control"))
        return Ended(monotonic() - began_at, manifest, is_stable)


def add_version(home: Home, config: Config, asked: Add, stopping: Event) -> tuple[Manifest, bool]:
    """As `hotpool versions add`; raises like `versions.prepare` and `registry.add`."""
    with TemporaryDirectory(prefix="labels-", dir=home.run) as folder, Journal(home.database) as journal:
        prepared = prepare(
            home, asked.source, model=config.pool.model, name=asked.name, operator=asked.operator,
            memory_mb=config.rollout.preflight_memory_mb, arch=asked.arch,
            labels=_write_labels(Path(folder), asked.labels), preprocessing=overrides(asked.resize, asked.crop),
            preprocess=asked.preprocess, sha256=asked.sha256, md5=asked.md5, precision=asked.precision,
            calibrate=Path(asked.calibrate) if asked.calibrate else None, min_agreement=asked.min_agreement,
            stopping=stopping,
        )  # fmt: skip
        is_first = registry.add(journal, prepared, operator=asked.operator, reason=asked.reason)
    return prepared.manifest, is_first


def _write_labels(folder: Path, labels: tuple[str, ...] | None) -> Path | None:
    if labels is None:
        return None
    path = folder / "labels"
    path.write_text("".join(f"{label}\n" for label in labels), "utf-8")
    return path
