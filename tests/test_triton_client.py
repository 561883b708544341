"""The Open Inference Protocol as an independent client speaks it: Triton's own, for HTTP."""

import base64
from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from bench.noop import MODEL, N_CLASSES, noop_class, noop_manifest
from gateway.tensors import MAX_PICTURES
from tests.gateway_process import add_noop_versions, running_site
from tests.pool import Pool
from tests.test_inference_http import picture, set_versions

pytestmark = pytest.mark.slow

LABELS = [f"class-{index}".encode() for index in range(N_CLASSES)]


@pytest.fixture(scope="module")
def pool_and_url() -> Iterator[tuple[Pool, str]]:
    with running_site(2) as (pool, gateway):
        add_noop_versions(pool.home, "v1", "v2")
        set_versions(pool, "v1")
        yield pool, gateway.url.removeprefix("http://")


@pytest.fixture
def client(pool_and_url) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(pool_and_url[1])
    yield client
    client.close()


def given(name: str, datatype: str, values: np.ndarray, **options) -> triton.InferInput:
    tensor = triton.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values, **options)
    return tensor


def pictures(*firsts: int) -> triton.InferInput:
    return given("image", "BYTES", np.array([picture(first) for first in firsts], dtype=np.object_))


def pixels(*firsts: int, binary_data: bool = True) -> triton.InferInput:
    values = np.zeros((len(firsts), 4, 4, 3), np.uint8)
    values[:, 0, 0, 0] = firsts
    return given("pixels", "UINT8", values, binary_data=binary_data)


def tensors(*firsts: int, binary_data: bool = True) -> triton.InferInput:
    values = np.zeros((len(firsts), 3, 8, 8), np.float32)
    values[:, 0, 0, 0] = firsts
    return given("tensor", "FP32", values, binary_data=binary_data)


def encoded(*firsts: int) -> triton.InferInput:
    """JSON has no bytes: as base64."""
    texts = [base64.b64encode(picture(first)) for first in firsts]
    return given("image", "BYTES", np.array(texts, dtype=np.object_), binary_data=False)


FORMS = {
    "pictures, binary": pictures,
    "pictures, JSON": encoded,
    "pixels, binary": pixels,
    "pixels, JSON": lambda *firsts: pixels(*firsts, binary_data=False),
    "tensors, binary": tensors,
    "tensors, JSON": lambda *firsts: tensors(*firsts, binary_data=False),
}


@pytest.mark.parametrize("is_binary", [True, False], ids=["binary", "JSON"])
@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_input_gives_each_output_in_each_form(client, form, is_binary):
    firsts = (3, 0, 8)
    expected = [noop_class(first, "v1") for first in firsts]
    names = ("logits", "probabilities", "top_labels", "top_indices", "top_probabilities")
    wanted = [triton.InferRequestedOutput(name, binary_data=is_binary) for name in names]
    got = client.infer(MODEL, [FORMS[form](*firsts)], outputs=wanted, request_id="mine", parameters={"top": 2})
    response = got.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == (MODEL, "v1", "mine")
    logits, probabilities = got.as_numpy("logits"), got.as_numpy("probabilities")
    assert (logits.shape, logits.dtype, probabilities.dtype) == ((3, N_CLASSES), np.float32, np.float32)
    np.testing.assert_array_equal(logits, np.eye(N_CLASSES)[expected] * 10)
    np.testing.assert_allclose(probabilities, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), rtol=1e-6)
    indices = got.as_numpy("top_indices")
    assert (indices.shape, indices.dtype, indices[:, 0].tolist()) == ((3, 2), np.int64, expected)
    labels = [label if isinstance(label, bytes) else label.encode() for label in got.as_numpy("top_labels")[:, 0]]
    assert labels == [LABELS[index] for index in expected]
    np.testing.assert_allclose(got.as_numpy("top_probabilities")[:, 0], probabilities.max(axis=1), rtol=1e-6)


def test_without_outputs_the_three_best_classes_are_the_answer(client):
    got = client.infer(MODEL, [pictures(4)])
    assert [one["name"] for one in got.get_response()["outputs"]] == ["top_labels", "top_probabilities", "top_indices"]
    assert got.as_numpy("top_labels").shape == (1, 3)
    assert got.as_numpy("top_labels")[0, 0] == LABELS[noop_class(4, "v1")]


@pytest.mark.parametrize("form", FORMS)
def test_classification_gives_value_index_and_label(client, form):
    wanted = [triton.InferRequestedOutput("logits", class_count=2)]
    got = client.infer(MODEL, [FORMS[form](1, 2)], outputs=wanted).as_numpy("logits")
    first, second = noop_class(1, "v1"), noop_class(2, "v1")
    assert got.shape == (2, 2)
    assert got[:, 0].tolist() == [f"10.000000:{index}:class-{index}".encode() for index in (first, second)]


