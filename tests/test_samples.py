"""What the pool served between two reports of the broker, and the file that it is kept in."""

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from broker.metrics import Metrics
from control import recorder
from control.events import EventKind
from control.journal import Journal
from control.recorder import EVERY_S, Recorder, read_samples, report_path, samples_path, write_report
from control.samples import ArmServed, Look, Sample, Served, difference, from_lines, merge, thin, to_line
from hotpool.evidence import Arm, Counts
from hotpool.home import Home
from hotpool.messages import ModelReport, Policy, QueueReport, Report, WorkerReport
from hotpool.states import WorkerState
from tests.report_examples import Tale

BEGAN = "2026-11-23T10:00:00.000+00:00"


class Broker:
    """What a broker would have counted."""

    def __init__(self, boot=1):
        self.boot = boot
        self.metrics = Metrics()
        self.requests, self.total = self.metrics.requests, self.metrics.total_s

    def serve(self, version, *seconds, model="resnet18"):
        for value in seconds:
            self.total[model, version].observe(value)
            self.requests[model, version, "ok"] += 1

    def fail(self, code, n=1):
        self.requests["resnet18", "", code] += n

    def report(self, share=None):
        workers = (
            WorkerReport("worker-0", WorkerState.READY, "resnet18", version="v6", beside="loading"),
            WorkerReport("worker-1", WorkerState.DOWN, "resnet18"),
            WorkerReport("worker-9", WorkerState.READY, "another", version="x"),
        )
        policy = None if share is None else Policy(5, 1, share, 0.0)
        models = (ModelReport("resnet18", 1, "a", "b", {}, policy),)
        return Report(1, self.boot, 1.0, 1, workers, QueueReport(0, 1, 0, 1), models, self.metrics.families((), (0, 0)))


def counts(stable, target, policy=5, pairs=0, differ=0):
    """Of each arm: routed, answered, errors."""
    return Counts(policy, Arm(*stable), Arm(*target), pairs, differ)


def since(before, after, at=1.0):
    return difference(before, after, "resnet18", BEGAN, at)


# ---- between two reports


def test_only_what_was_answered_since_the_last_report_counts():
    broker = Broker()
    broker.serve("v6", *[5.0] * 50)
    before = Look(broker.report(), None, 10.0)
    broker.serve("v6", *[0.018] * 90, *[0.09] * 10)
    broker.serve("v7", 0.018)
    broker.serve("v6", 9.0, model="another")
    sample = since(before, Look(broker.report(), None, 11.5))
    assert sample.span_s == 1.5
    assert sample.versions.keys() == {"v6", "v7"}
    assert sample.versions["v6"].answered == 100
    assert 15 < sample.versions["v6"].p50_ms <= 20
    assert 75 < sample.versions["v6"].p99_ms <= 100


def test_a_version_that_answered_nothing_is_not_in_the_sample():
    broker = Broker()
    broker.serve("v6", 0.02)
    look = Look(broker.report(), None, 0.0)
    assert since(look, replace(look, now=1.0)).versions == {}


def test_a_new_broker_counts_from_zero():
    old, new = Broker(boot=1), Broker(boot=2)
    old.serve("v6", *[0.02] * 50)
    new.serve("v6", *[0.02] * 3)
    new.fail("model_error", 2)
    sample = since(
        Look(old.report(1.0), counts((9, 9, 9), (9, 9, 9)), 0.0),
        Look(new.report(1.0), counts((3, 3, 0), (1, 1, 0)), 1.0),
    )
    assert sample.versions["v6"].answered == 3
    assert sample.failed == {"model_error": 2}
    assert sample.stable == ArmServed(3, 3, 0)


def test_the_callers_mistakes_are_no_failures_of_the_service():
    broker = Broker()
    broker.fail("worker_lost")
    before = Look(broker.report(), None, 0.0)
    for code in ("ok", "cancelled", "bad_image", "unknown_version", "too_large"):
        broker.fail(code)
    broker.fail("worker_lost")
    broker.fail("deadline_exceeded", 4)
    assert since(before, Look(broker.report(), None, 1.0)).failed == {"worker_lost": 1, "deadline_exceeded": 4}


