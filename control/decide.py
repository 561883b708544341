"""Pure: what to do next, from what is wanted (the ledger) and what is (the view). At most one action per call.

Commands follow from the difference and may be sent twice: a controller that was killed decides the same again. An event comes
back as `Record` and is in the journal before the command it announces is decided at all.
"""

from collections.abc import Callable
from dataclasses import replace
from math import inf

from hotpool.messages import ModelReport, WorkerReport
from hotpool.states import Phase, Strategy, WorkerState, is_spare

from . import canary, preflight, probes
from .actions import Action, CheckWeights, Drain, Load, PointStable, Record, RunPreflight, SetSpares, SetTable, Undrain
from .between import repair, take_back
from .events import EventKind
from .floor import down, floor_of, is_on_goal, is_settled, least_ready, may_drain, movers, seats, state_of
from .ledger import Ledger
from .rollout import Fault, Kind, Outcome, Part, Rollout, Step
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
    if found := probes.follow(ledger, model, view, least_ready(rollout, view) if rollout else 1, now):
        return found
    if rollout is None:
        action = take_back(ledger, model, view, now) or repair(ledger, stable, view, now)
    else:
        view = replace(view, taken_out=probes.taken_out(ledger, model, view))
        action = _DECIDERS[rollout.phase](rollout, view, now)
    return action or _set_spares(ledger.last(model), view) or probes.begin(rollout, view)


def _table(ledger: Ledger, model: str, stable: str, view: View, now: float) -> SetTable | None:
    last, watched = ledger.last(model), ledger.watched(model)
    policy = canary.policy(last, view.workers, least_ready(last, view)) if last else None
    if policy is None and watched is not None and canary.is_watched(watched, now):
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
        or _start_step(rollout, view, now)
        or (canary.begin(rollout) if is_settled(rollout, view) and not _spares(view) else None)
    )


def _decide_analyzing(rollout: Rollout, view: View, now: float) -> Action | None:
    """Waiting for evidence is no lack of progress: a step has a limit of its own."""
    go_on = canary.end_step if is_settled(rollout, view) else canary.wait_for_workers
    return (
        _give_up(rollout, now, inf)
        or canary.catch_failure(rollout, view.counts, now)
        or _start_step(rollout, view, now)
        or go_on(rollout, view.counts, now)
    )


def _decide_rolling(rollout: Rollout, view: View, now: float) -> Action | None:
    return (
        _give_up(rollout, now, rollout.settings.progress_deadline_s)
        or canary.catch_failure(rollout, view.counts, now)
        or _go_on(rollout, view, now)
        or _start_step(rollout, view, now)
        or (_record(rollout, K.BAKE_STARTED) if _has_arrived(rollout, view) and not _spares(view) else None)
    )


def _decide_baking(rollout: Rollout, view: View, now: float) -> Action | None:
    deadline_s = rollout.settings.bake_s + rollout.settings.progress_deadline_s
    return (
        _give_up(rollout, now, deadline_s)
        or canary.catch_failure(rollout, view.counts, now)
        or _start_step(rollout, view, now)
        or _end_bake(rollout, view, now)
    )


def _end_bake(rollout: Rollout, view: View, now: float) -> Action | None:
    """`since` is when the bake began, when it was resumed or when this controller started: it begins anew each time."""
    if not _has_arrived(rollout, view) or _spares(view) or now - rollout.since < rollout.settings.bake_s:
        return None
    if view.weights is None:
        return CheckWeights(rollout.target)
    if not view.weights.is_good:
        return _record(rollout, K.ROLLBACK_STARTED, cause="version", reason=view.weights.reason)
    return _record(rollout, K.COMMIT_STARTED, digest=rollout.target)


def _has_arrived(rollout: Rollout, view: View) -> bool:
    """An undo leaves a version that must not stay, so it waits for nobody without a process: the next one will boot what is
    stable by then, or is brought there."""
    if rollout.kind is Kind.START:
        return is_settled(rollout, view)
    gone = [name for name, worker in view.workers.items() if worker.state is S.DOWN and name not in rollout.steps]
    return len(gone) < len(view.workers) and is_settled(rollout, view, apart_from=gone)


def _decide_committing(rollout: Rollout, view: View, now: float) -> Action | None:
    """`decide` has seen to the pointer before it asks here."""
    return _record(rollout, K.SUCCEEDED, digest=rollout.target)


