"""Real supervisor, template and worker processes, with a broker's socket in the test."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic

import numpy as np
import psutil
import pytest
import zmq
from PIL import Image

from hotpool.home import Home
from hotpool.locks import hold
from hotpool.manifest import WEIGHTS, version_folder
from hotpool.messages import (
    Done,
    Failed,
    Kill,
    Leaving,
    Load,
    LoadEnded,
    LoadState,
    Pulse,
    Released,
    Seats,
    Serve,
    Who,
    Work,
    WorkerHello,
)
from hotpool.stable import write_stable
from hotpool.wire import decode_result
from tests.hub import Hub
from tests.noop_workers import ARRIVED, BUG, FAIL, HANG
from workers.loader import NICE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
STABLE, OTHER, BAD = "a" * 64, "b" * 64, "bad" + "0" * 61
SLOW, BROKEN, HUGE = "slow" + "0" * 60, "bug" + "0" * 61, "huge" + "0" * 60
PIXELS = Work("pixels", 3, (1, 1, 3))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = Home(tmp_path)
    home.run.mkdir()
    write_stable(home, "default", STABLE)
    return home


@pytest.fixture
def bind(home):
    """Binds hubs; one at a time, as a broker's lock sees to."""
    with contextlib.ExitStack() as stack:

        def bind(**habits: bool) -> Hub:
            hub = Hub(home, **habits)
            stack.callback(hub.close)
            return hub

        yield bind


@pytest.fixture
def hub(bind):
    return bind()


