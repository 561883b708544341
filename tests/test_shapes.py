"""The demo's pictures and the training of its model."""

import json
from io import StringIO
from subprocess import CalledProcessError

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from examples.shapes.fit import by_product
from examples.shapes.pictures import LABELS, SIDE, draw, draw_many
from examples.shapes.train import Settings, Stage, UnexpectedAccuracy, make_model

SEED = 7


def make_tiny(out, least=0.0):
    """The accuracies, and what was said."""
    return make(out, (Stage("v1", 20, 1, 1e-3, 0.0, 1.0), Stage("v2", 30, 1, 1e-3, least, 1.0)), (0,))


def make(out, stages, seeds):
    console = Console(file=StringIO(), width=200)
    accuracy = make_model(out, console, Settings(stages, n_held_out=60, resolution=32, batch=10, seeds=seeds))
    return accuracy, console.file.getvalue()


def pixels(pictures):
    return [np.asarray(picture) for picture, _ in pictures]


def test_there_are_ten_labels_in_order():
    assert len(LABELS) == 10
    assert list(LABELS) == sorted(set(LABELS))


@pytest.mark.parametrize("label", LABELS)
def test_the_same_seed_draws_the_same_picture_and_another_seed_another(label):
    picture = draw(label, SEED)
    assert (picture.mode, picture.size) == ("RGB", (SIDE, SIDE))
    assert picture.tobytes() == draw(label, SEED).tobytes()
    assert picture.tobytes() != draw(label, SEED + 1).tobytes()


def test_drawing_does_not_depend_on_the_global_random_state():
    state = np.random.get_state()
    try:
        np.random.seed(1)
        first = draw("star", SEED).tobytes()
        np.random.seed(2)
        assert draw("star", SEED).tobytes() == first
    finally:
        np.random.set_state(state)


def test_every_class_draws_something_else_from_the_same_seed():
    assert len({draw(label, SEED).tobytes() for label in LABELS}) == len(LABELS)


def test_an_unknown_label_is_refused():
    with pytest.raises(KeyError, match="heptagon"):
        draw("heptagon", SEED)


def test_the_classes_take_turns_and_a_longer_series_starts_with_the_shorter():
    series = list(draw_many(23, SEED))
    assert [label for _, label in series] == [i % 10 for i in range(23)]
    assert all(np.array_equal(a, b) for a, b in zip(pixels(series), pixels(draw_many(12, SEED)), strict=False))


def test_no_two_pictures_of_neighbouring_seeds_are_equal():
    drawn = [picture.tobytes() for seed in (SEED, SEED + 1) for picture, _ in draw_many(30, seed)]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.slow
def test_a_tiny_training_writes_what_it_promises_is_cached_and_repeats(tmp_path):
    accuracy, said = make_tiny(tmp_path / "a")
    assert "made the demo model" in said
    report = json.loads((tmp_path / "a" / "accuracy.json").read_text())
    assert {name: report[name] for name in ("v1", "v2")} == accuracy
    assert report["resolution"] == 32
    assert (tmp_path / "a" / "labels.txt").read_text().split() == list(LABELS)
    check_pictures(tmp_path / "a" / "pictures")

    written = (tmp_path / "a" / "v2.pth").stat().st_mtime_ns
    again, said = make_tiny(tmp_path / "a")
    assert again == accuracy
    assert "is up to date" in said
    assert (tmp_path / "a" / "v2.pth").stat().st_mtime_ns == written

    assert make_tiny(tmp_path / "b")[0] == accuracy
    for name in ("v1", "v2"):
        check_weights(tmp_path / "a" / f"{name}.pth", tmp_path / "b" / f"{name}.pth")


def check_pictures(folder):
    paths = sorted(folder.iterdir())
    assert len(paths) == 60
    assert {path.name.split("-")[0] for path in paths} == set(LABELS)
    for path in paths:
        with Image.open(path) as picture:
            assert picture.format == {".jpg": "JPEG", ".png": "PNG"}[path.suffix]
    assert {path.suffix for path in paths} == {".jpg", ".png"}


def check_weights(path, same):
    import torch  # here: the pictures' own tests start without it

    one, other = torch.load(path, weights_only=True), torch.load(same, weights_only=True)
    assert one["fc.weight"].shape == (10, 512)
    assert one["conv1.weight"].dtype == torch.float32
    assert all(tensor.is_contiguous() for tensor in one.values())
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_a_missing_file_or_another_setting_makes_it_anew(tmp_path):
    make_tiny(tmp_path)
    (tmp_path / "v1.pth").unlink()
    assert "made the demo model" in make_tiny(tmp_path)[1]
    assert (tmp_path / "v1.pth").exists()
    assert "made the demo model" in make_tiny(tmp_path, least=-1.0)[1]


def make_tinier(out, seeds, least=0.0, most=1.0):
    """Of one version: its accuracy, and what was said."""
    accuracy, said = make(out, (Stage("v1", 20, 1, 1e-3, least, most),), seeds)
    return accuracy["v1"], said


@pytest.mark.slow
def test_an_accuracy_outside_of_its_limits_with_every_seed_is_an_error_and_is_not_cached(tmp_path):
    for _ in range(2):
        with pytest.raises(UnexpectedAccuracy, match=r"expected were 110% to 200%, with every seed of 0;"):
            make_tinier(tmp_path, (0,), 1.1, 2.0)
        assert not (tmp_path / "accuracy.json").exists()


@pytest.mark.slow
def test_where_the_first_seed_misses_the_limits_the_next_one_is_taken_and_it_is_said(tmp_path):
    first, _ = make_tinier(tmp_path / "first", (0,))
    seeds = (seed for seed in range(1, 9) if make_tinier(tmp_path / f"{seed}", (seed,))[0] != first)
    other = next(seeds)
    second = json.loads((tmp_path / f"{other}" / "accuracy.json").read_text())["v1"]
    taken, said = make_tinier(tmp_path / "both", (0, other), second, second)
    assert taken == second
    assert said.count(f"v1 names {first:.1%} of the held-out pictures rightly") == said.count("once more") == 1
    check_weights(tmp_path / "both" / "v1.pth", tmp_path / f"{other}" / "v1.pth")


@pytest.mark.slow
def test_a_training_that_dies_is_an_error_and_is_not_cached(tmp_path):
    with pytest.raises(CalledProcessError):
        make_model(tmp_path, Console(file=StringIO()), Settings(resolution=-1))
    assert not (tmp_path / "accuracy.json").exists()


@pytest.mark.parametrize(("side", "stride"), [(2, 1), (3, 2), (5, 1)])
def test_a_product_of_matrices_is_the_convolution_and_so_are_its_gradients(side, stride):
    torch.manual_seed(SEED)
    conv = torch.nn.Conv2d(4, 6, 3, stride=stride, padding=1, bias=False)
    x, found = torch.randn(2, 4, side, side, requires_grad=True), []
    for compute in (conv, lambda x: by_product(conv, x)):
        y = compute(x)
        loss = (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum()
        found.append((y, *torch.autograd.grad(loss, (x, conv.weight))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
