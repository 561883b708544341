"""Shell: the memory that each worker has for itself, booted and after it has served batches.

python -m bench memory
"""

import tempfile
from pathlib import Path

from hotpool import Client
from hotpool.admin import Admin
from hotpool.home import Home
from hotpool.messages import Report

from .figures import Bar, Figure, Findings
from .measure import closed_loop
from .pool import add_versions, make_jpeg, private_bytes, running_pool, wait_until_ready, worker_pids

N_WORKERS = 2
N_REQUESTS, QUICK_REQUESTS, IN_FLIGHT = 96, 32, 16  # full batches in each worker
BARS_MB = {"fp32": 90, "int8": 60}


def run(quick: bool = False) -> Findings:
    n_requests = QUICK_REQUESTS if quick else N_REQUESTS
    figures = [figure for precision in BARS_MB for figure in _measure(precision, n_requests)]
    notes = (
        "unique set size: what ending the process would give back; one value a worker",
        f"ResNet-18 at 224, {N_WORKERS} workers; served: {n_requests} pictures, {IN_FLIGHT} in flight",
    )
    return Findings(tuple(figures), notes)


def _measure(precision: str, n_requests: int) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="hp") as folder:
        home = Home(Path(folder))
        add_versions(home, precision)
        with running_pool(home, N_WORKERS):
            ready = _private_mb(wait_until_ready(home, N_WORKERS))
            jpeg = make_jpeg(0)
            with Client(home.endpoint("clients")) as client, Admin(home.endpoint("admin")) as admin:
                closed_loop(lambda: client.submit(jpeg, timeout_s=60), n_requests, IN_FLIGHT)
                served = _private_mb(admin.report())
    bar = Bar(f"a worker's own memory after it has served, {precision}", "≤", BARS_MB[precision])
    return [Figure(precision, "ready", ready, "MB"), Figure(precision, "served", served, "MB", bar)]


def _private_mb(report: Report) -> tuple[float, ...]:
    return tuple(private_bytes(pid) / 1e6 for pid in worker_pids(report).values())