def test_workers_of_the_model_are_in_it_with_what_they_do():
    look = Look(Broker().report(), None, 0.0)
    assert since(look, look).workers == {"worker-0": ("ready, loading beside", "v6"), "worker-1": ("down", "")}


def test_a_share_is_measured_by_the_requests_that_were_routed():
    broker = Broker()
    before = Look(broker.report(5.0), counts((100, 100, 1), (10, 12, 0), pairs=2), 0.0)
    after = Look(broker.report(5.0), counts((190, 190, 1), (20, 25, 3), pairs=5, differ=1), 1.0)
    sample = since(before, after)
    assert (sample.stable, sample.target) == (ArmServed(90, 90, 0), ArmServed(10, 13, 3))
    assert (sample.share, sample.share_measured) == (5.0, 10.0)
    assert (sample.pairs, sample.disagreements) == (3, 1)


def test_a_new_run_of_evidence_counts_from_zero():
    broker = Broker()
    before = Look(broker.report(5.0), counts((100, 100, 0), (10, 10, 0), policy=5), 0.0)
    after = Look(broker.report(25.0), counts((30, 30, 0), (10, 10, 0), policy=9), 1.0)
    assert since(before, after).share_measured == 25.0


@pytest.mark.parametrize(("share", "evidence"), [(None, counts((1, 1, 0), (1, 1, 0))), (5.0, None)])
def test_without_arms_there_is_no_share(share, evidence):
    broker = Broker()
    sample = since(Look(broker.report(share), evidence, 0.0), Look(broker.report(share), evidence, 1.0))
    assert (sample.share, sample.share_measured, sample.stable) == (None, None, None)


# ---- fewer samples


def seconds(n, start=0):
    return [
        Sample(BEGAN, float(start + i + 1), 1.0, {"v6": Served(10, 20.0, 40.0 + i)}, {"worker_lost": 1}, pairs=2)
        for i in range(n)
    ]  # fmt: skip


def test_merged_samples_keep_every_count_and_the_worst_tail():
    first = Sample(
        BEGAN, 1.0, 1.0, {"v6": Served(30, 10.0, 50.0)}, {"worker_lost": 1}, share=5.0, stable=ArmServed(9, 9, 1)
    )
    second = Sample(
        BEGAN, 3.0, 2.0, {"v6": Served(10, 20.0, 40.0), "v7": Served(0)}, {"worker_lost": 2}, disagreements=1
    )
    both = merge(first, second)
    assert (both.at, both.span_s) == (3.0, 3.0)
    assert both.versions == {"v6": Served(40, 12.5, 50.0), "v7": Served(0)}
    assert both.failed == {"worker_lost": 3}
    assert (both.share, both.stable, both.disagreements) == (5.0, ArmServed(9, 9, 1), 1)


@pytest.mark.parametrize("n", [1, 7, 100, 399])
def test_thinned_samples_are_few_cover_the_same_time_and_lose_no_answer(n):
    samples = seconds(400)
    few = thin(samples, n)
    assert len(few) <= n
    assert sum(sample.span_s for sample in few) == 400
    assert sum(sample.versions["v6"].answered for sample in few) == 4_000
    assert [sample.at for sample in few] == sorted(sample.at for sample in few)
    assert max(sample.span_s for sample in few) <= 2 * 400 / max(1, n - 1)


def test_thinning_again_and_again_does_not_blur_the_beginning():
    kept = []
    for i in range(20):
        kept = thin(kept + seconds(50, start=50 * i), 50)
    assert {sample.span_s for sample in kept[:-1]} == {32.0}


def test_a_sample_comes_back_from_its_line_and_what_is_no_sample_is_left_out():
    sample = replace(seconds(1)[0], workers={"worker-0": ("ready", "v6")}, target=ArmServed(1, 2, 3), share=5.0)
    lines = [to_line(sample), b"", b"\xff", b'{"ts": 3}', to_line(sample)[:40]]
    assert from_lines(lines) == [sample]


