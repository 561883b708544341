"""The process that checks a version for a rollout, forked from the template: real processes, torch, a small network."""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from hotpool.child import give_way
from hotpool.manifest import MANIFEST, version_folder
from workers.lender import Lender, listen
from workers.orders import Forked, ForkOrder, Settings, decode_from_template, encode_line
from workers.scratch_call import ask

from .pool import ROOT, eventually, short_home
from .small_versions import add_version, make_tensors, save

pytestmark = pytest.mark.slow
TEMPLATE = """
import os
from workers.template import import_everything, main

def preload():
    import_everything()
    return lambda settings, lifeline: len(os.read(lifeline, 1))

main(preload)
"""


class RealTemplate:
    """A template whose workers wait for their end, and our end of its socket pair."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.control, theirs = socket.socketpair()
        self._lifeline, self._write = os.pipe()
        arguments = [str(theirs.fileno()), str(self._lifeline), path]
        with theirs:
            self.process = psutil.Popen(
                [sys.executable, "-c", TEMPLATE, *arguments], cwd=ROOT, pass_fds=(theirs.fileno(), self._lifeline)
            )
        eventually(lambda: os.path.exists(path), "the template listens", patience_s=60)

    def fork_worker(self) -> int:
        cores = tuple(os.sched_getaffinity(0))
        self.control.sendall(encode_line(ForkOrder(Settings("/home", "m", "worker-0", 7, cores, 1, 4, 1, 1))))
        forked = decode_from_template(self.control.recv(4096).strip())
        assert isinstance(forked, Forked)
        return forked.pid

    def scratch(self) -> list[psutil.Process]:
        return [child for child in self.process.children() if is_there(child) and leads_a_session(child)]

    def close(self) -> None:
        self.control.close()
        os.close(self._write)
        os.close(self._lifeline)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
        self.process.wait(20)
        os.unlink(self.path)


def leads_a_session(process: psutil.Process) -> bool:
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(process.pid) == process.pid
    return False


def is_there(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture(scope="module")
def home():
    with short_home() as home:
        home.run.mkdir()
        yield home


@pytest.fixture(scope="module")
def shared(home):
    template = RealTemplate(str(home.run / "scratch.sock"))
    yield template
    template.close()


@pytest.fixture
def template(home):
    """One for a test that ends it."""
    template = RealTemplate(str(home.run / "own.sock"))
    yield template
    template.close()


@pytest.fixture(scope="module")
def folder(home, tmp_path_factory):
    source = save(make_tensors(), tmp_path_factory.mktemp("source") / "v.pth")
    return version_folder(home, add_version(home, source).digest)


@pytest.fixture
def waiting(folder, tmp_path):
    """A version's folder whose manifest is a pipe: who checks it waits until somebody writes there."""
    place = tmp_path / folder.name
    place.mkdir()
    os.mkfifo(place / MANIFEST)
    return place


