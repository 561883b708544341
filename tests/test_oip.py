"""The Open Inference Protocol: from a body to questions, and from answers to a body."""

import base64
import json
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import oip
from gateway.failures import BadRequest
from gateway.tensors import LARGEST, MAX_PICTURES, PIECE_BYTES
from hotpool.errors import RemoteProtocolError
from hotpool.messages import Reply, Result, Work
from hotpool.wire import encode_body

LABELS = ("cat", "dog", "eel", "fox")


def body_of(*inputs, **more) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def image(*pictures: bytes, **more):
    data = [base64.b64encode(picture).decode() for picture in pictures]
    return {"name": "image", "datatype": "BYTES", "shape": [len(pictures)], "data": data} | more


def pixels(shape, data, **more):
    return {"name": "pixels", "datatype": "UINT8", "shape": shape, "data": data} | more


def tensor(shape, data, **more):
    return {"name": "tensor", "datatype": "FP32", "shape": shape, "data": data} | more


def with_binary(given: dict[str, object], data: bytes, **more) -> tuple[bytes, int]:
    """The same input, with its data behind the JSON."""
    given = {key: value for key, value in given.items() if key != "data"}
    header = body_of(given | {"parameters": {"binary_data_size": len(data)}}, **more)
    return header + data, len(header)


def lengths(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def questions(body: bytes, json_bytes: int | None = None) -> list[tuple[Work, bytes]]:
    return [(work, bytes(part)) for work, part in oip.read_request(body, json_bytes).questions]


def answer(classes=(), logits=None, version="v1"):
    shape = () if logits is None else logits.shape
    reply = Reply(b"r" * 16, "m", version, "d", "worker-0", 1, 5, 7, encode_body(Result(tuple(classes), shape)))
    return reply, None if logits is None else logits.astype("<f4").tobytes()


def refusal(body: bytes, json_bytes: int | None = None) -> str:
    with pytest.raises(BadRequest) as refused:
        oip.read_request(body, json_bytes)
    return str(refused.value)


# ---- what is asked


def test_each_picture_is_a_question_of_its_own():
    assert questions(body_of(image(b"one", b"two"))) == [(Work("picture", 3), b"one"), (Work("picture", 3), b"two")]


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_pictures_as_binary_data_come_each_after_its_length(shape):
    body, n = with_binary(image(b"one", b"", shape=shape), lengths(b"one", b""))
    assert questions(body, n) == [(Work("picture", 3), b"one"), (Work("picture", 3), b"")]


@pytest.mark.parametrize("is_nested", [True, False])
def test_pixels_are_cut_into_pictures(is_nested):
    values = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3)
    data = values.tolist() if is_nested else values.ravel().tolist()
    expected = [(Work("pixels", 3, (2, 3, 3)), one.tobytes()) for one in values]
    assert questions(body_of(pixels([2, 2, 3, 3], data))) == expected
    assert questions(*with_binary(pixels([2, 2, 3, 3], None), values.tobytes())) == expected
    assert questions(body_of(pixels([2, 3, 3], values[0].ravel().tolist()))) == expected[:1]


def test_a_batch_of_tensors_is_one_question():
    values = np.linspace(-2, 2, 2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2)
    expected = [(Work("tensor", 1, (2, 3, 2, 2)), values.tobytes())]
    wanted = {"outputs": [{"name": "top_labels"}], "parameters": {"top": 1}}
    assert questions(body_of(tensor([2, 3, 2, 2], values.astype(float).tolist()), **wanted)) == expected
    assert questions(*with_binary(tensor([2, 3, 2, 2], None), values.tobytes(), **wanted)) == expected


def test_the_pool_is_asked_for_no_more_than_is_wanted():
    def work(*names, **parameters):
        wanted = [{"name": name} for name in names]
        return questions(body_of(image(b"x"), outputs=wanted, parameters=parameters))[0][0]

    assert work(top=7) == Work("picture", 7)
    assert work("top_indices", top=7) == Work("picture", 7)
    assert work("probabilities", top=7) == Work("picture", 1, logits=True)
    assert work("logits", "top_labels", top=7) == Work("picture", 7, logits=True)


