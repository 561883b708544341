"""Pure: what the controller's side counts beside the broker, nearly all of it from the journal. Names: docs/metrics.md."""

from hotpool.messages import Family
from hotpool.metrics import Counter, Histograms, gauge
from hotpool.states import Phase

from .ledger import Ledger
from .rollout import Rollout

_WENT_BACK = {Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED}


def rollout_families(ledger: Ledger) -> tuple[Family, ...]:
    """Of all rollouts ever, so that a restarted controller does not begin at zero."""
    ended = Counter("hotpool_rollouts_total", "Rollouts that ended, by outcome.", "model", "outcome")
    rollbacks = Counter("hotpool_rollbacks_total", "Rollouts that went back, by cause.", "model", "cause")
    steps = Counter("hotpool_steps_total", "Steps of workers that ended, by outcome.", "model", "outcome")
    verdicts = Counter(
        "hotpool_rollout_verdicts_total",
        "Verdicts of gates that were written down.",
        "model",
        "version",
        "gate",
        "result",
    )
    parts = Histograms("hotpool_step_seconds", "Parts of workers' steps.", "model", "part")
    for rollout in ledger.rollouts.values():
        if rollout.is_over and rollout.phase is not Phase.ROLLBACK_FAILED:
            ended[rollout.model, rollout.phase] += 1
        if rollout.failed_rollbacks:  # one that was retried goes on, and what was counted stays counted
            ended[rollout.model, Phase.ROLLBACK_FAILED] += rollout.failed_rollbacks
        if rollout.phase in _WENT_BACK:
            rollbacks[rollout.model, rollout.cause] += 1
        for verdict in (one for judged in rollout.judged for one in judged["verdicts"]):
            verdicts[rollout.model, rollout.target_name, verdict["gate"], verdict["result"]] += 1
        for step in rollout.ended_steps:
            steps[rollout.model, step.outcome] += 1
            for part, seconds in step.seconds.items():
                parts[rollout.model, part].observe(seconds)
    families = (ended, rollbacks, verdicts, steps, parts)
    return (*(one.family() for one in families), _phases(ledger), *_probes(ledger))


def malformed_counter() -> Counter:
    """For whoever counts them; they are no matter of the journal."""
    return Counter(
        "hotpool_control_malformed_total", "Messages to the controller that were dropped because they are none."
    )


def _phases(ledger: Ledger) -> Family:
    """One sample a phase, 1 for the one the model's newest rollout is in: alerts and graphs need all the others as 0."""
    newest: dict[str, Rollout] = {rollout.model: rollout for rollout in ledger.rollouts.values()}
    values = [
        ((model, phase.value), float(rollout.phase is phase)) for model, rollout in newest.items() for phase in Phase
    ]
    return gauge("hotpool_rollout_phase", "Where the newest rollout is.", values, "model", "phase")


def _probes(ledger: Ledger) -> tuple[Family, Family]:
    wrong = Counter("hotpool_probes_wrong_total", "Processes whose answers to probes were wrong.", "model")
    for model in ledger.stables:
        wrong[model,] += ledger.n_wrong.get(model, 0)
    alarms = [((model,), float(model in ledger.alarms)) for model in ledger.stables]
    return wrong.family(), gauge("hotpool_alarm", "1 while the controller needs a person.", alarms, "model")
