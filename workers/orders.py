"""Pure: what the supervisor, the template and the worker processes say to each other, and how a worker process ends.

One JSON object a line. The supervisor and the template talk over a socket pair; the settings reach the worker by fork.
"""

from pathlib import Path

import msgspec
from msgspec import Struct

from hotpool.home import Home

# Exit codes of a worker process. 0: it was asked to stop. 1: a bug, 2: as argparse uses it.
BOOT_FAILED = 3  # its version could not be loaded or verified
BROKER_GONE = 4
ORPHANED = 5  # its supervisor is gone


class Settings(Struct, frozen=True):
    """All that one worker process needs to know. home: its path."""

    home: str
    model: str
    worker: str
    incarnation: int
    cores: tuple[int, ...]
    threads: int
    max_batch: int
    max_bytes: int
    max_pixels: int
    load_memory_mb: int = 8192
    broker_gone_s: float = 60.0  # without a broker for so long, it ends: nothing may linger for ever


def exit_file(home: Home, pid: int) -> Path:
    """Where a worker process writes why it ends, for its supervisor."""
    return home.run / f"exit-{pid}"


class ForkOrder(Struct, frozen=True, tag="fork"):
    """Supervisor to template: start this worker's process."""

    settings: Settings


class Forked(Struct, frozen=True, tag="forked"):
    """Template to supervisor."""

    worker: str
    incarnation: int
    pid: int


class NotForked(Struct, frozen=True, tag="not_forked"):
    """Template to supervisor: the system gave no process. reason: in its words."""

    worker: str
    incarnation: int
    reason: str


class Exited(Struct, frozen=True, tag="exited"):
    """Template to supervisor. code: as in `subprocess`, negative for a signal."""

    pid: int
    code: int


FromTemplate = Forked | NotForked | Exited

_encoder = msgspec.json.Encoder()
_order = msgspec.json.Decoder(ForkOrder)
_from_template: "msgspec.json.Decoder[FromTemplate]" = msgspec.json.Decoder(FromTemplate)


def encode_line(message: ForkOrder | FromTemplate) -> bytes:
    return _encoder.encode(message) + b"\n"


def decode_order(line: bytes) -> ForkOrder:
    return _order.decode(line)


def decode_from_template(line: bytes) -> FromTemplate:
    return _from_template.decode(line)


def take_lines(buffer: bytearray) -> list[bytes]:
    """Removes the complete lines from the buffer and returns them."""
    *lines, rest = bytes(buffer).split(b"\n")
    buffer[:] = rest
    return lines
