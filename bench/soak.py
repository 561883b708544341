"""Shell: rollouts back to back under load, and whether anything grows, is lost or goes wrong meanwhile.

    python -m bench.soak [--minutes 30] [--callers 6]

Prints what happened and writes it into bench/results.md too. Each rollout is to a new int8 version, added beside the load: what
a version leaves behind is seen so, where two in turn would share it. The strategies take turns.
Growth is that of the mean of the last tenth of the time over the mean of the tenth that follows the first five minutes
(a quarter of the time when it is short). Not of the median: a worker has one version in memory or two, and a median jumps from
the one to the other.
"""

import argparse
import os
import statistics
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import numpy as np
import psutil

from control.versions import list_versions
from hotpool import Client, Prediction
from hotpool.admin import Admin
from hotpool.home import Home
from hotpool.states import Phase, Strategy

from .alone import Alone
from .callers import Callers, History
from .figures import Bar, Figure, Findings
from .load import free_port
from .machine import describe_commit, describe_machine
from .pool import add_version, add_versions, make_jpeg, roll_out, running_pool, worker_pids
from .record import RESULTS, read_entries, write_entries
from .report import Entry, bar_rows, figure_lines

N_WORKERS, N_PICTURES = 2, 12
SAMPLE_S, WARM_UP_MINUTES = 3.0, 5.0
CLOSE = 0.02  # of the largest logit: another batch size may turn two such classes round
MOST_GROWTH = 0.03
TEMPLATE = "template"
SHOWS = "rollouts back to back under load for half an hour, and whether anything grows, is lost or goes wrong meanwhile"


@dataclass(frozen=True)
class Sample:
    """One process at one instant. rss: all that is resident, shared or not; uss: what only it has."""

    at_s: float
    name: str
    pid: int
    rss: int
    uss: int


@dataclass
class Soak:
    """What happened. phases: how each rollout ended; causes: of workers' ends, by worker."""

    seconds: float
    history: History = field(default_factory=History)
    phases: list[Phase] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    causes: dict[str, dict[str, int]] = field(default_factory=dict)

    def growth(self, measure: str) -> dict[str, tuple[float, float]]:
        """Of processes that lived to the end: bytes after the warm-up, and by what part of them each has grown since."""
        begin = min(WARM_UP_MINUTES * 60, self.seconds / 4)
        tenth = self.seconds / 10
        grown = {}
        for name, pid in self.processes():
            early = self._values(pid, measure, begin, begin + tenth)
            late = self._values(pid, measure, self.seconds - tenth, self.seconds)
            if early and late:
                grown[name] = statistics.fmean(early), statistics.fmean(late) / statistics.fmean(early) - 1
        return grown

    def processes(self) -> list[tuple[str, int]]:
        """Name and process id, in the order in which they were seen first."""
        return list(dict.fromkeys((sample.name, sample.pid) for sample in self.samples))

    def restarts(self) -> int:
        return len(self.processes()) - len({name for name, _ in self.processes()})

    def _values(self, pid: int, measure: str, since_s: float, until_s: float) -> list[int]:
        return [getattr(x, measure) for x in self.samples if x.pid == pid and since_s <= x.at_s <= until_s]


class Sampler(threading.Thread):
    """Samples all processes of the pool until told to stop."""

    def __init__(self, home: Home, services: dict[str, int], soak: Soak) -> None:
        super().__init__(daemon=True)
        self._home, self._services, self._soak = home, services, soak
        self.stopping = threading.Event()

    def run(self) -> None:
        begin = monotonic()
        with Admin(self._home.endpoint("admin")) as admin:
            while not self.stopping.wait(SAMPLE_S):
                report = admin.report()
                self._soak.causes.update(
                    {worker.worker: worker.restarts for worker in report.workers if worker.restarts}
                )
                pids = {**self._services, **worker_pids(report)}
                (pids[TEMPLATE],) = [child.pid for child in psutil.Process(pids["workers"]).children()]
                for name, pid in pids.items():
                    try:
                        memory = psutil.Process(pid).memory_full_info()
                    except psutil.NoSuchProcess:
                        continue  # a worker that has just ended
                    self._soak.samples.append(Sample(monotonic() - begin, name, pid, memory.rss, memory.uss))


def soak_pool(minutes: float, n_callers: int) -> Soak:
    """All services, under callers of the client library."""
    soak = Soak(minutes * 60)
    with tempfile.TemporaryDirectory(prefix="hp") as folder:
        home = Home(Path(folder))
        add_versions(home, "int8")
        pictures = [make_jpeg(seed) for seed in range(N_PICTURES)]
        modules, settings = ("broker", "workers", "control", "gateway"), f"[gateway]\nport = {free_port()}"
        with running_pool(home, N_WORKERS, modules, settings=settings) as services:
            sampler = Sampler(home, services, soak)
            sampler.start()
            soak.history = _roll_under_load(home, pictures, n_callers, soak)
            sampler.stopping.set()
            sampler.join()
    return soak


