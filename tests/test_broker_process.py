"""The broker as a process: one at a time, and it stops when told to."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
import zmq

from bench.noop import MODEL
from hotpool.admin import Admin
from hotpool.messages import PROTOCOL, Changed, WorkerHello
from hotpool.wire import encode
from tests.pool import PATIENCE_S, ROOT, Pool, eventually, running_pool

pytestmark = pytest.mark.slow


def test_a_second_broker_is_refused_and_the_first_serves_on():
    with running_pool(1) as pool:
        command = [sys.executable, "-m", "broker", "--home", str(pool.home.root), "--config", str(pool.config)]
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
        assert second.returncode == 2
        assert f"another broker (process {pool.processes['broker'].pid}) runs here" in second.stderr
        assert pool.ready() == 1


def test_sigterm_ends_the_broker_with_zero():
    with running_pool(1) as pool:
        pool.kill("broker", signal.SIGTERM)
        assert pool.processes["broker"].wait(10) == 0


def test_a_bad_configuration_is_one_line_and_no_traceback(tmp_path):
    config = tmp_path / "bad.toml"
    config.write_text("[pool]\nworkerz = 2\n")
    command = [sys.executable, "-m", "broker", "--home", str(tmp_path), "--config", str(config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == f"error: {config}: unknown key 'pool.workerz'; did you mean 'pool.workers'?"


@contextmanager
def joined(pool: Pool, pid: int, pulse_thread: int) -> Iterator[Iterator[Changed]]:
    """Somebody has said hello as worker-9, and says nothing more. Gives what becomes of it."""
    hello = WorkerHello(PROTOCOL, "worker-9", 1, pid, "noop", "v1", "d" * 64, 0, (0,), 1, pulse_thread=pulse_thread)
    with zmq.Context() as context, context.socket(zmq.DEALER) as worker:
        worker.connect(pool.home.endpoint("workers"))
        with Admin(pool.home.endpoint("admin"), watch=True) as admin:
            admin.report()  # so the broker has heard that we watch
            worker.send(encode(hello))
            changes = (one for _ in range(20) for one in admin.changes(PATIENCE_S) if one.worker == "worker-9")
            assert next(changes).cause == "hello"
            yield changes


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a thread's end")
def test_a_worker_is_lost_when_a_thread_ends_that_should_live_as_long_as_it():
    """Of a process that is killed, some threads end long before it does."""
    may_end = threading.Event()
    thread = threading.Thread(target=may_end.wait)
    thread.start()
    try:
        with running_pool(1) as pool, joined(pool, os.getpid(), thread.native_id or 0) as changes:
            may_end.set()
            lost = next(changes)
    finally:
        may_end.set()
    assert (lost.after, lost.cause) == ("down", "exit")


def wait_for_state(pid: int, state: str) -> None:
    """As Linux names it: R could run, S waits for something, T is stopped."""
    stat = Path(f"/proc/{pid}/stat")
    eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == state, f"state {state}")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who could run")
@pytest.mark.parametrize(
    ("does", "is_told", "state", "cause"),
    [
        pytest.param("while True: pass", True, "R", "starved", id="busy"),
        pytest.param("while True: pass", True, "T", "silent", id="stopped"),
        pytest.param("while True: pass", False, "R", "silent", id="names no pulse"),
        pytest.param("input()", True, "S", "silent", id="waits"),
    ],
)
def test_who_is_silent_starves_if_its_pulse_could_run_all_the_time(does, is_told, state, cause):
    """From outside, who has the processor all the time looks like who waits for it all the time."""
    with (
        running_pool(1, "[dispatch]\nheartbeat_s = 0.05\n") as pool,
        subprocess.Popen(
            [sys.executable, "-c", f"print(flush=True)\n{does}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process,
    ):
        try:
            assert process.stdout
            process.stdout.readline()  # from here on it does nothing else
            if state == "T":
                process.send_signal(signal.SIGSTOP)
            wait_for_state(process.pid, state)
            with joined(pool, process.pid, process.pid * is_told) as changes:
                lost = next(changes)
        finally:
            process.kill()
    assert (lost.after, lost.cause) == ("down", cause)


def test_a_worker_beats_as_often_as_the_broker_wants_from_the_first_moment():
    """Four of these beats are over before the one that it waits for when it joins."""
    with (
        running_pool(1, "[dispatch]\nheartbeat_s = 0.05\n") as pool,
        Admin(pool.home.endpoint("admin"), watch=True) as admin,
    ):
        admin.report()
        assert admin.changes(0.5) == []
        assert pool.report().workers[0].incarnation == 1


def test_a_pointer_that_can_t_be_read_keeps_nobody_from_being_answered():
    with running_pool(1) as pool, pool.client() as client:
        pointer = pool.home.stable_pointer(MODEL)
        pointer.unlink()
        pointer.mkdir()
        pool.kill("broker")
        pool.start_broker()
        assert client.classify(np.zeros((8, 8, 3), np.uint8)).version == "v1"
        log = (pool.home.root / "broker.log").read_text()
    assert f"the stable version of model {MODEL} can't be read" in log
    assert "Traceback" not in log


def test_who_watches_a_broker_that_is_gone_waits_and_hears_the_next_one():
    with running_pool(1) as pool, Admin(pool.home.endpoint("admin"), watch=True) as admin:
        admin.report()
        pool.kill("broker")
        pool.processes["broker"].wait(10)
        began = monotonic()
        for _ in range(3):
            assert admin.changes(0.1) == []
        assert monotonic() - began >= 0.3, "it does not spin"
        pool.start_broker()
        eventually(lambda: pool.ready() == 1, "the worker is back")
        admin.changes(0.3)  # by now it has asked again to be told
        pool.kill("worker-0")
        eventually(lambda: "down" in {change.after for change in admin.changes(0.1)}, "it is told of the loss")
