"""Pure: which models and versions a pool serves, as its broker's report tells."""

from hotpool.errors import NoReadyWorker, UnknownModel, UnknownVersion
from hotpool.messages import Report, WorkerReport
from hotpool.states import WorkerState


def check_model(report: Report, model: str) -> None:
    """Raises UnknownModel."""
    known = {worker.model for worker in report.workers} | {one.model for one in report.models}
    if model not in known:
        served = ", ".join(sorted(known)) or "none yet"
        raise UnknownModel(f"no model {model!r} is served here; served: {served}")


def ready_workers(report: Report, model: str, digest: str | None = None) -> list[WorkerReport]:
    """Those that answer for it. A ready worker is always on an admitted version."""
    workers = [worker for worker in report.workers if worker.model == model and worker.state is WorkerState.READY]
    return [worker for worker in workers if digest in (None, worker.digest)]


def require_ready(report: Report, model: str, digest: str | None = None, name: str = "") -> None:
    """Raises NoReadyWorker, which tells what the workers do instead."""
    if ready_workers(report, model, digest):
        return
    which = f"version {name} of model {model}" if name else f"model {model}"
    states = ", ".join(f"{one.worker} {one.state.value}" for one in report.workers if one.model == model)
    raise NoReadyWorker(f"no worker is ready for {which} ({states or 'there are none'})")


def versions(report: Report, model: str) -> dict[str, str]:
    """Of the versions that the controller or a worker knows, by name: the digest."""
    names = {worker.version: worker.digest for worker in report.workers if worker.model == model and worker.digest}
    for one in report.models:
        if one.model == model:
            names |= one.names
    return names


def served(report: Report, model: str) -> list[str]:
    """Names of the versions that answer now, each once."""
    return list(dict.fromkeys(worker.version for worker in ready_workers(report, model)))


def resolve(report: Report, model: str, version: str) -> str:
    """The digest of a version, by its name or by its digest. Raises UnknownVersion."""
    names = versions(report, model)
    if version in names:
        return names[version]
    if version in names.values():
        return version
    raise UnknownVersion(f"model {model} has no version {version!r}; it has {', '.join(names) or 'none yet'}")


def main_digest(report: Report, model: str) -> str:
    """Of the stable version, or of what answers while no controller has said which that is. Raises NoReadyWorker."""
    for one in report.models:
        if one.model == model and one.stable:
            return one.stable
    require_ready(report, model)
    return ready_workers(report, model)[0].digest


def index_state(report: Report, model: str, digest: str) -> tuple[str, str]:
    """State and reason of a version, as the protocol's repository index has them."""
    if ready_workers(report, model, digest):
        return "READY", ""
    if any(one.model == model and one.target == digest for one in report.models):
        return "LOADING", "a rollout moves the workers to it"
    return "UNAVAILABLE", "it does not serve now"
