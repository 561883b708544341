"""Pure: the Open Inference Protocol, version 2: a body as questions to the pool, and answers as a body.

Tensors travel in JSON or, by the binary tensor extension, behind it: then a header, `Inference-Header-Content-Length`, tells
where it ends. `tensors.py` has the tensors themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from hotpool.answers import Answer, logits_of
from hotpool.classes import softmax, top_classes
from hotpool.messages import MAX_CLASSES, Work
from hotpool.wire import decode_result

from .failures import BadRequest
from .tensors import Given, Output, Part, bytes_output, number_output, read_besides, read_input

DEFAULT_TOP = 3
TOP_OUTPUTS = ("top_labels", "top_probabilities", "top_indices")
ROW_OUTPUTS = ("probabilities", "logits")  # a value for each class
OUTPUTS = (*ROW_OUTPUTS, *TOP_OUTPUTS)

Scores = tuple[tuple[int, str, float], ...]  # of one row: index, label, probability


class _OutputParameters(msgspec.Struct):
    classification: Annotated[int, Meta(ge=0, le=MAX_CLASSES)] = 0
    binary_data: bool | None = None


class _Wanted(msgspec.Struct):
    name: str
    parameters: _OutputParameters | None = None


_OUTPUTS: msgspec.json.Decoder[list[_Wanted] | None] = msgspec.json.Decoder(list[_Wanted] | None)


class _Parameters(msgspec.Struct):
    """Others are skipped: the protocol wants them ignored, and a million of them would be a million objects."""

    top: Annotated[int, Meta(ge=1, le=MAX_CLASSES)] = DEFAULT_TOP
    binary_data_output: bool = False


class _Request(msgspec.Struct):
    """The one input that all of ours have. null: as if it were not there."""

    inputs: tuple[Given]
    id: str | None = None
    parameters: _Parameters | None = None
    outputs: msgspec.Raw = msgspec.Raw(b"[]")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One output. classes: so many, as text, in place of the values (Triton's `classification`); 0: the values."""

    name: str
    is_binary: bool
    classes: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """questions: one for each picture; a batch of tensors is one."""

    id: str
    questions: tuple[tuple[Work, Part], ...]
    wanted: tuple[Wanted, ...]
    top: int

    @property
    def is_tensor(self) -> bool:
        """Then the answer is logits alone."""
        return self.questions[0][0].kind == "tensor"


def read_request(body: bytes, json_bytes: int | None) -> Asked:
    """json_bytes: of the JSON before binary tensors; None: the body is JSON alone.

    Raises:
        BadRequest: the message says what was wrong and what is expected.
    """
    if json_bytes is not None and not 0 < json_bytes <= len(body):
        raise BadRequest(
            f"Inference-Header-Content-Length is {json_bytes}, expected at most the length of the body, {len(body)}"
        )
    view = memoryview(body)
    header, binary = view[:json_bytes], view[len(body) if json_bytes is None else json_bytes :]
    try:
        request = msgspec.json.decode(header, type=_Request)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the request is not as it should be: {error}") from None
    parameters = request.parameters or _Parameters()
    wanted = _wanted(request.outputs, parameters.binary_data_output)
    parts = read_input(request.inputs[0], binary)
    questions = tuple((_work(kind, shape, wanted, parameters.top), part) for kind, shape, part in parts)
    return Asked(request.id or "", questions, wanted, parameters.top)


def needs_labels(asked: Asked) -> bool:
    """Whether labels are wanted that don't come with the answers."""
    return any(one.classes or (asked.is_tensor and one.name == "top_labels") for one in asked.wanted)


def write_response(asked: Asked, answers: Sequence[Answer], labels: Sequence[str]) -> tuple[bytes, int | None]:
    """The body, and how long the JSON in it is when binary tensors follow. answers: all of one version, in the order of the
    questions. labels: of that version, if `needs_labels`.

    Raises RemoteProtocolError: an answer is not what was asked for.
    """
    reply = answers[0][0]
    outputs, binary = [], []
    for wanted, output in zip(asked.wanted, _outputs(asked, answers, labels), strict=True):
        if wanted.is_binary:
            data = output.as_bytes()
            binary.append(data)
            content: dict[str, Any] = {"parameters": {"binary_data_size": len(data)}}
        else:
            content = {"data": output.as_list()}
        outputs.append({"name": wanted.name, "datatype": output.datatype, "shape": output.shape, **content})
    response = {"model_name": reply.model, "model_version": reply.version, "outputs": outputs}
    if asked.id:
        response["id"] = asked.id
    header = msgspec.json.encode(response)
    return (b"".join((header, *binary)), len(header)) if binary else (header, None)


