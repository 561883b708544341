"""Pure: from a batch of leases to one answer each: inputs grouped, computed together, failures kept apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hotpool.classes import softmax, top_classes
from hotpool.errors import BadInput, HotpoolError
from hotpool.messages import Done, Failed, Message, Result, Work
from hotpool.states import Executed
from hotpool.wire import MAX_HEADER_BYTES, encode_body

FloatArray = NDArray[np.float32]
Engine = Callable[[FloatArray], FloatArray]
Join = Callable[[Sequence[FloatArray]], FloatArray]

# What an engine raises on an input it can't take: torch reports shapes, and memory that it can't get, as RuntimeError.
ENGINE_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError, MemoryError)

# Pictures that an engine computes at once at most: more are no faster each, and a request may bring 256, each of which has
# 13 MB between the layers of a VGG-16.
AT_ONCE = 8

MESSAGE_CHARS = 1000  # the wire takes 2000
MAX_RESULT_BYTES = MAX_HEADER_BYTES - 1024  # the rest of the header is small


@dataclass(frozen=True, slots=True)
class Lease:
    """A request this worker holds. rows: its inputs, (n, 3, h, w)."""

    job: int
    work: Work
    rows: FloatArray

    @property
    def kind(self) -> tuple[bool, tuple[int, ...]]:
        """Leases of one kind can be computed together. Tensors stay apart: they come in any number and size."""
        return self.work.kind == "tensor", self.rows.shape[1:]


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send for a lease; payload: raw logits, for who asked for them."""

    message: Message
    payload: bytes | None = None


class Spent(NamedTuple):
    """On leases that were computed together, from their receipt to their answers.

    service_us: by the clock. cpu_us: of the processor's time. batch: rows.
    """

    service_us: int
    cpu_us: int
    batch: int


class PictureRows:
    """Where the pictures of a batch lie: one after another, channels last, as the engine reads them. None is copied again.

    The memory serves batch after batch: new memory costs a page fault for every 4 KiB that are written to it.
    """

    def __init__(self, n: int, side: int) -> None:
        self._rows = np.empty((n, side, side, 3), np.float32)
        self._kept: list[FloatArray] = []

    @property
    def side(self) -> int:
        return int(self._rows.shape[1])

    def clear(self) -> None:
        """Begins a batch. What was kept before will be written over."""
        self._kept.clear()

    def free(self) -> FloatArray:
        """(side, side, 3), for the next picture. One that fails leaves it to the one after."""
        row: FloatArray = self._rows[len(self._kept)]
        return row

    def keep(self) -> FloatArray:
        """(1, 3, side, side): the picture that was just written, as it lies."""
        n = len(self._kept)
        self._kept.append(self._rows[n : n + 1].transpose(0, 3, 1, 2))
        return self._kept[n]

    def join(self, parts: Sequence[FloatArray]) -> FloatArray:
        """All as one array: as they lie if these are the first kept, in that order, else a copy (so if one came too late)."""
        n = len(parts)
        if n <= len(self._kept) and all(part is kept for part, kept in zip(parts, self._kept, strict=False)):
            return self._rows[:n].transpose(0, 3, 1, 2)
        return np.concatenate(parts)


def failed(job: int, error: Exception, service_us: int) -> Answer:
    """The answer for a lease whose input or computation raised this."""
    if isinstance(error, HotpoolError):
        code, executed = error.code, error.executed
    else:
        code, executed = "model_error", Executed.YES
    return Answer(Failed(job, service_us, code, one_line(error), executed))


