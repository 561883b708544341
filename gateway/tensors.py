"""Pure: tensors of the Open Inference Protocol, in JSON and in binary: what comes in as parts for the pool, what goes out."""

import base64
import binascii
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from .failures import BadRequest

MAX_PICTURES = 256  # of one request; each is a request of its own to the pool
MAX_BESIDES_BYTES = 64 * 1024  # of each part of the JSON that is no data: far more than any that is right
PIECE_BYTES = 64 * 1024  # of numbers in JSON that are read at once: other threads have their turns between
LARGEST = 1e6  # of a tensor's values: those of pictures are below 10, and much larger ones overflow in the network

Part = bytes | memoryview  # what one request to the pool carries
Input = tuple[str, tuple[int, ...], Part]  # kind and shape of its work, and the part

# name: datatype, shapes
INPUTS = {
    "image": ("BYTES", "[n]"),
    "pixels": ("UINT8", "[n, height, width, 3] or [height, width, 3]"),
    "tensor": ("FP32", "[n, 3, height, width]"),
}
_DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype(np.uint8), "FP32": np.dtype("<f4"), "INT64": np.dtype("<i8")}
_OF_NUMBERS = b"0123456789+-.eE \t\r\n"
_LISTS: dict[str, msgspec.json.Decoder[list[Any]]] = {
    "UINT8": msgspec.json.Decoder(Annotated[list[Annotated[int, Meta(ge=0, le=255)]], Meta(min_length=1)]),
    "FP32": msgspec.json.Decoder(Annotated[list[float], Meta(min_length=1)]),
}
_SHAPE = msgspec.json.Decoder(list[Annotated[int, Meta(le=2**31 - 1)]])

T = TypeVar("T")


class InputParameters(msgspec.Struct):
    """Others are skipped, and cost nothing."""

    binary_data_size: int | None = None


class Given(msgspec.Struct):
    """An input as it stands in the JSON. What may be long is left as it is, until it is known what it should be."""

    name: str
    datatype: str
    shape: msgspec.Raw
    parameters: InputParameters | None = None
    data: msgspec.Raw = msgspec.Raw(b"")


def read_besides(what: str, raw: msgspec.Raw, decoder: msgspec.json.Decoder[T]) -> T:
    """A part of the JSON that is no data. Raises BadRequest: a short text could mean a million objects."""
    if memoryview(raw).nbytes > MAX_BESIDES_BYTES:
        raise BadRequest(f"{what} has more than {MAX_BESIDES_BYTES} bytes")
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"{what}: {error}") from None


def read_input(given: Given, binary: memoryview) -> list[Input]:
    """binary: what follows the JSON. One part for each picture; a batch of tensors is one.

    Raises:
        BadRequest: it is none of the inputs there are, or not whole.
    """
    if given.name not in INPUTS:
        raise BadRequest(f"there is no input {given.name[:100]!r}; there are {', '.join(INPUTS)}")
    datatype, shapes = INPUTS[given.name]
    if given.datatype != datatype:
        raise BadRequest(f"input {given.name} is {given.datatype[:100]}, expected {datatype}")
    shape = read_besides(f"the shape of input {given.name}", given.shape, _SHAPE)
    if not _is_shape(given.name, shape):
        raise BadRequest(f"input {given.name} has shape {str(shape)[:100]}, expected {shapes}, none of them 0")
    if given.name == "image":
        return [("picture", (), part) for part in _elements(given, shape[0], binary)]
    data = _numbers(given, shape, binary)
    if given.name == "tensor":
        return [("tensor", tuple(shape), data)]
    height, width = shape[-3:-1]
    size = height * width * 3
    return [("pixels", (height, width, 3), data[at : at + size]) for at in range(0, len(data), size)]


def _is_shape(name: str, shape: list[int]) -> bool:
    if not shape or min(shape) < 1:
        return False
    match name:
        case "image":
            fits = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)  # MLServer's codecs say [n, 1]
        case "pixels":
            fits = len(shape) in (3, 4) and shape[-1] == 3
        case _:
            fits = len(shape) == 4 and shape[1] == 3
    if fits and (name != "pixels" or len(shape) == 4) and shape[0] > MAX_PICTURES:
        raise BadRequest(f"input {name} has {shape[0]} pictures, at most {MAX_PICTURES} may come in one request")
    return fits


def _elements(given: Given, n: int, binary: memoryview) -> list[Part]:
    """Of BYTES: in binary each after its length, in JSON as base64, since JSON has no bytes."""
    if (data := _binary(given, binary)) is not None:
        # Four bytes may be an element: not all of a body's are made to find that there are too many.
        parts: list[Part] = list(islice(_after_lengths(data), n + 1))
    else:
        parts = _from_base64(bytes(given.data), n)
    if len(parts) != n:
        raise BadRequest(f"input image has not the {n} elements that its shape says")
    return parts