# ---- the recorder


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return datetime.fromisoformat(BEGAN).astimezone(UTC) + timedelta(seconds=self.now)


class Watched:
    """A recorder and a broker that answers one request each time we look."""

    def __init__(self, home):
        self.clock, self.broker, self.home = Clock(), Broker(), home
        self.recorder = Recorder(home, "resnet18", 7, BEGAN, self.clock)

    def look(self, after_s=1.0):
        self.clock.now += after_s
        self.broker.serve("v6", 0.02)
        self.recorder.note(self.broker.report(), None, 100 + self.clock.now)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def test_a_sample_is_written_once_a_second_however_often_one_looks(home):
    watched = Watched(home)
    for _ in range(41):
        watched.look(EVERY_S / 8)
    samples = read_samples(home, 7)
    assert len(samples) == 5
    assert sum(sample.versions["v6"].answered for sample in samples) == 40
    assert [sample.at for sample in samples] == [1.125, 2.125, 3.125, 4.125, 5.125]


def test_another_recorder_goes_on_in_the_same_file_and_mends_a_line_that_was_cut_off(home):
    watched = Watched(home)
    for _ in range(3):
        watched.look()
    with samples_path(home, 7).open("ab") as file:
        file.write(b'{"ts": "2026-')
    watched.recorder = Recorder(home, "resnet18", 7, BEGAN, watched.clock)
    for _ in range(3):
        watched.look()
    assert [sample.at for sample in read_samples(home, 7)] == [2.0, 3.0, 5.0, 6.0]
    assert len(samples_path(home, 7).read_bytes().splitlines()) == 4


def test_the_file_of_a_long_rollout_stays_small_and_keeps_its_beginning(home, monkeypatch):
    monkeypatch.setattr(recorder, "MAX_SAMPLES", 160)
    watched = Watched(home)
    samples_path(home, 7).parent.mkdir(parents=True)
    samples_path(home, 7).write_bytes(b"".join(to_line(sample) + b"\n" for sample in seconds(160)))
    watched.recorder = Recorder(home, "resnet18", 7, BEGAN, watched.clock)
    watched.clock.now = 160.0
    watched.look()
    watched.look()
    samples = read_samples(home, 7)
    assert 60 < len(samples) <= 100
    assert samples[0].at <= 3
    assert sum(sample.versions["v6"].answered for sample in samples) == 10 * 160 + 1


def test_a_full_disk_is_logged_once_and_stops_nothing(home, caplog):
    (home.root / "rollouts").write_text("in the way")
    watched = Watched(home)
    with caplog.at_level(logging.WARNING, "hotpool.control"):
        for _ in range(4):
            watched.look()
    assert len(caplog.records) == 1
    (home.root / "rollouts").unlink()
    watched.look()
    assert len(read_samples(home, 7)) == 4


def test_the_page_is_made_of_the_journal_and_the_samples(home):
    created = Tale().events[0]
    with Journal(home.database) as journal:
        journal.append(EventKind.CONTROLLER_STARTED, model="resnet18", operator="control@edge", body={"pid": 1})
        journal.append(created.kind, model="resnet18", rollout=7, operator="ann@edge", body=created.body)
        journal.append(EventKind.CONTROLLER_STARTED, model="resnet18", operator="control@edge", body={"pid": 2})
        rejected = {"cause": "preflight", "reason": "conv1.weight is missing"}
        journal.append(EventKind.REJECTED, model="resnet18", rollout=7, operator="control@edge", body=rejected)
        journal.append(EventKind.CONTROLLER_STARTED, model="resnet18", operator="control@edge", body={"pid": 3})
        path = write_report(home, journal, 7)
        Recorder(home, "resnet18", 7, BEGAN).finish(journal)
    page = path.read_text()
    assert path == report_path(home, 7)
    assert "conv1.weight is missing" in page
    assert page.count("the controller started,") == 1
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
