"""hotpool: a worker pool that serves image classifiers on CPUs and changes their weights while it serves."""

from importlib import import_module
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from .answers import ClassScore, Prediction
    from .async_client import AsyncClient
    from .client import Client

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

# Imported when first asked for: with numpy and asyncio they take 0.1 s, and broker and command line need neither.
_LATER = {"AsyncClient": "async_client", "ClassScore": "answers", "Client": "client", "Prediction": "answers"}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f".{_LATER[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
