"""The version store: whole versions or none, unique names, nothing that is in use removed."""

import json
import os
import signal
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec import convert

from control import versions
from control.versions import (
    Prepared,
    find_version,
    list_versions,
    overrides,
    prepare,
    publish,
    refuse_name,
    remove_version,
    verify_version,
)
from hotpool.errors import BadVersion, Conflict, UnknownVersion
from hotpool.home import Home
from hotpool.manifest import GOLDEN, MANIFEST, WEIGHTS, Manifest, manifest_json, version_folder

MEMORY_MB = 2000
CONTENT = {
    "arch": "resnet18",
    "classes": 2,
    "labels": ["a", "b"],
    "preprocessing": {"resize": 36, "crop": 32},
    "weights_sha256": "1" * 64,
    "golden_sha256": "3" * 64,
}


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    home.versions.mkdir(parents=True)
    return home


def prepared(home, name="v1", model="shapes", tensors="2", ts=0):
    """What `prepare` leaves, without the seconds that a scratch process takes; the weights are a few bytes."""
    manifest = convert(
        {
            **CONTENT,
            "tensors_sha256": tensors * 64,
            "model": model,
            "name": name,
            "source": "test",
            "added_by": "test",
            "added_ts": datetime.fromtimestamp(ts, UTC),
        },
        Manifest,
    )
    folder = home.versions / f".adding-{os.getpid()}-{name}"
    folder.mkdir()
    (folder / MANIFEST).write_bytes(manifest_json(manifest))
    for file in (WEIGHTS, GOLDEN):
        (folder / file).write_bytes(b"bytes")
    return Prepared(home, folder, manifest)


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def names(home):
    return sorted(path.name for path in home.versions.iterdir())


def test_a_published_version_is_a_folder_named_by_its_digest_with_read_only_files(home):
    manifest = publish(prepared(home))
    assert names(home) == [manifest.digest]
    files = list(version_folder(home, manifest.digest).iterdir())
    assert sorted(path.name for path in files) == sorted([WEIGHTS, GOLDEN, MANIFEST])
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o444}


def test_a_digest_is_that_of_the_content_alone_and_stays_what_it_was():
    """Workers and journals of pools that are older know versions by it."""
    given = {
        "model": "m", "arch": "resnet18", "classes": 3, "labels": ("a", "\u00fc", "c"), "preprocess": "exact",
        "preprocessing": {"resize": 36, "crop": 32, "interpolation": "bicubic", "mean": (0.485, 0, 1), "std": (1, 2, 0.001)},
        "precision": "int8", "weights_sha256": "a" * 64, "tensors_sha256": "b" * 64, "golden_sha256": "c" * 64,
        "name": "v1", "source": "x", "added_by": "ada", "added_ts": datetime(2026, 1, 2, tzinfo=UTC),
    }  # fmt: skip
    for other in ({}, {"name": "v2", "source": "y"}, {"weights_sha256": "d" * 64, "golden_sha256": "e" * 64}):
        digest = convert(given | other, Manifest).digest
        assert digest == "33111e0de8b2a434392e0865164c106bf8fb9800007a39ec217adccb5ced89b3"
    assert convert(given | {"tensors_sha256": "f" * 64}, Manifest).digest != digest


def test_a_version_that_is_only_prepared_is_not_in_the_store(home):
    prepared(home)
    assert list_versions(home) == []
    with pytest.raises(UnknownVersion):
        find_version(home, "shapes", "v1")


def test_a_name_is_given_once_in_a_model_and_may_be_used_in_another(home):
    first = publish(prepared(home))
    with pytest.raises(Conflict, match=f"model shapes has a version v1 already .{first.digest[:12]}"):
        publish(prepared(home, tensors="4"))
    publish(prepared(home, model="other", tensors="4"))
    assert len(names(home)) == 2


def test_the_same_content_is_refused_under_another_name_and_the_first_is_named(home):
    publish(prepared(home))
    with pytest.raises(Conflict, match="has these weights, served in this way, as version v1"):
        publish(prepared(home, name="v2"))
    assert len(names(home)) == 1


