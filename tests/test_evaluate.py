"""Top-1 on labelled pictures: the counts are those of the versions' own answers, and bad folders and files are refused."""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

import json
import os
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from control.checks import Scratch
from control.services import module_command
from control.verdicts import Labelled
from control.view import Evaluating, Finding
from hotpool.config import Pictures
from hotpool.errors import BadLabels, BadVersion
from hotpool.home import Home
from hotpool.manifest import MANIFEST, WEIGHTS, version_folder
from tests.fake_pool import settings
from tests.small_versions import CLASSES, add_version, make_tensors, save
from workers.evaluate import compare, measure
from workers.loading import load_folder
from workers.pictures import decode
from workers.scratch import check

N = 20
FORMATS = ["png", "jpg", "webp", "bmp"]
LABELS = [f"label {index}" for index in range(CLASSES)]


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Folders of two versions that differ, and prepare pictures differently."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "labels").write_text("\n".join(LABELS))
    home, found = Home(folder), []
    for seed, preprocess in enumerate(["fast", "exact"]):
        source = save(make_tensors(seed), folder / f"{seed}.safetensors")
        manifest = add_version(home, source, f"v{seed}", preprocess=preprocess, labels=folder / "labels")
        found.append(version_folder(home, manifest.digest))
    return found


def draw(number):
    """Blocks of random colours, 8 x 6 of them."""
    blocks = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(blocks.repeat(10, 0).repeat(10, 1))


@pytest.fixture(scope="module")
def known(versions, tmp_path_factory):
    """Files with what each version answers."""
    folder = tmp_path_factory.mktemp("drawn")
    files = [folder / f"{number}.{FORMATS[number % len(FORMATS)]}" for number in range(N)]
    for number, path in enumerate(files):
        draw(number).save(path)
    loaded = [load_folder(version) for version in versions]
    answers = []
    for path in files:
        pictures = [decode(path.read_bytes(), 1 << 20, 1 << 20, one.preprocessor.least_side) for one in loaded]
        inputs = [one.preprocessor.input(picture) for one, picture in zip(loaded, pictures, strict=True)]
        answers.append(tuple(int(one.engine(rows).argmax()) for one, rows in zip(loaded, inputs, strict=True)))
    return list(zip(files, answers, strict=True))


@pytest.fixture
def labelled(known, tmp_path):
    """By turns each version is right, so that all four cases come; the first by label, the second by index."""
    for number, (file, answers) in enumerate(known):
        which = number % 3
        right = answers[which] if which < 2 else answers[0] + 1
        name = LABELS[right % CLASSES] if which == 0 else str(right % CLASSES)
        place(file, tmp_path / name / file.name)
    return tmp_path


