"""Pure: tensors of the Open Inference Protocol, in JSON and in binary: what comes in as parts for the pool, what goes out."""

import base64
import binascii
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .failures import BadRequest

MAX_PICTURES = 256  # of one request; each is a request of its own to the pool
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


class Given(msgspec.Struct):
    """An input as it stands in the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw(b"")


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
    if not _is_shape(given.name, given.shape):
        raise BadRequest(f"input {given.name} has shape {str(given.shape)[:100]}, expected {shapes}, none of them 0")
    if given.name == "image":
        return [("picture", (), part) for part in _elements(given, binary)]
    data = _numbers(given, binary)
    if given.name == "tensor":
        return [("tensor", tuple(given.shape), data)]
    height, width = given.shape[-3:-1]
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


def _elements(given: Given, binary: memoryview) -> list[Part]:
    """Of BYTES: in binary each after its length, in JSON as base64, since JSON has no bytes."""
    n = given.shape[0]
    if (data := _binary(given, binary)) is not None:
        parts: list[Part] = list(_after_lengths(data))
    else:
        try:
            parts = [base64.b64decode(text, validate=True) for text in msgspec.json.decode(given.data, type=list[str])]
        except (msgspec.MsgspecError, binascii.Error, ValueError) as error:
            raise BadRequest(
                f"input image: in JSON expected a list of pictures in base64: {error}; or send them as binary data"
            ) from None
    if len(parts) != n:
        raise BadRequest(f"input image has {len(parts)} elements, its shape says {n}")
    return parts


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


def _numbers(given: Given, binary: memoryview) -> memoryview:
    dtype, n = _DTYPES[given.datatype], prod(given.shape)
    if (data := _binary(given, binary)) is not None:
        if len(data) != n * dtype.itemsize:
            raise BadRequest(
                f"input {given.name} has {len(data)} bytes of binary data, its shape says {n * dtype.itemsize}"
            )
    else:
        data = memoryview(_parsed(given, dtype).tobytes())
        if len(data) != n * dtype.itemsize:
            raise BadRequest(f"input {given.name} has {len(data) // dtype.itemsize} values, its shape says {n}")
    if dtype.kind == "f":
        _check_values(given, np.frombuffer(data, dtype))
    return data


def _parsed(given: Given, dtype: np.dtype[Any]) -> NDArray[Any]:
    """From a list, flat or nested as the shape is."""
    try:
        values = np.asarray(msgspec.json.decode(given.data))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadRequest(f"input {given.name}: data can't be read: {error}") from None
    if values.dtype.kind not in ("iuf" if dtype.kind == "f" else "iu"):
        raise BadRequest(f"input {given.name}: data has values that are no {given.datatype}")
    if values.ndim > 1 and list(values.shape) != given.shape:
        raise BadRequest(f"input {given.name}: data is nested as {list(values.shape)}, its shape says {given.shape}")
    if dtype.kind == "u" and values.size and not 0 <= values.min() <= values.max() <= 255:
        raise BadRequest(f"input {given.name}: data has values outside of 0 to 255")
    with np.errstate(over="ignore"):  # what is too large for FP32 is found below
        return values.astype(dtype)


def _check_values(given: Given, values: NDArray[np.float32]) -> None:
    if not -LARGEST <= values.min() <= values.max() <= LARGEST:  # NaN is not between either
        raise BadRequest(f"input {given.name} has values that are not finite, or beyond {LARGEST:g}: normalise it")


def _binary(given: Given, binary: memoryview) -> memoryview | None:
    """None when the data is in the JSON."""
    size = given.parameters.get("binary_data_size")
    if size is None:
        if binary:
            raise BadRequest(f"{len(binary)} bytes follow the JSON, but the input has no binary_data_size")
        if not given.data:
            raise BadRequest(f"input {given.name} has neither data nor binary_data_size")
        return None
    if given.data:
        raise BadRequest(f"input {given.name} has both data and binary_data_size")
    if size != len(binary):
        raise BadRequest(f"binary_data_size = {str(size)[:100]}, but {len(binary)} bytes follow the JSON")
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
