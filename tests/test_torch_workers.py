"""Real worker processes with a real network: threads that obey, answers that are the network's."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from hotpool.home import Home
from hotpool.manifest import WEIGHTS, version_folder
from hotpool.messages import Done, Load, LoadEnded, Serve, Work
from hotpool.stable import write_stable
from hotpool.wire import decode_result
from tests.hub import Hub

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent

SUPERVISE = """
import sys
from pathlib import Path
from hotpool.config import Config, Pool
from hotpool.home import Home
from hotpool.logs import log_to_stderr
from workers.pinning import Plan
from workers.supervisor import Supervisor
log_to_stderr()
threads = int(sys.argv[2])
plan = Plan((tuple(int(core) for core in sys.argv[3].split(",")),), threads)
Supervisor(Home(Path(sys.argv[1])), Config(pool=Pool(model="shapes")), plan, template="tests.torch_workers").run()
"""


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


@pytest.fixture
def hub(home):
    hub = Hub(home, heartbeat_s=5.0)
    yield hub
    hub.close()


@contextlib.contextmanager
def supervisor(home, threads, cores):
    command = [sys.executable, "-c", SUPERVISE, str(home.root), str(threads), ",".join(map(str, cores))]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield
    finally:
        process.kill()  # template and worker end by themselves
        process.wait()


def new_version(home, seed, name):
    from tests.small_versions import add_version, make_tensors, save

    return add_version(home, save(make_tensors(seed), home.root / f"{name}.safetensors"), name)


def new_resnet(home, seed):
    """47 MB of weights: what a small network leaves behind is not seen."""
    from tests.small_versions import Preprocessing, add_version, save  # before torchvision
    import torch  # isort: skip
    from torchvision.models import resnet18

    torch.manual_seed(seed)
    source = save(resnet18(weights=None).state_dict(), home.root / f"resnet{seed}.safetensors")
    return add_version(home, source, f"v{seed}", preprocessing=Preprocessing(), arch="resnet18")


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_openmp_and_mkl_obey_and_the_process_is_pinned(home, hub, threads):
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    if len(cores) < threads:
        pytest.skip(f"needs {threads} cores")
    write_stable(home, "shapes", new_version(home, 0, "v1").digest)
    with supervisor(home, threads, cores):
        hello = hub.hello()
        rows = np.zeros((4, 3, 32, 32), "<f4")
        hub.job("worker-0", 1, rows.tobytes(), Work("tensor", 1, rows.shape))
        hub.next(Done)
        os.kill(hello.pid, signal.SIGUSR1)
        figures = home.root / "threads.json"
        hub.until(figures.exists)
        told = json.loads(figures.read_text())
        assert int(psutil.Process(hello.pid).environ()["GOMP_SPINCOUNT"]) < 300_000, "waiting threads keep others out"
    print(told)
    assert told["template"] == 1, "a fork takes only one thread along; what others held stays locked"
    assert (told["torch"], told["interop"]) == (threads, 1)
    numbers = dict(re.findall(r"(omp_get_max_threads|mkl_get_max_threads)\(\) : (\d+)", told["parallel_info"]))
    assert numbers == {"omp_get_max_threads": str(threads), "mkl_get_max_threads": str(threads)}
    assert told["cores"] == cores
    # Main and pulse; for each further computing thread one of OpenMP's and an idle one of torch's pthreadpool.
    assert len(told["threads"]) <= 2 + 2 * (threads - 1), told["threads"]


def test_a_worker_whose_cores_were_taken_away_serves_on_those_that_are_there(home, hub):
    """As `docker update --cpuset-cpus` takes them, after the supervisor has planned."""
    write_stable(home, "shapes", new_version(home, 0, "v1").digest)
    with supervisor(home, 1, [max(os.sched_getaffinity(0)) + 1000]):
        pid = hub.hello().pid
        rows = np.zeros((1, 3, 32, 32), "<f4")
        hub.job("worker-0", 1, rows.tobytes(), Work("tensor", 1, rows.shape))
        hub.next(Done)
        assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_load_beside_computes_with_the_workers_number_of_threads_and_leaves_nothing_behind(home, hub, threads):
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    if len(cores) < threads:
        pytest.skip(f"needs {threads} cores")
    first, second = new_version(home, 0, "v1"), new_version(home, 1, "v2")
    write_stable(home, "shapes", first.digest)
    with supervisor(home, threads, cores):
        hello = hub.hello()
        rows = np.zeros((4, 3, 32, 32), "<f4")
        hub.job("worker-0", 1, rows.tobytes(), Work("tensor", 1, rows.shape))
        hub.next(Done)
        before = len(os.listdir(f"/proc/{hello.pid}/task"))
        for turn, version in enumerate([second, first, second]):
            hub.send(hub.workers["worker-0"], Load(f"t{turn}", version.digest, 1, True))
            assert hub.next(LoadEnded)[0].reason == ""
        told = json.loads((home.root / "loading.json").read_text())
        hub.until(lambda: len(os.listdir(f"/proc/{hello.pid}/task")) == before)
        hub.until(lambda: first.digest not in Path(f"/proc/{hello.pid}/maps").read_text())
    assert (told["torch"], told["interop"]) == (threads, 1)
    numbers = dict(re.findall(r"(omp_get_max_threads|mkl_get_max_threads)\(\) : (\d+)", told["parallel_info"]))
    assert numbers == {"omp_get_max_threads": str(threads), "mkl_get_max_threads": str(threads)}
    assert told["cores"] == cores


def test_a_worker_has_as_much_memory_after_one_load_as_after_another(home, hub):
    """Where a load's thread has a heap of its own, the end of it stays behind, now more and now less: 10 to 15 MB here."""
    versions = [new_resnet(home, seed) for seed in (0, 1)]
    write_stable(home, "shapes", versions[0].digest)
    rows, sizes = np.zeros((1, 3, 224, 224), "<f4"), []
    with supervisor(home, 1, sorted(os.sched_getaffinity(0))[:1]):
        pid = hub.hello().pid
        for turn in range(20):
            hub.send(hub.workers["worker-0"], Load(f"t{turn}", versions[(turn + 1) % 2].digest, 1, True))
            assert hub.next(LoadEnded)[0].reason == ""
            hub.job("worker-0", turn, rows.tobytes(), Work("tensor", 1, rows.shape))
            hub.next(Done)  # so the other version is gone
            sizes.append(psutil.Process(pid).memory_full_info().uss / 1e6)
    print([round(size, 1) for size in sizes])
    assert max(sizes[2:]) - min(sizes[2:]) < 6, sizes


