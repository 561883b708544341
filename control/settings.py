"""Pure: what an operator may choose for one rollout."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hotpool.errors import BadRollout
from hotpool.states import Strategy

from .plan import parse_count, parse_steps
from .verdicts import GateSettings

DEFAULT_GATES = GateSettings()


class OnInconclusive(StrEnum):
    """What becomes of a rollout whose gates had too little evidence."""

    PAUSE = "pause"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one rollout, frozen when it is created. Names and meanings as in `[rollout]` of configs/default.toml."""

    max_unavailable: int
    bake_s: float
    drain_timeout_s: float
    load_timeout_s: float
    progress_deadline_s: float
    max_worker_retries: int
    preflight_memory_mb: int
    preflight_timeout_s: float
    # The journal has rollouts from before there were these.
    strategy: Strategy = Strategy.DRAIN
    steps: tuple[str, ...] = ()  # of the canary, see plan.py; none: no canary
    canary_workers: int = 1
    step_min_s: float = 60.0
    step_max_s: float = 600.0
    on_inconclusive: OnInconclusive = OnInconclusive.PAUSE
    watch_s: float = 0.0
    gates: GateSettings = DEFAULT_GATES
    eval_timeout_s: float = 3600.0
    eval_folder: str = ""  # of labelled pictures, see hotpool/labelled.py; empty: accuracy is not judged
    eval_pictures: int = 0  # in it, when the rollout was ordered
    max_surge: int = 1

    def __post_init__(self) -> None:
        """Plain words and lists, as the journal and the configuration have them, become what they mean. Raises BadRollout."""
        if self.steps and self.step_min_s > self.step_max_s:
            raise BadRollout(f"step_min_s is {self.step_min_s:g}; it must not be above step_max_s, {self.step_max_s:g}")
        gates = self.gates if isinstance(self.gates, GateSettings) else GateSettings(**self.gates)
        typed = {
            "strategy": Strategy(self.strategy),
            "steps": parse_steps(self.steps) if isinstance(self.steps, str) else tuple(self.steps),
            "on_inconclusive": OnInconclusive(self.on_inconclusive),
            "gates": gates,
        }
        for name, value in typed.items():
            object.__setattr__(self, name, value)


def choose(configured: Mapping[str, Any], gates: GateSettings, chosen: Mapping[str, Any], n_workers: int) -> Settings:
    """The settings of one rollout in a pool of so many workers.

    configured: `[rollout]` of the configuration. chosen: what the operator wants otherwise; None is as configured.

    Raises:
        BadRollout: names the value that can't be.
    """
    values = {**configured, **{name: value for name, value in chosen.items() if value is not None}}
    values["max_unavailable"] = parse_count(str(values["max_unavailable"]), n_workers, "max_unavailable")
    uses_spares, is_chosen = values["strategy"] == Strategy.SURGE, chosen.get("max_surge") is not None
    n_spares = parse_count(str(values["max_surge"]), n_workers, "max_surge") if uses_spares or is_chosen else 1
    values["max_surge"] = n_spares if uses_spares else 1
    return Settings(**values, gates=gates)
