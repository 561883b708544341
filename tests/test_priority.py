"""Broker and control get the processor before workers do, and workers before the preflight."""

import os
import subprocess
import sys

import psutil
import pytest

from control import services
from hotpool.manifest import write_stable
from tests.pool import ROOT, Pool, eventually, short_home
from workers import cores


def priorities(pid: int) -> set[int]:
    """Of all threads: Linux keeps one for each."""
    if sys.platform != "linux":
        return {psutil.Process(pid).nice()}
    return {os.getpriority(os.PRIO_PROCESS, int(task)) for task in os.listdir(f"/proc/{pid}/task")}


@pytest.mark.slow
@pytest.mark.alone
def test_every_thread_of_a_worker_comes_after_the_broker_and_its_own_supervisor():
    with short_home() as home:
        pool = Pool(home)
        write_stable(home, "default", "a" * 64)
        command = [sys.executable, "-m", "tests.noop_workers", "--home", str(home.root)]
        supervisor = subprocess.Popen(command, cwd=ROOT)
        try:
            pool.start_broker()
            eventually(lambda: pool.ready() == 1, "the worker ready")
            (worker,) = pool.report().workers
            broker = max(priorities(pool.processes["broker"].pid))
            assert broker == max(priorities(supervisor.pid)) == os.getpriority(os.PRIO_PROCESS, 0)
            assert priorities(worker.pid) == {min(19, broker + cores.NICE)}
            assert min(priorities(worker.pid)) > broker
        finally:
            supervisor.terminate()
            supervisor.wait()
            pool.stop()


def test_the_preflight_comes_after_the_workers():
    assert 0 < cores.NICE < services._NICE
