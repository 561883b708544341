"""A worker's batches with the real model, in this process: which jobs make one, and which answer belongs to which picture."""

import io
from time import monotonic
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image

from hotpool.home import Home
from hotpool.messages import Done, Failed, Job, Serve, Work
from hotpool.stable import write_stable
from hotpool.wire import decode_result, encode_body, from_worker
from tests.small_versions import CROP, add_version, make_tensors, save
from workers.batch import FloatArray, answer
from workers.lookout import Lookout
from workers.orders import Settings
from workers.pictures import Picture, decode
from workers.preprocess import Preprocessor
from workers.pulse import PulseThread
from workers.stop_signal import StopSignal
from workers.torch_version import load_torch_version
from workers.worker import BEHIND_S, Worker

SEED, MAX = 23, 1_000_000


class Connection:
    """In place of the real one: keeps what the worker sends. arriving: what is there at each look, read message by message."""

    def __init__(self):
        self.sent = []
        self.arriving = []
        self.waited = self.sessions = 0
        self.is_lost = False
        self.on_send = lambda: None

    def send(self, frames):
        self.on_send()
        self.sent.append(from_worker.decode(frames)[0])

    def receive(self):
        look = self.arriving[0] if self.arriving else []
        while look:
            yield look.pop(0)
        self.arriving = self.arriving[1:]

    def wait(self, timeout_s):
        self.waited += 1
        assert timeout_s > 0
        return bool(self.arriving)

    def reopen(self):
        self.sessions += 1


@pytest.fixture(params=["fast", "exact"])
def worker(request, tmp_path):
    home = Home(tmp_path)
    manifest = add_version(home, save(make_tensors(), tmp_path / "v1.safetensors"), preprocess=request.param)
    write_stable(home, manifest.model, manifest.digest)
    settings = Settings(str(home.root), manifest.model, "worker-0", 1, (0,), 1, 4, MAX, MAX)
    no_signals, no_pulse = cast(StopSignal, None), cast(PulseThread, None)
    worker = Worker(settings, load_torch_version, no_signals, None, no_pulse)
    assert worker.boot()
    worker._link, worker._lookout = Connection(), Lookout([])
    yield worker
    worker._loader.close()


def picture(n, size=(60, 44), format_name="JPEG"):
    coarse = np.random.default_rng((SEED, n)).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, format_name)
    return Work("picture", 5), file.getvalue()


def pixels(n):
    array = np.random.default_rng((SEED, n)).integers(0, 256, (40, 36, 3), dtype=np.uint8)
    return Work("pixels", 5, array.shape), array.tobytes()


def ask(worker, *requests, budget_s=10.0):
    """Answers by number of the job: the classes' probabilities in order of their index, or an error's code."""
    worker._link.sent.clear()
    jobs = [(Job(n, int(budget_s * 1e6), encode_body(work)), payload) for n, (work, payload) in enumerate(requests)]
    worker._answer(jobs, monotonic())
    found = {}
    for message in worker._link.sent:
        if isinstance(message, Failed):
            found[message.job] = message.code
        elif isinstance(message, Done):
            found[message.job] = [p for _, _, p in sorted(decode_result(message.result).classes)]
    return [found[n] for n in range(len(requests))]


def alone(worker, request):
    """The same, without any of the batch's code."""
    work, payload = request
    manifest = worker._loaded.manifest
    preprocessor = Preprocessor(manifest.preprocessing, manifest.preprocess)
    if work.kind == "pixels":
        image = Image.fromarray(np.frombuffer(payload, np.uint8).reshape(work.shape))
        read = Picture(image, image.size)
    else:
        read = decode(payload, MAX, MAX, preprocessor.least_side)
    logits = worker._loaded.logits(preprocessor.input(read).numpy())
    return torch.from_numpy(logits)[0].softmax(0).tolist()


def assert_right(worker, requests, answers):
    for request, got in zip(requests, answers, strict=True):
        assert got == pytest.approx(alone(worker, request), abs=1e-4)


def too_narrow():
    """Decodes, but can't become an input: this one fails when its row in the batch is there already."""
    return picture(8, (1, 40_000), "PNG")


@pytest.mark.parametrize("bad", [(Work("picture"), picture(9)[1][:300]), too_narrow()], ids=["cut", "narrow"])
def test_a_bad_picture_in_a_batch_fails_alone(worker, bad):
    requests = [picture(0), bad, pixels(1), picture(2, (400, 300))]
    answers = ask(worker, *requests)
    assert answers[1] == "bad_image"
    assert_right(worker, [requests[0], *requests[2:]], [answers[0], *answers[2:]])
    assert len({tuple(answer) for answer in (answers[0], *answers[2:])}) == 3, "the model tells them apart"


def test_a_batch_leaves_nothing_of_itself_to_the_next(worker):
    ask(worker, *[picture(n) for n in range(4)])
    requests = [picture(5, (30, 300), "PNG"), picture(6)]
    assert_right(worker, requests, ask(worker, *requests))
    assert_right(worker, requests[1:], ask(worker, requests[1]))