def one_line(error: BaseException) -> str:
    """The first line of an error's text, with its class if that says more."""
    text = (str(error).splitlines() or [""])[0]
    if not isinstance(error, HotpoolError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text[:MESSAGE_CHARS]


def group(leases: Sequence[Lease], max_batch: int) -> list[list[Lease]]:
    """Leases that are computed together: of one kind, at most `max_batch` rows unless one lease has more by itself."""
    groups: list[list[Lease]] = []
    open_groups: dict[object, tuple[list[Lease], int]] = {}
    for lease in leases:
        n_rows = len(lease.rows)
        members, n_before = open_groups.get(lease.kind, ([], max_batch))
        if n_before + n_rows > max_batch:
            members, n_before = [], 0
            groups.append(members)
        members.append(lease)
        open_groups[lease.kind] = members, n_before + n_rows
    return groups


def compute(engine: Engine, leases: Sequence[Lease], join: Join = np.concatenate) -> list[FloatArray | Exception]:
    """Logits for each lease of a group, or what its computation raised: a failed batch is computed again one by one."""
    rows = leases[0].rows if len(leases) == 1 else join([lease.rows for lease in leases])
    try:
        logits = engine(rows)
    except (HotpoolError, *ENGINE_ERRORS) as error:
        if len(leases) == 1:
            return [error]
        return [outcome for lease in leases for outcome in compute(engine, [lease])]
    if len(leases) == 1:
        return [logits]
    ends = np.cumsum([len(lease.rows) for lease in leases])
    return list(np.split(logits, ends[:-1]))


def answer(lease: Lease, outcome: FloatArray | Exception, labels: Sequence[str], spent: Spent) -> Answer:
    """Logits for a tensor; for a picture the most probable classes, and logits too if asked."""
    if isinstance(outcome, Exception):
        return failed(lease.job, outcome, spent.service_us)
    if not np.isfinite(outcome).all():
        return failed(lease.job, ArithmeticError("the model's output is not finite for this input"), spent.service_us)
    if lease.work.kind == "tensor":
        top1, confidence = _top1(outcome)
        done = Done(
            lease.job, spent.service_us, encode_body(Result(shape=outcome.shape)), top1, confidence, spent.batch, spent.cpu_us
        )  # fmt: skip
        return Answer(done, _payload(outcome))
    classes = top_classes(outcome[0], labels, lease.work.top)
    body = encode_body(Result(classes=classes, shape=outcome.shape if lease.work.logits else ()))
    if len(body) > MAX_RESULT_BYTES:
        error = BadInput(
            f"top = {lease.work.top}: the answer has {len(body)} bytes, allowed are {MAX_RESULT_BYTES}; ask for fewer"
        )
        return failed(lease.job, error, spent.service_us)
    done = Done(lease.job, spent.service_us, body, classes[0][0], classes[0][2], spent.batch, spent.cpu_us)
    return Answer(done, _payload(outcome) if lease.work.logits else None)


def _payload(logits: FloatArray) -> bytes:
    return np.ascontiguousarray(logits, dtype="<f4").tobytes()


def _top1(logits: FloatArray) -> tuple[int, float]:
    """The most probable class of one row, and its probability; of more rows there is no such thing."""
    if len(logits) != 1:
        return -1, 0.0
    best = int(logits[0].argmax())
    return best, float(softmax(logits[0])[best])


def tensor_rows(shape: tuple[int, ...], payload: bytes) -> FloatArray:
    """The payload of a `tensor` request as (n, 3, h, w), without a copy.

    Raises:
        BadInput: the shape is not that, or not that of the payload.
    """
    if len(shape) != 4 or shape[1] != 3 or min(shape) < 1:
        raise BadInput(f"tensor of shape {shape}: expected (n, 3, height, width), none of them 0")
    return _array(payload, np.dtype("<f4"), shape).astype(np.float32, copy=False)


def pixels_array(shape: tuple[int, ...], payload: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """The payload of a `pixels` request as (height, width, 3), without a copy.

    Raises:
        BadInput: the shape is not that, or not that of the payload, or there are too many.
    """
    if len(shape) != 3 or shape[2] != 3 or min(shape) < 1:
        raise BadInput(f"pixels of shape {shape}: expected (height, width, 3), none of them 0")
    if shape[0] * shape[1] > max_pixels:
        raise BadInput(f"pixels of shape {shape}: {shape[0] * shape[1]} pixels, allowed are {max_pixels}")
    return _array(payload, np.dtype(np.uint8), shape)


def _array(payload: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    expected = dtype.itemsize
    for size in shape:
        expected *= size  # Python's own integers: a hostile shape must not overflow
    if len(payload) != expected:
        raise BadInput(f"{dtype} of shape {shape} has {expected} bytes, the payload {len(payload)}")
    return np.frombuffer(payload, dtype).reshape(shape)