NUMBERS = pixels([1, 1, 3], [1, 2, 3])
ZEROS = [0.0] * 12


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not as it should be"),
        (b"{", "not as it should be"),
        (b"\xff", "not as it should be"),
        (b"[" * 100_000, "not as it should be"),
        (b'{"inputs": 1}', "inputs"),
        (body_of(), "Expected `array` of length 1 - at `$.inputs`"),
        (body_of(image(b"x"), image(b"y")), "Expected `array` of length 1 - at `$.inputs`"),
        (body_of(image(b"x", name="picture")), "no input 'picture'; there are image, pixels, tensor"),
        (body_of(image(b"x", datatype="UINT8")), "image is UINT8, expected BYTES"),
        (body_of(image()), "shape [0], expected [n]"),
        (body_of(image(b"x", shape=[1, 2])), "shape [1, 2]"),
        (body_of(image(b"x", shape=[-1])), "shape [-1]"),
        (body_of(image(b"x", shape=[2])), "has not the 2 elements that its shape says"),
        (body_of(image(b"x", b"y", shape=[1])), "list of 1 pictures in base64: there are more than 1"),
        (body_of(image(b"x", shape=[True])), "shape"),
        (body_of(image(b"x", data=["not base64!"])), "base64"),
        (body_of(image(b"x", data=[1])), "base64"),
        (body_of(image(*[b"x"] * (MAX_PICTURES + 1))), f"at most {MAX_PICTURES}"),
        (body_of(pixels([1, 1, 4], [1, 2, 3, 4])), "expected [n, height, width, 3] or [height, width, 3]"),
        (body_of(pixels([1, 0, 3], [])), "none of them 0"),
        (body_of(pixels([1, 1, 3], [1, 2])), "no list of 3 numbers"),
        (body_of(pixels([1, 1, 3], [1, 2, 256])), "no list of 3 numbers for UINT8"),
        (body_of(pixels([1, 1, 3], [1, 2, -1])), "no list of 3 numbers for UINT8"),
        (body_of(pixels([1, 1, 3], [1, 2, 3.5])), "no list of 3 numbers for UINT8"),
        (body_of(pixels([1, 1, 3], [1, 2, "3"])), "no list of 3 numbers"),
        (body_of(pixels([1, 1, 3], "1,2,3")), "flat or nested as its shape [1, 1, 3]"),
        (body_of(pixels([1, 1, 3], [[1, 2], [3]])), "flat or nested as its shape [1, 1, 3]"),
        (body_of(pixels([1, 2, 3], [[1, 2, 3], [4, 5, 6]])), "flat or nested as its shape [1, 2, 3]"),
        (body_of(pixels([1, 1, 3], None)), "no list of 3 numbers"),
        (body_of(pixels([1, 1, 3], [])), "no list of 3 numbers"),
        (body_of(tensor([1, 2, 2, 2], [0.0] * 8)), "expected [n, 3, height, width]"),
        (body_of(tensor([1, 3, 10**4000, 10**4000], ZEROS)), "shape"),
        (
            body_of(tensor([1, 3, 2**32, 2], ZEROS)),
            "the shape of input tensor: Expected `int` <= 2147483647 - at `$[2]`",
        ),
        (body_of(tensor([1, 3, 2**31 - 1, 2**31 - 1], ZEROS)), "no list of 13835058042397261827 numbers for FP32"),
        (body_of(tensor([3, 2, 2], ZEROS)), "expected [n, 3, height, width]"),
        (body_of(tensor([1, 3, 2, 2], [*ZEROS[1:], 10 * LARGEST])), "not finite, or beyond"),
        (body_of(tensor([1, 3, 2, 2], [*ZEROS[1:], 1e300])), "not finite, or beyond"),
        (body_of(tensor([1, 3, 2, 2], [*ZEROS[1:], 10**30])), "not finite, or beyond"),
        (body_of({key: value for key, value in NUMBERS.items() if key != "data"}), "neither data nor binary_data_size"),
        (body_of(NUMBERS | {"parameters": {"binary_data_size": 3}}), "both data and binary_data_size"),
        (body_of(NUMBERS, outputs=[{"name": "boxes"}]), "no output 'boxes'"),
        (body_of(NUMBERS, outputs=[{"name": "logits"}] * 2), "twice"),
        (
            body_of(NUMBERS, outputs=[{"name": "top_labels", "parameters": {"classification": 2}}]),
            "classification is for",
        ),
        (body_of(NUMBERS, outputs=[{"name": "logits", "parameters": {"classification": -1}}]), "Expected `int` >= 0"),
        (
            body_of(NUMBERS, outputs=[{"name": "logits", "parameters": {"binary_data": 1}}]),
            "Expected `bool | null`, got `int`",
        ),
        (
            body_of(NUMBERS, parameters={"binary_data_output": "yes"}),
            "Expected `bool`, got `str` - at `$.parameters.binary_data_output`",
        ),
        (body_of(NUMBERS, parameters={"top": 0}), "Expected `int` >= 1 - at `$.parameters.top`"),
        (body_of(NUMBERS, parameters={"top": True}), "Expected `int`, got `bool` - at `$.parameters.top`"),
        (body_of(NUMBERS, id=5), "id"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(body, said):
    assert said in refusal(body)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (lengths(b"one"), "has not the 2 elements that its shape says"),
        (lengths(b"one", b"two")[:-1], "an element of 3 bytes, but only 2 follow"),
        (lengths(b"one") + b"\1\0\0", "ends in the middle of a length"),
    ],
)
def test_what_is_wrong_with_elements_is_named(data, said):
    assert said in refusal(*with_binary(image(b"", b""), data))