def _from_base64(text: bytes, n: int) -> list[Part]:
    try:
        if text.count(b",") >= n:  # base64 has none; a million empty texts would be a million objects
            raise ValueError(f"there are more than {n}")
        return [base64.b64decode(one, validate=True) for one in msgspec.json.decode(text, type=list[str])]
    except (msgspec.MsgspecError, binascii.Error, ValueError) as error:
        raise BadRequest(
            f"input image: in JSON expected a list of {n} pictures in base64: {error}; or send them as binary data"
        ) from None


def _after_lengths(data: memoryview) -> Iterator[memoryview]:
    at = 0
    while at < len(data):
        if len(data) - at < 4:
            raise BadRequest("input image: the binary data ends in the middle of a length")
        (size,) = struct.unpack_from("<I", data, at)
        at += 4
        if size > len(data) - at:
            raise BadRequest(f"input image: an element of {size} bytes, but only {len(data) - at} follow")
        yield data[at : at + size]
        at += size


def _numbers(given: Given, shape: list[int], binary: memoryview) -> memoryview:
    dtype, n = _DTYPES[given.datatype], prod(shape)
    if (data := _binary(given, binary)) is None:
        data = _listed(given, shape, dtype).data.cast("B")
    elif len(data) != n * dtype.itemsize:
        raise BadRequest(
            f"input {given.name} has {len(data)} bytes of binary data, its shape says {n * dtype.itemsize}"
        )
    if dtype.kind == "f":
        _check_values(given, np.frombuffer(data, dtype))
    return data


def _listed(given: Given, shape: list[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """From a list, flat or nested as the shape is, by pieces: Python's objects for all of them would be ten times its text."""
    text, n, at = bytes(given.data).strip(), prod(shape), 0
    values = np.empty(min(n, len(text)), dtype)
    flat = text.translate(None, b"[]") if _is_nested(text, shape) else text[1:-1]
    try:
        if not text.startswith(b"["):
            raise ValueError("no list")
        with np.errstate(over="ignore"):  # what is too large for FP32 is found later
            for piece in _pieces(flat):
                found = _LISTS[given.datatype].decode(piece)
                values[at : at + len(found)] = found
                at += len(found)
    except (msgspec.MsgspecError, ValueError):  # the latter of numpy: there are more than n
        at = 0
    if at != n:
        raise BadRequest(
            f"input {given.name}: data is no list of {n} numbers for {given.datatype}, flat or nested as its shape {shape}"
        )
    return values


def _is_nested(text: bytes, shape: list[int]) -> bool:
    """text: JSON. Whether it has numbers, brackets and commas alone, these as a list of this shape has them."""
    n_lists = 1 + sum(prod(shape[:depth]) for depth in range(1, len(shape)))
    if b"[" not in text[1:] or (text.count(b","), text.count(b"[")) != (prod(shape) - 1, n_lists):
        return False
    nest = b""
    for size in reversed(shape):
        nest = b"[%b]" % ((nest + b",") * (size - 1) + nest)
    return text.translate(None, _OF_NUMBERS) == nest


def _pieces(text: bytes) -> Iterator[bytes]:
    """Lists of JSON. text: what is between the brackets of one."""
    at = 0
    while at <= len(text):
        end = text.find(b",", at + PIECE_BYTES)
        end = len(text) if end < 0 else end
        yield b"[%b]" % text[at:end]
        at = end + 1


def _check_values(given: Given, values: NDArray[np.float32]) -> None:
    if not -LARGEST <= values.min() <= values.max() <= LARGEST:  # NaN is not between either
        raise BadRequest(f"input {given.name} has values that are not finite, or beyond {LARGEST:g}: normalise it")


def _binary(given: Given, binary: memoryview) -> memoryview | None:
    """None when the data is in the JSON."""
    size = given.parameters.binary_data_size if given.parameters else None
    if size is None:
        if binary:
            raise BadRequest(f"{len(binary)} bytes follow the JSON, but the input has no binary_data_size")
        if not given.data:
            raise BadRequest(f"input {given.name} has neither data nor binary_data_size")
        return None
    if given.data:
        raise BadRequest(f"input {given.name} has both data and binary_data_size")
    if size != len(binary):
        raise BadRequest(f"binary_data_size = {size}, but {len(binary)} bytes follow the JSON")
    return binary


@dataclass(frozen=True, slots=True)
class Output:
    """values: numbers, or texts row by row."""

    datatype: str
    shape: list[int]
    values: NDArray[Any] | list[str]

    def as_list(self) -> list[Any]:
        """For JSON: flat."""
        return self.values if isinstance(self.values, list) else self.values.ravel().tolist()

    def as_bytes(self) -> bytes:
        if isinstance(self.values, list):
            texts = [text.encode() for text in self.values]
            return b"".join(part for text in texts for part in (struct.pack("<I", len(text)), text))
        return self.values.tobytes()


def bytes_output(rows: Sequence[Sequence[str]]) -> Output:
    return Output("BYTES", [len(rows), len(rows[0])], [text for row in rows for text in row])


def number_output(datatype: str, rows: Any) -> Output:
    values = np.asarray(rows, _DTYPES[datatype])
    return Output(datatype, list(values.shape), values)