def _roll_under_load(home: Home, pictures: list[bytes], n_callers: int, soak: Soak) -> History:
    right = {"v1": _right_answers(home, "v1", pictures)}

    def ask(n: int) -> tuple[bytes, None]:
        return pictures[n % N_PICTURES], None

    def check(n: int, _: None, prediction: Prediction) -> str | None:
        expected = right[prediction.version][n % N_PICTURES]
        got = prediction.classes[0].index
        return None if got in expected else f"class {got} from {prediction.version}, right is {expected}"

    ends_at = monotonic() + soak.seconds
    with Client(home.endpoint("clients")) as client, Callers(client, n_callers, ask, check) as callers:
        while monotonic() < ends_at:
            number = len(soak.phases) + 2
            add_version(home, number, "int8")
            right[f"v{number}"] = _right_answers(home, f"v{number}", pictures)
            soak.phases.append(roll_out(home, f"v{number}", Strategy.BESIDE if number % 2 else Strategy.DRAIN))
    return callers.history


def _right_answers(home: Home, name: str, pictures: list[bytes]) -> list[set[int]]:
    """The classes that this version may give each picture, computed here."""
    (digest,) = (manifest.digest for manifest in list_versions(home) if manifest.name == name)
    version = Alone(home, digest)
    found = []
    for picture in pictures:
        logits = version.logits([picture])[0]
        found.append(set(np.flatnonzero(logits >= logits.max() - CLOSE * np.abs(logits).max()).tolist()))
    return found


def findings(soak: Soak, n_callers: int) -> Findings:
    got = soak.history
    harm = got.lost + len(got.errors) + len(got.wrong)
    figures = [
        Figure("all", "requests", (got.sent,)),
        Figure(
            "all",
            "lost, failed or wrong",
            (harm,),
            bar=Bar("rollouts back to back: requests lost, failed or wrong", "≤", 0),
        ),
    ]
    restarts = Bar("rollouts back to back: processes that ended and were started again", "≤", 0)
    figures.append(Figure("all", "restarts", (soak.restarts(),), bar=restarts))
    figures += _memory(soak)
    rollouts = ", ".join(f"{n} {phase}" for phase, n in Counter(soak.phases).items())
    notes = (
        f"{soak.seconds / 60:g} minutes, {n_callers} callers, {N_WORKERS} workers, ResNet-18 in int8 at 224",
        f"rollouts, drain and beside in turn, each to a new version: {rollouts}; {len(got.by_version)} versions answered",
        "growth is since the mean after the warm-up, given in MB; of all: the most of any rss, and that of the sum of uss",
        "uss of one process is not judged: it moves by a megabyte or two with what its allocators keep, and with pages that it "
        "shared, which become its own when the others let go of them",
        *(f"{worker} was started again, by cause: {causes}" for worker, causes in soak.causes.items()),
        *map(repr, got.errors[:3]),
        *got.wrong[:3],
    )
    return Findings(tuple(figures), notes)


def _memory(soak: Soak) -> list[Figure]:
    """Of each process, and what is judged of them all."""
    rss, uss = soak.growth("rss"), soak.growth("uss")
    most = max(grown for _, grown in rss.values())
    together = sum(early * grown for early, grown in uss.values()) / sum(early for early, _ in uss.values())
    by_process = Bar("growth of any process's memory after the warm-up", "≤", MOST_GROWTH)
    by_pool = Bar("growth of the whole pool's private memory after the warm-up", "≤", MOST_GROWTH)
    figures = [
        Figure("all", "rss growth", (most,), bar=by_process),
        Figure("all", "uss growth", (together,), bar=by_pool),
    ]
    for measure, growth in (("rss", rss), ("uss", uss)):
        for name, (early, grown) in growth.items():
            figures += [Figure(name, measure, (early / 1e6,), "MB"), Figure(name, f"{measure} growth", (grown,))]
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--callers", type=int, default=6)
    arguments = parser.parse_args()
    date, load, begin = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), os.getloadavg()[0], monotonic()
    commit = describe_commit()
    found = findings(soak_pool(arguments.minutes, arguments.callers), arguments.callers)
    entry = Entry(SHOWS, date, commit, describe_machine(), load, monotonic() - begin, found)
    rows = bar_rows({"soak": entry})
    bars = [f"{met:>3}: {what} {bar}, seen {seen}" for what, bar, seen, met in rows]
    print("\n".join([*figure_lines(found), *found.notes, *bars]))
    write_entries({**read_entries(RESULTS), "soak": entry}, RESULTS)
    return 1 if any(met == "no" for *_, met in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
