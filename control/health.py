"""Pure: is the pool ready, is it healthy, and if not, why: from the broker's report."""

from collections import Counter
from dataclasses import dataclass

from hotpool.messages import Report, WorkerReport
from hotpool.states import WorkerState, is_spare

from .ledger import Ledger

HOW_TO_ADD = "hotpool versions add resnet18.pth --name v1"


@dataclass(frozen=True, slots=True)
class Readiness:
    """is_settled: there is nothing more to wait for; the pool is ready, or it waits for a person."""

    text: str
    is_ready: bool = False
    is_settled: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """reasons: why it is degraded; empty when it is healthy."""

    reasons: tuple[str, ...]

    @property
    def word(self) -> str:
        return "degraded" if self.reasons else "healthy"


def readiness(report: Report | None, model: str, stable: str | None) -> Readiness:
    """How far a pool has come that was just started. stable: the digest its workers boot, if there is a version yet."""
    if report is None:
        return Readiness("waiting for the broker")
    workers = ordinary(report, model)
    if not workers:  # also without a version: only their supervisor knows whether they fit on the cores
        return Readiness("waiting for the workers")
    if stable is None:
        return Readiness(f"no version of {model} yet; add one with: {HOW_TO_ADD}", is_settled=True)
    n_ready = sum(worker.state is WorkerState.READY for worker in workers)
    text = f"{n_ready} of {len(workers)} workers ready{_on_versions(workers)}"
    if n_ready == len(workers):
        return Readiness(text, is_ready=True, is_settled=True)
    given_up = [f"{worker.worker}: {worker.note}" for worker in workers if worker.note]
    return Readiness("; ".join([text, *given_up]))


def service_health(
    report: Report,
    model: str,
    *,
    stable: str | None,
    has_controller: bool,
    n_in_step: int = 0,
    alarm: str = "",
    full_disk: str = "",
) -> Health:
    """n_in_step: how many workers a rollout may hold out of service now; those are no reason to worry. alarm: the reason of one
    that the controller has raised. full_disk: what is said of the home's disk, if it is full."""
    reasons = [f"alarm: {alarm}"] if alarm else []
    if full_disk:
        reasons.append(f"{full_disk}: serving goes on, rollouts do not (make room there)")
    if not has_controller:
        reasons.append("no controller is running: serving goes on, rollouts do not (start it with: hotpool up)")
    workers = ordinary(report, model)
    if stable is None:
        return Health((*reasons, f"no version of {model} yet; add one with: {HOW_TO_ADD}"))
    if not workers:
        return Health((*reasons, f"no workers of {model} are known to the broker (see logs/workers.log)"))
    missing = [worker for worker in workers if worker.state is not WorkerState.READY]
    in_step = [worker for worker in missing if worker.state not in (WorkerState.DOWN, WorkerState.STARTING)]
    excused = {worker.worker for worker in in_step[:n_in_step]}
    reasons += [_why(worker) for worker in missing if worker.worker not in excused]
    return Health(tuple(reasons))


def pool_health(report: Report, ledger: Ledger, model: str, *, has_controller: bool, full_disk: str) -> Health:
    """By the journal: what a rollout under way holds out of service is no reason to worry. full_disk: see `service_health`."""
    active = ledger.active(model)
    return service_health(
        report,
        model,
        stable=ledger.stable(model),
        has_controller=has_controller,
        n_in_step=max(active.settings.max_unavailable, active.settings.max_surge) if active else 0,
        alarm=ledger.alarms.get(model, ""),
        full_disk=full_disk,
    )


def ordinary(report: Report, model: str) -> list[WorkerReport]:
    """The model's workers without spare ones, which come and go."""
    return [worker for worker in report.workers if worker.model == model and not is_spare(worker.worker)]


def _why(worker: WorkerReport) -> str:
    return f"{worker.worker} is {worker.state}" + (f": {worker.note}" if worker.note else "")


def _on_versions(workers: list[WorkerReport]) -> str:
    """` on v1`, or ` on v1 (1), v2 (1)` in the middle of a rollout."""
    counts = Counter(worker.version for worker in workers if worker.state is WorkerState.READY and worker.version)
    if len(counts) <= 1:
        return "".join(f" on {name}" for name in counts)
    return " on " + ", ".join(f"{name} ({n})" for name, n in sorted(counts.items()))
