"""Shell: what hotpool costs: requests per second and p50 through the real client, broker and worker loop with a model that does
nothing, beside a bare ROUTER/ROUTER echo of the same payload, in turn, in one run.

    python -m bench broker
"""

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from hotpool import Client
from hotpool.home import Home
from hotpool.stable import write_stable

from .bare import Echo
from .figures import Bar, Figure, Findings, ratios
from .measure import Submit, answered, closed_loop, round_trips_ms, running
from .noop import MODEL, noop_manifest

IN_FLIGHT, WORKERS = 16, 2
PIXELS = np.zeros((58, 59, 3), np.uint8)
N_BYTES = PIXELS.nbytes  # 10,266
ROUNDS, REQUESTS = 9, 4000
OURS, BARE = "hotpool", "bare echo"
PROMISE = f"no-op model, 10 KB, {IN_FLIGHT} in flight"
LEAST_RATE, LEAST_RATIO = 5000, 0.65


def run(quick: bool = False) -> Findings:
    rounds, n_requests = (1, 400) if quick else (ROUNDS, REQUESTS)
    rates: dict[str, list[float]] = {OURS: [], BARE: []}
    times: dict[str, list[float]] = {OURS: [], BARE: []}
    with _sides() as sides:
        for submit in sides.values():  # both are connected
            closed_loop(submit, 200, IN_FLIGHT)
        for _ in range(rounds):
            for name, submit in sides.items():
                rates[name].append(closed_loop(submit, n_requests, IN_FLIGHT))
                times[name].append(statistics.median(round_trips_ms(partial(answered, submit), n_requests // 8)))
    return _findings(rates, times, n_requests)


def _findings(rates: dict[str, list[float]], times: dict[str, list[float]], n_requests: int) -> Findings:
    ours, bare, ours_ms, bare_ms = (tuple(found[name]) for found in (rates, times) for name in (OURS, BARE))
    column, p50 = f"{IN_FLIGHT} in flight", "p50, one in flight"
    figures = (
        Figure(OURS, column, ours, "requests/s", Bar(PROMISE, "≥", LEAST_RATE)),
        Figure(OURS, "/ bare echo", ratios(ours, bare), bar=Bar(PROMISE, "≥", LEAST_RATIO)),
        Figure(OURS, p50, ours_ms, "ms"),
        Figure(OURS, "p50 / bare echo", ratios(ours_ms, bare_ms)),
        Figure(BARE, column, bare, "requests/s"),
        Figure(BARE, p50, bare_ms, "ms"),
    )
    return Findings(figures, (f"payload {N_BYTES:,} bytes, {WORKERS} workers, {n_requests} requests a round",))


@contextmanager
def _sides() -> Iterator[dict[str, Submit]]:
    """Both stand ready; who is not asked is idle."""
    with tempfile.TemporaryDirectory(prefix="hp") as folder, ExitStack() as stack:
        home = Home(Path(folder))
        write_stable(home, MODEL, noop_manifest("v1").digest)
        config = home.root / "hotpool.toml"
        config.write_text(f'[pool]\nmodel = "{MODEL}"\n')
        stack.enter_context(running("broker", "--home", folder, "--config", str(config)))
        for number in range(WORKERS):
            stack.enter_context(running("bench.noop", folder, f"worker-{number}"))
        bare = [f"ipc://{folder}/bare-{name}" for name in ("clients", "workers")]
        stack.enter_context(running("bench.bare", "broker", *bare))
        for _ in range(WORKERS):
            stack.enter_context(running("bench.bare", "worker", bare[1]))
        client = stack.enter_context(Client(home.endpoint("clients")))
        echo = Echo(bare[0])
        stack.callback(echo.close)
        payload = PIXELS.tobytes()
        yield {OURS: lambda: client.submit(PIXELS, timeout_s=60), BARE: lambda: echo.submit(payload)}
