"""Shell: `hotpool up`, `up --detach` and `down`: one running pool per home, until it is stopped."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from hotpool.admin import Admin
from hotpool.config import Config, Gateway
from hotpool.errors import BrokerUnreachable, Conflict, NothingToDo
from hotpool.home import Home
from hotpool.locks import hold, holder
from hotpool.messages import Report
from hotpool.stable import read_stable

from .exits import Exit
from .health import Readiness, readiness
from .services import SERVICE_NAMES, Runner, Signals, child_environment, log_path, module_command, services

Say = Callable[[str], None]

_SOCKETS = ("clients", "workers", "admin", "control")
_LOOK_S = 0.1  # between two looks at a pool that is not ready yet
_SETTLE_S = 5.0  # the end of a service shows in the broker's report only after its heartbeats
_IDLE_S = 3600.0  # a ready pool wakes us by a signal
_PREDECESSORS_S = 40.0
_REFUSAL = "a pool is running already in {home} (process {{pid}}); stop it with: hotpool down"


def create_folders(home: Home) -> None:
    """Readable by their owner alone: sockets, versions and the database are nobody else's business."""
    home.root.parent.mkdir(parents=True, exist_ok=True)
    for folder in (home.root, home.run, home.logs, home.versions):
        folder.mkdir(mode=0o700, exist_ok=True)


def _prepare(home: Home) -> None:
    for name in _SOCKETS:
        home.endpoint(name)  # raises now, before anything was started or created
    create_folders(home)


def run_pool(home: Home, config_path: Path | None, config: Config, say: Say) -> Exit:
    """Runs the services until a signal asks us to stop, or one that is needed for serving can't be kept up.

    Raises:
        ConfigError: the home's path is too long for sockets.
        Conflict: a pool runs in this home already.
    """
    _prepare(home)
    say = _unfailing(say)
    with hold(home.lock("up"), _REFUSAL.format(home=home.root)), Signals() as signals:
        _await_predecessors(home, signals, say)
        runner = Runner(services(home, config_path, config), home.logs, say)
        try:
            if not signals.stops:
                runner.start()
            _tend(runner, signals, home, config, say)
        finally:
            runner.stop(signals)
    say("stopped")
    return runner.verdict


def _unfailing(say: Say) -> Say:
    """Serving must not end because a line can't be written, such as to a log on a full disk."""

    def say_if_possible(line: str) -> None:
        with contextlib.suppress(OSError):
            say(line)

    return say_if_possible


def _await_predecessors(home: Home, signals: Signals, say: Say) -> None:
    """After a SIGKILL of an `up`, its services are told by the kernel and may still be on their way out.

    Raises:
        Conflict: one stays, such as a service that was started by hand.
    """
    give_up_at = monotonic() + _PREDECESSORS_S
    for name in SERVICE_NAMES:
        said = False
        while (pid := holder(home.lock(name))) and not signals.stops:
            if not said:
                say(f"waiting for an earlier {name} (process {pid}) to stop")
                said = True
            if monotonic() >= give_up_at:
                raise Conflict(f"another {name} (process {pid}) runs in {home.root}; stop it first")
            signals.wait(0.05)


def _tend(runner: Runner, signals: Signals, home: Home, config: Config, say: Say) -> None:
    """Looks at the pool until it is ready, and again for a while after each death of a service; then only signals wake us."""
    with Admin(home.endpoint("admin")) as admin:
        said, n_exits, since = "", 0, monotonic()
        state, settled_at = Readiness(""), since
        while not signals.stops and runner.can_serve:
            now = monotonic()
            due = runner.tend(now)
            if runner.n_exits != n_exits:
                n_exits, since, settled_at = runner.n_exits, now, now + _SETTLE_S
            is_quiet = state.is_ready and now >= settled_at
            if not is_quiet:
                state = look(admin, home, config.pool.model)
            if state.text != said:
                said = state.text
                say(_announcement(state, home, config.gateway, monotonic() - since))
            wake = now + (_IDLE_S if is_quiet else _LOOK_S)
            signals.wait(min(wake, due or wake) - now)


