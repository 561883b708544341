"""Pure: what to do next, from what is wanted (the ledger) and what is (the view). At most one action per call.

Commands follow from the difference and may be sent twice: a controller that was killed decides the same again. An event comes
back as `Record` and is in the journal before the command it announces is decided at all.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from math import inf

from hotpool.messages import ModelReport, WorkerReport
from hotpool.states import Phase, Strategy, WorkerState, is_spare

from . import canary, preflight, probes
from .actions import Action, CheckWeights, Drain, Load, PointStable, Record, RunPreflight, SetSpares, SetTable, Undrain
from .between import repair, take_back
from .events import EventKind
from .ledger import Ledger
from .rollout import Fault, Outcome, Part, Rollout, Step
from .view import Evaluating, Finding, View

K, S = EventKind, WorkerState


def decide(ledger: Ledger, model: str, view: View, now: float) -> Action | None:
    """The next action for a model; None: wait."""
    stable = ledger.stable(model)
    if stable is None:
        return None
    rollout = ledger.active(model)
    pointer = rollout.target if rollout and rollout.phase is Phase.COMMITTING else stable
    if view.pointer != pointer:
        return PointStable(pointer)
    if table := _table(ledger, model, stable, view, now):
        return table
    if found := probes.follow(ledger, model, view, _least(rollout, view) if rollout else 1, now):
        return found
    if rollout is None:
        action = take_back(ledger, model, view, now) or repair(ledger, stable, view, now)
    else:
        view = replace(view, taken_out=probes.taken_out(ledger, model, view))
        action = _DECIDERS[rollout.phase](rollout, view, now)
    return action or _set_spares(ledger.last(model), view) or probes.begin(rollout, view)


def _table(ledger: Ledger, model: str, stable: str, view: View, now: float) -> SetTable | None:
    rollout, watched, policy = ledger.active(model), ledger.watched(model), None
    if rollout is not None:
        policy = canary.policy(rollout, view.workers, _least(rollout, view))
    elif watched is not None and canary.is_watched(watched, now):
        policy = canary.watch_policy(watched)
    names = ledger.versions.get(model, {})
    wanted = ModelReport(model, ledger.epoch, stable, ledger.target(model), names, policy)
    return None if view.table == wanted else SetTable(wanted.stable, wanted.target, wanted.names, policy)


# ---- by phase


def _decide_pending(rollout: Rollout, view: View, now: float) -> Action | None:
    if rollout.abort:
        return _record(rollout, K.REJECTED, cause="abort", reason=rollout.abort)
    return None if rollout.paused else _record(rollout, K.PREFLIGHT_STARTED)


def _decide_preflight(rollout: Rollout, view: View, now: float) -> Action | None:
    if rollout.abort:
        return _record(rollout, K.REJECTED, cause="abort", reason=rollout.abort)
    match view.preflight:
        case None:
            return RunPreflight(rollout.target, rollout.settings, rollout.stable)
        case Evaluating(pictures):
            return None if pictures == rollout.evaluated else _record(rollout, K.EVALUATED, pictures=pictures)
        case Finding(is_good=False, reason=reason):
            return _record(rollout, K.REJECTED, cause="preflight", reason=reason)
        case Finding() as finding:
            return preflight.end(rollout, finding)


def _decide_canary(rollout: Rollout, view: View, now: float) -> Action | None:
    return (
        _give_up(rollout, now, rollout.settings.progress_deadline_s)
        or _go_on(rollout, view, now)
        or _start_step(rollout, view)
        or (canary.begin(rollout) if _is_settled(rollout, view) and not _spares(view) else None)
    )


def _decide_analyzing(rollout: Rollout, view: View, now: float) -> Action | None:
    """Waiting for evidence is no lack of progress: a step has a limit of its own."""
    go_on = canary.end_step if _is_settled(rollout, view) else canary.wait_for_workers
    return (
        _give_up(rollout, now, inf)
        or canary.catch_failure(rollout, view.counts, now)
        or _start_step(rollout, view)
        or go_on(rollout, view.counts, now)
    )


def _decide_rolling(rollout: Rollout, view: View, now: float) -> Action | None:
    return (
        _give_up(rollout, now, rollout.settings.progress_deadline_s)
        or canary.catch_failure(rollout, view.counts, now)
        or _go_on(rollout, view, now)
        or _start_step(rollout, view)
        or (_record(rollout, K.BAKE_STARTED) if _is_settled(rollout, view) and not _spares(view) else None)
    )


def _decide_baking(rollout: Rollout, view: View, now: float) -> Action | None:
    deadline_s = rollout.settings.bake_s + rollout.settings.progress_deadline_s
    return (
        _give_up(rollout, now, deadline_s)
        or canary.catch_failure(rollout, view.counts, now)
        or _start_step(rollout, view)
        or _end_bake(rollout, view, now)
    )


def _end_bake(rollout: Rollout, view: View, now: float) -> Action | None:
    """`since` is when the bake began, when it was resumed or when this controller started: it begins anew each time."""
    if not _is_settled(rollout, view) or _spares(view) or now - rollout.since < rollout.settings.bake_s:
        return None
    if view.weights is None:
        return CheckWeights(rollout.target)
    if not view.weights.is_good:
        return _record(rollout, K.ROLLBACK_STARTED, cause="version", reason=view.weights.reason)
    return _record(rollout, K.COMMIT_STARTED, digest=rollout.target)


def _decide_committing(rollout: Rollout, view: View, now: float) -> Action | None:
    """`decide` has seen to the pointer before it asks here."""
    return _record(rollout, K.SUCCEEDED, digest=rollout.target)


def _decide_rolling_back(rollout: Rollout, view: View, now: float) -> Action | None:
    if now - rollout.since >= rollout.settings.progress_deadline_s:
        return _end_overdue_rollback(rollout, view)
    return (
        _go_on(rollout, view, now)
        or _start_step(rollout, view)
        or (_record(rollout, K.ROLLED_BACK) if _is_settled(rollout, view) else None)
    )


_DECIDERS: dict[Phase, Callable[[Rollout, View, float], Action | None]] = {
    Phase.PENDING: _decide_pending,
    Phase.PREFLIGHT: _decide_preflight,
    Phase.CANARY: _decide_canary,
    Phase.ANALYZING: _decide_analyzing,
    Phase.ROLLING: _decide_rolling,
    Phase.BAKING: _decide_baking,
    Phase.COMMITTING: _decide_committing,
    Phase.ROLLING_BACK: _decide_rolling_back,
}


_MOVES = {Phase.CANARY, Phase.ANALYZING, Phase.ROLLING, Phase.BAKING, Phase.ROLLING_BACK}


def _give_up(rollout: Rollout, now: float, deadline_s: float) -> Action | None:
    """The rollback, when there is a reason for it. An abort comes first: it is the operator's word."""
    if rollout.abort:
        return _record(rollout, K.ROLLBACK_STARTED, cause="abort", reason=rollout.abort)
    if rollout.version_fault:
        return _record(rollout, K.ROLLBACK_STARTED, cause="version", reason=rollout.version_fault)
    if canary.gives_up(rollout):
        return _record(rollout, K.ROLLBACK_STARTED, cause="gate", reason=rollout.analysis.reason)
    if not rollout.paused and now - rollout.since >= deadline_s:
        reason = f"no progress for {deadline_s:g} s in phase {rollout.phase}"
        return _record(rollout, K.ROLLBACK_STARTED, cause="deadline", reason=reason)
    return None


