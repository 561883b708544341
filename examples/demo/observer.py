"""Shell: follows every change of a worker's state as the broker tells it, to know the fewest that were ever ready."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from control.admin import Admin
from hotpool.errors import BrokerUnreachable
from hotpool.states import WorkerState


class Observer:
    """Ready workers over time. `fault` marks the moments of an injected kill, until all are ready again."""

    def __init__(self, endpoint: str, n_workers: int) -> None:
        self._endpoint, self._n_workers = endpoint, n_workers
        self._stop = threading.Event()
        self._in_fault = False
        self.fewest_ready = n_workers
        self.fewest_ready_in_faults = n_workers
        self._thread = threading.Thread(target=self._watch, name="observer")

    def __enter__(self) -> "Observer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @contextmanager
    def fault(self) -> Iterator[None]:
        """What is killed inside; returns when all workers are ready again."""
        self._in_fault = True
        yield
        self.wait_for_all_ready()
        self._in_fault = False

    def wait_for_all_ready(self, patience_s: float = 60.0) -> None:
        deadline = monotonic() + patience_s
        with Admin(self._endpoint) as admin:
            while self._ready(admin) < self._n_workers:
                if monotonic() > deadline:
                    raise TimeoutError(f"not all {self._n_workers} workers are ready again after {patience_s:g} s")
                self._stop.wait(0.02)

    def _ready(self, admin: Admin) -> int:
        try:
            return sum(worker.state is WorkerState.READY for worker in admin.report(0.5).workers)
        except BrokerUnreachable:
            return 0

    def _watch(self) -> None:
        with Admin(self._endpoint, watch=True) as admin:
            while not self._stop.is_set():
                for changed in admin.changes(0.1):
                    if self._in_fault:
                        self.fewest_ready_in_faults = min(self.fewest_ready_in_faults, changed.ready)
                    else:
                        self.fewest_ready = min(self.fewest_ready, changed.ready)