def test_what_could_not_be_published_leaves_nothing_behind(home):
    publish(prepared(home))
    for other in (prepared(home, tensors="4"), prepared(home, name="v2")):
        with pytest.raises(Conflict):
            publish(other)
        assert not other.folder.exists()


def test_versions_are_listed_oldest_first_and_by_model(home):
    for i, name in enumerate(["v3", "v1", "v2"]):
        publish(prepared(home, name, tensors=str(i), ts=100 + i))
    publish(prepared(home, "x", model="other", tensors="9", ts=1))
    assert [manifest.name for manifest in list_versions(home, "shapes")] == ["v3", "v1", "v2"]
    assert [manifest.name for manifest in list_versions(home)] == ["x", "v3", "v1", "v2"]


def test_a_home_without_versions_has_none(tmp_path):
    assert list_versions(Home(tmp_path / "none")) == []


@pytest.mark.parametrize(("was", "now"), [(b'"b"', b'"c"'), (b'"b"', b'"\xff"'), (b'"b"', b"3"), (b"{", b"")])
def test_a_damaged_version_is_left_out_of_the_list_and_logged(home, caplog, was, now):
    publish(prepared(home))
    damaged = publish(prepared(home, "v2", tensors="4"))
    path = version_folder(home, damaged.digest) / MANIFEST
    path.chmod(0o644)
    assert was in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(was, now, 1))
    assert [manifest.name for manifest in list_versions(home)] == ["v1"]
    assert f"skipped_version={damaged.digest[:12]}" in caplog.text


def test_a_version_is_found_by_name_or_by_the_first_digits_of_its_digest(home):
    manifest = publish(prepared(home))
    for reference in ("v1", manifest.digest, manifest.digest[:4], manifest.digest[:9].upper()):
        assert find_version(home, "shapes", reference) == manifest
        assert find_version(home, None, reference) == manifest


def test_too_few_digits_or_another_model_find_nothing_and_the_known_names_are_told(home):
    manifest = publish(prepared(home))
    for model, reference in (("shapes", manifest.digest[:3]), ("other", "v1"), ("shapes", "v9")):
        with pytest.raises(UnknownVersion, match=f"no version '{reference}' of model {model}; there are:"):
            find_version(home, model, reference)


def test_a_name_in_two_models_is_not_guessed(home):
    publish(prepared(home))
    publish(prepared(home, model="other", tensors="4"))
    with pytest.raises(UnknownVersion, match=r"could be .*shapes/v1.*name the model"):
        find_version(home, None, "v1")


def test_a_name_goes_before_a_digest_that_starts_like_it(home):
    first = publish(prepared(home))
    second = publish(prepared(home, name=first.digest[:6], tensors="4"))
    assert find_version(home, "shapes", first.digest[:6]) == second


def test_a_version_in_use_is_not_removed(home):
    manifest = publish(prepared(home))
    with pytest.raises(Conflict, match="in use"):
        remove_version(home, manifest.digest, keep={manifest.digest})
    assert names(home) == [manifest.digest]


def test_a_removed_version_leaves_nothing_and_its_name_is_free(home):
    manifest = publish(prepared(home))
    remove_version(home, manifest.digest, keep=set())
    assert names(home) == []
    publish(prepared(home))


def test_a_damaged_version_can_be_removed(home):
    manifest = publish(prepared(home))
    (version_folder(home, manifest.digest) / MANIFEST).unlink()
    remove_version(home, manifest.digest, keep=set())
    assert names(home) == []


@pytest.mark.parametrize("digest", ["0" * 64, "..", ".", "", "/", "../versions"])
def test_what_is_no_version_is_not_removed(home, digest):
    manifest = publish(prepared(home))
    with pytest.raises(UnknownVersion):
        remove_version(home, digest, keep=set())
    assert names(home) == [manifest.digest]


