"""Shell: has the template fork a scratch process, which then has torch imported already (`lender` is the other end).

    python -m workers.scratch_call SOCKET ARGUMENT ...      the arguments are those of `workers.scratch`

This process sends the arguments with its standard output and standard error, hears the process id and at the end the exit code,
and ends in the same way. If it ends before, so does the scratch process. Where no template answers, or that ends first, it does
the work itself. Run by control.
"""

import contextlib
import json
import os
import signal
import socket
import sys

# Nothing else is imported before it is needed: this should cost less than the import of torch that it saves.

PATIENCE_S = 5.0  # a template that can answer does so in milliseconds


def main() -> int:
    path, *arguments = sys.argv[1:]
    code = ask(path, arguments)
    if code is None:
        from .scratch import main as run

        return run(arguments)
    if code < 0:  # whoever started us sees how the process ended
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def ask(path: str, arguments: list[str], patience_s: float = PATIENCE_S) -> int | None:
    """Exit code as in `subprocess` of the process that a template has forked; None: no template, or it ended first."""
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as said:
        connection.settimeout(patience_s)
        try:
            connection.connect(path)
            socket.send_fds(connection, [json.dumps(arguments).encode()], [1, 2])
            int(said.readline())  # the process id
            connection.settimeout(None)
            return int(said.readline())
        except (OSError, ValueError):  # ValueError: no number, for it hung up
            return None


if __name__ == "__main__":
    sys.exit(main())
