"""Pure: probes: known questions of the controller to one certain worker, to see whether it still answers them as it should.

A probe goes the way of a request, but after all of them: while anything waits that its worker could take it stays parked, and
when the worker stops serving its version, or is lost, the probe ends with it. It is a lease without a caller: no evidence of a
version, no outcome of a request, never tried again. There is one at a time for each worker, so they can't add up.
"""

from collections.abc import Iterator

from hotpool.errors import Conflict, DeadlineExceeded, HotpoolError, WorkerLost
from hotpool.messages import Done, ErrorReply, Failed, Job, Reply
from hotpool.states import Executed, WorkerState

from .actions import Action, Payload, ToClient, ToWorker
from .leases import Lease, Probe
from .metrics import Metrics
from .replies import error_reply
from .roster import Roster, Worker
from .waiting import Waiting


class Probes:
    """jobs: where the numbers of all leases come from. lease_s: how long one may take."""

    def __init__(self, roster: Roster, waiting: Waiting, metrics: Metrics, jobs: Iterator[int], lease_s: float) -> None:
        self._roster, self._waiting, self._metrics, self._jobs, self._lease_s = roster, waiting, metrics, jobs, lease_s
        self._parked: dict[str, Probe] = {}  # by worker

    def submit(self, probe: Probe, now: float) -> list[Action]:
        """Refused when the worker does not serve that version, or is being probed."""
        worker = self._roster.workers.get(probe.worker)
        if worker is None or not _fits(probe, worker):
            return [self._refuse(probe, Conflict(f"{probe.worker} does not serve {probe.digest[:12]} now"))]
        held = self._held(worker)
        if held is not None and held.id == probe.id:
            held.client = probe.client  # sent again over a new connection: the answer goes there
            return []
        if held is not None:
            return [self._refuse(probe, Conflict(f"{probe.worker} is being probed"))]
        self._parked[probe.worker] = probe
        return self.feed(worker, now)

    def feed(self, worker: Worker, now: float) -> list[Action]:
        """Leases a worker's probe to it, if it is free and there is nothing better for it to do."""
        probe = self._parked.get(worker.name)
        if probe is None or not worker.is_free or self._waiting.lanes_of(worker):
            return []
        del self._parked[worker.name]
        lease = Lease(next(self._jobs), None, now, worker.version, worker.digest, probe=probe)
        self._roster.open_lease(worker, lease)
        worker.lease_ends_at = now + self._lease_s
        budget_us = max(0, int((probe.deadline - now) * 1e6))
        return [ToWorker(worker.connection, Job(lease.job, budget_us, probe.work), probe.payload)]

    def refresh(self) -> list[Action]:
        """After a change of workers: ends what is parked for one that does not serve its version any more."""
        gone = [probe for probe in self._parked.values() if not _fits(probe, self._roster.workers.get(probe.worker))]
        for probe in gone:
            del self._parked[probe.worker]
        return [self._refuse(probe, Conflict(f"{probe.worker} stopped serving {probe.digest[:12]}")) for probe in gone]

    def expire(self, now: float) -> list[Action]:
        """What is parked and could not be asked in its time: its worker had better things to do."""
        late = [probe for probe in self._parked.values() if now >= probe.deadline]
        for probe in late:
            del self._parked[probe.worker]
        return [self._refuse(probe, DeadlineExceeded(f"{probe.worker} was not free in time")) for probe in late]

    def answered(self, worker: Worker, lease: Lease, done: Done, payload: Payload | None) -> Action:
        probe = self._end(worker, lease, "answered")
        reply = Reply(
            probe.id, worker.model, lease.version, lease.digest, worker.name, 1, 0, done.service_us, done.result
        )  # fmt: skip
        return ToClient(probe.client, reply, payload)

    def failed(self, worker: Worker, lease: Lease, failed: Failed) -> Action:
        probe = self._end(worker, lease, "error")
        return ToClient(probe.client, ErrorReply(probe.id, failed.code, failed.message, failed.executed))

    def lost(self, worker: Worker, lease: Lease) -> Action:
        """Its worker was lost with it."""
        probe = self._end(worker, lease, "worker_lost")
        error = WorkerLost(f"{worker.name} was lost while it was probed", executed=Executed.MAYBE)
        return ToClient(probe.client, error_reply(probe.id, error))

    def _end(self, worker: Worker, lease: Lease, outcome: str) -> Probe:
        assert lease.probe is not None
        self._metrics.probes[worker.model, lease.version, outcome] += 1
        return lease.probe

    def _refuse(self, probe: Probe, error: HotpoolError) -> Action:
        version = self._roster.name_of(probe.model, probe.digest)  # callers may name any: it must not become a label
        self._metrics.probes[probe.model, version, error.code] += 1
        return ToClient(probe.client, error_reply(probe.id, error))

    def _held(self, worker: Worker) -> Probe | None:
        """The worker's probe without an outcome."""
        leased = (lease.probe for lease in worker.leases.values() if lease.probe)
        return self._parked.get(worker.name) or next(leased, None)

    def check(self) -> None:
        """Invariants, for tests: they hold after every event."""
        for name, probe in self._parked.items():
            worker = self._roster.workers[name]
            assert _fits(probe, worker), f"a probe waits for {name}, which will not answer it"
            assert not worker.is_free, f"{name} idles while its probe waits"
        for worker in self._roster:
            leased = [lease for lease in worker.leases.values() if lease.probe]
            assert not leased or len(worker.leases) == 1, "a probe shares its worker with another lease"
            assert not leased or worker.name not in self._parked, "two probes of one worker"
            assert not any(lease.pending or lease.pair for lease in leased)


def _fits(probe: Probe, worker: Worker | None) -> bool:
    return worker is not None and worker.state is WorkerState.READY and worker.digest == probe.digest
