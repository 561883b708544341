"""The service runner with small stand-in programs as services: real processes, real signals."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from time import monotonic

import psutil
import pytest

from control.exits import Exit
from control.health import Readiness
from control.services import Runner, Service, Signals, decide, describe_exit, module_command, services
from control.up import _announcement, create_folders, run_pool, start_detached, stop_pool
from hotpool.config import Config, Gateway
from hotpool.errors import Conflict, NothingToDo
from hotpool.home import Home
from hotpool.locks import hold, holder
from hotpool.restart import Exit as Life
from hotpool.restart import GiveUp, Restart
from tests.full_disk import full_disk, needs_limits

ROOT = Path(__file__).parents[1]

# Each writes a line when it has set up its handlers and one when it is told to stop.
POLITE = """
import signal, sys, time
def stop(*_): print("{name} stops", flush=True); sys.exit(0)
signal.signal(signal.SIGTERM, stop); print("{name} runs", flush=True)
while True: signal.pause()
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN); print("{name} runs", flush=True)
while True: signal.pause()
"""


def service(name, program, **more):
    return Service(name, (sys.executable, "-S", "-c", program.replace("{name}", name)), **{"grace_s": 20.0, **more})


def wait_for(condition, timeout_s=20.0):
    give_up_at = monotonic() + timeout_s
    while not (seen := condition()):
        assert monotonic() < give_up_at, "waited in vain"
        time.sleep(0.005)
    return seen


def log_of(logs, name):
    path = logs / f"{name}.log"
    return path.read_text() if path.exists() else ""


def tend_until(runner, signals, condition, timeout_s=20.0):
    give_up_at = monotonic() + timeout_s
    while not condition():
        assert monotonic() < give_up_at, "waited in vain"
        runner.tend(monotonic())
        signals.wait(0.02)


@pytest.fixture
def said():
    return []


# ---- pure parts


def test_services_start_with_the_broker_and_carry_home_and_config(tmp_path):
    made = services(Home(tmp_path), Path("pool.toml"), Config())
    assert [one.name for one in made] == ["broker", "workers", "control", "gateway"]
    assert made[0].command[1:] == (
        "-m",
        "broker",
        "--home",
        str(tmp_path),
        "--config",
        str(Path("pool.toml").absolute()),
    )
    assert [one.is_essential for one in made] == [True, True, False, False]
    assert made[1].grace_s > Config().rollout.drain_timeout_s


def test_a_pool_can_do_without_the_gateway(tmp_path):
    made = services(Home(tmp_path), None, Config(gateway=Gateway(enabled=False)))
    assert [one.name for one in made] == ["broker", "workers", "control"]


def test_a_module_is_named_as_our_own_package_is(monkeypatch):
    assert module_command("broker", [])[2] == "broker"
    monkeypatch.setitem(module_command.__globals__, "__package__", "hotpool.control")
    assert module_command("broker", [])[2] == "hotpool.broker"


@pytest.mark.parametrize(
    ("code", "text"), [(3, "ended with exit code 3"), (-9, "was ended by SIGKILL"), (-250, "was ended by signal 250")]
)
def test_an_exit_is_described_for_people(code, text):
    assert describe_exit(code) == text


def test_a_service_with_a_wrong_configuration_is_not_started_again():
    lives = [Life(0.0, 1.0, "exit code 2")]
    assert isinstance(decide(lives, Exit.USAGE, 1.0), GiveUp)
    assert isinstance(decide(lives, 1, 1.0), Restart)


# ---- real processes


@pytest.mark.slow
def test_services_stop_in_the_reverse_order(tmp_path, said):
    names = ["first", "second", "third"]
    with Signals() as signals:
        runner = Runner([service(name, POLITE) for name in names], tmp_path, said.append)
        runner.start()
        wait_for(lambda: all("runs" in log_of(tmp_path, name) for name in names))
        runner.stop(signals)
    assert [line for line in said if line.startswith("stopping")] == [
        "stopping third",
        "stopping second",
        "stopping first",
    ]
    assert all("stops" in log_of(tmp_path, name) for name in names)
    assert not psutil.Process().children()


@pytest.mark.slow
def test_a_killed_service_is_started_again_and_the_reason_is_said(tmp_path, said):
    with Signals() as signals:
        runner = Runner([service("broker", POLITE)], tmp_path, said.append)
        runner.start()
        wait_for(lambda: "runs" in log_of(tmp_path, "broker"))
        psutil.Process().children()[0].kill()
        tend_until(runner, signals, lambda: log_of(tmp_path, "broker").count("runs") == 2)
        runner.stop(signals)
    assert any(line.startswith("broker was ended by SIGKILL; again ") for line in said)
    assert runner.n_exits == 1
    assert runner.can_serve


@pytest.mark.slow
@pytest.mark.parametrize("is_essential", [True, False])
def test_a_service_that_names_its_configuration_as_the_cause_is_given_up(tmp_path, said, is_essential):
    program = "import sys; print('error: no such key', file=sys.stderr); sys.exit(2)"
    with Signals() as signals:
        runner = Runner([service("control", program, is_essential=is_essential)], tmp_path, said.append)
        runner.start()
        tend_until(runner, signals, lambda: runner.n_exits == 1)
        assert runner.tend(monotonic()) is None
        runner.stop(signals)
    assert runner.can_serve is not is_essential
    assert runner.verdict is (Exit.USAGE if is_essential else Exit.OK)
    assert said[-1].endswith("its configuration can't work; error: no such key")


@pytest.mark.slow
def test_a_service_that_ignores_its_end_is_killed_after_its_grace(tmp_path, said):
    with Signals() as signals:
        runner = Runner([service("workers", STUBBORN, grace_s=0.2)], tmp_path, said.append)
        runner.start()
        wait_for(lambda: "runs" in log_of(tmp_path, "workers"))
        runner.stop(signals)
    assert said[-1] == "killing workers"
    assert not psutil.Process().children()


@pytest.mark.slow
def test_a_second_signal_ends_all_at_once(tmp_path, said):
    with Signals() as signals:
        runner = Runner(
            [service(name, STUBBORN, grace_s=100.0) for name in ("broker", "workers")], tmp_path, said.append
        )
        runner.start()
        wait_for(lambda: all("runs" in log_of(tmp_path, name) for name in ("broker", "workers")))
        os.kill(os.getpid(), signal.SIGINT)
        signals.wait(20.0)
        assert signals.stops == 1
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        began = monotonic()
        runner.stop(signals)
        timer.join()
    assert monotonic() - began < 10
    assert [line for line in said if line.startswith("killing")] == ["killing workers", "killing broker"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells children of a killed process only on Linux")
def test_children_of_a_killed_runner_end(tmp_path):
    program = f"""