@pytest.fixture
def start(home):
    """Starts supervisors; whatever is left of them is killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(workers: int = 1, **environment: str) -> psutil.Process:
        command = [sys.executable, "-m", "tests.noop_workers", "--home", str(home.root), "--workers", str(workers)]
        started.append(subprocess.Popen(command, cwd=ROOT, env=os.environ | environment))
        return psutil.Process(started[-1].pid)

    yield start
    for process in started:
        everyone = family(process.pid)
        for pid in [process.pid, *everyone]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def family(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def template_of(supervisor: psutil.Process) -> psutil.Process:
    (template,) = [
        child for child in supervisor.children() if "tests.noop_workers" in child.cmdline() and child.children()
    ]
    return template


def is_over(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def tensor(*values: float) -> tuple[bytes, Work]:
    rows = np.stack([np.full((3, 1, 1), value, np.float32) for value in values])
    return rows.tobytes(), Work("tensor", 3, rows.shape)


def test_a_worker_says_hello_with_the_stable_version_and_answers(start, hub):
    start(workers=2)
    hello = hub.hello("worker-1")
    assert (hello.version, hello.digest, hello.incarnation, hello.threads) == ("va", STABLE, 1, 1)
    assert set(hello.cores) == os.sched_getaffinity(hello.pid)
    hub.until(lambda: hub.seats["worker-1"].pid == hello.pid)

    hub.job("worker-1", 5, bytes([1, 2, 3]), PIXELS)
    done, payload = hub.next(Done)
    assert (done.job, payload) == (5, None)
    assert [label for _, label, _ in decode_result(done.result).classes] == ["sum", "rows", "zero"]

    hub.job("worker-1", 6, *tensor(1.0, 2.0))
    done, payload = hub.next(Done)
    assert decode_result(done.result).shape == (2, 3)
    assert np.frombuffer(payload, "<f4").reshape(2, 3)[:, 0].tolist() == [3.0, 6.0]

    pulse, _ = hub.next(Pulse)
    assert pulse.rss_bytes > pulse.private_bytes > 0


def test_a_job_whose_batch_never_comes_is_answered_and_so_is_what_comes_later(start, hub):
    start()
    hub.hello()
    hub.job("worker-0", 1, *tensor(1.0), behind=3)
    assert hub.next(Done)[0].job == 1
    hub.job("worker-0", 2, *tensor(2.0), behind=1)
    hub.job("worker-0", 3, *tensor(3.0))
    assert {hub.next(Done)[0].job for _ in range(2)} == {2, 3}


def test_pictures_are_decoded_and_bad_ones_fail_alone(start, hub):
    start()
    hub.hello()
    picture = io.BytesIO()
    Image.new("RGB", (4, 4), (10, 20, 30)).save(picture, "PNG")
    hub.job("worker-0", 1, b"no picture", Work("picture"))
    hub.job("worker-0", 2, picture.getvalue(), Work("picture"))
    hub.job("worker-0", 3, bytes(5), PIXELS)
    hub.job("worker-0", 4, b"", Work("poem"))
    hub.job("worker-0", 5, *tensor(FAIL))
    hub.job("worker-0", 6, *tensor(1.0), budget_s=0)
    hub.until(lambda: sum(isinstance(m, Done | Failed) for m, _ in hub.heard) == 6)
    outcomes = {m.job: "done" if isinstance(m, Done) else m.code for m, _ in hub.heard if isinstance(m, Done | Failed)}
    assert outcomes == {
        1: "bad_image",
        2: "done",
        3: "bad_input",
        4: "bad_input",
        5: "model_error",
        6: "deadline_exceeded",
    }
    assert {m.executed for m, _ in hub.heard if isinstance(m, Failed) and m.job != 5} == {"no"}


def test_a_killed_worker_is_noticed_in_milliseconds_and_replaced(start, hub):
    start(workers=2)
    before = hub.hello("worker-0")
    hub.hello("worker-1")
    hub.until(lambda: hub.seats["worker-0"].pid == before.pid)
    killed_at = monotonic()
    os.kill(before.pid, signal.SIGKILL)
    hub.until(lambda: hub.seats["worker-0"].restarts == {"killed": 1})
    noticed_s = monotonic() - killed_at
    after = hub.hello("worker-0", after=1)
    print(f"noticed after {noticed_s * 1e3:.1f} ms, replaced after {monotonic() - killed_at:.2f} s")
    assert after.incarnation == 2
    assert noticed_s < 0.2, "generous for a busy machine; on an idle one it is 2 ms"
    assert hub.seats["worker-1"].restarts == {}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists a process's threads")
def test_a_worker_names_the_thread_that_its_heartbeats_come_from(start, hub):
    start()
    hello = hub.hello()
    assert str(hello.pulse_thread) in os.listdir(f"/proc/{hello.pid}/task")
    assert hello.pulse_thread != hello.pid, "not its main thread: that computes"


def test_a_bug_ends_the_process_and_the_supervisor_knows_why(start, hub):
    start()
    hub.hello()
    hub.job("worker-0", 1, *tensor(BUG))
    hub.until(lambda: hub.seats["worker-0"].restarts == {"exit": 1})
    assert "exit code 1 (AttributeError: a bug in the engine)" in hub.seats["worker-0"].note


def test_a_hung_worker_pulses_on_and_is_killed_by_order(start, hub, home):
    start()
    hello = hub.hello()
    hub.job("worker-0", 1, *tensor(HANG))
    hub.until(lambda: (home.root / ARRIVED).exists())
    hub.next(Pulse)
    hub.send(hub.supervisor, Kill("worker-0", 1, "hung"))
    hub.until(lambda: hub.seats["worker-0"].restarts == {"hung": 1})
    assert is_over(hello.pid)


def test_sigterm_drains_then_stops(start, bind):
    hub = bind(releases=False)
    supervisor = start(workers=2)
    pids = [hub.hello("worker-0").pid, hub.hello("worker-1").pid]
    supervisor.terminate()
    hub.until(lambda: sum(isinstance(m, Leaving) for m, _ in hub.heard) == 2)
    hub.job("worker-0", 1, *tensor(1.0))
    assert hub.next(Done)[0].job == 1, "it answers on until it is released"
    for worker in ("worker-0", "worker-1"):
        hub.send(hub.workers[worker], Released())
    supervisor.wait(timeout=5)
    assert all(is_over(pid) for pid in pids)
    assert not any(seat.restarts for seat in hub.seats.values())


def test_ctrl_c_reaches_every_process_and_workers_still_drain(start, bind):
    hub = bind(releases=False)
    supervisor = start()
    pid = hub.hello().pid
    hub.until(lambda: hub.seats["worker-0"].pid == pid)
    for each in [*family(supervisor.pid), supervisor.pid]:
        os.kill(each, signal.SIGINT)
    hub.next(Leaving)
    hub.job("worker-0", 1, *tensor(1.0))
    assert hub.next(Done)[0].job == 1
    hub.send(hub.workers["worker-0"], Released())
    supervisor.wait(timeout=5)
    assert is_over(pid)


def run_service(home, config=""):
    (home.root / "hotpool.toml").write_text(config)
    command = [sys.executable, "-m", "workers", "--home", str(home.root), "--config", str(home.root / "hotpool.toml")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)


def test_a_second_supervisor_is_refused_and_the_first_is_named(home):
    with hold(home.lock("workers"), "held"):
        second = run_service(home)
    assert second.returncode == 2
    assert f"another supervisor (process {os.getpid()})" in second.stderr


def test_workers_that_do_not_fit_are_refused_before_anything_starts(home):
    refused = run_service(home, "[pool]\nworkers = 999\n")
    assert refused.returncode == 2
    assert "pool.workers = 999" in refused.stderr


def test_workers_stop_without_a_broker_too(start, hub):
    supervisor = start()
    pid = hub.hello().pid
    hub.close()
    supervisor.terminate()
    supervisor.wait(timeout=5)
    assert is_over(pid)


def test_template_and_workers_end_when_the_supervisor_is_killed(start, hub):
    supervisor = start(workers=2)
    pids = [hub.hello("worker-0").pid, hub.hello("worker-1").pid, template_of(supervisor).pid]
    supervisor.kill()
    hub.until(lambda: all(is_over(pid) for pid in pids), within_s=5)


def test_a_worker_that_hangs_when_the_supervisor_is_killed_ends_too(start, hub, home):
    supervisor = start()
    pid = hub.hello().pid
    hub.job("worker-0", 1, *tensor(HANG))
    hub.until(lambda: (home.root / ARRIVED).exists())
    supervisor.kill()
    hub.until(lambda: is_over(pid), within_s=8)


def test_workers_go_on_when_the_template_is_killed_and_are_still_looked_after(start, hub):
    supervisor = start(workers=2)
    first, second = hub.hello("worker-0"), hub.hello("worker-1")
    hub.until(lambda: hub.seats["worker-0"].pid and hub.seats["worker-1"].pid)
    template = template_of(supervisor)
    template.kill()
    hub.until(lambda: psutil.Process(first.pid).ppid() == supervisor.pid)
    hub.job("worker-0", 1, *tensor(1.0))
    assert hub.next(Done)[0].job == 1
    os.kill(second.pid, signal.SIGKILL)
    hub.until(lambda: hub.seats["worker-1"].restarts == {"killed": 1})
    replaced = hub.hello("worker-1", after=1)
    assert psutil.Process(replaced.pid).ppid() not in (supervisor.pid, template.pid), "forked by a new template"
    assert hub.seats["worker-0"].pid == first.pid


def test_another_version_is_loaded_in_place_and_a_bad_one_keeps_the_old(start, hub):
    start()
    hub.hello()
    hub.send(hub.workers["worker-0"], Load("t1", OTHER, 3))
    ended, _ = hub.next(LoadEnded)
    assert (ended.token, ended.version, ended.digest, ended.reason) == ("t1", "vb", OTHER, "")
    assert (ended.load_us, ended.verify_us) == (1000, 2000)
    assert [m.state for m, _ in hub.heard if isinstance(m, LoadState)] == ["loading", "verifying"]

    hub.send(hub.workers["worker-0"], Load("t2", BAD, 3))
    ended, _ = hub.next(LoadEnded)
    assert (ended.token, ended.digest) == ("t2", OTHER)
    assert "fc.weight" in ended.reason

    hub.send(hub.workers["worker-0"], Load("t3", STABLE, 2))
    ended, _ = hub.next(LoadEnded)
    assert (ended.token, ended.digest) == ("t3", OTHER)
    assert "epoch 2 is lower than 3" in ended.reason

    hub.job("worker-0", 1, *tensor(1.0))
    assert hub.next(Done)[0].job == 1


def test_a_load_that_runs_out_of_memory_or_would_is_refused_and_the_worker_serves_on(start, hub, home):
    start()
    pid = hub.hello().pid
    weights = version_folder(home, OTHER) / WEIGHTS
    weights.parent.mkdir(parents=True)
    with weights.open("wb") as file:
        file.truncate(5 * 10**9)  # takes no room on the disk, and as much as it says in memory
    for digest, said in ((OTHER, "weights.safetensors has 5000 MB"), (HUGE, "not enough memory to load version huge")):
        hub.send(hub.workers["worker-0"], Load(f"t-{digest}", digest, 3, True))
        ended, _ = hub.next(LoadEnded)
        assert (ended.token, ended.digest) == (f"t-{digest}", STABLE)
        assert said in ended.reason
        hub.job("worker-0", 1, *tensor(1.0))
        assert hub.next(Done)[0].job == 1
    assert hub.hello().pid == pid


def test_after_a_broker_restart_the_hello_tells_the_present_version(start, hub, bind):
    start()
    hub.hello()
    hub.send(hub.workers["worker-0"], Load("t1", OTHER, 3))
    hub.next(LoadEnded)
    hub.send(hub.workers["worker-0"], Who())
    hub.next(WorkerHello)  # it has heard that the new version is to be served
    hub.close()
    second = bind()
    hello = second.hello()
    assert (hello.digest, hello.epoch, hello.token, hello.load_reason, hello.incarnation) == (OTHER, 3, "t1", "", 1)
    second.until(lambda: second.seats)
    second.job("worker-0", 1, *tensor(1.0))
    assert second.next(Done)[0].job == 1


def test_a_worker_that_is_asked_who_it_is_for_each_of_several_messages_says_so_once(start, hub):
    """Each hello is a new session, which takes the jobs of the one before to others."""
    start()
    hub.hello()
    for _ in range(3):
        hub.send(hub.workers["worker-0"], Who())
    hub.next(WorkerHello)
    hub.job("worker-0", 1, *tensor(1.0))
    hub.next(Done)
    assert sum(isinstance(message, WorkerHello) for message, _ in hub.heard) == 2


def begin_slow_load(hub: Hub, token: str = "t1", *, beside: bool = True) -> None:
    hub.send(hub.workers["worker-0"], Load(token, SLOW, 3, beside))
    hub.until(lambda: any(isinstance(m, LoadState) and m.token == token for m, _ in hub.heard))


def ends(hub: Hub) -> list[LoadEnded]:
    return [message for message, _ in hub.heard if isinstance(message, LoadEnded)]


def test_a_worker_answers_while_it_loads_and_goes_on_until_it_is_told_to_serve_the_other(start, bind, home):
    hub = bind(serves=False)
    start()
    pid = hub.hello().pid
    begin_slow_load(hub)
    for job in range(20):
        hub.job("worker-0", job, *tensor(1.0))
        assert hub.next(Done)[0].job == job
    hub.send(hub.workers["worker-0"], Who())
    assert hub.next(WorkerHello)[0].loading == "t1"
    (home.root / "go").touch()
    ended, _ = hub.next(LoadEnded)
    assert (ended.token, ended.version, ended.digest) == ("t1", "vs", SLOW)
    hub.send(hub.workers["worker-0"], Who())
    hello, _ = hub.next(WorkerHello)
    assert (hello.digest, hello.token, hello.loading) == (STABLE, "", "t1"), "held, not served"
    hub.send(hub.workers["worker-0"], Serve("t1", SLOW))
    hub.send(hub.workers["worker-0"], Who())
    hello, _ = hub.next(WorkerHello)
    assert (hello.digest, hello.token, hello.loading, hello.pid) == (SLOW, "t1", "", pid)


def test_a_worker_that_is_told_to_keep_the_old_version_lets_go_of_the_new(start, bind):
    hub = bind(serves=False)
    start()
    hub.hello()
    hub.send(hub.workers["worker-0"], Load("t1", OTHER, 3, True))
    hub.next(LoadEnded)
    hub.send(hub.workers["worker-0"], Serve("t1", STABLE))
    hub.send(hub.workers["worker-0"], Who())
    hello, _ = hub.next(WorkerHello)
    assert (hello.digest, hello.token, hello.loading) == (STABLE, "t1", "")
    hub.send(hub.workers["worker-0"], Serve("t1", OTHER))
    assert hub.next(WorkerHello)[0].digest == STABLE, "a broker that is wrong about it hears so"


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness of their own")
@pytest.mark.parametrize(("beside", "nice"), [(True, NICE), (False, 0)])
def test_a_load_gives_way_to_requests_only_where_there_may_be_any(start, hub, home, beside, nice):
    start()
    pid = hub.hello().pid
    own = psutil.Process(pid).nice()
    begin_slow_load(hub, beside=beside)
    assert int((home.root / "nice").read_text()) == own + nice
    (home.root / "go").touch()
    hub.next(LoadEnded)
    assert psutil.Process(pid).nice() == own, "the thread that serves"


def test_of_two_orders_to_load_the_newest_counts(start, hub, home):
    start()
    hub.hello()
    begin_slow_load(hub)
    hub.send(hub.workers["worker-0"], Load("t2", BAD, 3, True))
    hub.send(hub.workers["worker-0"], Load("t3", OTHER, 4, True))
    hub.send(hub.workers["worker-0"], Load("t4", SLOW, 3, True))
    hub.until(lambda: len(ends(hub)) == 1)
    assert "epoch 3 is lower than 4" in ends(hub)[0].reason
    (home.root / "go").touch()
    ended, _ = hub.next(LoadEnded)
    assert (ended.token, ended.digest, ended.reason) == ("t3", OTHER, "")
    hub.send(hub.workers["worker-0"], Who())
    assert hub.next(WorkerHello)[0].digest == OTHER
    assert [(m.token, m.state) for m, _ in hub.heard if isinstance(m, LoadState)] == [
        ("t1", "loading"), ("t1", "verifying"), ("t3", "loading"), ("t3", "verifying"),
    ]  # fmt: skip
    assert len(ends(hub)) == 2


def test_one_order_to_load_sent_twice_is_one_load(start, hub, home):
    start()
    hub.hello()
    begin_slow_load(hub)
    hub.send(hub.workers["worker-0"], Load("t1", SLOW, 3, True))
    hub.send(hub.workers["worker-0"], Who())
    hub.next(WorkerHello)  # it has read the second order
    (home.root / "go").touch()
    hub.until(lambda: ends(hub))
    assert [m.state for m, _ in hub.heard if isinstance(m, LoadState)] == ["loading", "verifying"]


def test_a_broker_lost_in_a_load_hears_of_it_from_the_hello_and_of_its_end(start, bind, home):
    hub = bind()
    start()
    hub.hello()
    begin_slow_load(hub)
    hub.close()
    second = bind(serves=False)
    hello = second.hello()
    assert (hello.digest, hello.loading, hello.incarnation) == (STABLE, "t1", 1)
    (home.root / "go").touch()
    second.until(lambda: ends(second))
    second.close()
    third = bind()
    assert third.hello().loading == "t1", "nobody has said yet what to serve"
    third.until(lambda: ends(third))
    third.send(third.workers["worker-0"], Who())
    hello, _ = third.next(WorkerHello)
    assert (hello.digest, hello.token, hello.loading, hello.incarnation) == (SLOW, "t1", "", 1)


def test_sigterm_in_a_load_does_not_wait_for_its_end(start, hub):
    start()
    pid = hub.hello().pid
    begin_slow_load(hub)
    os.kill(pid, signal.SIGTERM)
    hub.until(lambda: is_over(pid), within_s=5)
    assert any(isinstance(message, Leaving) for message, _ in hub.heard)


def test_a_worker_in_a_load_ends_when_its_supervisor_is_killed(start, hub):
    supervisor = start()
    pid = hub.hello().pid
    begin_slow_load(hub)
    supervisor.kill()
    hub.until(lambda: is_over(pid), within_s=5)


def test_a_bug_in_a_load_ends_the_process_and_is_named(start, hub):
    start()
    hub.hello()
    hub.send(hub.workers["worker-0"], Load("t1", BROKEN, 3, True))
    hub.until(lambda: hub.seats and hub.seats["worker-0"].restarts == {"exit": 1})
    assert "AttributeError: a bug in the loading of versions" in hub.seats["worker-0"].note
    assert hub.hello(after=1).digest == STABLE


def test_a_version_that_can_not_boot_is_named_in_the_seat(start, hub, home):
    write_stable(home, "default", BAD)
    start()
    hub.until(lambda: hub.seats and hub.seats["worker-0"].restarts == {"boot_failed": 1})
    assert "boot failed (tensor fc.weight has 3 of 10 values" in hub.seats["worker-0"].note


def test_workers_start_when_the_first_version_comes(start, hub, home):
    home.stable_pointer("default").unlink()
    start()
    note = "waits for the first version of model default (add one: hotpool versions add)"
    hub.until(lambda: hub.seats and hub.seats["worker-0"].note == note)
    write_stable(home, "default", STABLE)
    assert hub.hello().digest == STABLE
    hub.until(lambda: hub.seats["worker-0"].note == "")


def test_a_worker_without_a_broker_ends_by_itself_and_is_started_again(start, hub, bind):
    start(NOOP_BROKER_GONE_S="0.5")
    hello = hub.hello()
    hub.close()
    ends_at = monotonic() + 10
    while not is_over(hello.pid):
        assert monotonic() < ends_at
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            psutil.Process(hello.pid).wait(timeout=0.1)
    second = bind()
    assert second.hello(after=1).incarnation == 2
    second.until(lambda: second.seats and second.seats["worker-0"].restarts == {"broker_gone": 1})


def test_a_new_supervisor_goes_on_counting_incarnations(start, hub):
    supervisor = start()
    assert hub.hello().incarnation == 1
    supervisor.kill()
    start()
    assert hub.hello(after=1).incarnation == 2


def test_garbage_on_its_connection_does_not_hurt_a_worker(start, hub):
    start()
    hub.hello()
    for frames in ([b""], [b"HP\x01\xc1"], [b"x" * 100, b"", b""], [b"HP\x01" + b"\xff" * 50]):
        hub._socket.send_multipart([hub.workers["worker-0"], *frames], zmq.NOBLOCK)
        hub._socket.send_multipart([hub.supervisor, *frames], zmq.NOBLOCK)
    hub.job("worker-0", 1, *tensor(1.0))
    assert hub.next(Done)[0].job == 1
    hub.next(Seats)
