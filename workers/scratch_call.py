"""Shell: both ends of a call by which the template forks a scratch process, which then has torch imported already.

    python -m workers.scratch_call SOCKET ARGUMENT ...      the arguments are those of `workers.scratch`

The caller sends the arguments with its standard output and standard error, hears the process id and at the end the exit code,
and ends in the same way. If it ends before, so does the process. Where no template answers it does the work itself.
Run by control.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

# Nothing else is imported before it is needed: the caller should cost less than the import of torch that it saves.

PATIENCE_S = 5.0  # a template that can answer does so in milliseconds
MAX_BYTES = 65_536


class Call(NamedTuple):
    """files: the caller's standard output and standard error."""

    connection: socket.socket
    arguments: list[str]
    files: list[int]


# ---- the caller


def main() -> int:
    path, *arguments = sys.argv[1:]
    code = ask(path, arguments)
    if code is None:
        from .scratch import main as run

        return run(arguments)
    if code < 0:
        os.kill(os.getpid(), -code)  # whoever started us sees how the process ended
    return code


def ask(path: str, arguments: list[str], patience_s: float = PATIENCE_S) -> int | None:
    """Exit code as in `subprocess` of the process that a template has forked; None: no template, or it ended first."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(patience_s)
        try:
            connection.connect(path)
            socket.send_fds(connection, [json.dumps(arguments).encode()], [1, 2])
            said = connection.makefile("rb")
            int(said.readline())  # the process id
            connection.settimeout(None)
            return int(said.readline())
        except (OSError, ValueError):  # ValueError: no number, for it hung up
            return None


# ---- the template


def listen(path: str) -> socket.socket:
    Path(path).unlink(missing_ok=True)  # of a template that was killed
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    return listener


def take(listener: socket.socket) -> Call | None:
    """The call that waits; None: it is none, and was refused."""
    connection, _ = listener.accept()
    connection.settimeout(1.0)  # what it has to say comes with it
    files: list[int] = []
    try:
        said, files, _, _ = socket.recv_fds(connection, MAX_BYTES, 2)
        arguments = json.loads(said)
        if len(files) == 2:
            return Call(connection, arguments, files)
    except (OSError, ValueError):
        pass
    close(connection, files)
    return None


def close(connection: socket.socket, files: list[int]) -> None:
    connection.close()
    for file in files:
        os.close(file)


def tell(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # it has hung up, which we see elsewhere
        connection.send(f"{number}\n".encode())


def become_scratch(call: Call, let_go: Callable[[], None]) -> NoReturn:
    """In the child. let_go: of what is the template's."""
    code = 1
    try:
        let_go()
        from hotpool.niceness import give_way

        from .scratch import main as run

        os.setsid()
        give_way()
        for number, file in zip((1, 2), call.files, strict=True):
            os.dup2(file, number)
        close(call.connection, call.files)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
        code = run(call.arguments)
    except BaseException:  # noqa: BLE001  the outermost block: nothing may go on into the frames of the template
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
