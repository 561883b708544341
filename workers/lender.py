"""Shell: the template's end of calls for scratch processes (`scratch_call` is the other): forks one for each caller."""

import contextlib
import json
import logging
import os
import selectors
import signal
import socket
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple, NoReturn

from hotpool.child import end_with, give_way

log = logging.getLogger("hotpool.workers")

MAX_BYTES = 65_536


class Wish(NamedTuple):
    """arguments: of `workers.scratch`. files: the caller's standard output and standard error."""

    arguments: list[str]
    files: list[int]


class Lender:
    """Callers, and the process that was forked for each. Whatever fails here, the template forks workers."""

    def __init__(self, path: str, selector: selectors.BaseSelector, let_go: Callable[[], None]) -> None:
        """path: of the socket; let_go: what a child does first, of all that is the template's."""
        self._selector, self._let_go = selector, let_go
        self._listener: socket.socket | None = None
        self._callers: dict[socket.socket, int] = {}  # 0: it has not said yet what it wishes
        try:
            self._listener = listen(path)
        except OSError as error:  # a disk that takes nothing, for one
            log.warning("event=lends_nothing reason=%s", error)
        else:
            selector.register(self._listener, selectors.EVENT_READ)

    def serve(self, ready: Collection[object]) -> None:
        if self._listener and self._listener in ready:
            self._accept(self._listener)
        for caller in [caller for caller in self._callers if caller in ready]:
            if pid := self._callers[caller]:
                os.kill(pid, signal.SIGKILL)  # it has hung up. Not reaped yet, so the number is nobody else's
                self._forget(caller)
            elif not self._lend(caller):
                self._forget(caller)

    def exited(self, pid: int, code: int) -> bool:
        """Tells the caller. False: it has none, or that has hung up; the supervisor passes over what is no worker of its."""
        caller = next((caller for caller, its in self._callers.items() if its == pid), None)
        if caller is not None:
            _tell(caller, code)
            self._forget(caller)
        return caller is not None

    def let_go(self) -> None:
        """In a child: a caller waits for the end of file."""
        for inherited in filter(None, (self._listener, *self._callers)):
            inherited.close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            caller, _ = listener.accept()
        except OSError as error:  # no more files. Whoever calls from now on is refused, and does the work itself
            log.warning("event=lends_nothing reason=%s", error)
            self._selector.unregister(listener)
            listener.close()
            self._listener = None
            return
        caller.setblocking(False)
        self._callers[caller] = 0
        self._selector.register(caller, selectors.EVENT_READ)

    def _lend(self, caller: socket.socket) -> bool:
        if (wish := _hear(caller)) is None:
            return False
        try:
            pid = os.fork()
        except OSError as error:
            log.warning("event=scratch_not_forked reason=%s", error)
            _close(wish.files)
            return False
        if pid == 0:
            _become_scratch(wish, self._let_go)
        _close(wish.files)
        log.info("event=scratch_forked pid=%d", pid)
        self._callers[caller] = pid
        _tell(caller, pid)
        return True

    def _forget(self, caller: socket.socket) -> None:
        del self._callers[caller]
        self._selector.unregister(caller)
        caller.close()


def listen(path: str) -> socket.socket:
    """Raises OSError."""
    Path(path).unlink(missing_ok=True)  # of a template that was killed
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def _hear(caller: socket.socket) -> Wish | None:
    """None: it has hung up, or is no caller of ours."""
    files: list[int] = []
    try:
        said, files, _, _ = socket.recv_fds(caller, MAX_BYTES, 2)
        arguments = json.loads(said)
        if len(files) == 2:
            return Wish(arguments, files)
    except (OSError, ValueError, RecursionError):
        pass
    _close(files)
    return None


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


def _tell(caller: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # it has hung up, which is seen elsewhere
        caller.send(f"{number}\n".encode())


def _become_scratch(wish: Wish, let_go: Callable[[], None]) -> NoReturn:
    code, template = 1, os.getppid()
    try:
        os.setsid()
        give_way()
        end_with(template, signal.SIGKILL)
        let_go()
        for number, file in zip((1, 2), wish.files, strict=True):
            os.dup2(file, number)
        _close(wish.files)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
        from .scratch import main as run  # torch, in a template that has it not

        code = run(wish.arguments)
    except SystemExit as ended:  # argparse's
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001  the outermost block: nothing may go on into the frames of the template
        traceback.print_exc()
    finally:
        os._exit(code)
