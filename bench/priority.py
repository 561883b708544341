"""Shell: how long broker, controller and gateway take to answer while more workers compute than there are cores: workers as
they are, and workers that were not put behind them. All in one session, as in a container: otherwise Linux shares the
processor among the sessions first, and each service has one of its own.

    python -m bench priority
    python -m bench.priority --home DIR --config FILE     a supervisor whose workers keep their priority
    python -m bench.priority CONTROL_FD LIFELINE_FD SOCKET       its template (the supervisor starts it)
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from time import perf_counter

import workers.cores
import workers.template
from hotpool import Client
from hotpool.admin import Admin
from hotpool.config import load_config
from hotpool.control_client import ControlClient
from hotpool.home import Home
from workers.__main__ import plan_for
from workers.supervisor import Supervisor

from .figures import Bar, Figure, Findings, ratios
from .load import free_port, wait_until_taken
from .measure import closed_loop
from .pool import add_versions, make_jpeg, running_pool

BUILT, SAME = "as built", "same priority"
SIDES = {BUILT: "workers", SAME: "bench.priority"}
ASKED = ("broker", "controller", "gateway")
WORKERS_PER_CORE, IN_FLIGHT = 3, 16
N_ROUNDS, N_REQUESTS, N_WARM_UP = 2, 160, 40
MOST_P99_MS = 20
PAUSE_S = 0.005  # between two looks, so that looking is no load of its own


@dataclass
class Round:
    """times_ms: of each answer, by who was asked. rate: pictures a second meanwhile."""

    rate: float
    times_ms: dict[str, list[float]]

    def p50(self, asked: str) -> float:
        return statistics.median(self.times_ms[asked])

    def p99(self, asked: str) -> float:
        return statistics.quantiles(self.times_ms[asked], n=100, method="inclusive")[98]


@dataclass(frozen=True)
class Pool:
    """One side. questions: each returns when it is answered."""

    client: Client
    questions: dict[str, Callable[[], object]]


def run(quick: bool = False) -> Findings:
    n_workers = WORKERS_PER_CORE * len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        pools, folder = {}, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hp")))
        add_versions(Home(folder / "0"), "fp32")
        shutil.copytree(folder / "0", folder / "1")
        for number, (side, module) in enumerate(SIDES.items()):
            pools[side] = _start(stack, Home(folder / str(number)), module, n_workers)
        for pool in pools.values():
            _round(pool, N_WARM_UP)
        rounds = [{side: _round(pool) for side, pool in pools.items()} for _ in range(1 if quick else N_ROUNDS)]
    notes = (
        f"{WORKERS_PER_CORE} workers a core, {IN_FLIGHT} in flight, {N_REQUESTS} requests a round, all in one session",
        "asked in turn: the broker for its report, the controller for the pool's status, the gateway for /healthz",
    )
    return Findings(_figures(rounds), notes)


def _start(stack: ExitStack, home: Home, workers_module: str, n_workers: int) -> Pool:
    port = free_port()
    modules, settings = ("broker", workers_module, "control", "gateway"), f"[gateway]\nport = {port}"
    stack.enter_context(running_pool(home, n_workers, modules, settings=settings, own_sessions=False))
    admin = stack.enter_context(Admin(home.endpoint("admin")))
    control = stack.enter_context(ControlClient(home.endpoint("control")))
    wait_until_taken(port)
    gateway = HTTPConnection("127.0.0.1", port, timeout=60)
    stack.callback(gateway.close)

    def look_at_gateway() -> None:
        gateway.request("GET", "/healthz")
        response = gateway.getresponse()
        response.read()
        if response.status != 200:
            raise RuntimeError(f"/healthz: status {response.status}")

    questions = (admin.report, partial(control.call, "status"), look_at_gateway)
    return Pool(stack.enter_context(Client(home.endpoint("clients"))), dict(zip(ASKED, questions, strict=True)))


def _figures(rounds: list[dict[str, Round]]) -> tuple[Figure, ...]:
    figures = []
    for asked in ASKED:
        for name, measure in (("p50", Round.p50), ("p99", Round.p99)):
            found = {side: tuple(measure(one[side], asked) for one in rounds) for side in SIDES}
            bar = Bar(f"a saturated pool's {asked} answers control: p99", "≤", MOST_P99_MS) if name == "p99" else None
            figures += [
                Figure(f"{asked}, {BUILT}", name, found[BUILT], "ms", bar),
                Figure(f"{asked}, {BUILT}", f"{name} / {SAME}", ratios(found[BUILT], found[SAME])),
                Figure(f"{asked}, {SAME}", name, found[SAME], "ms"),
            ]
    rates = {side: tuple(one[side].rate for one in rounds) for side in SIDES}
    return (
        *figures,
        *(Figure(f"pictures, {side}", "served", rates[side], "pictures/s") for side in SIDES),
        Figure(f"pictures, {BUILT}", f"served / {SAME}", ratios(rates[BUILT], rates[SAME])),
    )


def _round(pool: Pool, n_requests: int = N_REQUESTS) -> Round:
    jpeg, stop = make_jpeg(0), threading.Event()
    times_ms: dict[str, list[float]] = {asked: [] for asked in ASKED}

    def look() -> None:
        while not stop.wait(PAUSE_S):
            for asked, question in pool.questions.items():
                begin = perf_counter()
                question()
                times_ms[asked].append((perf_counter() - begin) * 1e3)

    with ThreadPoolExecutor(1) as thread:
        looker = thread.submit(look)
        try:
            rate = closed_loop(lambda: pool.client.submit(jpeg, timeout_s=60), n_requests, IN_FLIGHT)
        finally:
            stop.set()
        looker.result()
    return Round(rate, times_ms)


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
