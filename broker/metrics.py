"""Pure: everything the broker counts, and the report made of it. Names: docs/metrics.md."""

from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from hotpool.errors import DeadlineExceeded, NoReadyWorker
from hotpool.evidence import Arm, Counts
from hotpool.messages import Family, Policy
from hotpool.metrics import Counter, Histograms, gauge
from hotpool.states import WorkerState

from .roster import Worker

VERSIONS_COUNTED = 8  # of a model: each takes 1 kB of every report, and 7.5 of memory where that is read

_LATE = frozenset({DeadlineExceeded.code, NoReadyWorker.code})


class Trial(NamedTuple):
    """What a policy asks for one model, and what came of it. versions: aliases of stable and target."""

    model: str
    policy: Policy
    versions: tuple[str, str]
    counts: Counts

    @property
    def labels(self) -> tuple[str, str]:
        """Of what is said of the target alone."""
        return self.model, self.versions[1]

    def arms(self) -> Iterator[tuple[tuple[str, str, str], Arm]]:
        """By model, arm and version."""
        for arm, version, counts in zip(
            ("stable", "target"), self.versions, (self.counts.stable, self.counts.target), strict=True
        ):
            yield (self.model, arm, version), counts


class Metrics:
    """Counters live here; gauges are derived from the workers when somebody asks."""

    def __init__(self) -> None:
        self._recent: dict[str, list[str]] = defaultdict(list)  # versions by model, those in use at the end
        by_version = ("model", "version")  # in this order and first, see `forget`
        self.requests = Counter("hotpool_requests_total", "Requests by outcome.", *by_version, "outcome")
        self.expired = Counter("hotpool_expired_total", "Requests whose deadline passed.")
        self.queue_s = Histograms("hotpool_queue_seconds", "From submit to the last lease.", *by_version)
        self.service_s = Histograms("hotpool_service_seconds", "In the worker, as it measured.", *by_version)
        self.total_s = Histograms("hotpool_total_seconds", "From submit to the answer, at the broker.", *by_version)
        self.redispatched = Counter(
            "hotpool_redispatched_total", "Requests leased again because a worker was lost.", "cause"
        )
        self.workers_lost = Counter("hotpool_workers_lost_total", "Worker sessions that ended.", "cause")
        self.duplicates = Counter("hotpool_duplicates_dropped_total", "Requests that were sent again while held.")
        self.late = Counter("hotpool_late_answers_total", "Answers of workers that nobody waited for any more.")
        self.shadow_sent = Counter("hotpool_shadow_sent_total", "Shadow copies sent to the target.", *by_version)
        self.shadow_answered = Counter("hotpool_shadow_answered_total", "Shadow copies answered by it.", *by_version)
        self.shadow_dropped = Counter(
            "hotpool_shadow_dropped_total", "Shadow copies not sent, or not to be compared.", *by_version, "reason"
        )
        self.shadow_pairs = Counter(
            "hotpool_shadow_pairs_total",
            "Requests whose answer was compared with that of their copy.",
            *by_version,
            "agree",
        )
        self.probes = Counter(
            "hotpool_probes_total", "Known questions to single workers, by outcome.", *by_version, "outcome"
        )
        self.undeliverable = Counter(
            "hotpool_undeliverable_total", "Answers not delivered: the caller was gone or did not read."
        )
        self.malformed = Counter("hotpool_malformed_total", "Messages dropped because they are none.", "socket")
        self.strangers = Counter("hotpool_strangers_total", "Messages from connections without a session.", "socket")

    def ended(self, model: str, version: str, outcome: str) -> None:
        """A request has its outcome. version: empty when no worker answered.

        What people look for has a name of its own; it is no sum of the outcomes, since those of a version may be forgotten.
        """
        self.requests[model, version, outcome] += 1
        if outcome in _LATE:
            self.expired[()] += 1

    def forget(self, model: str, in_use: Collection[str], stored: Collection[str]) -> None:
        """What was counted of versions of this model that are neither in use nor among the last that were. stored: the others
        are gone for good. Each new version brings more samples, and none would ever go.
        """
        recent = self._recent[model]
        recent[:] = [version for version in recent if version in stored and version not in in_use] + sorted(in_use)
        del recent[: max(0, len(recent) - max(VERSIONS_COUNTED, len(in_use)))]
        by_version = (
            self.requests, self.queue_s, self.service_s, self.total_s, self.shadow_sent, self.shadow_answered,
            self.shadow_dropped, self.shadow_pairs, self.probes,
        )  # fmt: skip
        for metric in by_version:
            for labels in [one for one in metric if one[0] == model and one[1] and one[1] not in recent]:
                del metric[labels]

    def families(
        self, workers: Iterable[Worker], queue: tuple[int, int], trials: Sequence[Trial] = ()
    ) -> tuple[Family, ...]:
        """queue: requests and bytes in it now. trials: where a policy holds."""
        workers = list(workers)
        counted = (
            self.requests, self.expired, self.queue_s, self.service_s, self.total_s, self.redispatched, self.workers_lost,
            self.duplicates, self.late, self.shadow_sent, self.shadow_answered, self.shadow_dropped, self.shadow_pairs,
            self.probes, self.undeliverable, self.malformed, self.strangers,
        )  # fmt: skip
        return (
            *(metric.family() for metric in counted),
            gauge("hotpool_queue_requests", "Requests that wait for a worker.", [((), queue[0])]),
            gauge("hotpool_queue_bytes", "Payload bytes that wait for a worker.", [((), queue[1])]),
            *_worker_gauges(workers),
            *_arm_gauges(trials),
        )


