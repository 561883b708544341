"""Pure: SHA-256 of files' bytes and of named tensors, the same wherever the tensors lie."""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


def digest_bytes(data: bytes | memoryview) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_json(value: object) -> str:
    """Of the canonical form: sorted keys, no spaces, UTF-8."""
    return digest_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def digest_tensors(tensors: Mapping[str, "NDArray[Any]"]) -> str:
    """Of names, dtypes, shapes and values, in the order of the names; equal for equal tensors in any memory layout."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name}\0{tensor.dtype.str}\0{tensor.shape}\0".encode())
        total.update(tensor.ravel().view("u1").data)
    return total.hexdigest()
