"""Inference over HTTP by a real network: the answers are those of the client library, and the model's own."""

import io
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import numpy as np
import pytest
from PIL import Image

from bench.pool import running_pool
from hotpool import Client
from hotpool.home import Home
from hotpool.stable import write_stable
from tests.gateway_process import running_gateway
from tests.pool import short_home

pytestmark = pytest.mark.slow

MODEL, CLASSES, SIDE, SEED = "shapes", 5, 32, 7
LABELS = tuple(f"shape {number}" for number in range(CLASSES))


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    from tests.small_versions import add_version, make_tensors, save  # imports torch

    with short_home() as home, ExitStack() as stack:
        source = save(make_tensors(SEED), home.root / "weights.safetensors")
        home.versions.mkdir()
        labels = home.root / "labels.txt"
        labels.write_text("\n".join(LABELS))
        write_stable(home, MODEL, add_version(home, source, model=MODEL, labels=labels).digest)
        stack.enter_context(running_pool(home, 1, model=MODEL, settings="[gateway]\nport = 0"))
        yield home


@pytest.fixture
def client(home: Home) -> Iterator[Client]:
    with Client(home.endpoint("clients")) as client:
        yield client


@pytest.fixture(scope="module")
def http(home: Home) -> Iterator[httpx.Client]:
    with running_gateway(home, home.root / "hotpool.toml") as gateway, gateway.client() as http:
        yield http


def infer(http: httpx.Client, given: dict[str, object], *outputs: str) -> httpx.Response:
    wanted = [{"name": name} for name in outputs]
    return http.post(f"/v2/models/{MODEL}/infer", json={"inputs": [given], "outputs": wanted})


def values(got: httpx.Response, name: str) -> np.ndarray:
    assert got.status_code == 200, got.text
    output = next(one for one in got.json()["outputs"] if one["name"] == name)
    return np.array(output["data"]).reshape(output["shape"])


def tensor(array: np.ndarray) -> dict[str, object]:
    return {"name": "tensor", "datatype": "FP32", "shape": array.shape, "data": array.ravel().tolist()}


def pictures(n: int) -> np.ndarray:
    return np.random.default_rng(SEED).integers(0, 256, (n, 48, 60, 3), dtype=np.uint8)


def test_a_batch_of_tensors_has_the_logits_that_the_library_gets(client, http):
    array = np.random.default_rng(SEED).normal(size=(3, 3, SIDE, SIDE)).astype(np.float32)
    expected = client.infer(array)
    got = infer(http, tensor(array), "logits", "probabilities", "top_labels")
    np.testing.assert_allclose(values(got, "logits"), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(values(got, "probabilities").sum(axis=1), 1.0, rtol=1e-6)
    assert values(got, "top_labels")[:, 0].tolist() == [LABELS[best] for best in expected.argmax(axis=1)]


def test_pictures_have_the_logits_behind_the_probabilities_that_the_library_gets(client, http):
    batch = pictures(3)
    given: dict[str, object] = {
        "name": "pixels",
        "datatype": "UINT8",
        "shape": batch.shape,
        "data": batch.ravel().tolist(),
    }
    got = infer(http, given, "logits", "probabilities", "top_indices", "top_probabilities")
    logits = values(got, "logits")
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(values(got, "probabilities"), expected, rtol=1e-5)
    for i, picture in enumerate(batch):
        prediction = client.classify(picture)
        assert values(got, "top_indices")[i].tolist() == [one.index for one in prediction.classes]
        best = [one.probability for one in prediction.classes]
        np.testing.assert_allclose(values(got, "top_probabilities")[i], best, rtol=1e-5)
        np.testing.assert_allclose(np.sort(expected[i])[::-1][:3], best, rtol=1e-4)


def test_a_file_is_answered_as_the_library_answers_it(client, http):
    file = io.BytesIO()
    Image.fromarray(pictures(1)[0]).save(file, "jpeg")
    prediction = client.classify(file.getvalue())
    told = http.post("/predict", files={"file": ("x.jpg", file.getvalue())}).json()
    assert [one["label"] for one in told["predictions"]] == [one.label for one in prediction.classes]
    assert told["predictions"][0]["probability"] == pytest.approx(prediction.classes[0].probability)
    assert told["digest"] == prediction.digest


def test_a_tensor_of_another_size_is_refused_by_the_worker(http):
    got = infer(http, tensor(np.zeros((1, 3, SIDE + 1, SIDE), np.float32)))
    assert (got.status_code, got.json()["code"]) == (422, "bad_input")
    assert f"(n, 3, {SIDE}, {SIDE})" in got.json()["error"]
    assert got.headers["x-hotpool-version"] == "v1"


def test_the_metadata_is_of_the_versions_manifest(http):
    model = http.get(f"/v2/models/{MODEL}").json()
    assert {"name": "tensor", "datatype": "FP32", "shape": [-1, 3, SIDE, SIDE]} in model["inputs"]
    assert {"name": "probabilities", "datatype": "FP32", "shape": [-1, CLASSES]} in model["outputs"]