@pytest.mark.parametrize("json_bytes", [0, 10**6])
def test_the_length_of_the_json_must_be_within_the_body(json_bytes):
    assert "Inference-Header-Content-Length" in refusal(body_of(NUMBERS), json_bytes)


def test_binary_data_must_be_as_long_as_it_says():
    body, n = with_binary(pixels([1, 1, 3], None), b"abc")
    assert "binary_data_size = 3, but 4 bytes follow" in refusal(body + b"d", n)
    assert "has 4 bytes of binary data, its shape says 3" in refusal(*with_binary(pixels([1, 1, 3], None), b"abcd"))
    assert "3 bytes follow the JSON" in refusal(body_of(NUMBERS) + b"abc", len(body_of(NUMBERS)))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.none() | st.integers(-5, 500))
def test_any_bytes_are_a_request_or_are_refused(body, json_bytes):
    with pytest.raises(BadRequest):
        oip.read_request(body, json_bytes)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = {
    "name": st.sampled_from(["image", "pixels", "tensor"]) | JSON,
    "datatype": st.sampled_from(["BYTES", "UINT8", "FP32"]) | JSON,
    "shape": st.sampled_from([[1], [1, 1, 3], [1, 3, 1, 1], [2, 1, 1, 3]]) | JSON,
    "data": st.sampled_from([["YQ=="], [1, 2, 3], [[1, 2], [3, 4]], [0.5, 1, 2]]) | JSON,
    "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "content_type"]), JSON) | JSON,
}


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries({}, optional=FIELDS), st.dictionaries(st.sampled_from(["id", "parameters", "outputs"]), JSON)
)
def test_any_json_is_a_request_or_is_refused(given_input, more):
    body = json.dumps({"inputs": [given_input], **more}).encode()
    try:
        asked = oip.read_request(body, None)
    except BadRequest:
        return
    assert 1 <= len(asked.questions) <= MAX_PICTURES


@pytest.mark.parametrize(
    "data",
    ["[]", "[[]]", "[[[[]]]]", "[[[[1],[2]],[[],[3]]]]", "[1,2,3,4,5]", "[1 2,3,4,5,6]", "[[1,2,3],[4,5,6]]", '["1,2,3,4,5,6"]',
     "[[[[1,2]],[[3,4]],[[5,6]]],[]]", "[true,2,3,4,5,6]", "[1,2,3,4,5,{}]", "[1,2,3,4,5,1e999]", "{}", "1", "null"],
)  # fmt: skip
def test_a_list_that_is_not_as_the_shape_says_is_no_tensor(data):
    given = '{"inputs": [{"name": "tensor", "datatype": "FP32", "shape": [1, 3, 1, 2], "data": %s}]}'
    with pytest.raises(BadRequest):
        oip.read_request((given % data).encode(), None)
    for right in ("[1,2,3,4,5,6]", "[ [[[1,2]],\n[[3.0,4e0]] ,[[\t5,6]] ]]", " [\r\n1, 2,3 ,4,5,6 ] "):
        values = np.frombuffer(questions((given % right).encode())[0][1], "<f4")
        assert values.tolist() == [1, 2, 3, 4, 5, 6]


