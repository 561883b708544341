"""Pure: a reply as callers get it."""

from dataclasses import dataclass
from itertools import starmap

import numpy as np
from numpy.typing import NDArray

from .errors import RemoteProtocolError
from .messages import Reply
from .states import Executed
from .wire import decode_result

Answer = tuple[Reply, bytes | None]  # with its payload


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class of a prediction. probability: softmax over all classes of the version, 0..1."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """Classes, the most probable first, and which version on which worker said so.

    attempt: 1, or more if workers were lost on the way. queue_ms: from the broker's receipt to the lease; service_ms: in the
    worker, decoding included.
    """

    classes: tuple[ClassScore, ...]
    model: str
    version: str
    digest: str
    worker: str
    attempt: int
    queue_ms: float
    service_ms: float

    @property
    def label(self) -> str:
        """Of the most probable class."""
        return self.classes[0].label


def prediction_of(answer: Answer) -> Prediction:
    """Raises RemoteProtocolError."""
    reply, _ = answer
    classes = tuple(starmap(ClassScore, decode_result(reply.result).classes))
    if not classes:
        raise RemoteProtocolError("the reply lists no classes", executed=Executed.YES)
    return Prediction(
        classes, reply.model, reply.version, reply.digest, reply.worker, reply.attempt,
        reply.queue_us / 1e3, reply.service_us / 1e3,
    )  # fmt: skip


def logits_of(answer: Answer) -> NDArray[np.float32]:
    """(n, classes). Raises RemoteProtocolError."""
    reply, payload = answer
    shape = decode_result(reply.result).shape
    if payload is None or len(shape) != 2 or min(shape) < 1 or len(payload) != 4 * shape[0] * shape[1]:
        raise RemoteProtocolError(f"the reply's logits do not have the shape {shape} it names", executed=Executed.YES)
    return np.frombuffer(payload, "<f4").reshape(shape)
