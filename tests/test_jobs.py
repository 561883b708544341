"""Versions that are added by the controller: one at a time, and whole or not at all."""

import os
import sys
from contextlib import closing, nullcontext
from threading import Event
from typing import Any

import pytest
from msgspec import structs

from bench.noop import noop_manifest
from control import versions
from control.asks import Add
from control.jobs import KEPT, Added, Jobs, add_version, remove_upload
from control.journal import Journal
from control.orders import read
from control.up import create_folders
from hotpool.config import Config, load_config
from hotpool.errors import BadVersion, Conflict, NothingToDo
from hotpool.home import Home
from hotpool.stable import read_stable
from tests.gateway_process import add_noop_versions
from tests.pool import eventually, running_pool
from tests.test_versions import CONTENT, prepared

WHO: dict[str, Any] = {"reason": "because", "operator": "ann"}


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path / "home")
    create_folders(made)
    return made


@pytest.fixture
def stopping():
    return Event()


@pytest.fixture
def jobs(stopping):
    with closing(Jobs(stopping)) as made:
        yield made
        stopping.set()


def ended(jobs, number):
    eventually(lambda: jobs.view(number)["state"] != "running", f"the end of job {number}")
    return jobs.view(number)


def fail(error):
    def work(stopping):
        raise error

    return work


def leftovers(home):
    return [path.name for folder in (home.versions, home.run) for path in folder.iterdir()]


def test_a_job_is_running_until_its_version_is_there(jobs, home):
    may_end, manifest = Event(), prepared(home).manifest

    def work(stopping):
        assert may_end.wait(20)
        return Added(manifest, is_stable=True)

    number = jobs.begin(work)
    view = jobs.view(number)
    assert view == {
        "job": number, "state": "running", "seconds": view["seconds"], "version": None, "is_stable": False, "rollout": None,
        "code": "", "error": "",
    }  # fmt: skip
    may_end.set()
    view = ended(jobs, number)
    assert (view["state"], view["version"]["name"], view["version"]["digest"]) == ("done", "v1", manifest.digest)
    assert view["is_stable"]
    assert view["seconds"] == jobs.view(number)["seconds"], "its clock has stopped"


def test_one_job_at_a_time_and_the_next_when_it_has_ended(jobs):
    may_end = Event()

    def work(stopping):
        assert may_end.wait(20)
        raise BadVersion("no")

    first = jobs.begin(work)
    with pytest.raises(Conflict, match=f"job {first} is under way"):
        jobs.begin(work)
    may_end.set()
    ended(jobs, first)
    assert jobs.begin(work) == first + 1


def test_a_job_that_fails_says_why_with_the_code_of_its_error(jobs, caplog):
    view = ended(jobs, jobs.begin(fail(BadVersion("tensor fc.bias is missing"))))
    assert (view["state"], view["code"], view["error"]) == ("failed", "bad_version", "tensor fc.bias is missing")
    view = ended(jobs, jobs.begin(fail(OSError(28, "No space left on device", "/var/x"))))
    assert view["code"] == "unwritable"
    assert view["error"].startswith("/var/x: No space left on device; the disk at /")
    view = ended(jobs, jobs.begin(fail(ZeroDivisionError("a bug"))))
    assert (view["code"], view["version"]) == ("internal", None)
    assert "ZeroDivisionError" in caplog.text


def test_what_was_added_and_could_not_be_rolled_out_is_told_with_the_reason(jobs, home):
    manifest = prepared(home).manifest
    view = ended(jobs, jobs.begin(lambda stopping: Added(manifest, False, None, Conflict("rollout 3 is under way"))))
    assert (view["state"], view["version"]["name"], view["rollout"]) == ("done", "v1", None)
    assert (view["code"], view["error"]) == ("conflict", "rollout 3 is under way")


def test_of_files_only_uploads_are_removed(home):
    upload, other = home.uploads / "0123" / "w.pth", home.root / "models" / "0123" / "w.pth"
    for path in (upload, other):
        path.parent.mkdir(parents=True)
        path.write_text("weights")
    (home.uploads / "loose.pth").write_text("weights")
    for path in (upload, other, home.uploads / "loose.pth", home.root / "nothing.pth"):
        remove_upload(home, str(path))
    assert not upload.parent.exists()
    assert other.exists()
    assert (home.uploads / "loose.pth").exists()