def test_a_long_list_is_read_by_pieces_and_whole():
    values = np.random.default_rng(1).normal(size=(1, 3, 64, 128)).astype("<f4")
    assert values.size * 10 > 3 * PIECE_BYTES
    for data in (values.astype(float).ravel().tolist(), values.astype(float).tolist()):
        assert questions(body_of(tensor([1, 3, 64, 128], data)))[0][1] == values.tobytes()
    flat = [1] * (3 * PIECE_BYTES - 1)
    assert questions(body_of(pixels([PIECE_BYTES, 1, 3], [*flat, 255])))[0][1][-1] == 255
    assert "for UINT8" in refusal(body_of(pixels([PIECE_BYTES, 1, 3], [*flat, 256])))


def test_null_is_as_if_it_were_not_there():
    given = NUMBERS | {"parameters": None}
    asked = oip.read_request(body_of(given, id=None, parameters=None, outputs=None), None)
    assert asked == oip.read_request(body_of(NUMBERS), None)
    with_parameters = body_of(NUMBERS, outputs=[{"name": "logits", "parameters": None}])
    assert oip.read_request(with_parameters, None).wanted == (oip.Wanted("logits", False),)


def test_what_is_not_known_is_skipped():
    parameters = {"top": 5, "priority": 1, "timeout": None, "more": {"a": [1]}}
    assert (
        oip.read_request(
            body_of(NUMBERS | {"parameters": {"content_type": "np"}}, parameters=parameters, x=[]), None
        ).top
        == 5
    )


N_BOMB = 150_000


def bomb(given: dict[str, object], item: str) -> bytes:
    """The request with that item so often where it says BOMB."""
    return json.dumps(given).encode().replace(b'"BOMB"', ",".join([item] * N_BOMB).encode())


