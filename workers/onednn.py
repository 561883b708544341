"""Shell: oneDNN by its C interface: operations that are made once for each shape and run as often as wanted.

torch has a oneDNN inside, lets nobody at it, and makes each operation anew in each call: a fifth of the time of one picture in
int8. So this is the library of the package `onednn-cpu-gomp`, which uses the OpenMP that torch has loaded. Numbers are those of
oneDNN's dnnl_types.h, which hold for all its versions 3.
"""

import ctypes
import functools
from collections.abc import Mapping, Sequence
from ctypes import byref, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint, c_void_p
from importlib.metadata import PackageNotFoundError, files
from typing import NamedTuple
from weakref import finalize

import torch  # before the library: it takes the OpenMP that is there already

PACKAGE, FILE = "onednn-cpu-gomp", "libdnnl.so.3"
MAJOR = 3
ALIGNMENT = 64  # bytes: a line of the cache

SRC, DST, WEIGHTS, BIAS, SCRATCHPAD = 1, 17, 33, 41, 80  # what a memory is to an operation
SCALES, ZERO_POINTS = 4096, 8192  # added to one of them
# By which of a tensor's dimensions its scales go.
PER_TENSOR, PER_OUTPUT_CHANNEL, PER_OUTPUT_CHANNEL_OF_GROUPS = 0b0, 0b1, 0b11
_CPU, _IN_ORDER, _ANY, _FORWARD_INFERENCE, _DIRECT, _MAX, _RELU, _USER = 1, 1, 1, 96, 1, 511, 32, 1
_QUERY_IMPLEMENTATION, _QUERY_WEIGHTS, _QUERY_SCRATCHPAD = 8, 131, 136
_DTYPES = {torch.float32: 3, torch.int32: 4, torch.int8: 5, torch.uint8: 6}


class _Version(ctypes.Structure):
    _fields_ = [
        ("major", c_int), ("minor", c_int), ("patch", c_int), ("hash", c_char_p), ("cpu", c_uint), ("gpu", c_uint)
    ]  # fmt: skip


class _Argument(ctypes.Structure):
    _fields_ = [("role", c_int), ("memory", c_void_p)]


class NoKernelError(RuntimeError):
    """oneDNN can't compute this, or only by its reference code, value by value: a ResNet-50 took 40 times as long so."""


_ERRORS = {1: MemoryError, 3: NoKernelError}  # by status


def _load() -> ctypes.CDLL:
    """Raises OSError: it is not installed, can't be loaded, or is another version."""
    try:
        found = [file.locate() for file in files(PACKAGE) or () if file.name == FILE]
    except PackageNotFoundError:
        found = []
    if not found:
        raise OSError(f"the package {PACKAGE} is not installed")
    library = ctypes.CDLL(str(found[0]))
    library.dnnl_version.restype = ctypes.POINTER(_Version)
    if (major := library.dnnl_version().contents.major) != MAJOR:
        raise OSError(f"{found[0]} is oneDNN {major}, not {MAJOR}")
    library.dnnl_memory_desc_get_size.restype = c_size_t
    library.dnnl_memory_desc_get_size.argtypes = [c_void_p]
    library.dnnl_primitive_desc_query_md.restype = c_void_p
    library.dnnl_primitive_desc_query_md.argtypes = [c_void_p, c_int, c_int]
    library.dnnl_primitive_execute.argtypes = [c_void_p, c_void_p, c_int, c_void_p]
    library.dnnl_memory_set_data_handle.argtypes = [c_void_p, c_void_p]
    return library


def _try_to_load() -> tuple[ctypes.CDLL | None, str]:
    try:
        return _load(), ""
    except (OSError, AttributeError) as error:  # AttributeError: a function is missing in it
        return None, str(error)


# Before any fork: a child must not load libraries. The second: why there is none, empty when there is.
_LIBRARY, why_missing = _try_to_load()


def _call(name: str, *arguments: object) -> None:
    """Raises RuntimeError: oneDNN was asked wrongly, or is not there; NoKernelError; MemoryError."""
    if _LIBRARY is None:
        raise RuntimeError(why_missing)
    if status := getattr(_LIBRARY, f"dnnl_{name}")(*arguments):
        raise _ERRORS.get(status, RuntimeError)(f"oneDNN: {name} gave status {status}")


