"""Pure: a request without an outcome, and its being held by a worker."""

from dataclasses import dataclass

from msgspec import Raw

from .actions import Payload


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
    attempts: int = 0
    kills: int = 0  # workers lost while they held this request alone
    is_suspect: bool = False  # a worker was lost with it: from now on it is leased alone
    lease: "Lease | None" = None

    @property
    def lane(self) -> tuple[str, str | None]:
        return self.model, self.version


@dataclass(slots=True, eq=False)
class Lease:
    """One request held by one worker. pending: None when the caller does not wait any more. version, digest: of what computes
    it, which is what the worker served when the job was sent: an order to serve another version comes after it."""

    job: int
    pending: Pending | None
    sent_at: float
    version: str
    digest: str