def test_jobs_before_the_order_to_serve_are_of_the_old_version_and_those_after_it_of_the_new(home, hub):
    import torch

    from workers.loading import load_verified

    hub.close()
    hub = Hub(home, serves=False, heartbeat_s=5.0)
    first, second = new_version(home, 1, "v1"), new_version(home, 2, "v2")
    write_stable(home, "shapes", first.digest)
    rows = np.random.default_rng(7).standard_normal((1, 3, 32, 32)).astype("<f4")
    expected = {v.name: load_verified(home, v.digest).engine(torch.from_numpy(rows)).numpy() for v in (first, second)}
    try:
        with supervisor(home, 1, sorted(os.sched_getaffinity(0))[:1]):
            hub.hello()
            hub.send(hub.workers["worker-0"], Load("t1", second.digest, 1, True))
            hub.next(LoadEnded)
            start = len(hub.heard)
            for job in (1, 2, 3, 4):  # all at once: they may well be read together
                hub.job("worker-0", job, rows.tobytes(), Work("tensor", 1, rows.shape))
                if job == 2:
                    hub.send(hub.workers["worker-0"], Serve("t1", second.digest))
            hub.until(lambda: sum(isinstance(m, Done) for m, _ in hub.heard[start:]) == 4)
    finally:
        hub.close()
    answers = {m.job: np.frombuffer(payload, "<f4") for m, payload in hub.heard[start:] if isinstance(m, Done)}
    for job, version in {1: "v1", 2: "v1", 3: "v2", 4: "v2"}.items():
        np.testing.assert_allclose(answers[job][None], expected[version], atol=1e-3, err_msg=f"job {job}")


def test_answers_are_those_of_the_version_and_a_damaged_one_changes_nothing(home, hub):
    import torch

    from workers.loading import load_verified

    first, second = new_version(home, 1, "v1"), new_version(home, 2, "v2")
    third = new_version(home, 3, "v3")
    weights = version_folder(home, third.digest) / WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-100] ^= 0x40
    weights.write_bytes(data)
    write_stable(home, "shapes", first.digest)
    rows = np.random.default_rng(7).standard_normal((2, 3, 32, 32)).astype("<f4")

    def answer(job):
        hub.job("worker-0", job, rows.tobytes(), Work("tensor", 1, rows.shape))
        done, payload = hub.next(Done)
        return np.frombuffer(payload, "<f4").reshape(decode_result(done.result).shape)

    def expected(version):
        return load_verified(home, version.digest).engine(torch.from_numpy(rows.copy())).numpy()

    with supervisor(home, 1, sorted(os.sched_getaffinity(0))[:1]):
        assert hub.hello().version == "v1"
        np.testing.assert_allclose(answer(1), expected(first), atol=1e-4)

        hub.send(hub.workers["worker-0"], Load("t1", second.digest, 1))
        ended, _ = hub.next(LoadEnded)
        assert (ended.version, ended.reason) == ("v2", "")
        assert ended.load_us > 0
        assert ended.verify_us > 0
        np.testing.assert_allclose(answer(2), expected(second), atol=1e-4)
        assert np.abs(expected(first) - expected(second)).max() > 0.01, (
            "the two must differ for this test to mean anything"
        )

        hub.send(hub.workers["worker-0"], Load("t2", third.digest, 1))
        ended, _ = hub.next(LoadEnded)
        assert ended.version == "v2"
        assert ended.reason
        print(ended.reason)
        np.testing.assert_allclose(answer(3), expected(second), atol=1e-4)
