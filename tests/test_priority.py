"""Broker, gateway and controller get the processor before workers do, and workers before the preflight."""

import os
import subprocess
import sys

import psutil
import pytest

from hotpool import child
from hotpool.control_client import ControlClient
from hotpool.stable import write_stable
from tests.gateway_process import ANY_PORT, add_noop_versions, running_gateway, start_controller
from tests.pool import PATIENCE_S, ROOT, Pool, eventually, short_home
from workers import cores


def priorities(pid: int) -> set[int]:
    """Of all threads: Linux keeps one for each."""
    if sys.platform != "linux":
        return {psutil.Process(pid).nice()}
    return {os.getpriority(os.PRIO_PROCESS, int(task)) for task in os.listdir(f"/proc/{pid}/task")}


@pytest.mark.slow
@pytest.mark.alone
def test_every_thread_of_a_worker_comes_after_the_broker_the_gateway_the_controller_and_its_own_supervisor():
    with short_home() as home:
        pool = Pool(home, ANY_PORT)
        add_noop_versions(home, "v1")
        write_stable(home, "default", "a" * 64)  # what the worker serves
        command = [sys.executable, "-m", "tests.noop_workers", "--home", str(home.root)]
        supervisor = subprocess.Popen(command, cwd=ROOT)
        try:
            pool.start_broker()
            start_controller(pool)
            eventually(lambda: pool.ready() == 1, "the worker ready")
            (worker,) = pool.report().workers
            with ControlClient(home.endpoint("control")) as control, running_gateway(home, pool.config) as gateway:
                control.call("status", timeout_s=PATIENCE_S)
                before = {
                    name: priorities(process.pid)
                    for name, process in {**pool.processes, "gateway": gateway.process, "workers": supervisor}.items()
                }
            ours = os.getpriority(os.PRIO_PROCESS, 0)
            assert before == {name: {ours} for name in ("broker", "control", "gateway", "workers")}
            assert priorities(worker.pid) == {min(19, ours + cores.NICE)}
            assert min(priorities(worker.pid)) > ours
        finally:
            supervisor.terminate()
            supervisor.wait()
            pool.stop()


def test_the_preflight_comes_after_the_workers():
    assert 0 < cores.NICE < child.NICE
