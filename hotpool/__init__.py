"""hotpool: a worker pool that serves image classifiers on CPUs and changes their weights while it serves."""

from .client import AsyncClient, ClassScore, Client, Prediction
from .errors import (
    BadImage,
    BadInput,
    BrokerUnreachable,
    DeadlineExceeded,
    HotpoolError,
    ModelError,
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
    "PoisonRequest",
    "Prediction",
    "QueueFull",
    "TooLarge",
    "UnknownModel",
    "UnknownVersion",
    "WorkerLost",
    "__version__",
]
