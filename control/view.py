"""Pure: what the controller sees of the pool."""

from collections.abc import Mapping
from dataclasses import dataclass

from hotpool.evidence import Counts
from hotpool.messages import ModelReport, WorkerReport

from .verdicts import Labelled


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found. reason: what is wrong, empty when nothing is. labelled: if it was to look at such pictures."""

    is_good: bool
    reason: str = ""
    seconds: float = 0.0
    labelled: Labelled | None = None
    unreadable: int = 0  # of the labelled pictures


@dataclass(frozen=True, slots=True)
class Evaluating:
    """A preflight under way has asked both versions about so many labelled pictures."""

    pictures: int


@dataclass(frozen=True, slots=True)
class Probed:
    """What a worker answered to the golden inputs of the version it serves.

    reason: what is wrong, empty when nothing is. token: of its last load before it was asked.
    """

    worker: str
    incarnation: int
    digest: str
    version: str
    reason: str = ""
    token: str = ""


@dataclass(frozen=True, slots=True)
class Round:
    """Every ready worker asked once; one that had no time is missing. trouble: why some could not be asked at all."""

    probed: tuple[Probed, ...]
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """What is, as far as the controller can see.

    workers: of the model, by name. table: the broker's version table. pointer: the digest workers boot. preflight, weights: of
    the target, None while not known. counts: the broker's evidence; None while there is none.
    round: of probes, the last one that has ended. taken_out: workers that are to be restarted because of one.
    """

    workers: Mapping[str, WorkerReport]
    table: ModelReport | None
    pointer: str | None
    preflight: Finding | Evaluating | None = None
    weights: Finding | None = None
    counts: Counts | None = None
    round: Round | None = None
    is_probe_due: bool = False
    taken_out: frozenset[str] = frozenset()