@pytest.mark.parametrize("kind", ["adding", "removing"])
def test_what_a_killed_process_left_is_swept_and_what_a_live_one_builds_is_not(home, kind):
    left = home.versions / f".{kind}-{dead_pid()}-x"
    left.mkdir()
    (left / WEIGHTS).write_bytes(b"half")
    at_work = home.versions / f".adding-{os.getppid()}-x"
    at_work.mkdir()
    manifest = publish(prepared(home))
    remove_version(home, manifest.digest, keep=set())
    assert names(home) == [at_work.name]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("name", name) for name in ("v 2", "", "../v2", "x" * 65, "v1\n")),
        *(("model", model) for model in (".hidden", "shapes\n")),
    ],
)
def test_a_name_with_other_signs_is_refused_before_anything_is_read(home, field, value):
    arguments = {"model": "shapes", "name": "v1", field: value}
    with pytest.raises(BadVersion, match=f"(?s){field} .* is not allowed: 1 to 64 letters"):
        prepare(home, "none.pth", operator="test", memory_mb=MEMORY_MB, **arguments)
    assert names(home) == []


def test_a_taken_name_is_refused(home):
    publish(prepared(home))
    with pytest.raises(Conflict, match="has a version v1 already"):
        refuse_name(home, "shapes", "v1")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.abort()", "was ended by SIGABRT and gave no verdict; it may need more than 2000 MB"),
        ("raise SystemExit(3)", "ended with exit code 3 and gave no verdict"),
        ("print('{\"ok\": fal')", "gave no verdict"),
    ],
)
def test_a_scratch_process_that_dies_is_reported_and_leaves_nothing(home, code, said, monkeypatch):
    monkeypatch.setattr(versions, "module_command", lambda package, options: (sys.executable, "-c", code))
    with pytest.raises(BadVersion, match=said):
        prepare(home, "x.pth", model="m", name="v1", operator="test", memory_mb=MEMORY_MB)
    assert names(home) == []


def test_a_scratch_process_that_hangs_is_ended_and_leaves_nothing(home, monkeypatch):
    hang = (sys.executable, "-c", "import signal; signal.pause()")
    monkeypatch.setattr(versions, "module_command", lambda package, options: hang)
    with pytest.raises(BadVersion, match=r"took longer than 0\.1 s and was ended"):
        prepare(home, "x.pth", model="m", name="v1", operator="test", memory_mb=MEMORY_MB, timeout_s=0.1)
    assert names(home) == []


# ---- through the scratch process


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    from tests.small_versions import make_tensors, save

    return save(make_tensors(), tmp_path_factory.mktemp("source") / "weights.pth")


def add(home, source, name="v1"):
    from tests.small_versions import ARCH

    preprocessing = {"resize": 36, "crop": 32}
    options = {"model": "shapes", "name": name, "operator": "ada", "memory_mb": MEMORY_MB, "arch": ARCH}
    return prepare(home, str(source), **options, preprocessing=preprocessing, preprocess="exact", parent="f" * 64)


@pytest.mark.slow
def test_a_file_becomes_a_version_that_verifies_and_a_worker_can_load(home, source):
    from workers.loading import load_verified

    manifest = publish(add(home, source))
    assert (manifest.name, manifest.added_by, manifest.parent, manifest.source) == ("v1", "ada", "f" * 64, str(source))
    assert (manifest.classes, manifest.preprocessing.crop, manifest.preprocess) == (5, 32, "exact")
    assert find_version(home, "shapes", "v1") == manifest
    checked = verify_version(home, manifest.digest, memory_mb=MEMORY_MB)
    assert checked.max_difference <= checked.allowed
    assert load_verified(home, manifest.digest).manifest == manifest


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"mean": (103.5, 116.3, 123.7)},
            "preprocessing.mean = (103.5, 116.3, 123.7): expected 3 values, each a number from 0 up to 1 (of colours",
        ),
        ({"mean": (0.5, float("nan"), 0.5)}, "preprocessing.mean = (0.5, nan, 0.5): expected 3 values"),
        (
            {"std": (1, 1, 0)},
            "preprocessing.std = (1, 1, 0): expected 3 values, each a number from 0.001 up to 10 (of colours",
        ),
        ({"std": (1, float("inf"), 1)}, "preprocessing.std = (1, inf, 1): expected"),
    ],
)
def test_means_and_deviations_with_which_no_network_was_trained_are_refused(given, said):
    with pytest.raises(BadVersion) as caught:
        overrides(None, None, **{"mean": None, "std": None, **given})
    assert said in str(caught.value)