def input_metadata(crop: int) -> list[dict[str, Any]]:
    """crop: side of the version's inputs."""
    return [
        {"name": "image", "datatype": "BYTES", "shape": [-1]},
        {"name": "pixels", "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
        {"name": "tensor", "datatype": "FP32", "shape": [-1, 3, crop, crop]},
    ]


def output_metadata(classes: int) -> list[dict[str, Any]]:
    shapes = {name: [-1, classes] for name in ROW_OUTPUTS} | {name: [-1, -1] for name in TOP_OUTPUTS}
    return [{"name": name, "datatype": _DATATYPES[name], "shape": shapes[name]} for name in OUTPUTS]


_DATATYPES = {
    "probabilities": "FP32",
    "logits": "FP32",
    "top_labels": "BYTES",
    "top_probabilities": "FP32",
    "top_indices": "INT64",
}


def _wanted(raw: msgspec.Raw, by_default: bool) -> tuple[Wanted, ...]:
    """by_default: whether an output that does not say it is to be binary."""
    outputs = read_besides("outputs", raw, _OUTPUTS)
    if not outputs:
        return tuple(Wanted(name, by_default) for name in TOP_OUTPUTS)
    names = [one.name for one in outputs]
    if unknown := [name for name in names if name not in OUTPUTS]:
        raise BadRequest(f"there is no output {unknown[0][:100]!r}; there are {', '.join(OUTPUTS)}")
    if len(set(names)) < len(names):
        raise BadRequest("an output is asked for twice")
    wanted = []
    for one in outputs:
        parameters = one.parameters or _OutputParameters()
        if parameters.classification and one.name not in ROW_OUTPUTS:
            raise BadRequest(f"classification is for {' and '.join(ROW_OUTPUTS)}, not for {one.name}")
        is_binary = by_default if parameters.binary_data is None else parameters.binary_data
        wanted.append(Wanted(one.name, is_binary, parameters.classification))
    return tuple(wanted)


def _work(kind: str, shape: tuple[int, ...], wanted: Sequence[Wanted], top: int) -> Work:
    wants_top = any(one.name in TOP_OUTPUTS for one in wanted)
    return Work(kind, top if wants_top else 1, shape, logits=any(one.name in ROW_OUTPUTS for one in wanted))


def _outputs(asked: Asked, answers: Sequence[Answer], labels: Sequence[str]) -> list[Output]:
    logits = None
    if asked.is_tensor or any(one.name in ROW_OUTPUTS for one in asked.wanted):
        logits = np.concatenate([logits_of(answer) for answer in answers])
    if asked.is_tensor and logits is not None:
        scores: list[Scores] = [top_classes(row, labels, asked.top) for row in logits]
    else:
        scores = [decode_result(reply.result).classes for reply, _ in answers]
    return [_output(one, scores, logits, labels) for one in asked.wanted]


def _output(wanted: Wanted, scores: list[Scores], logits: NDArray[np.float32] | None, labels: Sequence[str]) -> Output:
    match wanted.name:
        case "top_labels":
            return bytes_output([[label for _, label, _ in row] for row in scores])
        case "top_probabilities":
            return number_output("FP32", [[probability for _, _, probability in row] for row in scores])
        case "top_indices":
            return number_output("INT64", [[index for index, _, _ in row] for row in scores])
    assert logits is not None, f"{wanted.name} is made of logits"
    values = logits if wanted.name == "logits" else softmax(logits).astype(np.float32)
    if wanted.classes:
        return bytes_output([_as_text(row, labels, wanted.classes) for row in values])
    return number_output("FP32", values)


def _as_text(values: NDArray[np.float32], labels: Sequence[str], n: int) -> list[str]:
    """As Triton writes classes: `value:index:label`."""
    best = np.argsort(-values, kind="stable")[:n]
    return [f"{values[i]:f}:{i}:{labels[i] if i < len(labels) else i}" for i in best]