import signal, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from control.services import Runner, Service
from tests.test_services import POLITE, service
runner = Runner([service("broker", POLITE)], Path({str(tmp_path)!r}), print)
runner.start()
signal.pause()
"""
    runner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
    wait_for(lambda: "runs" in log_of(tmp_path, "broker"))
    (child,) = psutil.Process(runner.pid).children()
    runner.kill()
    runner.wait()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert "stops" in log_of(tmp_path, "broker")


# ---- up and down


def test_folders_are_their_owners_alone(tmp_path):
    home = Home(tmp_path / "deep" / "home")
    create_folders(home)
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in (home.root, home.run, home.logs, home.versions))


@pytest.mark.parametrize(
    "start",
    [run_pool, lambda home, path, config, say: start_detached(home, path, config, 1.0, say)],
    ids=["up", "up --detach"],
)
def test_a_second_up_is_refused_and_names_the_first(tmp_path, said, start):
    home = Home(tmp_path)
    create_folders(home)
    with hold(home.lock("up"), ""), pytest.raises(Conflict, match=f"process {os.getpid()}"):
        start(home, None, Config(), said.append)
    assert said == []


def test_up_waits_for_a_service_of_an_earlier_pool_and_then_names_it(tmp_path, said, monkeypatch):
    monkeypatch.setattr("control.up._PREDECESSORS_S", 0.05)
    home = Home(tmp_path)
    create_folders(home)
    with hold(home.lock("workers"), ""), pytest.raises(Conflict, match=f"another workers .process {os.getpid()}."):
        run_pool(home, None, Config(), said.append)
    assert said == [f"waiting for an earlier workers (process {os.getpid()}) to stop"]


@pytest.mark.parametrize(
    ("gateway", "page"),
    [
        (Gateway(), ", the Web page is at http://127.0.0.1:8080"),
        (Gateway(host="::1", port=80), ", the Web page is at http://[::1]:80"),
        (Gateway(port=0), ", the Web page is at the address in gateway.log"),
        (Gateway(enabled=False), ""),
    ],
)
def test_up_says_where_clients_connect_and_where_the_page_is(tmp_path, gateway, page):
    home, ready = Home(tmp_path), Readiness("2 of 2 workers ready on v1", is_ready=True)
    clients = home.endpoint("clients")
    said = _announcement(ready, home, gateway, 1.04)
    assert said == f"2 of 2 workers ready on v1, 1.0 s; clients connect to {clients}{page}"
    assert _announcement(Readiness("waiting for the broker"), home, gateway, 1.0) == "waiting for the broker"


@needs_limits
def test_a_lock_on_a_full_disk_holds_and_names_nobody_rather_than_the_one_before(tmp_path):
    lock = tmp_path / "up.lock"
    lock.write_text("1\n")
    with full_disk(), hold(lock, ""):
        assert holder(lock) == 0
        with pytest.raises(Conflict, match="unknown"), hold(lock, "{pid}"):
            pass
    assert holder(lock) is None


def test_a_stale_lock_file_is_no_pool(tmp_path, said):
    home = Home(tmp_path)
    create_folders(home)
    home.lock("up").write_text("1\n")
    with pytest.raises(NothingToDo, match="no pool is running"):
        stop_pool(home, 1.0, said.append)


@pytest.mark.slow
def test_down_ends_the_holder_of_the_lock_and_waits_for_it(tmp_path, said):
    home = Home(tmp_path)
    create_folders(home)
    program = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from control.services import Signals
from hotpool.locks import hold
with hold(Path({str(home.lock("up"))!r}), ""), Signals() as signals:
    print("up", flush=True)
    while not signals.stops: signals.wait(10)
    time.sleep(0.1)
    Path({str(tmp_path / "ended")!r}).touch()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        stopped = stop_pool(home, 20.0, said.append)
        assert (stopped.home, stopped.process, stopped.has_ended) == (str(home.root), process.pid, True)
        assert 0.1 <= stopped.seconds < 20
        assert (tmp_path / "ended").exists()
    assert said[-1] == "stopped"