def test_the_engine_gets_all_pictures_of_a_batch_at_once_and_as_they_were_written(worker, monkeypatch):
    seen: list[FloatArray] = []
    compute = worker._loaded.logits

    def logits(rows):
        seen.append(rows)
        return compute(rows)

    monkeypatch.setattr(worker._loaded, "logits", logits)
    ask(worker, picture(0), too_narrow(), pixels(1), picture(2))
    (batch,) = seen
    assert batch.shape == (3, 3, CROP, CROP)
    assert torch.from_numpy(batch).is_contiguous(memory_format=torch.channels_last)
    ask(worker, picture(3))
    assert np.shares_memory(seen[1], batch), "the same memory for every batch"


def test_tensors_beside_pictures_are_answered_as_ever(worker):
    rows = np.random.default_rng(SEED).standard_normal((2, 3, CROP, CROP), np.float32)
    answers = ask(worker, picture(0), (Work("tensor", 1, rows.shape), rows.tobytes()), pixels(1))
    assert answers[1] == []  # its logits are in the payload
    assert_right(worker, [picture(0), pixels(1)], [answers[0], answers[2]])


# ---- jobs that arrive one after another


def job(n, behind):
    work, payload = pixels(0)
    return Job(n, 10**7, encode_body(work), behind), payload


NOW = 100.0


@pytest.fixture
def still_clock(monkeypatch):
    """Time stands still for the worker: it may wait for as long as it likes."""
    monkeypatch.setattr("workers.worker.monotonic", lambda: NOW)


@pytest.fixture
def connection(worker, still_clock):
    return worker._link


def batches(worker, *looks):
    """How many rows each answer was computed with: jobs of one look are there at once, the next ones come later."""
    worker._link.arriving = [list(look) for look in looks]
    while worker._link.arriving:
        worker._receive(NOW)
    return {message.job: message.batch for message in worker._link.sent}


one_way = pytest.mark.parametrize("worker", ["fast"], indirect=True)  # how pictures are read does not matter here


@one_way
def test_jobs_of_one_batch_are_computed_together_although_the_first_is_there_before_the_others(worker, connection):
    assert batches(worker, [job(1, 3)], [job(2, 2), job(3, 1)], [job(4, 0)]) == {1: 4, 2: 4, 3: 4, 4: 4}


@one_way
def test_nothing_is_waited_for_behind_the_last_job_of_a_batch(worker, connection):
    assert batches(worker, [job(1, 0)], [job(2, 1), job(3, 0)]) == {1: 1, 2: 2, 3: 2}
    assert connection.waited == 0


@one_way
def test_a_job_whose_batch_was_cut_off_is_computed_without_the_rest(worker, connection):
    assert batches(worker, [job(1, 2), job(2, 1)]) == {1: 2, 2: 2}
    assert connection.waited == 1


@one_way
def test_a_batch_is_waited_for_no_longer_than_it_may_take_whatever_comes_meanwhile(worker, connection, monkeypatch):
    clock = iter([NOW + 1.1 * BEHIND_S * i for i in range(100)])
    monkeypatch.setattr("workers.worker.monotonic", lambda: next(clock))
    connection.arriving = [[job(1, 9)], [job(2, 8)], [job(3, 7)]]
    worker._receive(NOW)
    assert [message.batch for message in connection.sent] == [2, 2]


@one_way
def test_the_worker_stays_awake_after_a_job_that_came_alone_and_not_after_several(worker, monkeypatch):
    began = []
    monkeypatch.setattr(worker._lookout, "computed", lambda began_at: began.append(began_at))
    worker._link.arriving = [[job(1, 1), job(2, 0)], [job(3, 0)]]
    worker._receive(200.0)
    worker._receive(300.0)
    assert began == [300.0]


@one_way
def test_a_full_batch_waits_for_nothing_and_leaves_what_is_behind_it_for_the_next(worker, connection):
    many = [job(n, 5 - n) for n in range(6)]
    assert batches(worker, many) == {0: 4, 1: 4, 2: 4, 3: 4, 4: 2, 5: 2}
    assert connection.waited == 0


@one_way
def test_jobs_before_a_change_of_version_are_not_waited_for_with_those_behind_it(worker, connection):
    serve = (Serve("t1", worker._loaded.manifest.digest), None)
    assert batches(worker, [job(1, 0), serve, job(2, 1)], [job(3, 0)]) == {1: 1, 2: 2, 3: 2}
    assert [message.job for message in connection.sent] == [1, 2, 3]


@one_way
def test_what_a_lost_session_announced_is_not_waited_for_in_the_next(worker, connection):
    def then_lost():
        yield job(1, 1)
        connection.reopen()

    connection.receive = then_lost
    worker._receive(NOW)
    assert ([message.job for message in connection.sent], connection.waited) == ([1], 0)


@one_way
def test_all_answers_of_a_batch_are_made_before_the_first_is_sent(worker, connection, monkeypatch):
    made, seen = [], []

    def make(*given):
        made.append(given)
        return answer(*given)

    monkeypatch.setattr("workers.worker.answer", make)
    connection.on_send = lambda: seen.append(len(made))
    batches(worker, [job(1, 2), job(2, 1), job(3, 0)])
    assert seen == [3, 3, 3]
