"""Shell: the supervisor's side of the template: starts it, orders forks, hears reports, takes over its orphans."""

import contextlib
import ctypes
import os
import socket
import subprocess
import sys

import psutil

from .cores import thread_environment
from .heap import ONE_HEAP
from .orders import Exited, ForkOrder, FromTemplate, Settings, decode_from_template, encode_line, take_lines

PR_SET_CHILD_SUBREAPER = 36  # <sys/prctl.h>

RECEIVE_BYTES = 65_536


class Forker:
    """One template process at a time, and the lifeline that all processes below the supervisor hold."""

    def __init__(self, module: str, threads: int, scratch: str) -> None:
        """module: the template's, by its full name; threads: for the libraries that read their number when loaded;
        scratch: the path where the template hears calls for scratch processes."""
        self._module, self._threads, self._scratch = module, threads, scratch
        # Only the supervisor holds the write end, and never writes: the end of file says that it is gone, however it ended.
        self._lifeline, self._lifeline_write = os.pipe()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._received = bytearray()
        self._orphans: set[int] = set()

    @property
    def control(self) -> socket.socket | None:
        """What to poll; None without a template."""
        return self._control

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Raises OSError: the system has no process for it, or no files."""
        environment = os.environ | thread_environment(self._threads) | ONE_HEAP
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", self._module, str(theirs.fileno()), str(self._lifeline), self._scratch]
        with theirs:
            try:
                self._process = subprocess.Popen(command, env=environment, pass_fds=(theirs.fileno(), self._lifeline))
            except OSError:
                ours.close()
                raise
        self._control = ours
        self._received.clear()

    def order(self, settings: Settings) -> None:
        """A lost template is noticed by `receive`, not here."""
        if self._control is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._control.sendall(encode_line(ForkOrder(settings)))

    def receive(self) -> tuple[list[FromTemplate], bool]:
        """What the template reports, and whether it is still there."""
        assert self._control is not None
        try:
            data = self._control.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return [], True
        except ConnectionResetError:
            data = b""
        self._received += data
        return [decode_from_template(line) for line in take_lines(self._received)], bool(data)

    def kill(self) -> None:
        """A template that does not answer. `receive` will report it lost."""
        if self._process:
            self._process.kill()

    def take_over(self) -> set[int]:
        """After the template's loss: the processes that are ours now, because we are their subreaper.

        Only when the template has been waited for have they been given to us: the kernel closes a dying process's files,
        which is how we noticed, before it gives its children away.
        """
        assert self._process is not None
        assert self._control is not None
        self._process.kill()
        self._process.wait()
        self._control.close()
        self._process = self._control = None
        self._orphans = {child.pid for child in psutil.Process().children()}
        return set(self._orphans)

    def reap_orphans(self) -> list[Exited]:
        """Those that were taken over and have ended."""
        exits = []
        for pid in sorted(self._orphans):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self._orphans.discard(pid)
                exits.append(Exited(pid, os.waitstatus_to_exitcode(status)))
        return exits

    def close(self) -> None:
        """Ends the template; by the lifeline also whatever of its workers is left."""
        if self._control is not None:
            self._control.close()
        os.close(self._lifeline_write)
        os.close(self._lifeline)
        if self._process is not None:
            try:
                self._process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def become_subreaper() -> bool:
    """Orphans of the template become children of this process instead of init's. Linux only; False elsewhere."""
    if sys.platform != "linux":
        return False
    failed: int = ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return not failed
