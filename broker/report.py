"""Pure: what the broker tells the controller and the command line when they ask."""

from typing import TYPE_CHECKING

from hotpool.evidence import Counts
from hotpool.messages import Evidence, GetEvidence, QueueReport, Report

from .metrics import Trial
from .roster import Worker

if TYPE_CHECKING:
    from .core import Core


def report(core: "Core", seq: int, now: float) -> Report:
    """The whole state at one instant."""
    limits, queue = core.settings.limits, (core.dispatch.queued, core.dispatch.queued_bytes)
    return Report(
        seq=seq,
        boot=core.settings.boot,
        uptime_s=now - core.started_at,
        epoch=core.routing.epoch,
        workers=tuple(worker.report() for worker in sorted(core.roster, key=_by_number)),
        queue=QueueReport(queue[0], limits.max_requests, queue[1], limits.max_bytes),
        models=core.routing.report(),
        metrics=core.metrics.families(core.roster, queue, _trials(core, now)),
    )


def evidence(core: "Core", asked: GetEvidence, now: float) -> Evidence:
    """Raises UnknownModel."""
    model = core.routing.model_of(asked.model, (worker.model for worker in core.roster))
    run = core.arms.runs.get(model)
    return Evidence(asked.seq, core.settings.boot, run.counts(now) if run else Counts())


def _trials(core: "Core", now: float) -> list[Trial]:
    alias, runs = core.routing.alias, core.arms.runs
    return [
        Trial(model, split.policy, (alias(model, split.stable), alias(model, split.target)), runs[model].counts(now))
        for model, split in core.arms.splits.items()
    ]


def _by_number(worker: Worker) -> tuple[str, int, str]:
    """worker-10 after worker-9."""
    number = worker.name.rpartition("-")[2]
    return worker.model, int(number) if number.isdigit() else 0, worker.name
