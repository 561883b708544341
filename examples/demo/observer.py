"""Shell: follows every change of a worker's state as the broker tells it, to know the fewest that were ever ready."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from hotpool.admin import Admin
from hotpool.errors import BrokerUnreachable
from hotpool.messages import Report
from hotpool.states import WorkerState

PATIENCE_S = 60.0


def _processes(report: Report) -> set[tuple[str, int]]:
    """Which processes broker and workers are: another set after one of them was killed and started again."""
    return {("broker", report.boot), *((worker.worker, worker.incarnation) for worker in report.workers)}


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
        """What is killed inside; returns when the loss was seen and all workers are ready again."""
        with Admin(self._endpoint) as admin:
            before = _processes(admin.report())
            self._in_fault = True
            yield
            deadline = monotonic() + PATIENCE_S
            while not self._has_recovered(admin, before):
                if monotonic() > deadline:
                    raise TimeoutError(f"not all {self._n_workers} workers are ready again after {PATIENCE_S:g} s")
                self._stop.wait(0.02)
            self._stop.wait(0.5)  # changes from before that are still on their way belong to the fault
            self._in_fault = False

    def _has_recovered(self, admin: Admin, before: set[tuple[str, int]]) -> bool:
        try:
            report = admin.report(timeout_s=0.5)
        except BrokerUnreachable:
            return False
        ready = sum(worker.state is WorkerState.READY for worker in report.workers)
        return ready == self._n_workers and _processes(report) != before

    def _watch(self) -> None:
        with Admin(self._endpoint, watch=True) as admin:
            while not self._stop.is_set():
                for changed in admin.changes(0.1):
                    if self._in_fault:
                        self.fewest_ready_in_faults = min(self.fewest_ready_in_faults, changed.ready)
                    else:
                        self.fewest_ready = min(self.fewest_ready, changed.ready)
