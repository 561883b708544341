"""Shell: what HTTP costs: the gateway beside bare processes and beside the client library, an int8 ResNet-18 behind all.

    python -m bench http

The load comes from wrk, on the same cores as everything else.
"""

import statistics
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from hotpool import Client
from hotpool.home import Home

from .figures import Bar, Figure, Findings, ratios
from .load import Load, free_port, require_wrk, wait_for_answer
from .measure import round_trips_ms
from .pool import add_versions, make_jpeg, running_pool
from .serving import WORKERS, bare_processes, bare_rate

CLIENTS = 16
ROUNDS, QUICK_ROUNDS, TURN_S, N_ALONE = 3, 1, 2, 60
RATE = Bar("HTTP's rate / that of bare processes, int8, 16 clients", "≥", 0.88)
LATER = Bar("HTTP's p50 above the client library's, int8, one client", "≤", 1.0)  # ms


def run(quick: bool = False) -> Findings:
    require_wrk()
    note = f"JPEG of 45 KB; wrk with one thread and {CLIENTS} connections; {WORKERS} workers of one thread each"
    return Findings(tuple(_served(QUICK_ROUNDS if quick else ROUNDS)), (note,))


def _served(rounds: int) -> list[Figure]:
    """All sides in turn, one figure a round."""
    found: dict[str, list[float]] = {name: [] for name in ("http", "bare", "http p50", "client p50")}
    with TemporaryDirectory(prefix="hp") as folder, ExitStack() as stack:
        home, picture, port = Home(Path(folder)), make_jpeg(0), free_port()
        add_versions(home, "int8")
        load = Load.of_bytes(home.root, picture)
        services = ("broker", "workers", "gateway")
        stack.enter_context(running_pool(home, WORKERS, services, settings=f"[gateway]\nport = {port}"))
        client = stack.enter_context(Client(home.endpoint("clients")))
        bare = stack.enter_context(bare_processes(home, picture))
        url = wait_for_answer(f"http://127.0.0.1:{port}/predict", load)
        for _ in range(rounds):
            found["bare"].append(bare_rate(list(bare.values()), TURN_S))
            found["http"].append(load.run(url, CLIENTS, TURN_S).rate)
            found["client p50"].append(
                statistics.median(round_trips_ms(lambda: client.classify(picture, timeout_s=60), N_ALONE))
            )
            found["http p50"].append(load.run(url, 1, TURN_S).p50_ms)
    http, alone, http_p50, client_p50 = (tuple(values) for values in found.values())
    later = tuple(ours - theirs for ours, theirs in zip(http_p50, client_p50, strict=True))
    return [
        Figure("int8 ResNet-18 over HTTP", "rate", http, "pictures/s"),
        Figure("int8 ResNet-18 over HTTP", "/ bare processes", ratios(http, alone), bar=RATE),
        Figure("int8 ResNet-18 over HTTP", "p50, one client", http_p50, "ms"),
        Figure("int8 ResNet-18 over HTTP", "p50 - client library's", later, "ms", LATER),
        Figure("client library", "p50, one client", client_p50, "ms"),
        Figure("bare processes", "rate", alone, "pictures/s"),
    ]
