"""Pure: what the core wants done. The shell does it and decides nothing."""

from dataclasses import dataclass
from typing import NamedTuple

from hotpool.messages import Message

# Of a request or an answer. The broker passes it on and asks nothing but its length.
Payload = bytes


class ToClient(NamedTuple):
    """Send on the clients' socket. connection: as the router names it."""

    connection: bytes
    message: Message
    payload: Payload | None = None


class ToWorker(NamedTuple):
    """Send on the workers' socket, to a worker or a supervisor."""

    connection: bytes
    message: Message
    payload: Payload | None = None


@dataclass(frozen=True, slots=True)
class WatchProcess:
    """Report at once when this local process ends. threads: of it, and with it they end."""

    pid: int
    threads: tuple[int, ...] = ()


Action = ToClient | ToWorker | WatchProcess