class Owned:
    """Something that oneDNN has made, given back when nobody refers to it any more. May be passed to `_call`."""

    def __init__(self, kind: str, make: str, *arguments: object) -> None:
        made = c_void_p()
        _call(make, byref(made), *arguments)
        self._as_parameter_ = made
        finalize(self, _call, f"{kind}_destroy", made).atexit = False  # at exit, it all goes anyway


@functools.cache
def _engine() -> Owned:
    """It computes with as many threads as OpenMP has by default (OMP_NUM_THREADS): torch's number holds for the thread alone
    that has set it."""
    return Owned("engine", "engine_create", _CPU, c_size_t(0))


@functools.cache
def _stream() -> Owned:
    """Of a CPU it has no state: whoever runs something has waited for it."""
    return Owned("stream", "stream_create", _engine(), _IN_ORDER)


class Memory(Owned):
    """A tensor where it lies, for oneDNN; one on the meta device lies nowhere yet.

    described: its shape and order, if torch has no word for that order.
    """

    def __init__(self, tensor: torch.Tensor, described: Owned | None = None) -> None:
        self.tensor, self.described = tensor, described or describe(tensor)
        super().__init__("memory", "memory_create", self.described, _engine(), c_void_p(tensor.data_ptr()))

    def point_to(self, tensor: torch.Tensor) -> None:
        """From now on it is that tensor, which has the same shape, type and order, and is kept by the caller."""
        _call("memory_set_data_handle", self, tensor.data_ptr())


def describe(tensor: torch.Tensor) -> Owned:
    size, strides = _longs(tensor.shape), _longs(tensor.stride())
    dtype = _DTYPES[tensor.dtype]
    return Owned("memory_desc", "memory_desc_create_with_strides", tensor.dim(), size, dtype, strides)


def describe_any(tensor: torch.Tensor) -> Owned:
    """In whatever order suits an operation best."""
    size, dtype = _longs(tensor.shape), _DTYPES[tensor.dtype]
    return Owned("memory_desc", "memory_desc_create_with_tag", tensor.dim(), size, dtype, _ANY)


def attributes(
    scales: Mapping[int, int],
    zero_points: Sequence[int] = (),
    *,
    adds: bool = False,
    is_rectified: bool = False,
) -> Owned:
    """What an operation does beside its work.

    scales: by role, by which dimensions they go. zero_points: roles that have one. Their values are among the operation's
    memories. adds: what is in the output already, as it is stored, before the output's scale. is_rectified: negative outputs
    become 0 in the end.
    """
    attr = Owned("primitive_attr", "primitive_attr_create")
    _call("primitive_attr_set_scratchpad_mode", attr, _USER)  # oneDNN's own must not go from one thread to another
    for role, mask in scales.items():
        _call("primitive_attr_set_scales_mask", attr, role, mask)
    for role in zero_points:
        _call("primitive_attr_set_zero_points_mask", attr, role, 0)
    post_ops = Owned("post_ops", "post_ops_create")
    if adds:
        _call("post_ops_append_sum", post_ops, c_float(1), 0, 0)
    if is_rectified:
        _call("post_ops_append_eltwise", post_ops, _RELU, c_float(0), c_float(0))
    _call("primitive_attr_set_post_ops", attr, post_ops)
    return attr


def convolution(
    x: Owned,
    weight: Owned,
    bias: Owned | None,
    y: Owned,
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    attr: Owned,
) -> Owned:
    """What an `Operation` is made of, of the descriptions of its tensors and its attributes. Raises NoKernelError."""
    before = behind = _longs(padding)
    sizes = _longs(stride), _longs([step - 1 for step in dilation]), before, behind
    return _with_kernel(
        "convolution_forward_primitive_desc_create", _engine(), _FORWARD_INFERENCE, _DIRECT,
        x, weight, bias, y, *sizes, attr,
    )  # fmt: skip


def implementation(description: Owned) -> str:
    """oneDNN's name for how it will compute this."""
    name = c_char_p()
    _call("primitive_desc_query", description, _QUERY_IMPLEMENTATION, 0, byref(name))
    return (name.value or b"").decode()


def _with_kernel(make: str, *arguments: object) -> Owned:
    description = Owned("primitive_desc", make, *arguments)
    if (name := implementation(description)).startswith("ref"):
        raise NoKernelError(f"{make} finds no kernel on this CPU, only {name}")
    return description