def _announcement(state: Readiness, home: Home, gateway: Gateway, seconds: float) -> str:
    if not state.is_ready:
        return state.text
    page = f", the Web page is at {_url(gateway)}" if gateway.enabled else ""
    return f"{state.text}, {seconds:.1f} s; clients connect to {home.endpoint('clients')}{page}"


def _url(gateway: Gateway) -> str:
    """A port that the system chose is known to the gateway alone."""
    host = f"[{gateway.host}]" if ":" in gateway.host else gateway.host
    return f"http://{host}:{gateway.port}" if gateway.port else "the address in gateway.log"


def look(admin: Admin, home: Home, model: str) -> Readiness:
    return readiness(_report(admin), model, read_stable(home, model))


def _report(admin: Admin) -> Report | None:
    try:
        return admin.report(timeout_s=0.2)
    except BrokerUnreachable:
        return None


def start_detached(home: Home, config_path: Path | None, config: Config, timeout_s: float, say: Say) -> Exit:
    """Starts `hotpool up` in the background and waits until the pool is ready, or needs a version, or can't start.

    Raises:
        ConfigError: the home's path is too long for sockets.
        Conflict: a pool runs in this home already.
    """
    _prepare(home)
    if (pid := holder(home.lock("up"))) is not None:
        raise Conflict(_REFUSAL.format(home=home.root).format(pid=pid or "unknown"))
    process = _spawn_up(home, config_path)
    since, said = monotonic(), ""
    with Admin(home.endpoint("admin")) as admin:
        while (left_s := since + timeout_s - monotonic()) > 0:
            if (code := process.poll()) is not None:
                say(log_path(home.logs, "up").read_text().rstrip())
                return Exit(code) if code in set(Exit) else Exit.UNEXPECTED
            state = look(admin, home, config.pool.model)
            if state.text != said:
                say(_announcement(state, home, config.gateway, monotonic() - since))
                said = state.text
            if state.is_settled:
                return Exit.OK
            time.sleep(min(_LOOK_S, left_s))
    say(f"not ready after {timeout_s:g} s: {said}; it goes on in the background, see {home.logs}")
    return Exit.TIMEOUT


def _spawn_up(home: Home, config_path: Path | None) -> "subprocess.Popen[bytes]":
    options = ["--home", str(home.root)]
    if config_path is not None:
        options += ["--config", str(config_path.absolute())]
    with log_path(home.logs, "up").open("wb") as log:  # what this start says, nothing older
        return subprocess.Popen(
            module_command("control.cli", [*options, "up"]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=child_environment(),
            start_new_session=True,
        )


@dataclass(frozen=True, slots=True)
class Stopped:
    """process: of its `hotpool up`. has_ended: else it is still stopping."""

    home: str
    process: int
    has_ended: bool
    seconds: float


def stop_pool(home: Home, timeout_s: float, say: Say) -> Stopped:
    """Asks the running `hotpool up` of this home to stop and waits until it has.

    Raises:
        NothingToDo: none runs.
        Conflict: one runs, but not where we can signal it (another user's, or in another container).
    """
    lock = home.lock("up")
    pid = holder(lock)
    if pid is None:
        raise NothingToDo(f"no pool is running in {home.root}")
    if pid == 0:
        raise Conflict(f"the pool in {home.root} is just starting; try again")
    begun_at = monotonic()
    try:
        os.kill(pid, signal.SIGTERM)
    except (ProcessLookupError, PermissionError) as error:
        raise Conflict(f"the pool in {home.root} belongs to process {pid}, which we can't signal: {error}") from None
    say(f"stopping the pool in {home.root} (process {pid})")
    while holder(lock) is not None:
        if monotonic() >= begun_at + timeout_s:
            say(f"still stopping after {timeout_s:g} s: workers finish what they hold; see {log_path(home.logs, 'up')}")
            return Stopped(str(home.root), pid, False, round(monotonic() - begun_at, 3))
        time.sleep(0.05)
    say("stopped")
    return Stopped(str(home.root), pid, True, round(monotonic() - begun_at, 3))
