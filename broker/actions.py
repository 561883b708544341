"""Pure: what the core wants done. The shell does it and decides nothing."""

from collections.abc import Sized
from dataclasses import dataclass
from typing import NamedTuple

from hotpool.messages import Message

# The bytes of a request or an answer. The broker passes them on as they lie and asks nothing but their number.
Payload = Sized


class ToClient(NamedTuple):
    """Send on the clients' socket. connection: as ROUTER names it."""

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
