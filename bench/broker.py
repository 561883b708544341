"""Shell: what hotpool costs: requests per second and p50 through the real client, broker and worker loop with a model that does
nothing, beside a bare ROUTER/ROUTER echo of the same payload, in turn, in one run.

    python -m bench.broker [--rounds 5] [--requests 4000]
"""

import argparse
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from hotpool import Client
from hotpool.home import Home
from hotpool.manifest import write_stable

from .bare import Echo
from .measure import closed_loop, machine, round_trips_ms, running, spread
from .noop import MODEL, noop_manifest

IN_FLIGHT = 16
PIXELS = np.zeros((58, 59, 3), np.uint8)  # 10,266 bytes
BAR = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.broker")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=4000, help="of each side in each round")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hp") as folder, ExitStack() as stack:
        home = Home(Path(folder))
        write_stable(home, MODEL, noop_manifest("v1").digest)
        config = home.root / "hotpool.toml"
        config.write_text(f'[pool]\nmodel = "{MODEL}"\n')
        stack.enter_context(running("broker", "--home", folder, "--config", str(config)))
        for number in range(2):
            stack.enter_context(running("bench.noop", folder, f"worker-{number}"))
        bare = [f"ipc://{folder}/bare-{name}" for name in ("clients", "workers")]
        stack.enter_context(running("bench.bare", "broker", *bare))
        for _ in range(2):
            stack.enter_context(running("bench.bare", "worker", bare[1]))
        client = stack.enter_context(Client(home.endpoint("clients")))
        echo = Echo(bare[0])
        stack.callback(echo.close)
        compare(client, echo, arguments.rounds, arguments.requests)


def compare(client: Client, echo: Echo, rounds: int, n_requests: int) -> None:
    payload = PIXELS.tobytes()

    def ours():
        return client.submit(PIXELS, timeout_s=60)

    def bare():
        return echo.submit(payload)

    for submit in (ours, bare):  # warm up: both sides are connected
        closed_loop(submit, 200, IN_FLIGHT)
    rates: dict[str, list[float]] = {"ours": [], "bare": []}
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(rounds):
        for name, submit in (("ours", ours), ("bare", bare)):
            rates[name].append(closed_loop(submit, n_requests, IN_FLIGHT))
            times[name].append(statistics.median(round_trips_ms(submit, n_requests // 8)))
    ratios = [a / b for a, b in zip(rates["ours"], rates["bare"], strict=True)]
    print(f"{machine()}; payload {len(payload)} bytes, 2 workers, {rounds} rounds of {n_requests} requests")
    print(f"hotpool, {IN_FLIGHT} in flight   {spread(rates['ours'])} requests/s")
    print(f"bare echo, {IN_FLIGHT} in flight {spread(rates['bare'])} requests/s")
    print(f"ratio                   {spread(ratios)}, at least {BAR} is promised")
    print(f"p50, one in flight      {spread(times['ours'])} ms, bare echo {spread(times['bare'])} ms")


if __name__ == "__main__":
    main()
