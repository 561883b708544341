"""Shell: other servers beside hotpool on the same work: the same int8 ResNet-18 by the same engine and preprocessing, and a
model that does nothing.

    python -m bench servers

Each has two workers of one thread and gets the same picture over HTTP from wrk. One after another is started and takes turns
with hotpool, so that a server that is not measured takes no processor time. BentoML, Ray Serve and TorchServe are measured
where they are installed (requirements-servers.txt), TorchServe where there is a Java machine besides.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep

import psutil

from control.versions import list_versions
from hotpool.home import Home
from hotpool.stable import write_stable

from .alone import MAX_BATCH
from .figures import Bar, Figure, Findings, ratios
from .load import SETTLE_S, Load, free_port, require_wrk, wait_for_answer
from .measure import running
from .noop import MODEL as NOOP
from .noop import noop_manifest
from .pool import STOP_S, add_versions, make_jpeg, running_pool, wait_until_ready
from .rival_work import AT_ONCE, NOTHING, WORK, describe_version

WORKERS, CLIENTS = 2, 16
QUICK_ROUNDS, TURN_S = 1, 1
# Of many clients with a model: what is under way when a turn ends counts for nobody, and of batches that is more.
LONG_TURN_S = 2
# Neither may tell its makers over the network that it runs.
SILENT = {"BENTOML_DO_NOT_TRACK": "True", "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True, slots=True)
class Server:
    """command: of a module, by its port. takes_form: pictures come in a form's field `file`, not as bytes of the body.

    at_once: how many pictures its workers compute together, and what is promised of our rate as part of its rate then. As many
        as ours may, with which none is slower; Mosec, which comes closest, also one at a time, as it does by itself.
    no_op: what is promised of our rate as part of its rate, with a model that does nothing.
    rounds: three where the ratio is near its bar: the median of three bears one that was disturbed.
    takes_over: a line of input is what it computes from then on. The others have to be ended and started for that.
    program: what it wants of the system besides its package.
    """

    name: str
    package: str
    command: Callable[[int], Sequence[str]]
    path: str
    takes_form: bool = False
    at_once: Mapping[int, float] = field(default_factory=lambda: {MAX_BATCH: 1.0})
    no_op: float | None = None
    rounds: int = 2
    takes_over: bool = False
    program: str | None = None

    @property
    def is_installed(self) -> bool:
        return find_spec(self.package) is not None and (self.program is None or shutil.which(self.program) is not None)


SERVERS = (
    Server(
        "Mosec", "mosec", lambda port: ("bench.rival_mosec", "--port", str(port), "--address", "127.0.0.1"), "/inference",
        at_once={1: 1.0, MAX_BATCH: 0.9}, no_op=0.35, rounds=3,
    ),
    Server("LitServe", "litserve", lambda port: ("bench.rival_litserve", str(port)), "/predict", True, no_op=2.0),
    Server(
        "BentoML", "bentoml",
        lambda port: ("bentoml", "serve", "bench.rival_bentoml:Classifier", "--host", "127.0.0.1", "--port", str(port)),
        "/predict", True,
    ),
    Server("Ray Serve", "ray", lambda port: ("bench.rival_ray", str(port)), "/", takes_over=True),
    Server(
        "TorchServe", "ts", lambda port: ("bench.rival_torchserve", str(port)), "/predictions/classifier",
        takes_over=True, program="java",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ours:
    """The pool, and what others' workers have to do to do the same."""

    url: str
    work: str


@dataclass(frozen=True, slots=True)
class Theirs:
    """A server that answers."""

    url: str
    pid: int

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Its processes do nothing meanwhile: LitServe's workers look for work all the time when they make batches."""
        processes = processes_of(self.pid)
        try:
            _tell(processes, psutil.Process.suspend)
            yield
        finally:
            _tell(processes, psutil.Process.resume)
            sleep(SETTLE_S)


