"""Shell: a worker's heartbeat, from a thread and a connection of its own, and its watch over the supervisor.

A computation or a load may keep the main thread busy for a second; this thread goes on. A process that is stopped, or holds
the interpreter's lock for too long, falls silent here too: that is what the broker wants to know.
"""

import contextlib
import os
import select
import threading
from time import monotonic

import psutil
import zmq

from hotpool.link import DEFAULT_HEARTBEAT_S
from hotpool.messages import Pulse
from hotpool.wire import encode

from .orders import ORPHANED

MEMORY_EVERY_S = 5.0  # reading it walks the page tables: about a millisecond
FINISH_S = 5.0  # what a worker without supervisor may take to finish what it computes


class PulseThread(threading.Thread):
    """Beats until `stop`. heartbeat_s: the owner sets it when the broker has said its own."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        endpoint: str,
        worker: str,
        incarnation: int,
        lifeline: int | None,
    ) -> None:
        """lifeline: a pipe's read end; its end of file says that the supervisor is gone. None: nobody to outlive."""
        super().__init__(name="pulse", daemon=True)
        self.heartbeat_s = DEFAULT_HEARTBEAT_S
        self._context, self._endpoint = context, endpoint
        self._worker, self._incarnation = worker, incarnation
        self._lifeline = lifeline
        self._stop_read, self._stop_write = os.pipe()
        self._socket = self._open()  # here, so that the context's own threads run from now on

    def run(self) -> None:
        try:
            self._beat(self._socket)
        finally:
            self._socket.close(linger=0)

    def stop(self) -> None:
        """Ends the thread and waits for it."""
        os.close(self._stop_write)
        self.join()
        os.close(self._stop_read)

    def _open(self) -> "zmq.Socket[bytes]":
        # libzmq's own reconnect is enough here: a stale pulse that is sent again is still true.
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 4)
        socket.setsockopt(zmq.RECONNECT_IVL, 20)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        socket.connect(self._endpoint)
        return socket

    def _beat(self, socket: "zmq.Socket[bytes]") -> None:
        process, measured_at, frame = psutil.Process(), float("-inf"), b""
        watched = [self._stop_read] if self._lifeline is None else [self._stop_read, self._lifeline]
        while True:
            if monotonic() - measured_at >= MEMORY_EVERY_S:
                measured_at, frame = monotonic(), self._measure(process)
            _send_latest(socket, frame)
            readable, _, _ = select.select(watched, [], [], self.heartbeat_s)
            if self._stop_read in readable:
                return
            if readable:
                self._outlive()
                return

    def _measure(self, process: psutil.Process) -> bytes:
        memory = process.memory_full_info()
        return encode(Pulse(self._worker, self._incarnation, memory.rss, memory.uss))

    def _outlive(self) -> None:
        """The supervisor is gone. The main thread sees it too and ends after its batch; if it hangs, this ends it."""
        ended, _, _ = select.select([self._stop_read], [], [], FINISH_S)
        if not ended:
            os._exit(ORPHANED)


def _send_latest(socket: "zmq.Socket[bytes]", frame: bytes) -> None:
    """The broker's answers are not needed; unread, they would fill its pipe to us."""
    with contextlib.suppress(zmq.Again):
        while True:
            socket.recv_multipart(zmq.NOBLOCK)
    with contextlib.suppress(zmq.Again):  # no broker for a while: the pulses that wait say enough
        socket.send(frame, zmq.NOBLOCK)
