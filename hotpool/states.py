"""Pure: the words for where a worker, a rollout and a request are. Imports nothing of ours."""

from enum import IntEnum, StrEnum


class WorkerState(StrEnum):
    """Where a worker (a numbered seat) is, as the broker sees it."""

    DOWN = "down"  # no process in the seat, or it is not connected
    STARTING = "starting"  # a process was forked; it has not yet said hello with a verified version
    READY = "ready"  # may receive leases
    DRAINING = "draining"  # gets no new leases, some are still open
    DRAINED = "drained"  # gets no leases and holds none
    LOADING = "loading"  # reads a version's weights beside the ones it holds
    VERIFYING = "verifying"  # compares what it loaded with what the version's manifest promises


class Phase(StrEnum):
    """Where a rollout is."""

    PENDING = "pending"
    PREFLIGHT = "preflight"
    CANARY = "canary"
    ANALYZING = "analyzing"
    ROLLING = "rolling"
    BAKING = "baking"
    COMMITTING = "committing"
    SUCCEEDED = "succeeded"
    REJECTED = "rejected"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"


class Strategy(StrEnum):
    """How a rollout brings a worker from one version to the other."""

    DRAIN = "drain"  # it is taken out of service, loads, and rejoins
    BESIDE = "beside"  # it loads beside what it serves, and swaps between two requests
    SURGE = "surge"  # as drain, while a spare worker serves in its place


_SPARE = "spare-"


def spare_name(number: int) -> str:
    """Of a worker that is there for the time of a rollout."""
    return f"{_SPARE}{number}"


def is_spare(worker: str) -> bool:
    """By its name, which is all that a broker knows of a worker whose supervisor it has not heard yet."""
    return worker.startswith(_SPARE)


FINAL_PHASES = frozenset({Phase.SUCCEEDED, Phase.REJECTED, Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED})


class Priority(IntEnum):
    """Who goes first when workers are short; the weights are in `broker/lanes.py`."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class Executed(StrEnum):
    """Whether the work behind an error was done. `no` may always be tried again without harm."""

    NO = "no"
    MAYBE = "maybe"
    YES = "yes"