def _end_overdue_rollback(rollout: Rollout, view: View) -> Action:
    """A worker that was down for so long has no process; the next one will boot the stable version."""
    down = [worker for worker in _seats(rollout, view) if _state(view, worker) is S.DOWN]
    if _is_settled(rollout, view, apart_from=down):
        return _record(rollout, K.ROLLED_BACK)
    where = ", ".join(f"{worker} {_state(view, worker)}" for worker in _seats(rollout, view))
    reason = f"no progress for {rollout.settings.progress_deadline_s:g} s while rolling back: {where}"
    return _record(rollout, K.ROLLBACK_FAILED, cause="deadline", reason=reason)


# ---- steps


def _start_step(rollout: Rollout, view: View) -> Action | None:
    """The next worker that needs its step and may have it. Who is not ready anyway goes first and costs nothing."""
    if rollout.paused:
        return None
    waiting = [view.workers[worker] for worker in _movers(rollout, view) if _needs_step(rollout, view, worker)]
    for worker in sorted(waiting, key=lambda worker: worker.state is S.READY):
        if rollout.attempts.get(worker.worker, 0) > rollout.settings.max_worker_retries:
            return _out_of_attempts(rollout, worker.worker)
        if worker.state is not S.READY or _may_take(rollout, view, worker.worker):
            attempt = rollout.attempts.get(worker.worker, 0) + 1
            body = {"worker": worker.worker, "incarnation": worker.incarnation, "attempt": attempt}
            return _record(rollout, K.STEP_STARTED, **body, goal=rollout.goal)
    return None


