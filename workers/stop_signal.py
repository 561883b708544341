"""Shell: SIGTERM for a worker's loop, which polls."""

import signal
import socket


class StopSignal:
    """SIGTERM, as a flag and a file descriptor to poll. SIGINT is ignored: Ctrl-C reaches all, the supervisor decides."""

    def __init__(self) -> None:
        self.is_set = False
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._set)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        # Blocked since before the fork, so that an early one waited until now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})

    def fileno(self) -> int:
        return self._reader.fileno()

    def drain(self) -> None:
        self._reader.recv(64)

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._reader.close()
        self._writer.close()

    def _set(self, *_: object) -> None:
        self.is_set = True
