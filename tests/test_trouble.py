"""Troubles of the system that workers and their supervisor outlive: no process, no file, no figures."""

import os
import socket
from functools import partial
from types import SimpleNamespace

import psutil
import pytest

from hotpool.config import Config
from hotpool.home import Home
from hotpool.messages import Pulse
from hotpool.wire import from_worker
from workers.forker import Forker
from workers.orders import NotForked, Settings, decode_from_template
from workers.pulse import PulseThread
from workers.supervisor import Supervisor
from workers.template import Template

SETTINGS = Settings("/home", "m", "worker-0", 7, (0,), 1, 4, 1, 1)


def test_a_template_that_gets_no_process_says_so_and_lives_on(monkeypatch):
    def fork():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Template._fork(SimpleNamespace(_control=theirs), SETTINGS)  # type: ignore[arg-type]
        said = decode_from_template(ours.recv(4096).strip())
    assert said == NotForked("worker-0", 7, "[Errno 11] Resource temporarily unavailable")


@pytest.mark.parametrize(
    ("trouble", "rss"), [(OSError("too many open files"), 0), (psutil.AccessDenied(), 0), (None, 5)]
)
def test_a_heart_beats_without_figures_of_memory_where_there_are_none(trouble, rss):
    """None: a kernel that tells the resident memory alone."""

    def tell():
        if trouble:
            raise trouble
        return SimpleNamespace(rss=5)

    pulse = SimpleNamespace(_worker="worker-0", _incarnation=7)
    frame = PulseThread._measure(pulse, SimpleNamespace(memory_full_info=tell))  # type: ignore[arg-type]
    assert from_worker.decode([frame]) == (Pulse("worker-0", 7, rss, 0), None)


def test_a_supervisor_that_can_not_read_what_is_stable_keeps_what_it_knows(tmp_path, caplog):
    home, config = Home(tmp_path), Config()
    home.stable_pointer(config.pool.model).mkdir(parents=True)  # which reads as no file does
    supervisor = SimpleNamespace(_home=home, _config=config, _stable="d" * 64, _stable_read_at=0.0, _stable_trouble="")
    for now in (100.0, 101.0):
        Supervisor._read_stable(supervisor, now)  # type: ignore[arg-type]
    assert (supervisor._stable, supervisor._stable_read_at) == ("d" * 64, 101.0)
    assert len(caplog.records) == 1, "said once"
    supervisor._stable = None
    assert "Is a directory" in Supervisor._find_obstacle(supervisor)  # type: ignore[arg-type]


def test_a_template_that_can_not_be_started_is_tried_again_and_again(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("workers.forker.subprocess.Popen", refuse)
    forker = Forker("no.module", 1, "/no/socket")
    files = len(os.listdir("/proc/self/fd"))
    supervisor = SimpleNamespace(_forker=forker, _template_exits=[], _template_started_at=0.0)
    supervisor._template_ended = partial(Supervisor._template_ended, supervisor)  # type: ignore[arg-type]
    now = 0.0
    for _ in range(20):
        Supervisor._start_template(supervisor, now)  # type: ignore[arg-type]
        assert forker.control is None
        assert now < supervisor._template_at < now + 60
        now = supervisor._template_at
    assert "Resource temporarily unavailable" in supervisor._template_trouble
    assert len(os.listdir("/proc/self/fd")) == files
    forker.close()


def test_a_new_stable_version_has_a_template_tried_again_that_was_given_up(tmp_path):
    home, config, tried = Home(tmp_path), Config(), []
    home.stable_pointer(config.pool.model).parent.mkdir(parents=True, exist_ok=True)
    home.stable_pointer(config.pool.model).write_text("e" * 64)
    supervisor = SimpleNamespace(
        _home=home, _config=config, _stable="d" * 64, _stable_read_at=0.0, _template_at=float("inf"), _template_exits=[1],
        _stable_trouble="", _seats=SimpleNamespace(retry=lambda now: [now]), _do=lambda actions, now: tried.append(actions),
    )  # fmt: skip
    Supervisor._read_stable(supervisor, 100.0)  # type: ignore[arg-type]
    assert (supervisor._template_at, supervisor._template_exits, tried) == (100.0, [], [[100.0]])
