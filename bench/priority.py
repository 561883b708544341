"""Shell: how long the broker takes to answer control while more workers compute than there are cores: workers as they are, and
workers that were not put behind the broker. All in one session, as in a container: otherwise Linux shares the processor among
the sessions first, and the broker has one of its own.

    python -m bench.priority
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
from control.admin import Admin
from hotpool import Client
from hotpool.config import load_config
from hotpool.home import Home
from workers.__main__ import plan_for
from workers.supervisor import Supervisor

from .measure import closed_loop, machine, spread
from .pool import add_resnet18, make_jpeg, running_pool

SIDES = {"as built": "workers", "same priority": "bench.priority"}
WORKERS_PER_CORE, IN_FLIGHT = 3, 16
N_ROUNDS, N_REQUESTS = 3, 40
PAUSE_S = 0.005  # between two looks, so that looking is no load of its own


def run() -> dict[str, dict[str, list[float]]]:
    """Of each side p50_ms and p99_ms of a report and requests per second, a value a round; `ratio`: as built to the other."""
    n_workers = WORKERS_PER_CORE * len(os.sched_getaffinity(0))
    figures: dict[str, dict[str, list[float]]] = {side: {} for side in SIDES}
    with ExitStack() as stack:
        pools, folder = {}, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hp")))
        add_resnet18(Home(folder / "0"), "priority", "v1", seed=0)
        shutil.copytree(folder / "0", folder / "1")
        for number, (side, module) in enumerate(SIDES.items()):
            home = Home(folder / str(number))
            modules = ("broker", module)
            stack.enter_context(running_pool(home, 'model = "priority"', n_workers, modules, own_sessions=False))
            pools[side] = home, stack.enter_context(Client(home.endpoint("clients")))
        for n_round in range(-1, N_ROUNDS):  # the first is the warm-up
            for side, (home, client) in pools.items():
                for name, value in _round(home, client).items():
                    if n_round >= 0:
                        figures[side].setdefault(name, []).append(value)
    ours, other = (figures[side] for side in SIDES)
    figures["ratio"] = {name: [a / b for a, b in zip(ours[name], other[name], strict=True)] for name in ours}
    return figures


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
    return {"p50_ms": statistics.median(times_ms), "p99_ms": statistics.quantiles(times_ms, n=100)[98], "rate": rate}


def main() -> None:
    figures = run()
    print(
        f"{machine()}; {WORKERS_PER_CORE} workers a core, {IN_FLIGHT} requests in flight, {N_ROUNDS} rounds of {N_REQUESTS}"
    )
    for side, values in figures.items():
        print(f"{side:14}", ", ".join(f"{name} {spread(each)}" for name, each in values.items()))


def supervise() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path)
    parser.add_argument("--config", type=Path)
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    Supervisor(Home(arguments.home), config, plan_for(config), template="bench.priority").run()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1].isdigit():
        workers.cores.NICE = 0
        workers.template.main()
    else:
        supervise()
