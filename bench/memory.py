"""Shell: the memory that each worker has for itself, booted and after it has served batches.

python -m bench.memory [--precision fp32]
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from control.admin import Admin
from hotpool import Client
from hotpool.home import Home
from hotpool.messages import Report

from .measure import closed_loop, machine
from .pool import add_resnet18, make_jpeg, private_bytes, running_pool, wait_until_ready, worker_pids

MODEL, N_WORKERS = "memory", 2
N_REQUESTS, IN_FLIGHT = 96, 16  # full batches in each worker
BARS_MB = {"fp32": 90, "int8": 60}
MB = 1e6


def run(precision: str = "fp32") -> dict[str, list[float]]:
    """MB of unique memory, one value a worker: `ready` (booted and verified), `served` (after batches)."""
    options = [] if precision == "fp32" else ["--precision", precision]
    with tempfile.TemporaryDirectory(prefix="hp") as folder:
        home = Home(Path(folder))
        add_resnet18(home, MODEL, "v1", 0, *options)
        with running_pool(home, f'model = "{MODEL}"', N_WORKERS):
            figures = {"ready": _private_mb(wait_until_ready(home, N_WORKERS))}
            jpeg = make_jpeg(0)
            with Client(home.endpoint("clients")) as client, Admin(home.endpoint("admin")) as admin:
                closed_loop(lambda: client.submit(jpeg, timeout_s=60), N_REQUESTS, IN_FLIGHT)
                figures["served"] = _private_mb(admin.report())
    return figures


def _private_mb(report: Report) -> list[float]:
    return [private_bytes(pid) / MB for pid in worker_pids(report).values()]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.memory")
    parser.add_argument("--precision", choices=sorted(BARS_MB), default="fp32")
    precision = parser.parse_args().precision
    figures = run(precision)
    print(f"{machine()}; ResNet-18 at 224 x 224, {precision}, private memory of each worker in MB")
    for when, values in figures.items():
        print(f"{when:7} {statistics.median(values):.0f} ({', '.join(f'{value:.0f}' for value in values)})")
    print(f"at most {BARS_MB[precision]} is promised after batches")


if __name__ == "__main__":
    main()
