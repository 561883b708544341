"""Pure: what the controller's side counts beside the broker, nearly all of it from the journal. Names: docs/metrics.md.

A version that is removed takes its samples with it: each new one brings more, and none would ever go.
"""

from collections.abc import Sequence

from hotpool.messages import Family
from hotpool.metrics import Counter, Histograms, gauge
from hotpool.states import Phase

from .ledger import Ledger
from .rollout import Rollout
from .verdicts import Verdict

_BY_VERSION = ("model", "version")
_WENT_BACK = {Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED}


def rollout_families(ledger: Ledger) -> tuple[Family, ...]:
    """Of all rollouts ever, so that a restarted controller does not begin at zero."""
    return (*_outcomes(ledger), *_steps(ledger), _phases(ledger), *_probes(ledger))


def malformed_counter() -> Counter:
    """For whoever counts them; they are no matter of the journal."""
    return Counter(
        "hotpool_control_malformed_total", "Messages to the controller that were dropped because they are none."
    )


def gate_progress(rollout: Rollout | None, verdicts: Sequence[Verdict]) -> Family:
    """verdicts: as the evidence stands now; none while nothing is judged."""
    values = [((rollout.model, rollout.target_name, one.gate), one.progress) for one in verdicts] if rollout else []
    return gauge(
        "hotpool_gate_progress", "How near a gate is to its verdict: 1 when it has one.", values, *_BY_VERSION, "gate"
    )


def _is_stored(ledger: Ledger, model: str, digest: str) -> bool:
    return digest in ledger.versions.get(model, {}).values()


def _outcomes(ledger: Ledger) -> tuple[Family, ...]:
    ended = Counter(
        "hotpool_rollouts_total",
        "Rollouts that ended, by outcome; a rollback that is retried counts again.",
        *_BY_VERSION,
        "outcome",
    )
    rollbacks = Counter("hotpool_rollbacks_total", "Rollouts that went back, by cause.", *_BY_VERSION, "cause")
    verdicts = Counter(
        "hotpool_rollout_verdicts_total", "Verdicts of gates that were written down.", *_BY_VERSION, "gate", "result"
    )
    stored = (one for one in ledger.rollouts.values() if _is_stored(ledger, one.model, one.target))
    for rollout in stored:
        labels = rollout.model, ledger.name(rollout.model, rollout.target)
        if rollout.is_over and rollout.phase is not Phase.ROLLBACK_FAILED:
            ended[*labels, rollout.phase] += 1
        if rollout.failed_rollbacks:  # one that was retried goes on, and what was counted stays counted
            ended[*labels, Phase.ROLLBACK_FAILED] += rollout.failed_rollbacks
        if rollout.phase in _WENT_BACK:
            rollbacks[*labels, rollout.back_cause] += 1
        for verdict in (one for judged in rollout.judged for one in judged["verdicts"]):
            verdicts[*labels, verdict["gate"], verdict["result"]] += 1
    return ended.family(), rollbacks.family(), verdicts.family()


def _steps(ledger: Ledger) -> tuple[Family, Family]:
    """By the version that a step brings to its worker, which on the way back is the stable one."""
    steps = Counter("hotpool_steps_total", "Steps of workers that ended, by outcome.", *_BY_VERSION, "outcome")
    parts = Histograms("hotpool_step_seconds", "Parts of workers' steps.", *_BY_VERSION, "part")
    for rollout in ledger.rollouts.values():
        for step in rollout.ended_steps:
            if _is_stored(ledger, rollout.model, step.goal):
                labels = rollout.model, ledger.name(rollout.model, step.goal)
                steps[*labels, step.outcome] += 1
                for part, seconds in step.seconds.items():
                    parts[*labels, part].observe(seconds)
    return steps.family(), parts.family()


def _phases(ledger: Ledger) -> Family:
    """One sample a phase, 1 for the one the model's newest rollout is in: alerts and graphs need all the others as 0."""
    newest: dict[str, Rollout] = {rollout.model: rollout for rollout in ledger.rollouts.values()}
    values = [
        ((model, rollout.target_name, phase.value), float(rollout.phase is phase))
        for model, rollout in newest.items()
        for phase in Phase
    ]
    return gauge("hotpool_rollout_phase", "Where the newest rollout is.", values, *_BY_VERSION, "phase")


def _probes(ledger: Ledger) -> tuple[Family, Family]:
    """The stable version always has samples: zero is a fact too."""
    stable = [(model, stack[-1]) for model, stack in ledger.stables.items()]
    wrong = Counter("hotpool_probes_wrong_total", "Processes whose answers to probes were wrong.", *_BY_VERSION)
    for model, digest in (*stable, *ledger.n_wrong):
        if _is_stored(ledger, model, digest):
            wrong[model, ledger.name(model, digest)] = ledger.n_wrong.get((model, digest), 0)
    alarms = [((model, ledger.name(model, digest)), float(model in ledger.alarms)) for model, digest in stable]
    return wrong.family(), gauge("hotpool_alarm", "1 while the controller needs a person.", alarms, *_BY_VERSION)