def _needs_step(rollout: Rollout, view: View, worker: str) -> bool:
    """Down and starting workers are waited for: they will come with the stable version. A load under way is let end."""
    report = view.workers.get(worker)
    if report is None or report.beside or worker in rollout.steps or _is_on_goal(rollout, view, worker):
        return False
    if worker in view.taken_out:  # its process ends, and the next one gets its step
        return False
    return report.state in (S.READY, S.DRAINING, S.DRAINED)


def _may_take(rollout: Rollout, view: View, worker: str) -> bool:
    """Whether the step of a ready worker may begin. One that loads beside stays ready, so there the limit is only a matter of
    how much processor the loads may take from the requests."""
    if rollout.settings.strategy is Strategy.BESIDE:
        return len(rollout.steps) < rollout.settings.max_unavailable
    return _may_drain(rollout, view, worker)


def _out_of_attempts(rollout: Rollout, worker: str) -> Action:
    failures = [
        step.reason
        for step in rollout.ended_steps
        if (step.worker, step.goal, step.outcome) == (worker, rollout.goal, Outcome.FAILED)
    ]
    tried = f"{worker} needed more than {1 + rollout.settings.max_worker_retries} attempts"
    reason = f"{tried}; the last failed because {failures[-1]}" if failures else f"{tried}: it was lost after each"
    kind = K.ROLLBACK_FAILED if rollout.phase is Phase.ROLLING_BACK else K.ROLLBACK_STARTED
    return _record(rollout, kind, cause="worker", reason=reason)


def _go_on(rollout: Rollout, view: View, now: float) -> Action | None:
    """The next thing to do for an open step, if any."""
    for step in rollout.steps.values():
        if action := _go_on_with(rollout, step, view, now):
            return action
    return None


def _go_on_with(rollout: Rollout, step: Step, view: View, now: float) -> Action | None:
    """By part and state, asked anew each time: so it holds too when the broker was restarted and forgot the drain."""
    worker = view.workers.get(step.worker)
    if worker is None or worker.state is S.DOWN:
        return _time_out(rollout, step, S.DOWN, now)
    spent_s = round(now - step.since, 6)
    loads_beside = step.part is Part.LOAD and rollout.settings.strategy is Strategy.BESIDE
    has_loaded = loads_beside and worker.token == step.token  # its seconds are written down first
    if _is_on_goal(rollout, view, step.worker) and not has_loaded:
        return _record(rollout, K.STEP_FINISHED, worker=step.worker, rejoin_s=spent_s)
    if worker.incarnation != step.incarnation:
        return _fail(rollout, step, Fault.WORKER, "its process ended")
    if worker.beside:
        return _time_out(rollout, step, worker.state, now)
    match step.part, worker.state:
        case Part.LOAD, S.READY if loads_beside:
            return _load(rollout, step, worker)
        case _, S.READY:
            return _take_out(rollout, step, view)
        case Part.DRAIN, S.DRAINED:
            return _record(rollout, K.STEP_DRAINED, worker=step.worker, drain_s=spent_s)
        case Part.LOAD, S.DRAINED:
            return _load(rollout, step, worker)
        case Part.REJOIN, S.DRAINED:
            return Undrain(step.worker)
        case Part.DRAIN, S.DRAINING if worker.digest == step.goal:
            return Undrain(step.worker)  # a rollback that came before the load: nothing to undo
    return _time_out(rollout, step, worker.state, now)


def _take_out(rollout: Rollout, step: Step, view: View) -> Action:
    """The worker serves, but not its goal."""
    if step.part is Part.REJOIN:
        return _fail(rollout, step, Fault.WORKER, f"it came back with version {view.workers[step.worker].version}")
    if _may_drain(rollout, view, step.worker):
        return Drain(step.worker, _floor(rollout, view))
    return _record(rollout, K.STEP_WITHDRAWN, worker=step.worker, reason="another worker went down first")


def _load(rollout: Rollout, step: Step, worker: WorkerReport) -> Action:
    """Judged by what the worker holds, not by what it was told: a failed load of the version it has is no failure."""
    if worker.token != step.token:
        return Load(step.worker, step.goal, step.token, beside=worker.state is S.READY)
    if worker.digest == step.goal:
        seconds = {"load_s": worker.load_s, "verify_s": worker.verify_s}
        return _record(rollout, K.STEP_LOADED, worker=step.worker, digest=worker.digest, **seconds)
    if worker.load_reason:
        fault = Fault.WORKER if rollout.phase is Phase.ROLLING_BACK else Fault.VERSION
        return _fail(rollout, step, fault, worker.load_reason)
    return _fail(rollout, step, Fault.WORKER, "its load was lost")


