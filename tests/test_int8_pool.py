"""From float32 weights to a pool that serves them in int8: the command line, real processes, weights and pictures."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from hotpool.home import Home
from hotpool.manifest import WEIGHTS, version_folder

from .command_line import TWO_WORKERS, CommandLine
from .pool import eventually, short_home
from .seen_network import seen_network

pytestmark = pytest.mark.slow
SIZE = ("--resize", "36", "--crop", "32")
SEED, N_PICTURES = 51, 40


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """weights.pth, a folder `pictures`, and a folder `few` with too few of them."""
    folder, random = tmp_path_factory.mktemp("files"), np.random.default_rng(SEED)
    torch.save(seen_network("resnet18", 5, 32)[1], folder / "weights.pth")
    for name, n in (("pictures", N_PICTURES), ("few", 3)):
        (folder / name).mkdir()
        for i in range(n):
            coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
            coarse.resize((60, 48), Image.Resampling.BICUBIC).save(folder / name / f"{i}.jpg")
    return folder


@pytest.fixture
def hotpool(tmp_path):
    (tmp_path / "pool.toml").write_text(TWO_WORKERS + "[probe]\ninterval_s = 0.2\n")
    with short_home() as home:
        yield CommandLine(home, tmp_path / "pool.toml")


def weights_bytes(home: Home, digest: str) -> int:
    return (version_folder(home, digest) / WEIGHTS).stat().st_size


def counted(hotpool: CommandLine, name: str, **labels: str) -> float:
    """Of a counter, over all samples with these labels."""
    families = {family["name"]: family for family in hotpool.json("metrics")}
    samples = families[name]["samples"]
    return float(sum(sample["value"] for sample in samples if labels.items() <= sample["labels"].items()))


def await_probes(hotpool: CommandLine) -> None:
    """Two rounds of two workers: each answers what is golden for its engine."""
    answered = partial(counted, hotpool, "hotpool_probes_total", outcome="answered")
    wanted = answered() + 2 * 2 * 8
    eventually(lambda: answered() >= wanted, "two rounds of probes")
    assert counted(hotpool, "hotpool_probes_wrong_total") == 0
    assert hotpool.json("status")["health"] == "healthy"


def test_weights_in_int8_are_added_with_their_figure_rolled_out_and_answer(hotpool, files):
    weights, pictures = files / "weights.pth", files / "pictures"
    hotpool("versions", "add", weights, "--name", "v1", *SIZE)
    added = hotpool(
        "versions", "add", weights, "--name", "v2", "--precision", "auto", "--calibrate", pictures,
        "--min-agreement", "0.8", *SIZE,
    ).stdout  # fmt: skip
    assert "took int8: int8 names the same class as fp32 for" in added
    assert "of 30 held-out pictures, needed is 0.8" in added
    first, second = hotpool.json("versions", "list")
    assert (first["precision"], second["precision"]) == ("fp32", "int8")
    assert second["agreement"]["pictures"] == 30
    assert weights_bytes(hotpool.home, second["digest"]) < 0.26 * weights_bytes(hotpool.home, first["digest"])
    hotpool("versions", "verify", "v2")
    hotpool("up", "--detach")
    try:
        before = hotpool.json("classify", pictures)
        await_probes(hotpool)
        hotpool("rollout", "start", "--version", "v2", "--no-analysis", "--strategy", "beside", "--bake", "0")
        after = hotpool.json("classify", pictures)
        await_probes(hotpool)
    finally:
        hotpool("down")
    assert {answer["prediction"]["version"] for answer in after} == {"v2"}
    best = [[answer["prediction"]["classes"][0]["label"] for answer in answers] for answers in (before, after)]
    same = sum(a == b for a, b in zip(*best, strict=True))
    assert same >= 0.8 * N_PICTURES, json.dumps(best)


def test_auto_keeps_float32_where_int8_agrees_too_rarely_and_says_the_figures(hotpool, files):
    added = hotpool(
        "versions", "add", files / "weights.pth", "--name", "v1", "--precision", "auto", "--min-agreement", "1", *SIZE
    ).stdout
    assert "kept fp32: int8 names the same class as fp32 for 0.9" in added
    assert "of 400 drawn pictures, needed is 1; --calibrate DIR, with pictures like those that will come" in added


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--precision", "int8", "--calibrate", "few"), "few: 3 pictures found, at least 20 are needed"),
        (("--precision", "int8", "--min-agreement", "1"), "int8 names the same class as fp32 for only 0.9"),
    ],
)
def test_int8_that_can_not_be_is_refused_with_what_to_do_and_nothing_is_stored(hotpool, files, words, said):
    words = [files / word if word == "few" else word for word in words]
    assert said in hotpool("versions", "add", files / "weights.pth", "--name", "v1", *SIZE, *words, code=10).stderr
    assert hotpool.json("versions", "list") == []