@contextlib.contextmanager
def calling(path: str, *arguments: object):
    """A caller's process."""
    argv = [sys.executable, "-m", "workers.scratch_call", path, *map(str, arguments)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def call(path: str, *arguments: object) -> tuple[int, dict[str, object]]:
    with calling(path, *arguments) as process:
        said, errors = process.communicate(timeout=60)
    assert said, errors.decode()
    return process.returncode, json.loads(said)


def forked(template: RealTemplate) -> psutil.Process:
    """The one scratch process, once there is one."""
    eventually(lambda: len(template.scratch()) == 1, "a scratch process")
    return template.scratch()[0]


def without_times(answer: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in answer.items() if name not in ("load_s", "verify_s")}


def test_a_process_of_the_template_finds_what_one_of_its_own_finds(shared, home, folder):
    by_template = call(shared.path, "check", folder)
    by_itself = call(str(home.run / "nobody.sock"), "check", folder)
    assert by_template[0] == by_itself[0] == 0
    assert without_times(by_template[1]) == without_times(by_itself[1])
    assert by_template[1]["ok"] is True


def test_what_is_wrong_with_a_version_is_said_and_the_exit_code_is_1(shared, tmp_path):
    code, answer = call(shared.path, "check", tmp_path)
    assert (code, answer["ok"]) == (1, False)
    assert MANIFEST in str(answer["reason"])


@pytest.mark.skipif(sys.platform != "linux", reason="macOS doesn't enforce the limit")
def test_the_memory_limit_is_beyond_what_the_template_has(shared, folder):
    assert call(shared.path, "check", folder, "--memory-mb", 200)[0] == 0
    code, answer = call(shared.path, "check", folder, "--memory-mb", 1)
    assert code == 1
    assert "more than the 1 MB of memory" in str(answer["reason"])


def test_it_is_the_templates_child_and_gives_way_in_a_session_of_its_own(shared, waiting):
    with calling(shared.path, "check", waiting):
        scratch = forked(shared)
        eventually(lambda: scratch.nice() > shared.process.nice(), "it gives way")
        assert os.getsid(scratch.pid) == scratch.pid
        with (waiting / MANIFEST).open("wb"):
            pass
    eventually(lambda: not is_there(scratch), "it ends")


def test_errors_go_to_the_caller_and_usage_is_no_end_of_the_template(shared):
    with calling(shared.path, "chekc") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"invalid choice: 'chekc'" in errors
    assert is_there(shared.process)


def test_a_caller_that_is_killed_ends_its_process(shared, waiting):
    with calling(shared.path, "check", waiting) as process:
        scratch = forked(shared)
        process.kill()
        eventually(lambda: not is_there(scratch), "the scratch process is gone")
    assert is_there(shared.process)


def test_a_process_that_is_killed_ends_its_caller_by_the_same_signal(shared, waiting):
    with calling(shared.path, "check", waiting) as process:
        forked(shared).kill()
        assert process.wait(20) == -signal.SIGKILL


def test_two_calls_at_once_end_each_by_itself(shared, waiting, folder):
    with calling(shared.path, "check", waiting) as process:
        first = forked(shared)
        assert call(shared.path, "check", folder)[0] == 0
        assert is_there(first)
        assert process.poll() is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it goes on for as long as it takes")
def test_where_the_template_is_lost_the_caller_does_the_work_itself(template, waiting, folder, tmp_path):
    """A worker that is forked meanwhile does not keep the call open."""
    with calling(template.path, "check", waiting) as process:
        scratch, worker = forked(template), psutil.Process(template.fork_worker())
        waiting.rename(tmp_path / "before")
        (tmp_path / waiting.name).symlink_to(folder)
        template.process.kill()
        template.process.wait()
        eventually(lambda: not is_there(scratch), "the scratch process is gone")
        said, errors = process.communicate(timeout=60)
        assert is_there(worker)
    assert (process.returncode, json.loads(said)["ok"]) == (0, True), errors.decode()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere they go on for as long as it takes")
def test_a_template_that_ends_takes_its_scratch_processes_along(template, waiting):
    with calling(template.path, "check", waiting):
        scratch = forked(template)
        template.control.close()
        eventually(lambda: not is_there(scratch), "the scratch process is gone")


def test_a_template_that_does_not_answer_is_not_waited_for_and_its_late_process_ends(template, waiting):
    wish = ["check", str(waiting)]
    template.process.suspend()
    assert ask(template.path, wish, patience_s=0.1) is None
    template.process.resume()
    with socket.socket(socket.AF_UNIX) as later:
        later.connect(template.path)
        socket.send_fds(later, [json.dumps(wish).encode()], [1, 2])
        pid = int(later.makefile().readline())  # calls are taken in turn, so the first has been heard
        eventually(lambda: [child.pid for child in template.process.children()] == [pid], "only the later one is there")


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"[" * 60_000, b"[]"])
def test_whoever_sends_no_call_is_refused_and_the_template_lives_on(shared, folder, said):
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(shared.path)
        stranger.sendall(said)
        stranger.settimeout(20)
        assert stranger.recv(1) == b""
    assert call(shared.path, "check", folder)[0] == 0


def test_whoever_says_nothing_keeps_nobody_waiting(shared, folder):
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(shared.path)
        assert call(shared.path, "check", folder)[0] == 0


# ---- troubles of the system


@pytest.fixture
def path(home):
    return str(home.run / "lender.sock")


@contextlib.contextmanager
def lending(path: str):
    """A lender in this process that serves until the block ends."""
    selector = selectors.DefaultSelector()
    lender, stop = Lender(path, selector, lambda: None), threading.Event()

    def serve() -> None:
        while not stop.is_set():
            lender.serve([key.fileobj for key, _ in selector.select(0.01)])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield lender
    finally:
        stop.set()
        thread.join()
        lender.let_go()
        selector.close()


def test_where_the_system_has_no_process_for_it_the_caller_is_told_at_once(monkeypatch, path):
    def refuse():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    files = len(os.listdir("/proc/self/fd"))
    with lending(path):
        assert ask(path, ["check"], patience_s=20) is None
        assert ask(path, ["check"], patience_s=20) is None
    assert len(os.listdir("/proc/self/fd")) == files


def test_a_lender_without_a_socket_leaves_the_template_to_its_work(tmp_path, caplog):
    files = len(os.listdir("/proc/self/fd"))
    with lending(str(tmp_path / "no folder" / "scratch.sock")):
        assert len(caplog.records) == 1
        assert "event=lends_nothing" in caplog.text
    assert len(os.listdir("/proc/self/fd")) == files


def test_when_there_are_no_more_files_callers_are_refused_and_nothing_spins(monkeypatch, path):
    def accept(_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket.socket, "accept", accept)
    with lending(path):
        assert ask(path, ["check"], patience_s=20) is None, "it was in the line"
        with pytest.raises(ConnectionRefusedError), socket.socket(socket.AF_UNIX) as late:
            late.connect(path)


def test_a_socket_that_a_killed_template_has_left_is_no_obstacle(path):
    listen(path).close()
    with lending(path), socket.socket(socket.AF_UNIX) as caller:
        caller.connect(path)


@pytest.mark.parametrize("refusals", [0, 1, 9])
def test_a_wish_to_give_way_between_sessions_is_made_again_where_others_have_just_made_one(monkeypatch, refusals):
    """Linux takes one in a tenth of a second from all who are not root."""
    wishes = []

    def write(path, text):
        wishes.append(text)
        if len(wishes) <= refusals:
            raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(Path, "write_text", write)
    monkeypatch.setattr(os, "nice", lambda by: 0)
    monkeypatch.setattr("hotpool.child.time.sleep", lambda seconds: None)
    give_way()
    assert len(wishes) == min(refusals, 2) + 1
    assert wishes[0] == "5"