INSTANT = f"""
import hashlib, json, pathlib, sys
source, folder = map(pathlib.Path, sys.argv[-2:])
assert source.read_bytes(), "an empty file is no weights"
for name in ("weights.safetensors", "golden.safetensors"):
    (folder / name).write_bytes(source.read_bytes())
tensors = hashlib.sha256(source.read_bytes()).hexdigest()
print(json.dumps({{"ok": True, "reason": "", "tensors_sha256": tensors, **{CONTENT!r}}}))
"""


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Makes a file of any bytes, which another process takes for weights at once."""
    command = lambda package, options: (sys.executable, "-c", INSTANT, *options)  # noqa: E731
    monkeypatch.setattr(versions, "module_command", command)

    def write(text: str) -> Add:
        path = tmp_path / f"{text}.pth"
        path.write_text(text)
        return Add(source=str(path), name=text, then_start=True, **WHO)

    return write


@pytest.mark.slow
def test_what_is_to_be_rolled_out_is_added_if_need_be_and_a_rollout_to_it_is_ordered(weights):
    with running_pool(2) as pool:
        create_folders(pool.home)

        def update(asked: Add) -> Added:
            return add_version(pool.home, load_config(pool.config), asked, Event())

        first = update(weights("one"))
        assert (first.is_stable, first.rollout) == (True, None), "there is nothing to roll from"
        assert update(weights("one")) == first, "and nothing to do"
        new = update(weights("two"))
        assert (new.is_stable, new.rollout) == (False, None)
        assert "no worker is ready with it" in str(new.error), "it is stored all the same"
        add_noop_versions(pool.home, "v1")  # what the workers hold is stable now
        ordered = update(structs.replace(weights("two"), name="two-again"))
        assert ordered == Added(new.manifest, is_stable=False, rollout=1), "under its first name"
        with Journal(pool.home.database) as journal:
            rollout = read(journal).rollouts[1]
        assert (rollout.target, rollout.operator, rollout.reason) == (new.manifest.digest, "ann", "because")
        assert "rollout 1 (v1 -> two) is pending" in str(update(weights("two")).error)
        with pytest.raises(Conflict, match="has a version two already"):
            update(structs.replace(weights("three"), name="two"))
        stored = {first.manifest.digest, new.manifest.digest, noop_manifest("v1").digest}
        assert {path.name for path in pool.home.versions.iterdir()} == stored


def test_what_has_to_be_checked_is_an_upload_no_more_when_that_has_ended(home, weights):
    upload = home.uploads / "0123" / "one.pth"
    upload.parent.mkdir(parents=True)
    for text, expected in (("", pytest.raises(BadVersion)), ("one", nullcontext())):
        asked = structs.replace(weights("one"), source=str(upload), then_start=False)
        upload.parent.mkdir(exist_ok=True)
        upload.write_text(text)
        with expected:
            add_version(home, Config(), asked, Event())
        assert not upload.parent.exists()


def test_old_jobs_are_forgotten(jobs):
    numbers = []
    for _ in range(KEPT + 2):
        numbers.append(jobs.begin(fail(BadVersion("no"))))
        ended(jobs, numbers[-1])
    with pytest.raises(NothingToDo, match=f"there is no job {numbers[1]}"):
        jobs.view(numbers[1])
    assert jobs.view(numbers[2])["state"] == "failed"


def test_a_job_that_is_told_to_stop_ends_its_process_and_leaves_nothing(jobs, home, stopping, monkeypatch, tmp_path):
    at_work = tmp_path / "pid"
    hang = f"import os, signal; open({str(at_work)!r}, 'w').write(f'{{os.getpid()}}\\n'); signal.pause()"
    monkeypatch.setattr(versions, "module_command", lambda package, options: (sys.executable, "-c", hang))
    asked = Add(source="/x.pth", name="v1", labels=("a", "b"), **WHO)
    number = jobs.begin(lambda stopping: add_version(home, Config(), asked, stopping))
    eventually(lambda: at_work.exists() and at_work.read_text().endswith("\n"), "the process is at work")
    pid = int(at_work.read_text())
    assert len(leftovers(home)) == 2, "its folder and the labels"
    stopping.set()
    view = ended(jobs, number)
    assert (view["code"], "told to stop" in view["error"]) == ("conflict", True)
    assert leftovers(home) == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with Journal(home.database) as journal:
        assert journal.last_seq() == 0


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    from tests.small_versions import make_tensors, save

    return save(make_tensors(), tmp_path_factory.mktemp("source") / "weights.pth")


def small(source, **more):
    from tests.small_versions import ARCH, CROP

    return Add(source=str(source), arch=ARCH, resize=CROP + 4, crop=CROP, preprocess="exact", **more, **WHO)


@pytest.mark.slow
def test_a_version_is_added_with_all_that_was_asked_and_the_first_is_stable(home, source):
    labels = ("cat", "dog", "a zebra", "ü", "0")
    added = add_version(home, Config(), small(source, name="v1", labels=labels), Event())
    manifest = added.manifest
    assert (added.is_stable, added.rollout, added.error) == (True, None, None)
    assert (manifest.labels, manifest.preprocess, manifest.added_by) == (labels, "exact", "ann")
    assert (manifest.preprocessing.resize, manifest.preprocessing.crop) == (36, 32)
    assert read_stable(home, "default") == manifest.digest
    with Journal(home.database) as journal:
        assert read(journal).versions["default"] == {"v1": manifest.digest}
        assert [event.operator for event in journal.events()] == ["ann", "ann"]
    assert leftovers(home) == [manifest.digest]


@pytest.mark.slow
def test_labels_that_do_not_fit_are_refused_and_nothing_is_left(home, source):
    with pytest.raises(BadVersion, match="has 2 labels, the weights have 5 classes"):
        add_version(home, Config(), small(source, name="v1", labels=("a", "b")), Event())
    assert leftovers(home) == []
    assert read_stable(home, "default") is None
