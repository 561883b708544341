"""Shell: how long the broker takes to answer control while more workers compute than there are cores: workers as they are, and
workers that were not put behind the broker. All in one session, as in a container: otherwise Linux shares the processor among
the sessions first, and the broker has one of its own.

    python -m bench priority
    python -m bench.priority --home DIR --config FILE     a supervisor whose workers keep their priority
    python -m bench.priority CONTROL_FD LIFELINE_FD       its template (the supervisor starts it)
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

import workers.cores
import workers.template
from hotpool import Client
from hotpool.admin import Admin
from hotpool.config import load_config
from hotpool.home import Home
from workers.__main__ import plan_for
from workers.supervisor import Supervisor

from .figures import Bar, Figure, Findings, ratios
from .measure import closed_loop
from .pool import add_versions, make_jpeg, running_pool

SIDES = {"as built": "workers", "same priority": "bench.priority"}
WORKERS_PER_CORE, IN_FLIGHT = 3, 16
N_ROUNDS, N_REQUESTS = 3, 40
UNITS = {"p50 of a report": "ms", "p99 of a report": "ms", "served": "requests/s"}
AT_ONCE = Bar("a saturated pool's broker answers control: p99", "≤", 20)  # ms
PAUSE_S = 0.005  # between two looks, so that looking is no load of its own


def run(quick: bool = False) -> Findings:
    n_workers = WORKERS_PER_CORE * len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        pools, folder = {}, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hp")))
        add_versions(Home(folder / "0"), "fp32")
        shutil.copytree(folder / "0", folder / "1")
        for number, (side, module) in enumerate(SIDES.items()):
            home = Home(folder / str(number))
            modules = ("broker", module)
            stack.enter_context(running_pool(home, n_workers, modules, own_sessions=False))
            pools[side] = home, stack.enter_context(Client(home.endpoint("clients")))
        rounds = [{side: _round(*pool) for side, pool in pools.items()} for _ in range(1 + (1 if quick else N_ROUNDS))]
    notes = (
        f"{WORKERS_PER_CORE} workers a core, {IN_FLIGHT} in flight, {N_REQUESTS} requests a round, all in one session",
    )
    return Findings(_figures(rounds[1:]), notes)  # the first is the warm-up


def _figures(rounds: list[dict[str, dict[str, float]]]) -> tuple[Figure, ...]:
    found = {(side, name): tuple(one[side][name] for one in rounds) for side in SIDES for name in UNITS}
    built, other = SIDES
    return tuple(
        figure
        for name, unit in UNITS.items()
        for figure in (
            Figure(built, name, found[built, name], unit, AT_ONCE if name == "p99 of a report" else None),
            Figure(other, name, found[other, name], unit),
            Figure(built, f"{name} / {other}", ratios(found[built, name], found[other, name])),
        )
    )


def _round(home: Home, client: Client) -> dict[str, float]:
    jpeg, stop, times_ms = make_jpeg(0), threading.Event(), list[float]()

    def look() -> None:
        with Admin(home.endpoint("admin")) as admin:
            while not stop.wait(PAUSE_S):
                begin = perf_counter()
                admin.report()
                times_ms.append((perf_counter() - begin) * 1e3)

    looker = threading.Thread(target=look)
    looker.start()
    rate = closed_loop(lambda: client.submit(jpeg, timeout_s=60), N_REQUESTS, IN_FLIGHT)
    stop.set()
    looker.join()
    p99 = statistics.quantiles(times_ms, n=100)[98]
    return dict(zip(UNITS, (statistics.median(times_ms), p99, rate), strict=True))


def supervise() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path)
    parser.add_argument("--config", type=Path)
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    Supervisor(Home(arguments.home), config, plan_for(config), template="bench.priority").run()


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        workers.cores.NICE = 0
        workers.template.main()
    else:
        supervise()
