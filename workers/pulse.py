"""Shell: a worker's heartbeat, from a thread and a connection of its own, and its watch over the supervisor.

A computation or a load may keep the main thread busy for a second; this thread goes on. A process that is stopped, or holds
the interpreter's lock for too long, falls silent here too: that is what the broker wants to know.
"""

import os
import select
import threading
from time import monotonic

import psutil

from hotpool.dealer import Dealer
from hotpool.link import DEFAULT_HEARTBEAT_S
from hotpool.messages import Pulse
from hotpool.wire import encode

from .orders import ORPHANED

MEMORY_EVERY_S = 5.0  # reading it walks the page tables: about a millisecond
FINISH_S = 5.0  # what a worker without supervisor may take to finish what it computes


class PulseThread(threading.Thread):
    """Beats until `stop`."""

    def __init__(
        self,
        endpoint: str,
        worker: str,
        incarnation: int,
        lifeline: int | None,
    ) -> None:
        """lifeline: a pipe's read end; its end of file says that the supervisor is gone. None: nobody to outlive."""
        super().__init__(name="pulse", daemon=True)
        self._heartbeat_s = DEFAULT_HEARTBEAT_S
        self._worker, self._incarnation = worker, incarnation
        self._lifeline = lifeline
        self._wake_read, self._wake_write = os.pipe()  # a byte: beat now; its end: stop
        self._dealer = Dealer(endpoint, high_water=4)  # those that wait say enough

    def run(self) -> None:
        try:
            self._beat()
        finally:
            self._dealer.close()

    def beat_every(self, heartbeat_s: float) -> None:
        """From now on: the broker has said how often, and may not have the patience for the beat that is waited for."""
        if heartbeat_s != self._heartbeat_s:
            self._heartbeat_s = heartbeat_s
            os.write(self._wake_write, b"\0")

    def stop(self) -> None:
        """Ends the thread and waits for it."""
        os.close(self._wake_write)
        self.join()
        os.close(self._wake_read)

    def _beat(self) -> None:
        process, measured_at, beats_at, frame = psutil.Process(), float("-inf"), float("-inf"), b""
        watched = [self._dealer.fileno(), self._wake_read, *([] if self._lifeline is None else [self._lifeline])]
        while True:
            now = monotonic()
            if now - measured_at >= MEMORY_EVERY_S:
                measured_at, frame = now, self._measure(process)
            if now >= beats_at:
                beats_at = now + self._heartbeat_s
                self._send_latest(frame)
            readable, _, _ = select.select(watched, [], [], max(0.0, beats_at - monotonic()))
            if self._wake_read in readable:
                if not os.read(self._wake_read, 1):
                    return
                beats_at = float("-inf")
            if self._lifeline in readable:
                self._outlive()
                return
            for _ in self._dealer.receive():
                pass  # the broker's answers are not needed
            if self._dealer.is_lost:
                self._dealer.disconnect()  # or it would be readable until the next beat

    def _send_latest(self, frame: bytes) -> None:
        if self._dealer.is_lost:
            self._dealer.connect()
        self._dealer.send([frame])

    def _measure(self, process: psutil.Process) -> bytes:
        try:
            memory = process.memory_full_info()
            rss, uss = memory.rss, getattr(memory, "uss", 0)  # a kernel without smaps doesn't tell what is whose
        except (OSError, psutil.Error):
            rss = uss = 0  # a worker that serves is worth more than a figure
        return encode(Pulse(self._worker, self._incarnation, rss, uss))

    def _outlive(self) -> None:
        """The supervisor is gone. The main thread sees it too and ends after its batch; if it hangs, this ends it."""
        deadline = monotonic() + FINISH_S
        while select.select([self._wake_read], [], [], max(0.0, deadline - monotonic()))[0]:
            if not os.read(self._wake_read, 1):
                return
        os._exit(ORPHANED)