def _worker_gauges(workers: list[Worker]) -> tuple[Family, ...]:
    states = Tally((worker.model, worker.state.value) for worker in workers)
    every_state = [((model, state.value), states[model, state.value]) for model in {w.model for w in workers}
                   for state in WorkerState]  # fmt: skip
    restarts = [
        ((worker.name, cause), n) for worker in workers if worker.seat for cause, n in worker.seat.restarts.items()
    ]
    return (
        gauge("hotpool_workers", "Workers by state.", every_state, "model", "state"),
        gauge(
            "hotpool_in_flight", "Open leases.",
            [((w.name, w.model, w.version), len(w.leases)) for w in workers], "worker", "model", "version",
        ),
        gauge(
            "hotpool_worker_private_bytes", "Memory that is the worker's own.",
            [((w.name,), w.private_bytes) for w in workers], "worker",
        ),
        gauge(
            "hotpool_worker_resident_bytes", "Memory with what is shared.",
            [((w.name,), w.rss_bytes) for w in workers], "worker",
        ),
        gauge(
            "hotpool_worker_restarts", "Processes that were started again in the seat.", restarts, "worker", "cause"
        ),
    )  # fmt: skip


def _arm_gauges(trials: Sequence[Trial]) -> tuple[Family, ...]:
    measured = [(trial.labels, share) for trial in trials if (share := trial.counts.share) is not None]
    arms = [arm for trial in trials for arm in trial.arms()]
    return (
        gauge(
            "hotpool_share_asked", "Percent of the requests without a version that the target is to get.",
            [(trial.labels, trial.policy.share) for trial in trials], "model", "version",
        ),
        gauge(
            "hotpool_share_measured", "Percent of them that it got since the policy began.",
            measured, "model", "version",
        ),
        gauge(
            "hotpool_arm_replies", "Replies since the policy began, shadow copies included.",
            [(labels, counts.answered) for labels, counts in arms], "model", "arm", "version",
        ),
        gauge(
            "hotpool_arm_errors", "Of these, faults of the server.",
            [(labels, counts.errors) for labels, counts in arms], "model", "arm", "version",
        ),
    )  # fmt: skip
