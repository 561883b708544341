"""Shell: samples of a rollout that is under way, and the page it leaves: `rollouts/<n>/samples.jsonl` and `report.html`.

A rollout never waits for its report and never fails because of it: what can't be written is logged, once.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from hotpool.disk import write_atomically
from hotpool.evidence import Counts
from hotpool.home import Home
from hotpool.messages import Report

from .journal import Journal
from .report import render
from .samples import Look, Sample, difference, from_lines, thin, to_line

EVERY_S = 1.0
# About 600 bytes a sample of four workers. A longer file is thinned to about half: of a day there is one in 32 or 64 seconds.
MAX_SAMPLES = 4000

log = logging.getLogger("hotpool.control")


def report_path(home: Home, number: int) -> Path:
    return _folder(home, number) / "report.html"


def samples_path(home: Home, number: int) -> Path:
    return _folder(home, number) / "samples.jsonl"


def read_samples(home: Home, number: int) -> list[Sample]:
    """Empty when none were taken, or when they can't be read: a report without them is better than none."""
    try:
        return from_lines(samples_path(home, number).read_bytes().splitlines())
    except OSError:
        return []


def write_report(home: Home, journal: Journal, number: int) -> Path:
    """The page of a rollout, over or under way, made anew from the journal and its samples. A reader sees the old or the new.

    Raises:
        OSError: it can't be written; a page that was there is still there.
    """
    path = report_path(home, number)
    _write(path, render_report(home, journal, number).encode())
    return path


def render_report(home: Home, journal: Journal, number: int) -> str:
    """The page of a rollout as it is now."""
    return render(number, journal.of_rollout(number), read_samples(home, number))


class Recorder:
    """Of one rollout. It goes on where another one of a controller that was killed ended."""

    def __init__(
        self,
        home: Home,
        model: str,
        number: int,
        created_ts: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """created_ts: of its `rollout_created`. clock: the time of day; the events it is shown beside have no other."""
        self.number = number
        self._home, self._model = home, model
        self._created, self._clock = datetime.fromisoformat(created_ts), clock
        self._last: Look | None = None
        self._samples = read_samples(home, number)
        self._is_written = False
        self._is_failing = False

    def is_due(self, now: float) -> bool:
        """Whether `note` would do anything: ask before you get the evidence. now: monotonic."""
        return self._last is None or now - self._last.now >= EVERY_S

    def note(self, report: Report, counts: Counts | None, now: float) -> None:
        """Writes down what was served since the last time, at most once in `EVERY_S`."""
        if not self.is_due(now):
            return
        before, self._last = self._last, Look(report, counts, now)
        if before is None:
            return
        wall = self._clock()
        at = max(0.0, (wall - self._created).total_seconds())
        ts = wall.isoformat(timespec="milliseconds")
        self._samples.append(difference(before, self._last, self._model, ts, at))
        self._try(self._keep)

    def finish(self, journal: Journal) -> None:
        """Writes the page; call it when the rollout is over."""
        self._try(lambda: write_report(self._home, journal, self.number))

    def _keep(self) -> None:
        """The first time and after thinning the whole file is written: a line that was cut off is mended so."""
        path = samples_path(self._home, self.number)
        if len(self._samples) > MAX_SAMPLES:
            self._samples, self._is_written = thin(self._samples, MAX_SAMPLES * 5 // 8), False
        if self._is_written:
            with path.open("ab") as file:
                file.write(to_line(self._samples[-1]) + b"\n")
        else:
            _write(path, b"".join(to_line(sample) + b"\n" for sample in self._samples))
            self._is_written = True

    def _try(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            self._is_written = False  # whatever is in the file: next time it is written whole
            if not self._is_failing:
                log.warning("no report rollout=%d reason=%s", self.number, error)
            self._is_failing = True
        else:
            self._is_failing = False


def _folder(home: Home, number: int) -> Path:
    return home.root / "rollouts" / str(number)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
