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
    """Report at once when this local process ends. pulse_thread: one that ends with it; 0 where it can't be told."""

    pid: int
    pulse_thread: int


@dataclass(frozen=True, slots=True)
class ExamineSilence:
    """This worker will soon have been silent for too long: report whether the thread that should have been heard could run and
    is not let. pid, pulse_thread: as in its hello."""

    worker: str
    pid: int
    pulse_thread: int


Action = ToClient | ToWorker | WatchProcess | ExamineSilence