def _tell(processes: Iterable[psutil.Process], what: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # a helper that has ended by itself
            what(process)


def processes_of(pid: int) -> list[psutil.Process]:
    """It and all that it has started."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def run(quick: bool = False) -> Findings:
    require_wrk()
    picture, figures = make_jpeg(0), list[Figure]()
    present = [server for server in SERVERS if server.is_installed]
    rounds = {server.name: QUICK_ROUNDS if quick else server.rounds for server in present}
    with TemporaryDirectory(prefix="hp") as folder:
        loads = {True: Load.of_form(Path(folder), picture), False: Load.of_bytes(Path(folder), picture)}
        with _classifying_pool(Path(folder) / "classify") as ours:
            for server in present:
                for n in server.at_once:
                    figures += _classify(server, n, ours, loads[server.takes_form], rounds[server.name])
        with _idling_pool(Path(folder) / "nothing") as ours:
            for server in present:
                if server.no_op is not None:
                    figures += _do_nothing(server, ours, loads[server.takes_form], rounds[server.name])
    missing = [server.name for server in SERVERS if not server.is_installed]
    notes = (
        f"JPEG of 45 KB; wrk with one thread; {WORKERS} workers of one thread each; ours beside: hotpool in the same rounds",
        f"all compute with hotpool's engine; hotpool takes what waits, up to {MAX_BATCH} at once",
        "no-op: the picture is received and not looked into",
        f"not installed: {', '.join(missing) or 'none'}",
    )
    return Findings(tuple(figures), notes)


def _classify(server: Server, at_once: int, ours: Ours, load: Load, rounds: int) -> list[Figure]:
    row = f"{server.name}, {at_once} at once"
    bar = Bar(f"int8 ResNet-18 over HTTP, 16 clients: rate / that of {row}", "≥", server.at_once[at_once])
    with _running(server, ours.work, load, at_once) as theirs:
        our_rates, their_rates = _take_turns(ours, theirs, load, rounds, LONG_TURN_S)
        their_ms = load.run(theirs.url, 1, TURN_S).p50_ms
        with theirs.halted():
            our_ms = load.run(ours.url, 1, TURN_S).p50_ms
    return [
        Figure(row, "16 clients", their_rates, "pictures/s"),
        Figure(row, "ours beside", our_rates, "pictures/s"),
        Figure(row, "ours / theirs", ratios(our_rates, their_rates), bar=bar),
        Figure(row, "p50, one client", (their_ms,), "ms"),
        Figure(row, "our p50 beside", (our_ms,), "ms"),
        Figure(row, "our p50 / theirs", (our_ms / their_ms,)),
    ]


def _do_nothing(server: Server, ours: Ours, load: Load, rounds: int) -> list[Figure]:
    assert server.no_op is not None
    with _running(server, NOTHING, load, at_once=1) as theirs:
        our_rates, their_rates = _take_turns(ours, theirs, load, rounds, TURN_S)
    row = f"{server.name}, no-op"
    bar = Bar(f"no-op, 45 KB over HTTP, 16 clients: rate / {server.name}'s", "≥", server.no_op)
    return [
        Figure(row, "16 clients", their_rates, "requests/s"),
        Figure(row, "ours beside", our_rates, "requests/s"),
        Figure(row, "ours / theirs", ratios(our_rates, their_rates), bar=bar),
    ]


def _take_turns(ours: Ours, theirs: Theirs, load: Load, rounds: int, turn_s: int) -> tuple[tuple[float, ...], ...]:
    """Requests a second of each round, ours and theirs."""
    rates = []
    for _ in range(rounds):
        with theirs.halted():
            our_rate = load.run(ours.url, CLIENTS, turn_s).rate
        rates.append((our_rate, load.run(theirs.url, CLIENTS, turn_s).rate))
    return tuple(zip(*rates, strict=True))


@contextmanager
def _running(server: Server, work: str, load: Load, at_once: int) -> Iterator[Theirs]:
    """It has answered a warm-up."""
    port = free_port()
    with started(server, port, work, at_once) as process:
        theirs = Theirs(wait_for_answer(url_of(server, port), load), process.pid)
        load.run(theirs.url, CLIENTS, TURN_S)
        yield theirs


@contextmanager
def started(server: Server, port: int, work: str, at_once: int) -> Iterator["subprocess.Popen[bytes]"]:
    """It may not answer yet. It is told to end, and what it leaves behind is killed, as systemd's `KillMode=mixed` does it:
    some of LitServe's processes would go on, and take the next one's time."""
    environment = {**SILENT, WORK: work, AT_ONCE: str(at_once)}
    with running(*server.command(port), environment=environment) as process:
        try:
            yield process
        finally:
            processes = processes_of(process.pid)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            _tell(processes, psutil.Process.kill)


def url_of(server: Server, port: int) -> str:
    return f"http://127.0.0.1:{port}{server.path}"


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
