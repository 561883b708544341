"""Shell: other servers beside hotpool on the same work: the same int8 ResNet-18 by the same engine and preprocessing, and a
model that does nothing.

    python -m bench servers

Each has two workers of one thread and gets the same picture over HTTP from wrk. One after another is started and takes turns
with hotpool, so that a server that is not measured takes no processor time. BentoML and Ray Serve are measured where they are
installed (requirements-servers.txt); TorchServe is not: it wants a Java machine, and its makers have ended it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from control.versions import list_versions
from hotpool.home import Home
from hotpool.manifest import write_stable

from .figures import Bar, Figure, Findings, ratios
from .load import Load, free_port, require_wrk, wait_for_answer
from .measure import running
from .noop import MODEL as NOOP
from .noop import noop_manifest
from .pool import add_versions, make_jpeg, running_pool, wait_until_ready
from .rival_work import NOTHING, VARIABLE, describe_version

WORKERS, CLIENTS = 2, 16
ROUNDS, QUICK_ROUNDS, TURN_S = 3, 1, 1
# Of many clients with a model: what is under way when a turn ends counts for nobody, and of batches that is more.
LONG_TURN_S = 2
# Neither may tell its makers over the network that it runs.
SILENT = {"BENTOML_DO_NOT_TRACK": "True", "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True, slots=True)
class Server:
    """command: of a module, by its port. takes_form: pictures come in a form's field `file`, not as bytes of the body.

    no_op: what is promised of our rate as part of its rate, with a model that does nothing.
    """

    name: str
    package: str
    command: Callable[[int], Sequence[str]]
    path: str
    takes_form: bool = False
    no_op: float | None = None

    @property
    def is_installed(self) -> bool:
        return find_spec(self.package) is not None


SERVERS = (
    Server(
        "Mosec", "mosec", lambda port: ("bench.rival_mosec", "--port", str(port), "--address", "127.0.0.1"), "/inference",
        no_op=0.35,
    ),
    Server("LitServe", "litserve", lambda port: ("bench.rival_litserve", str(port)), "/predict", True, no_op=2.0),
    Server(
        "BentoML", "bentoml",
        lambda port: ("bentoml", "serve", "bench.rival_bentoml:Classifier", "--host", "127.0.0.1", "--port", str(port)),
        "/predict", True,
    ),
    Server("Ray Serve", "ray", lambda port: ("bench.rival_ray", str(port)), "/"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ours:
    """The pool, and what others' workers have to do to do the same."""

    url: str
    work: str


def run(quick: bool = False) -> Findings:
    require_wrk()
    rounds, picture, figures = QUICK_ROUNDS if quick else ROUNDS, make_jpeg(0), list[Figure]()
    present = [server for server in SERVERS if server.is_installed]
    with TemporaryDirectory(prefix="hp") as folder:
        loads = {True: Load.of_form(Path(folder), picture), False: Load.of_bytes(Path(folder), picture)}
        with _classifying_pool(Path(folder) / "classify") as ours:
            for server in present:
                figures += _classify(server, ours, loads[server.takes_form], rounds)
        with _idling_pool(Path(folder) / "nothing") as ours:
            for server in present:
                if server.no_op is not None:
                    figures += _do_nothing(server, ours, loads[server.takes_form], rounds)
    missing = [server.name for server in SERVERS if not server.is_installed]
    notes = (
        f"JPEG of 45 KB; wrk with one thread; {WORKERS} workers of one thread each; ours beside: hotpool in the same rounds",
        "others compute one picture at a time, with hotpool's engine; hotpool takes what waits, up to four at once",
        "no-op: the picture is received and not looked into",
        f"not installed: {', '.join(missing) or 'none'}",
    )
    return Findings(tuple(figures), notes)


def _classify(server: Server, ours: Ours, load: Load, rounds: int) -> list[Figure]:
    rates: list[tuple[float, float]] = []
    with _running(server, ours.work, load) as url:
        for _ in range(rounds):
            rates.append((load.run(ours.url, CLIENTS, LONG_TURN_S).rate, load.run(url, CLIENTS, LONG_TURN_S).rate))
        our_ms, their_ms = load.run(ours.url, 1, TURN_S).p50_ms, load.run(url, 1, TURN_S).p50_ms
    our_rates, their_rates = zip(*rates, strict=True)
    row, ahead = server.name, Bar(f"int8 ResNet-18 over HTTP, 16 clients: rate / {server.name}'s", "≥", 1.0)
    return [
        Figure(row, "16 clients", their_rates, "pictures/s"),
        Figure(row, "ours beside", our_rates, "pictures/s"),
        Figure(row, "ours / theirs", ratios(our_rates, their_rates), bar=ahead),
        Figure(row, "p50, one client", (their_ms,), "ms"),
        Figure(row, "our p50 beside", (our_ms,), "ms"),
        Figure(row, "our p50 / theirs", (our_ms / their_ms,)),
    ]


def _do_nothing(server: Server, ours: Ours, load: Load, rounds: int) -> list[Figure]:
    assert server.no_op is not None
    rates = []
    with _running(server, NOTHING, load) as url:
        for _ in range(rounds):
            rates.append((load.run(ours.url, CLIENTS, TURN_S).rate, load.run(url, CLIENTS, TURN_S).rate))
    our_rates, their_rates = zip(*rates, strict=True)
    row = f"{server.name}, no-op"
    bar = Bar(f"no-op, 45 KB over HTTP, 16 clients: rate / {server.name}'s", "≥", server.no_op)
    return [
        Figure(row, "16 clients", their_rates, "requests/s"),
        Figure(row, "ours beside", our_rates, "requests/s"),
        Figure(row, "ours / theirs", ratios(our_rates, their_rates), bar=bar),
    ]


@contextmanager
def _running(server: Server, work: str, load: Load) -> Iterator[str]:
    """Its URL; it and hotpool have answered a warm-up."""
    port = free_port()
    url = f"http://127.0.0.1:{port}{server.path}"
    with running(*server.command(port), environment={**SILENT, VARIABLE: work}):
        wait_for_answer(url, load)
        load.run(url, CLIENTS, TURN_S)
        yield url


@contextmanager
def _classifying_pool(folder: Path) -> Iterator[Ours]:
    home, port = Home(folder), free_port()
    add_versions(home, "int8")
    (version,) = list_versions(home)
    services = ("broker", "workers", "gateway")
    with running_pool(home, WORKERS, services, settings=f"[gateway]\nport = {port}"):
        yield Ours(f"http://127.0.0.1:{port}/predict", describe_version(home, version.digest))


@contextmanager
def _idling_pool(folder: Path) -> Iterator[Ours]:
    """Whose workers don't look into pictures, as the others' don't."""
    home, port = Home(folder), free_port()
    write_stable(home, NOOP, noop_manifest("v1").digest)
    config = home.root / "hotpool.toml"
    config.write_text(f'[pool]\nmodel = "{NOOP}"\n[gateway]\nport = {port}\n')
    options = ["--home", str(home.root), "--config", str(config)]
    with ExitStack() as stack:
        stack.enter_context(running("broker", *options))
        for number in range(WORKERS):
            stack.enter_context(running("bench.blind", str(home.root), f"worker-{number}"))
        stack.enter_context(running("gateway", *options))
        wait_until_ready(home, WORKERS)
        yield Ours(f"http://127.0.0.1:{port}/predict", NOTHING)
