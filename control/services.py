"""Shell: runs broker, workers, control and gateway as child processes, starts again what dies, stops all in order.

`Runner` knows nothing of what the services do; `up.py` says when the pool is ready.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

from hotpool.child import end_with
from hotpool.config import Config
from hotpool.home import Home
from hotpool.restart import Exit, GiveUp, Restart, decide_restart

from . import exits

SERVICE_NAMES = ("broker", "workers", "control", "gateway")
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Service:
    """grace_s: how long it may take to stop before it is killed. is_essential: without it there is no serving."""

    name: str
    command: tuple[str, ...]
    grace_s: float
    is_essential: bool = True


def services(home: Home, config_path: Path | None, config: Config) -> tuple[Service, ...]:
    """In the order they start. They stop in the reverse order: workers drain while the broker still carries replies."""
    options = ["--home", str(home.root)]
    if config_path is not None:
        options += ["--config", str(config_path.absolute())]
    drain_s = config.rollout.drain_timeout_s
    made = (
        Service("broker", module_command("broker", options), grace_s=5.0),
        Service("workers", module_command("workers", options), grace_s=drain_s + 10.0),
        Service("control", module_command("control", options), grace_s=5.0, is_essential=False),
        Service("gateway", module_command("gateway", options), grace_s=10.0, is_essential=False),
    )
    return made if config.gateway.enabled else made[:-1]


def module_command(package: str, options: Sequence[str]) -> tuple[str, ...]:
    """How to run a sibling of our own package: `control` has `broker`, `hotpool.control` has `hotpool.broker`."""
    above = (__package__ or "control").rpartition(".")[0]
    return (sys.executable, "-m", f"{above}.{package}" if above else package, *options)


def child_environment() -> dict[str, str]:
    """In a checkout the packages are found by the path, whatever the working folder is."""
    if __package__ != "control":
        return dict(os.environ)
    paths = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


class Signals:
    """Inside the block, SIGINT, SIGTERM, SIGHUP and SIGCHLD wake `wait` and do nothing else."""

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _ignore) for number in (*_STOPPING, signal.SIGCHLD)}
        self.stops = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    def wait(self, timeout_s: float) -> None:
        """Until a signal came, at most this long. `stops` counts the signals that ask us to stop."""
        if select.select([self._read], [], [], max(0.0, timeout_s))[0]:
            self.stops += sum(number in _STOPPING for number in os.read(self._read, 4096))


def _ignore(*_: object) -> None:
    """The wakeup pipe tells; SIG_IGN would be inherited by the children."""


@dataclass(slots=True)
class _Seat:
    service: Service
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    exits: list[Exit] = field(default_factory=list)
    restart_at: float | None = None
    given_up: str = ""
    code: int = 0  # what it ended with last


class Runner:
    """Keeps the services running. Use it inside a `Signals` block and call `tend` whenever its wait returns."""

    def __init__(self, services: Sequence[Service], logs: Path, say: Callable[[str], None]) -> None:
        self._seats = [_Seat(service) for service in services]
        self._logs, self._say = logs, say

    @property
    def n_exits(self) -> int:
        return sum(len(seat.exits) for seat in self._seats)

    @property
    def can_serve(self) -> bool:
        """False once an essential service has been given up."""
        return self.verdict is exits.Exit.OK

    @property
    def verdict(self) -> exits.Exit:
        """What to end with: whether an essential service has been given up, and whether its configuration was why."""
        codes = [seat.code for seat in self._seats if seat.given_up and seat.service.is_essential]
        if not codes:
            return exits.Exit.OK
        return exits.Exit.USAGE if exits.Exit.USAGE in codes else exits.Exit.UNEXPECTED

    def start(self) -> None:
        for seat in self._seats:
            self._start(seat)

    def tend(self, now: float) -> float | None:
        """Sees who has ended and starts again who is due. Returns when it is needed next; None: only after a signal."""
        for seat in self._seats:
            if seat.process and (code := seat.process.poll()) is not None:
                self._ended(seat, code, now)
            if seat.restart_at is not None and now >= seat.restart_at:
                self._start(seat)
        return min((seat.restart_at for seat in self._seats if seat.restart_at is not None), default=None)

    def stop(self, signals: Signals) -> None:
        """One after the other, the last started first; another stop signal meanwhile kills the rest at once."""
        asked = signals.stops
        for seat in reversed(self._seats):
            seat.restart_at = None
            if seat.process is None:
                continue
            self._say(f"stopping {seat.service.name}")
            seat.process.terminate()
            kill_at = monotonic() + seat.service.grace_s
            while seat.process.poll() is None and signals.stops == asked and monotonic() < kill_at:
                signals.wait(kill_at - monotonic())
            if seat.process.poll() is None:
                self._say(f"killing {seat.service.name}")
                _kill_group(seat.process)
            seat.process = None

    def _start(self, seat: _Seat) -> None:
        seat.restart_at = None
        seat.started_at = monotonic()
        parent = os.getpid()
        with log_path(self._logs, seat.service.name).open("ab") as log:
            # A session of its own: Ctrl-C in the terminal reaches us alone, and we stop them in order.
            seat.process = subprocess.Popen(
                seat.service.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=child_environment(),
                start_new_session=True,
                preexec_fn=lambda: end_with(parent),
            )
        self._say(f"started {seat.service.name} (process {seat.process.pid})")

    def _ended(self, seat: _Seat, code: int, now: float) -> None:
        seat.process, seat.code = None, code
        seat.exits.append(Exit(seat.started_at, now, describe_exit(code)))
        log = log_path(self._logs, seat.service.name)
        what, where = f"{seat.service.name} {describe_exit(code)}", _last_error(log) or f"see {log}"
        match decide(seat.exits, code, now):
            case GiveUp(reason):
                seat.given_up = reason
                self._say(f"{what}; {reason}; {where}")
            case Restart(at):
                seat.restart_at = at
                self._say(f"{what}; {f'again in {at - now:.1f} s' if at > now else 'again at once'}; {where}")


def decide(lives: Sequence[Exit], code: int, now: float) -> Restart | GiveUp:
    """The policy for workers' processes holds for services too, with one more rule."""
    if code == exits.Exit.USAGE:
        return GiveUp("not started again: its configuration can't work")
    return decide_restart(lives, now)


def log_path(logs: Path, service: str) -> Path:
    return logs / f"{service}.log"


def _last_error(log: Path) -> str:
    """What the service itself said last, when that explains its end."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        lines = file.read().decode(errors="replace").splitlines()
    return lines[-1] if lines and lines[-1].startswith("error: ") else ""


def describe_exit(code: int) -> str:
    """`code` as subprocess gives it: negative is the signal that ended the process."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """With all the processes it started: the service can no longer stop them itself."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