def _decide_rolling_back(rollout: Rollout, view: View, now: float) -> Action | None:
    if now - rollout.since >= rollout.settings.progress_deadline_s:
        return _end_overdue_rollback(rollout, view)
    return (
        _go_on(rollout, view, now)
        or _start_step(rollout, view, now)
        or (_record(rollout, K.ROLLED_BACK) if is_settled(rollout, view) else None)
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
    if is_settled(rollout, view, apart_from=down(rollout, view)):
        return _record(rollout, K.ROLLED_BACK)
    where = ", ".join(f"{worker} {state_of(view, worker)}" for worker in seats(rollout, view))
    reason = f"no progress for {rollout.settings.progress_deadline_s:g} s while rolling back: {where}"
    return _record(rollout, K.ROLLBACK_FAILED, cause="deadline", reason=reason)


# ---- steps


def _start_step(rollout: Rollout, view: View, now: float) -> Action | None:
    """The next worker that needs its step and may have it. Who is not ready anyway goes first and costs nothing."""
    if rollout.paused:
        return None
    waiting = [view.workers[worker] for worker in movers(rollout, view) if _needs_step(rollout, view, worker)]
    spent = [w.worker for w in waiting if rollout.attempts.get(w.worker, 0) > rollout.settings.max_worker_retries]
    if spent and not _can_others_go_back(rollout, view, spent):
        return _out_of_attempts(rollout, spent[0])
    for worker in sorted(waiting, key=lambda worker: worker.state is S.READY):
        strategy = None if worker.worker in spent else _strategy_for(rollout, view, worker, now)
        if strategy is not None:
            attempt = rollout.attempts.get(worker.worker, 0) + 1
            body = {"worker": worker.worker, "incarnation": worker.incarnation, "attempt": attempt}
            return _record(rollout, K.STEP_STARTED, **body, goal=rollout.goal, strategy=strategy)
    return None


def _needs_step(rollout: Rollout, view: View, worker: str) -> bool:
    """Down and starting workers are waited for: they will come with the stable version. A load under way is let end."""
    report = view.workers.get(worker)
    if report is None or report.beside or worker in rollout.steps or is_on_goal(rollout, view, worker):
        return False
    if worker in view.taken_out:  # its process ends, and the next one gets its step
        return False
    return report.state in (S.READY, S.DRAINING, S.DRAINED)


def _can_others_go_back(rollout: Rollout, view: View, spent: list[str]) -> bool:
    """Whether a rollback has more to do than bring back these workers, which it can't."""
    if rollout.phase is not Phase.ROLLING_BACK:
        return False
    return bool(rollout.steps) or not is_settled(rollout, view, apart_from={*spent, *down(rollout, view)})


def _strategy_for(rollout: Rollout, view: View, worker: WorkerReport, now: float) -> Strategy | None:
    """How this worker may have its step now; None: not yet. One that loads beside stays ready, so there the limit is only a
    matter of how much processor the loads may take from the requests."""
    strategy = rollout.settings.strategy
    if worker.state is not S.READY:
        return strategy
    if strategy is Strategy.BESIDE:
        return strategy if len(rollout.steps) < rollout.settings.max_unavailable else None
    if may_drain(rollout, view, worker.worker):
        return strategy
    return Strategy.BESIDE if _must_not_wait(rollout, view, now) else None


def _must_not_wait(rollout: Rollout, view: View, now: float) -> bool:
    """A worker that is missing must not keep the others on a version that is not to stay: the floor forbids to drain them, but
    loading beside takes nobody out of service. A load that is under way may let it rise again, and a spare worker, which may be
    on its way, is given some time."""
    settings, workers = rollout.settings, view.workers.values()
    is_busy = bool(rollout.steps) or any(one.beside or one.state in (S.LOADING, S.VERIFYING) for one in workers)
    if is_busy or (rollout.phase is not Phase.ROLLING_BACK and rollout.kind is not Kind.UNDO):
        return False
    n_spares = sum(spare.state is S.READY for spare in _spares(view))
    lacks_spare = settings.strategy is Strategy.SURGE and n_spares < settings.max_surge
    return not lacks_spare or now - rollout.since >= settings.drain_timeout_s


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
    loads_beside = step.part is Part.LOAD and step.strategy is Strategy.BESIDE
    has_loaded = loads_beside and worker.token == step.token  # its seconds are written down first
    if is_on_goal(rollout, view, step.worker) and not has_loaded:
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
    if may_drain(rollout, view, step.worker):
        return Drain(step.worker, floor_of(rollout, view))
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


# ---- spare workers


def _spares(view: View) -> list[WorkerReport]:
    return [worker for name, worker in view.workers.items() if is_spare(name)]


def _set_spares(rollout: Rollout | None, view: View) -> Action | None:
    """They serve the stable version while workers move, and leave before there is a judgement, a bake or a commit: those are
    about the ordinary ones. None leaves while it stands in for one that is not ready. rollout: the last, under way or over."""
    spares, wanted = _spares(view), 0
    if rollout and rollout.settings.strategy is Strategy.SURGE and rollout.phase in _MOVES:
        away = [worker for worker in movers(rollout, view) if not is_on_goal(rollout, view, worker)]
        # One without a process moves nothing now, and is back with the stable version before it does.
        is_moving = any(state_of(view, worker) not in (S.DOWN, S.STARTING) for worker in away)
        wanted = rollout.settings.max_surge if is_moving else 0
    if wanted == len(spares):
        idle = (spare for spare in spares if spare.state is S.DRAINED and rollout and spare.digest == rollout.stable)
        return next((Undrain(spare.worker) for spare in idle), None)
    return None if wanted < len(spares) and rollout and _stand_in(rollout, view) else SetSpares(wanted)


def _stand_in(rollout: Rollout, view: View) -> bool:
    """What they serve an undo leaves, and it waits for nobody without a process; but nobody else may be there to answer."""
    states = [state_of(view, worker) for worker in seats(rollout, view)]
    if rollout.kind is Kind.UNDO and rollout.goal == rollout.target:
        return S.READY not in states
    return any(state is not S.READY for state in states)


def _record(rollout: Rollout, kind: EventKind, **body: object) -> Record:
    return Record(kind, body, rollout.number)
