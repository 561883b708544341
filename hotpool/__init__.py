"""hotpool: a worker pool that serves image classifiers on CPUs and changes their weights while it serves."""

from .answers import ClassScore, Prediction
from .async_client import AsyncClient
from .client import Client
from .errors import (
    BadImage,
    BadInput,
    BrokerUnreachable,
    DeadlineExceeded,
    HotpoolError,
    ModelError,
    NoReadyWorker,
    PoisonRequest,
    QueueFull,
    TooLarge,
    UnknownModel,
    UnknownVersion,
    WorkerLost,
)

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "BadImage",
    "BadInput",
    "BrokerUnreachable",
    "ClassScore",
    "Client",
    "DeadlineExceeded",
    "HotpoolError",
    "ModelError",
    "NoReadyWorker",
    "PoisonRequest",
    "Prediction",
    "QueueFull",
    "TooLarge",
    "UnknownModel",
    "UnknownVersion",
    "WorkerLost",
    "__version__",
]
