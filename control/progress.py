"""Pure: what a rollout is doing now and how it ended, in one line for people."""

from collections.abc import Sequence

from hotpool.messages import WorkerReport
from hotpool.states import Phase, Strategy, WorkerState, is_spare

from .plan import SHADOW
from .preflight import judge_labelled
from .rollout import Kind, PauseCause, Rollout


def title(rollout: Rollout) -> str:
    """`rollout 12 of resnet18 (v6 -> v7)`, with `, beside` or `, surge`."""
    strategy = rollout.settings.strategy
    how = "" if strategy is Strategy.DRAIN else f", {strategy}"
    return f"{_name(rollout)} ({rollout.stable_name} -> {rollout.target_name}{how})"


def message(rollout: Rollout, workers: Sequence[WorkerReport]) -> str:
    """What it does or waits for. Contains no clock: it changes only when something happened.

    workers: those of the rollout's model, as the broker reports them; empty when it can't be reached.
    """
    if rollout.is_over:
        return ending(rollout)
    if rollout.pause_cause is PauseCause.INCONCLUSIVE and rollout.phase is Phase.PREFLIGHT and rollout.labelled:
        return f"paused, the labelled pictures do not decide: {judge_labelled(rollout, rollout.labelled).reason}"
    if rollout.pause_cause is PauseCause.INCONCLUSIVE:
        return f"paused, {_step(rollout)} was inconclusive: {rollout.analysis.reason}"
    if rollout.paused:
        return f"paused while {rollout.phase}; {_counts(rollout, workers)}"
    return _MESSAGES[rollout.phase](rollout, workers)


def ending(rollout: Rollout) -> str:
    match rollout.phase:
        case Phase.SUCCEEDED:
            undone = " again" if rollout.kind is Kind.UNDO else ""
            return f"{_name(rollout)} succeeded: {rollout.target_name} is stable{undone}"
        case Phase.REJECTED:
            return f"{_name(rollout)} rejected {rollout.target_name}: {rollout.ending}; the service was not touched"
        case Phase.ROLLED_BACK:
            return f"{_name(rollout)} rolled back to {rollout.stable_name}: {rollout.ending}"
        case Phase.ROLLBACK_FAILED:
            return (
                f"{_name(rollout)} could not be rolled back: {rollout.ending}; the pool serves with the workers that are "
                "ready: see hotpool status, then try the rollback again with: hotpool rollout retry"
            )
        case _:
            raise AssertionError(f"{rollout.phase} is not final")


def _name(rollout: Rollout) -> str:
    return f"rollout {rollout.number} of {rollout.model}"


def doing(worker: WorkerReport) -> str:
    """Its state, and what it does beside it: `ready`, or `ready, loading beside`."""
    return f"{worker.state}, {worker.beside} beside" if worker.beside else worker.state


def _counts(rollout: Rollout, workers: Sequence[WorkerReport]) -> str:
    if not workers:
        return "the broker can't be reached"
    ordinary = [worker for worker in workers if not is_spare(worker.worker)]
    n_updated = sum(worker.digest == rollout.goal and worker.state is WorkerState.READY for worker in ordinary)
    n_ready = sum(worker.state is WorkerState.READY for worker in workers)
    goal = rollout.target_name if rollout.goal == rollout.target else rollout.stable_name
    busy = ", ".join(
        f"{w.worker} {doing(w).removeprefix('ready, ')}"
        for w in workers
        if w.beside or w.state is not WorkerState.READY
    )
    return f"{n_updated} of {len(ordinary)} workers on {goal}, {n_ready} ready" + (f" ({busy})" if busy else "")


def _pending(rollout: Rollout, workers: Sequence[WorkerReport]) -> str:
    return "waiting for the controller"


def _preflight(rollout: Rollout, workers: Sequence[WorkerReport]) -> str:
    checking, total = (
        f"preflight: checking {rollout.target_name} in a process of its own",
        rollout.settings.eval_pictures,
    )
    return f"preflight: {rollout.evaluated} of {total} pictures" if rollout.evaluated else checking


def _step(rollout: Rollout) -> str:
    """`step 2/4, 5 percent to v7`, or `step 1/4, shadow`."""
    step, steps = rollout.analysis.step, rollout.settings.steps
    share = rollout.step if rollout.step == SHADOW else f"{rollout.step} percent to {rollout.target_name}"
    return f"step {step + 1}/{len(steps)}, {share}"


def _canary(rollout: Rollout, workers: Sequence[WorkerReport]) -> str:
    return f"canary: {', '.join(rollout.canary_workers)} first; {_counts(rollout, workers)}"


def _analyzing(rollout: Rollout, workers: Sequence[WorkerReport]) -> str:
    return f"analyzing: {_step(rollout)}; {_counts(rollout, workers)}"


def _rolling(rollout: Rollout, workers: Sequence[WorkerReport]) -> str:
    return f"rolling: {_counts(rollout, workers)}"


def _baking(rollout: Rollout, workers: Sequence[WorkerReport]) -> str:
    return f"baking: {_counts(rollout, workers)}, watched for {rollout.settings.bake_s:g} s"


def _committing(rollout: Rollout, workers: Sequence[WorkerReport]) -> str:
    return f"committing: {rollout.target_name} becomes stable"


def _rolling_back(rollout: Rollout, workers: Sequence[WorkerReport]) -> str:
    return f"rolling back to {rollout.stable_name} ({rollout.ending}): {_counts(rollout, workers)}"


_MESSAGES = {
    Phase.PENDING: _pending,
    Phase.PREFLIGHT: _preflight,
    Phase.CANARY: _canary,
    Phase.ANALYZING: _analyzing,
    Phase.ROLLING: _rolling,
    Phase.BAKING: _baking,
    Phase.COMMITTING: _committing,
    Phase.ROLLING_BACK: _rolling_back,
}
