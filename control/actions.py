"""Pure: what the controller may decide to do. `decide` chooses, the controller carries out."""

from dataclasses import dataclass
from typing import Any

from hotpool.messages import Policy, WorkerReport

from .events import EventKind
from .settings import Settings


@dataclass(frozen=True, slots=True)
class Record:
    """Append this event."""

    kind: EventKind
    body: dict[str, Any]
    rollout: int | None = None


@dataclass(frozen=True, slots=True)
class SetTable:
    """Tell the broker which versions may serve."""

    stable: str
    target: str | None
    names: dict[str, str]
    policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class PointStable:
    """Let workers boot this version from now on."""

    digest: str


@dataclass(frozen=True, slots=True)
class RunPreflight:
    """Check the version in a scratch process; the view's `preflight` tells when it has ended."""

    digest: str
    settings: Settings
    stable: str  # the version to compare it with, where there are labelled pictures


@dataclass(frozen=True, slots=True)
class CheckWeights:
    """Compare the weights file with its manifest; the view's `weights` tells the result."""

    digest: str


@dataclass(frozen=True, slots=True)
class Drain:
    """floor: how many workers must stay ready; the broker looks once more at the moment of draining."""

    worker: str
    floor: int


@dataclass(frozen=True, slots=True)
class Load:
    """beside: while it serves."""

    worker: str
    digest: str
    token: str
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Undrain:
    worker: str


@dataclass(frozen=True, slots=True)
class Restart:
    """End the process of a drained worker, if it is still this one."""

    worker: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class SetSpares:
    """So many seats beside the ordinary ones."""

    n: int


@dataclass(frozen=True, slots=True)
class RunProbes:
    """Ask these workers the golden inputs of what they serve; the view's `round` tells the result."""

    workers: tuple[WorkerReport, ...]


Command = SetTable | Drain | Load | Undrain | Restart | SetSpares  # to the broker
Action = Record | PointStable | RunPreflight | CheckWeights | RunProbes | Command