def of_tensors(item: str) -> bytes:
    return bomb({"inputs": [tensor([1, 3, N_BOMB // 3, 1], ["BOMB"])]}, item)


BOMBS = {
    "lists": of_tensors("[]"),
    "objects": of_tensors("{}"),
    "texts": of_tensors('""'),
    "pictures": bomb({"inputs": [image(b"", data=["BOMB"])]}, '""'),
    "inputs": bomb({"inputs": ["BOMB"]}, json.dumps(image())),
    "shape": bomb({"inputs": [image(shape=["BOMB"])]}, "1"),
    "outputs": bomb({"inputs": [image(b"x")], "outputs": ["BOMB"]}, '{"name": "logits"}'),
    "parameters": body_of(image(b"x", shape=[0]), parameters={str(n): 1 for n in range(N_BOMB)}),
}


def highest_memory(work) -> int:
    """Bytes that were allocated at once meanwhile."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_be_a_million_objects_is_refused_before_it_is_made(name):
    body = BOMBS[name]
    assert highest_memory(lambda: refusal(body)) < 4 * len(body)


def test_a_million_empty_pictures_are_refused_before_they_are_made():
    body, n = with_binary(image(b""), lengths(b"") * N_BOMB)
    assert highest_memory(lambda: refusal(body, n)) < 100_000


def test_numbers_in_json_take_little_more_memory_than_their_text():
    """Python's own objects would take ten times as much."""
    body = of_tensors("0.5")
    assert highest_memory(lambda: questions(body)) < 6 * len(body)


# ---- what is answered


def ask(*outputs, inputs=None, **parameters) -> oip.Asked:
    body = body_of(inputs or image(b"x", b"y"), outputs=list(outputs), parameters=parameters, id="mine")
    return oip.read_request(body, None)


def read(asked: oip.Asked, answers, labels=LABELS):
    """The response, with binary data in its place."""
    body, n = oip.write_response(asked, answers, labels)
    response = json.loads(body[:n])
    rest = body[n:] if n is not None else b""
    for output in response["outputs"]:
        if "parameters" in output:
            size = output.pop("parameters")["binary_data_size"]
            output["data"], rest = rest[:size], rest[size:]
    assert not rest
    return response


TWO = [answer([(1, "dog", 0.75), (0, "cat", 0.25)]), answer([(3, "fox", 1.0), (2, "eel", 0.0)])]


def test_without_outputs_the_most_probable_classes_are_the_answer():
    assert read(ask(top=2), TWO) == {
        "model_name": "m",
        "model_version": "v1",
        "id": "mine",
        "outputs": [
            {"name": "top_labels", "datatype": "BYTES", "shape": [2, 2], "data": ["dog", "cat", "fox", "eel"]},
            {"name": "top_probabilities", "datatype": "FP32", "shape": [2, 2], "data": [0.75, 0.25, 1.0, 0.0]},
            {"name": "top_indices", "datatype": "INT64", "shape": [2, 2], "data": [1, 0, 3, 2]},
        ],
    }


def test_binary_outputs_follow_the_json_in_their_order():
    labels, probabilities, indices = read(ask(top=2, binary_data_output=True), TWO)["outputs"]
    assert labels["data"] == lengths(b"dog", b"cat", b"fox", b"eel")
    assert np.frombuffer(probabilities["data"], "<f4").tolist() == [0.75, 0.25, 1.0, 0.0]
    assert np.frombuffer(indices["data"], "<i8").tolist() == [1, 0, 3, 2]


def test_each_output_may_choose_its_form():
    outputs = [{"name": "top_indices", "parameters": {"binary_data": True}}, {"name": "top_labels"}]
    indices, labels = read(ask(*outputs), TWO)["outputs"]
    assert (type(indices["data"]), type(labels["data"])) == (bytes, list)
    outputs = [{"name": "top_indices", "parameters": {"binary_data": False}}, {"name": "top_labels"}]
    indices, labels = read(ask(*outputs, binary_data_output=True), TWO)["outputs"]
    assert (type(indices["data"]), type(labels["data"])) == (list, bytes)


LOGITS = np.array([[0, 3, 1, 2], [5, 0, 0, 0]], np.float32)


def softmax(values):
    return np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)


def test_logits_and_probabilities_of_pictures_are_put_together():
    answers = [answer([(0, "", 0.0)], LOGITS[i : i + 1]) for i in range(2)]
    logits, probabilities = read(ask({"name": "logits"}, {"name": "probabilities"}), answers)["outputs"]
    assert (logits["shape"], probabilities["shape"], logits["datatype"]) == ([2, 4], [2, 4], "FP32")
    np.testing.assert_array_equal(np.array(logits["data"]).reshape(2, 4), LOGITS)
    np.testing.assert_allclose(np.array(probabilities["data"]).reshape(2, 4), softmax(LOGITS), rtol=1e-6)


def test_a_tensors_classes_are_made_of_its_logits():
    asked = ask(inputs=tensor([2, 3, 1, 1], [0.0] * 6), top=2)
    assert oip.needs_labels(asked)
    labels, probabilities, indices = read(asked, [answer(logits=LOGITS)])["outputs"]
    assert labels["data"] == ["dog", "fox", "cat", "dog"]
    assert indices["data"] == [1, 3, 0, 1]
    best = -np.sort(-softmax(LOGITS), axis=1)[:, :2]
    np.testing.assert_allclose(probabilities["data"], best.ravel(), rtol=1e-6)
    assert read(asked, [answer(logits=LOGITS)], labels=())["outputs"][0]["data"] == ["1", "3", "0", "1"]


def test_classification_is_written_as_triton_writes_it():
    asked = ask({"name": "logits", "parameters": {"classification": 2}}, inputs=tensor([2, 3, 1, 1], [0.0] * 6))
    assert oip.needs_labels(asked)
    (output,) = read(asked, [answer(logits=LOGITS)])["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert output["data"] == ["3.000000:1:dog", "2.000000:3:fox", "5.000000:0:cat", "0.000000:1:dog"]


def test_labels_are_not_looked_up_where_the_answers_have_them():
    assert not oip.needs_labels(ask())
    assert not oip.needs_labels(ask({"name": "logits"}, inputs=tensor([1, 3, 1, 1], [0.0] * 3)))


def test_an_answer_without_the_logits_that_were_asked_for_is_a_fault_of_the_worker():
    with pytest.raises(RemoteProtocolError):
        oip.write_response(ask({"name": "logits"}), TWO, ())


def test_the_metadata_names_each_input_and_output():
    assert {one["name"]: one["shape"] for one in oip.input_metadata(32)} == {
        "image": [-1], "pixels": [-1, -1, -1, 3], "tensor": [-1, 3, 32, 32],
    }  # fmt: skip
    assert {one["name"]: one["shape"] for one in oip.output_metadata(4)} == {
        "probabilities": [-1, 4], "logits": [-1, 4], "top_labels": [-1, -1], "top_probabilities": [-1, -1],
        "top_indices": [-1, -1],
    }  # fmt: skip
