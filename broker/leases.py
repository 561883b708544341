"""Pure: a request without an outcome, its being held by a worker, its shadow copy, and a probe."""

from dataclasses import dataclass

from msgspec import Raw

from .actions import Payload
from .evidence import Run


@dataclass(slots=True, eq=False)
class Pair:
    """A request that stable answers and its copy to the target: the most probable class of either, once it is known."""

    run: Run
    original: int | None = None
    copy: int | None = None
    is_over: bool = False  # compared, or one of the two came to nothing


@dataclass(slots=True, eq=False)
class Pending:
    """A request that has no outcome yet."""

    id: bytes
    client: bytes  # the connection that asked last
    model: str
    version: str | None  # alias or digest; None: any that is admitted
    priority: int
    submitted_at: float
    deadline: float
    work: Raw
    payload: Payload
    route: bytes = b""  # decides between stable and target in place of the id
    goes_to: str | None = None  # alias or digest of what may answer it now; None: any that is admitted
    attempts: int = 0
    losses: int = 0  # workers lost while they held it; who starved is none, it comes back
    kills: int = 0  # workers lost while they held this request alone
    is_suspect: bool = False  # a worker was lost with it: from now on it is leased alone
    lease: "Lease | None" = None
    pair: Pair | None = None  # while a copy of it may still be compared with its answer

    @property
    def lane(self) -> tuple[str, str | None]:
        return self.model, self.goes_to


@dataclass(slots=True, eq=False)
class Probe:
    """A question to one worker, while it serves this version. client: the connection that asked last."""

    id: bytes
    client: bytes
    model: str
    worker: str
    digest: str
    deadline: float
    work: Raw
    payload: Payload


@dataclass(slots=True, eq=False)
class Lease:
    """One request held by one worker. pending: None when the caller does not wait any more, and for shadow copies and
    probes, which never had one. version, digest: of what computes it, which is what the worker served when the job was sent: an
    order to serve another version comes after it."""

    job: int
    pending: Pending | None
    sent_at: float
    version: str
    digest: str
    pair: Pair | None = None  # of a shadow copy
    probe: Probe | None = None