def place(source, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(source.read_bytes())


def expected(known):
    truth = [
        (answers[number % 3] if number % 3 < 2 else answers[0] + 1) % CLASSES
        for number, (_, answers) in enumerate(known)
    ]
    right = [(a == true, b == true) for (_, (a, b)), true in zip(known, truth, strict=True)]
    return {
        "n": N,
        "both_right": right.count((True, True)),
        "only_stable": right.count((True, False)),
        "only_target": right.count((False, True)),
    }


def compared(folder, versions, n=N, tell=lambda pictures: None, limits=Pictures()):  # noqa: B008  it is frozen
    return compare(folder, versions[0], versions[1], n, limits, tell)


def test_the_counts_are_those_of_the_versions_own_answers(labelled, versions, known):
    counts = expected(known)
    assert all(0 < counts[key] < N for key in ("both_right", "only_stable", "only_target")), counts
    assert compared(labelled, versions) == {"labelled": counts, "unreadable": 0}
    right = counts["both_right"] + counts["only_stable"]
    assert measure(labelled, versions[0], Pictures(), lambda n: None) == {
        "pictures": N,
        "right": right,
        "unreadable": 0,
    }


def test_names_in_another_order_are_found_by_labelled_pictures_and_by_nothing_else(versions, known, tmp_path):
    """Weights and golden outputs are those of stable, and agreement compares numbers of classes."""
    home, labels = Home(tmp_path), tmp_path / "labels"
    labels.write_text("\n".join([*LABELS[1:], LABELS[0]]))
    source = save(make_tensors(0), tmp_path / "v.safetensors")
    renamed = version_folder(home, add_version(home, source, "renamed", labels=labels).digest)
    for file, (answer, _) in known:
        place(file, tmp_path / "pictures" / LABELS[answer] / file.name)
    check(renamed)
    counts = {"n": N, "both_right": 0, "only_stable": N, "only_target": 0}
    assert compared(tmp_path / "pictures", (versions[0], renamed)) == {"labelled": counts, "unreadable": 0}


def test_it_says_ten_times_how_far_it_is(labelled, versions):
    told = []
    compared(labelled, versions, tell=told.append)
    assert told == list(range(N // 10, N + 1, N // 10))


def test_a_few_files_that_are_no_pictures_are_counted_and_more_are_refused_with_the_first_named(labelled, versions):
    (labelled / "0").mkdir(exist_ok=True)
    for number in range(3):
        (labelled / "0" / f"a{number}.txt").write_text("not a picture")
    assert compared(labelled, versions, N + 3)["unreadable"] == 3
    (labelled / "0" / "a3.jpg").write_bytes(b"\xff\xd8\xff")
    said = (
        r"more than 3 of the 24 files in .* can't be read as pictures; take them out.*The first: .*a0\.txt: this is no"
    )
    with pytest.raises(BadLabels, match=said):
        compared(labelled, versions, N + 4)


def test_the_limits_are_those_of_the_pool(labelled, versions):
    """All the pictures are 80 x 60."""
    assert compared(labelled, versions, limits=Pictures(max_pixels=4800))["unreadable"] == 0
    with pytest.raises(BadLabels, match="80 x 60 = 4800 pixels, allowed are 4799"):
        compared(labelled, versions, limits=Pictures(max_pixels=4799))


def test_where_no_picture_can_be_read_nothing_is_told_of_the_versions(tmp_path, versions):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "a").write_text("not a picture")
    with pytest.raises(BadLabels, match=r"no picture in .* can be read; .*/0/a: this is no picture"):
        compared(tmp_path, versions, 1)


def test_a_folder_that_is_no_class_is_named(labelled, versions):
    (labelled / "label 9").mkdir()
    (labelled / "label 9" / "a.png").write_bytes(b"")
    with pytest.raises(BadLabels, match=r"folder 'label 9': version v0 has no such class.*did you mean"):
        compared(labelled, versions, N + 1)


def test_a_folder_that_changed_since_the_rollout_was_ordered_is_refused(labelled, versions):
    with pytest.raises(BadLabels, match=f"has {N} pictures, it had 41 when the rollout was ordered; order it again"):
        compared(labelled, versions, 41)


def test_it_is_told_which_of_the_versions_can_not_be_loaded(labelled, versions, tmp_path_factory):
    broken = tmp_path_factory.mktemp("broken") / versions[0].name
    broken.mkdir(parents=True)
    (broken / MANIFEST).write_bytes((versions[0] / MANIFEST).read_bytes())
    with pytest.raises(BadVersion, match=f"stable: {WEIGHTS} can't be read"):
        compare(labelled, broken, versions[1], N, Pictures(), lambda n: None)


# ---- the process


def run(*arguments):
    argv = [sys.executable, "-m", "workers.scratch", *map(str, arguments)]
    ended = subprocess.run(argv, capture_output=True, env={**os.environ, "PYTHONPATH": "."})
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.mark.slow
def test_the_process_tells_how_far_it_is_and_at_last_the_counts(labelled, versions, known):
    options = ["--memory-mb", 2000, "--eval", labelled, "--stable", versions[0], "--pictures", N]
    code, lines = run("check", versions[1], *options)
    assert (code, lines[:-1]) == (0, [{"pictures": n} for n in range(N // 10, N + 1, N // 10)])
    assert (lines[-1]["ok"], lines[-1]["labelled"]) == (True, expected(known))


@pytest.mark.slow
def test_the_controller_hears_of_the_process_how_far_it_is_and_at_last_the_counts(labelled, versions, known):
    scratch = Scratch(Home(versions[0].parent.parent), module_command("workers.scratch", ["check"]))
    seen: list[Finding | Evaluating | None] = []
    with evaluating(scratch, labelled, versions):
        while not seen or not isinstance(seen[-1], Finding):
            seen.append(scratch.poll())
    assert seen[-1].reason == ""
    assert (seen[-1].labelled, seen[-1].unreadable) == (Labelled(**expected(known)), 0)
    assert any(isinstance(one, Evaluating) for one in seen)


@contextmanager
def evaluating(scratch, labelled, versions):
    with_labels = settings(
        eval_folder=str(labelled), eval_pictures=N, preflight_memory_mb=2000, preflight_timeout_s=60.0
    )
    scratch.start(versions[1].name, with_labels, versions[0].name)
    try:
        yield
    finally:
        scratch.stop()


@pytest.mark.slow
def test_the_process_measures_one_version(labelled, versions, known):
    code, lines = run("evaluate", versions[1], "--memory-mb", 2000, "--eval", labelled)
    counts = expected(known)
    assert (code, lines[-1]["right"]) == (0, counts["both_right"] + counts["only_target"])


@pytest.mark.slow
def test_the_process_refuses_a_version_whose_load_would_take_too_much(versions):
    code, lines = run("check", versions[1], "--load-memory-mb", 1)
    assert (code, lines[-1]["ok"]) == (1, False)
    assert "allowed are 1 MB. Raise pool.load_memory_mb" in lines[-1]["reason"]
