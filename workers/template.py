"""Shell: the process that worker processes are forked from: it has imported everything and run nothing.

No torch operator, no thread before a fork: a child has only the forking thread, and whatever another one
held stays locked in it for ever. A fork is ready in a tenth of a second and shares the imported code; a fresh interpreter
needs seconds and ten times the memory.

Run by the supervisor: `python -m ...template CONTROL_FD LIFELINE_FD SOCKET`. It ends when its end of the socket pair closes.
SOCKET: where it is called for the process that checks a version for a rollout, which it forks for the same reasons (`lender`).
"""

import gc
import logging
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

from hotpool.logs import log_to_stderr

from .batch import one_line
from .cores import lower_priority, pin
from .lender import Lender
from .orders import Exited, Forked, NotForked, Settings, decode_order, encode_line, take_lines
from .worker import note_exit, serve

log = logging.getLogger("hotpool.workers")

Serve = Callable[
    [Settings, int], int
]  # a worker process's life, given the lifeline's descriptor; returns its exit code

RECEIVE_BYTES = 65_536


def import_everything() -> Serve:
    """Imports all that a worker needs, and returns what a worker does."""
    import hotpool.torchvision_ops  # noqa: F401, I001  before torchvision
    from PIL import Image

    from . import scratch  # noqa: F401
    from .torch_version import limit_threads, load_torch_version

    Image.init()  # Pillow finds its plugins now, not at the first picture of each worker

    def serve_torch(settings: Settings, lifeline: int) -> int:
        limit_threads(settings.threads)
        return serve(settings, load_torch_version, lifeline)

    return serve_torch


def main(preload: Callable[[], Serve] = import_everything) -> None:
    """Imports, then forks on order until the supervisor is gone.

    preload: tests and benchmarks run the same template with other workers.
    """
    log_to_stderr()
    # Signals for the whole process group are the supervisor's business. Blocked, not ignored: a child unblocks them when it
    # has its own handlers, and loses none that came before.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    gc.disable()
    do = preload()
    gc.enable()
    gc.freeze()  # a collection in a child would write to, and so copy, every page that it shares with us
    control_fd, lifeline, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    Template(socket.socket(fileno=control_fd), lifeline, do, path).run()


class Template:
    """Single-threaded: forks on order, reports each fork of a worker and each exit."""

    def __init__(self, control: socket.socket, lifeline: int, do: Serve, path: str) -> None:
        self._control, self._lifeline, self._do = control, lifeline, do
        self._received = bytearray()
        self._wakeup, self._waker = socket.socketpair()
        self._wakeup.setblocking(False)
        self._waker.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # the wake-up byte is all we want of it
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._control, selectors.EVENT_READ)
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        self._lender = Lender(path, self._selector, self._let_go)

    def run(self) -> None:
        """Until the supervisor closes the socket pair or is gone."""
        while True:
            ready = [key.fileobj for key, _ in self._selector.select()]
            if self._wakeup in ready:
                self._wakeup.recv(RECEIVE_BYTES)
                self._reap()
            if self._control in ready and not self._obey():
                signal.set_wakeup_fd(-1)  # workers end now too, and the socket pair for their SIGCHLD goes with us
                return
            self._lender.serve(ready)

    def _obey(self) -> bool:
        try:
            data = self._control.recv(RECEIVE_BYTES)
        except ConnectionResetError:  # it has not read all that we reported
            data = b""
        self._received += data
        for line in take_lines(self._received):
            self._fork(decode_order(line).settings)
        return bool(data)

    def _fork(self, settings: Settings) -> None:
        try:
            pid = os.fork()
        except OSError as error:  # too many processes, or too little memory
            self._control.sendall(encode_line(NotForked(settings.worker, settings.incarnation, str(error))))
            return
        if pid == 0:
            self._become(settings)
        self._control.sendall(encode_line(Forked(settings.worker, settings.incarnation, pid)))

    def _become(self, settings: Settings) -> NoReturn:
        """In the child: lets go of what is the template's, then is a worker and never returns."""
        code = 1
        try:
            self._let_go()
            # Before anything is loaded: memory comes from the node of the core that first writes to it, so the engine's own
            # copies and all that it computes lie near. Only mapped weights lie where the file was first read.
            try:
                pin(settings.cores)
            except OSError as error:  # cores were taken from us since the plan was made
                log.warning("event=not_pinned worker=%s cores=%s reason=%s", settings.worker, settings.cores, error)
            lower_priority()
            code = self._do(settings, self._lifeline)
        except Exception as error:  # the process's outermost block: whatever it is, the supervisor must know
            log.exception("event=bug worker=%s incarnation=%d", settings.worker, settings.incarnation)
            note_exit(settings, one_line(error))
        finally:
            # Not sys.exit: that would unwind into the template's own frames and run its exit handlers.
            os._exit(code)

    def _let_go(self) -> None:
        """In a child."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        self._lender.let_go()
        for inherited in (self._control, self._wakeup, self._waker):
            inherited.close()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            if not self._lender.exited(pid, code):
                self._control.sendall(encode_line(Exited(pid, code)))


if __name__ == "__main__":
    main()