@pytest.mark.parametrize("version", ["v1", noop_manifest("v1").digest])
def test_a_version_may_be_named_or_given_by_its_digest(client, version):
    got = client.infer(MODEL, [pixels(4)], model_version=version)
    assert got.get_response()["model_version"] == "v1"
    assert client.is_model_ready(MODEL, version)


def test_a_request_may_be_made_before_it_is_sent(client):
    body, json_bytes = triton.InferenceServerClient.generate_request_body([pictures(1)])
    assert json_bytes is not None
    got = client._post(
        f"v2/models/{MODEL}/infer", body, {"Inference-Header-Content-Length": json_bytes}, query_params=None
    )
    assert got.status_code == 200


def test_requests_may_be_under_way_together():
    with running_site(2) as (_, gateway):
        client = triton.InferenceServerClient(gateway.url.removeprefix("http://"), concurrency=8)
        asked = [client.async_infer(MODEL, [pixels(n % 10)]) for n in range(100)]
        got = [one.get_result().as_numpy("top_indices")[0, 0] for one in asked]
        client.close()
    assert got == [noop_class(n % 10, "v1") for n in range(100)]


def test_server_and_model_describe_themselves(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    server = client.get_server_metadata()
    assert server["name"] == "hotpool"
    assert set(server["extensions"]) == {"binary_tensor_data", "classification"}
    model = client.get_model_metadata(MODEL)
    assert (model["name"], model["versions"], model["platform"]) == (MODEL, ["v1"], "hotpool")
    assert [one["name"] for one in model["inputs"]] == ["image", "pixels", "tensor"]
    assert {"name": "logits", "datatype": "FP32", "shape": [-1, N_CLASSES]} in model["outputs"]
    assert client.get_model_metadata(MODEL, "v2")["outputs"] == model["outputs"]


def test_the_repositorys_index_tells_each_version_and_whether_it_serves(client):
    assert client.get_model_repository_index() == [
        {"name": MODEL, "version": "v1", "state": "READY", "reason": ""},
        {"name": MODEL, "version": "v2", "state": "UNAVAILABLE", "reason": "it does not serve now"},
    ]
    only_ready = client._post("v2/repository/index", '{"ready": true}', None, None)
    assert only_ready.read().count(b'"version"') == 1


def test_what_is_not_there_is_not_ready(client):
    assert not client.is_model_ready("cats")
    assert not client.is_model_ready(MODEL, "v2")
    assert not client.is_model_ready(MODEL, "v9")


@pytest.mark.parametrize(
    ("ask", "status", "text"),
    [
        (lambda client: client.infer("cats", [pixels(1)]), "404", "'cats'"),
        (lambda client: client.infer(MODEL, [pixels(1)], model_version="v2"), "404", "not served now"),
        (lambda client: client.infer(MODEL, [pixels(1), pixels(2)]), "400", "length 1 - at `$.inputs`"),
        (lambda client: client.infer(MODEL, [given("boxes", "FP32", np.zeros(3, np.float32))]), "400", "'boxes'"),
        (lambda client: client.infer(MODEL, [given("tensor", "FP64", np.zeros((1, 3, 4, 4)))]), "400", "FP64"),
        (lambda client: client.infer(MODEL, [given("image", "BYTES", np.array([b"no"], np.object_))]), "422", "picture"),
        (lambda client: client.infer(MODEL, [pixels(*[1] * (MAX_PICTURES + 1))]), "400", f"at most {MAX_PICTURES}"),
        (lambda client: client.infer(MODEL, [pixels(1)], request_compression_algorithm="gzip"), "415", "gzip"),
        (lambda client: client.get_model_metadata("cats"), "404", "'cats'"),
        (lambda client: client.get_model_metadata(MODEL, "v9"), "404", "'v9'"),
        (lambda client: client.load_model(MODEL), "404", "nothing at"),
        (lambda client: client.get_model_config(MODEL), "404", "nothing at"),
    ],
)  # fmt: skip
def test_what_is_wrong_reaches_the_client_as_an_error_with_its_words(client, ask, status, text):
    with pytest.raises(InferenceServerException) as refused:
        ask(client)
    assert refused.value.status() == status
    assert text in refused.value.message()


def test_the_most_pictures_that_may_come_at_once_are_all_answered(client):
    firsts = [n % 10 for n in range(MAX_PICTURES)]
    got = client.infer(MODEL, [pixels(*firsts)]).as_numpy("top_indices")
    assert got[:, 0].tolist() == [noop_class(first, "v1") for first in firsts]
