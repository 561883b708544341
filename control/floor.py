"""Pure: which workers a rollout is about, where they stand, and how many of them must stay ready."""

from collections.abc import Collection

from hotpool.states import Phase, Strategy, WorkerState, is_spare

from .rollout import Rollout
from .view import View

S = WorkerState


def may_drain(rollout: Rollout, view: View, worker: str) -> bool:
    """Whether enough workers stay ready without this one and without those whose drain is announced."""
    announced = {name for name, step in rollout.steps.items() if step.strategy is not Strategy.BESIDE} | {worker}
    staying = sum(
        report.state is S.READY and not _leaves(rollout, view, name, announced) for name, report in view.workers.items()
    )
    return staying >= floor_of(rollout, view)


def floor_of(rollout: Rollout, view: View) -> int:
    """Of its steps. With spare workers no ordinary one leaves before another has come."""
    return len(seats(rollout, view)) if rollout.settings.strategy is Strategy.SURGE else least_ready(rollout, view)


def least_ready(rollout: Rollout, view: View) -> int:
    return max(1, len(seats(rollout, view)) - rollout.settings.max_unavailable)


def _leaves(rollout: Rollout, view: View, worker: str, announced: set[str]) -> bool:
    """A step that holds its goal is about to finish, not to drain."""
    return worker in announced and not is_on_goal(rollout, view, worker)


def is_settled(rollout: Rollout, view: View, apart_from: Collection[str] = ()) -> bool:
    """Every worker that is to be is ready on the goal, no step is open, nobody holds the rollout."""
    workers = [worker for worker in movers(rollout, view) if worker not in apart_from]
    is_open = rollout.paused or any(worker in rollout.steps for worker in workers)
    return not is_open and all(is_on_goal(rollout, view, worker) for worker in workers)


def is_on_goal(rollout: Rollout, view: View, worker: str) -> bool:
    """One that loads beside may be about to leave it, by the order of a step that was left when the rollback began."""
    report = view.workers.get(worker)
    return report is not None and report.state is S.READY and report.digest == rollout.goal and not report.beside


def state_of(view: View, worker: str) -> WorkerState:
    report = view.workers.get(worker)
    return report.state if report else S.DOWN


def movers(rollout: Rollout, view: View) -> list[str]:
    """The workers that are to be on the goal by now."""
    if rollout.phase in (Phase.CANARY, Phase.ANALYZING):
        return list(rollout.canary_workers)
    return seats(rollout, view)


def seats(rollout: Rollout, view: View) -> list[str]:
    """Those of the beginning too: a broker that was just restarted has not heard of all workers yet."""
    return list(dict.fromkeys((*rollout.workers, *(worker for worker in view.workers if not is_spare(worker)))))


def down(rollout: Rollout, view: View) -> list[str]:
    """Seats without a process: it has ended, or the broker has not heard of it yet."""
    return [worker for worker in seats(rollout, view) if state_of(view, worker) is S.DOWN]