def _time_out(rollout: Rollout, step: Step, state: WorkerState, now: float) -> Action | None:
    settings = rollout.settings
    limit_s = settings.drain_timeout_s if step.part is Part.DRAIN else settings.load_timeout_s
    if now - step.since < limit_s:
        return None
    return _fail(rollout, step, Fault.WORKER, f"{step.part} took longer than {limit_s:g} s; it is {state}")


def _fail(rollout: Rollout, step: Step, fault: Fault, reason: str) -> Record:
    return _record(rollout, K.STEP_FAILED, worker=step.worker, part=step.part, fault=fault, reason=reason)


# ---- the floor


def _may_drain(rollout: Rollout, view: View, worker: str) -> bool:
    """Whether enough workers stay ready without this one and without those whose drain is announced."""
    announced = rollout.steps.keys() | {worker}
    staying = sum(
        report.state is S.READY and not _leaves(rollout, view, name, announced) for name, report in view.workers.items()
    )
    return staying >= _floor(rollout, view)


def _floor(rollout: Rollout, view: View) -> int:
    """Of its steps. With spare workers no ordinary one leaves before another has come."""
    return len(_seats(rollout, view)) if rollout.settings.strategy is Strategy.SURGE else _least(rollout, view)


def _least(rollout: Rollout, view: View) -> int:
    return max(1, len(_seats(rollout, view)) - rollout.settings.max_unavailable)


def _leaves(rollout: Rollout, view: View, worker: str, announced: set[str]) -> bool:
    """A step that holds its goal is about to finish, not to drain."""
    return worker in announced and not _is_on_goal(rollout, view, worker)


def _is_settled(rollout: Rollout, view: View, apart_from: Collection[str] = ()) -> bool:
    """Every worker that is to be is ready on the goal, no step is open, nobody holds the rollout."""
    workers = [worker for worker in _movers(rollout, view) if worker not in apart_from]
    is_open = rollout.paused or any(worker in rollout.steps for worker in workers)
    return not is_open and all(_is_on_goal(rollout, view, worker) for worker in workers)


def _is_on_goal(rollout: Rollout, view: View, worker: str) -> bool:
    """One that loads beside may be about to leave it, by the order of a step that was left when the rollback began."""
    report = view.workers.get(worker)
    return report is not None and report.state is S.READY and report.digest == rollout.goal and not report.beside


def _state(view: View, worker: str) -> WorkerState:
    report = view.workers.get(worker)
    return report.state if report else S.DOWN


def _movers(rollout: Rollout, view: View) -> list[str]:
    """The workers that are to be on the goal by now."""
    if rollout.phase in (Phase.CANARY, Phase.ANALYZING):
        return list(rollout.canary_workers)
    return _seats(rollout, view)


def _seats(rollout: Rollout, view: View) -> list[str]:
    """Those of the beginning too: a broker that was just restarted has not heard of all workers yet."""
    return list(dict.fromkeys((*rollout.workers, *(worker for worker in view.workers if not is_spare(worker)))))


# ---- spare workers


def _spares(view: View) -> list[WorkerReport]:
    return [worker for name, worker in view.workers.items() if is_spare(name)]


def _set_spares(rollout: Rollout | None, view: View) -> Action | None:
    """They serve the stable version while workers move, and leave before there is a judgement, a bake or a commit: those are
    about the ordinary ones. None leaves while it stands in for one that is not ready. rollout: the last, under way or over."""
    spares, wanted = _spares(view), 0
    if rollout and rollout.settings.strategy is Strategy.SURGE and rollout.phase in _MOVES:
        away = [worker for worker in _movers(rollout, view) if not _is_on_goal(rollout, view, worker)]
        # One without a process moves nothing now, and is back with the stable version before it does.
        is_moving = any(_state(view, worker) not in (S.DOWN, S.STARTING) for worker in away)
        wanted = rollout.settings.max_surge if is_moving else 0
    if wanted == len(spares):
        idle = (spare for spare in spares if spare.state is S.DRAINED and rollout and spare.digest == rollout.stable)
        return next((Undrain(spare.worker) for spare in idle), None)
    is_needed = any(_state(view, worker) is not S.READY for worker in (_seats(rollout, view) if rollout else ()))
    return None if wanted < len(spares) and is_needed else SetSpares(wanted)


def _record(rollout: Rollout, kind: EventKind, **body: object) -> Record:
    return Record(kind, body, rollout.number)