def max_pooling(x: Memory, y: Memory, kernel: int, stride: int, padding: int) -> Owned:
    """What an `Operation` is made of. As much is added behind as y needs."""
    sizes = zip(x.tensor.shape[2:], y.tensor.shape[2:], strict=True)
    behind = [(out - 1) * stride + kernel - size - padding for size, out in sizes]
    ends = (_longs([padding, padding]), _longs(behind))
    strides, kernels, dense = (_longs([value, value]) for value in (stride, kernel, 0))
    return Owned(
        "primitive_desc", "pooling_forward_primitive_desc_create", _engine(), _FORWARD_INFERENCE, _MAX,
        x.described, y.described, strides, kernels, dense, *ends, attributes({}),
    )  # fmt: skip


def product(left: Memory, right: Memory, y: Memory, attr: Owned) -> Owned:
    """What an `Operation` is made of: (n, k) times (k, m), or one (1, n, k) times each of (groups, k, m). Raises
    NoKernelError."""
    descriptions = left.described, right.described, None, y.described  # the third: no bias
    return _with_kernel("matmul_primitive_desc_create", _engine(), *descriptions, attr)


def reorder(x: Memory, y: Memory, attr: Owned) -> Owned:
    """What an `Operation` is made of: y is x in its own order and type."""
    return Owned(
        "primitive_desc", "reorder_primitive_desc_create", x.described, _engine(), y.described, _engine(), attr
    )


def pack(weight: torch.Tensor, operation: Owned) -> Memory:
    """A copy of the weight in the order that the operation wants."""
    assert _LIBRARY is not None
    wanted = c_void_p(_LIBRARY.dnnl_primitive_desc_query_md(operation, _QUERY_WEIGHTS, 0))
    described = Owned("memory_desc", "memory_desc_clone", wanted)
    packed = Memory(aligned(_LIBRARY.dnnl_memory_desc_get_size(wanted)), described)
    plain = Memory(weight)
    Program([Operation(reorder(plain, packed, attributes({})), {SRC: plain, DST: packed})]).run()
    return packed


def aligned(n: int) -> torch.Tensor:
    """n bytes that begin where oneDNN likes it."""
    memory = torch.empty(n + ALIGNMENT, dtype=torch.uint8)
    return memory[-memory.data_ptr() % ALIGNMENT :][:n]


class Operation(NamedTuple):
    """What a `Program` runs. memories: by their roles."""

    description: Owned
    memories: Mapping[int, Memory]


class Program:
    """Operations that run one after another, all with one scratchpad: each writes to its own before it reads there, and 20 of
    one network took 2 to 5 MB. Nothing is made any more when it runs."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        assert _LIBRARY is not None
        needed = [_LIBRARY.dnnl_memory_desc_get_size(_scratchpad_of(one.description)) for one in operations]
        scratchpad = aligned(max(needed, default=0))
        self._memories = [dict(one.memories) for one in operations]
        self._calls = []
        for operation, memories, n_bytes in zip(operations, self._memories, needed, strict=True):
            if n_bytes:
                described = Owned("memory_desc", "memory_desc_clone", _scratchpad_of(operation.description))
                memories[SCRATCHPAD] = Memory(scratchpad, described)
            primitive = Owned("primitive", "primitive_create", operation.description)
            roles = [_Argument(role, memory._as_parameter_) for role, memory in memories.items()]
            self._calls.append((primitive, _stream(), len(roles), (_Argument * len(roles))(*roles)))
        self._execute = _LIBRARY.dnnl_primitive_execute

    def run(self) -> None:
        """Done when it returns. The memories have to stay where they are until then, and no other thread may run it."""
        for call in self._calls:
            if status := self._execute(*call):
                raise _ERRORS.get(status, RuntimeError)(f"oneDNN: primitive_execute gave status {status}")


def _scratchpad_of(description: Owned) -> c_void_p:
    """Described; it is the description's own."""
    assert _LIBRARY is not None
    return c_void_p(_LIBRARY.dnnl_primitive_desc_query_md(description, _QUERY_SCRATCHPAD, 0))


def _longs(values: Sequence[int]) -> "ctypes.Array[c_int64]":
    return (c_int64 * len(values))(*values)