def test_what_is_not_given_is_left_to_the_source():
    assert overrides(None, 64, None, (1, 0.5, 1)) == {"crop": 64, "std": (1.0, 0.5, 1.0)}


@pytest.mark.slow
@pytest.mark.parametrize(("mean", "is_refused"), [(("0.1", "0.2", "0.3"), False), (("103.5", "116.3", "123.7"), True)])
def test_means_and_deviations_of_the_command_line_reach_the_manifest_or_are_refused(home, source, mean, is_refused):
    from tests.small_versions import ARCH

    size = ["--arch", ARCH, "--resize", "36", "--crop", "32"]
    command = [
        sys.executable,
        "-m",
        "control.cli",
        "--home",
        home.root,
        "versions",
        "add",
        source,
        "--name",
        "v1",
        *size,
    ]
    ran = subprocess.run([*command, "--mean", *mean, "--std", "1", "2", "3"], capture_output=True, text=True)
    print(ran.stdout, ran.stderr)
    assert (ran.returncode != 0) == is_refused
    assert "Traceback" not in ran.stderr
    added = [(one.preprocessing.mean, one.preprocessing.std) for one in list_versions(home)]
    assert added == ([] if is_refused else [((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))])
    assert (
        "each a number from 0 up to 1 (of colours from 0 to 1: who has them of 0 to 255 divides by that)" in ran.stderr
        or not is_refused
    )


@pytest.mark.slow
def test_a_source_is_found_from_the_folder_the_operator_is_in(home, source, monkeypatch):
    monkeypatch.chdir(source.parent)
    assert add(home, Path(source.name)).manifest.source == source.name


@pytest.mark.slow
def test_a_stored_version_whose_weights_were_changed_does_not_verify(home, source):
    manifest = publish(add(home, source))
    path = version_folder(home, manifest.digest) / WEIGHTS
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")
    with pytest.raises(BadVersion, match=r"weights.safetensors has SHA-256 .* remove this version and add it again"):
        verify_version(home, manifest.digest, memory_mb=MEMORY_MB)


@pytest.mark.slow
def test_a_bad_source_is_refused_with_the_reason_of_the_scratch_process_and_leaves_nothing(home, tmp_path):
    from tests.small_versions import make_tensors, save

    tensors = make_tensors()
    del tensors["fc.bias"]
    with pytest.raises(BadVersion, match=r"tensor fc\.bias is missing"):
        add(home, save(tensors, tmp_path / "weights.pth"))
    assert names(home) == []


ADD = """
import sys
from pathlib import Path
from control import versions
from hotpool.home import Home
versions.module_command = lambda package, options: (sys.executable, "-c", WAIT)
versions.prepare(Home(Path(sys.argv[1])), "x.pth", model="m", name="v1", operator="test", memory_mb=2000)
"""
WAIT = "import sys; print('at work', file=sys.stderr, flush=True); sys.stderr.close(); import time; time.sleep(5)"


@pytest.mark.slow
def test_an_add_killed_at_work_leaves_no_version_and_is_swept_by_the_next(home):
    argv = [sys.executable, "-c", f"WAIT = {json.dumps(WAIT)}{ADD}", str(home.root)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."}) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"at work\n"
        assert [name.split("-")[0] for name in names(home)] == [".adding"]
        process.send_signal(signal.SIGKILL)
    assert list_versions(home) == []
    remove_version(home, publish(prepared(home)).digest, keep=set())
    assert names(home) == []
