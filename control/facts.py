"""Pure: facts as plain values, the same for `-o json` and for who asks the controller."""

from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from hotpool.messages import Report

from .health import Health
from .ledger import Ledger
from .rollout import Rollout, Step


@dataclass(frozen=True, slots=True)
class Share:
    """Percent of the requests without a version: what the target is to get now, and what it got since counting began; None
    while there were none."""

    asked: float
    measured: float | None


def status_view(report: Report, ledger: Ledger, model: str, controller: int | None, health: Health) -> dict[str, Any]:
    """controller: its process id; None when there is none."""
    stable, active = ledger.stable(model), ledger.active(model)
    return {
        "health": health.word,
        "reasons": list(health.reasons),
        "model": model,
        "stable": stable and {"name": ledger.name(model, stable), "digest": stable},
        "broker": {"uptime_s": report.uptime_s, "epoch": report.epoch, "boot": report.boot},
        "controller": {"is_running": controller is not None, "pid": controller, "epoch": ledger.epoch},
        "queue": msgspec.to_builtins(report.queue),
        "rollout": active and rollout_view(active),
        "workers": msgspec.to_builtins(report.workers),
    }


def history_view(ledger: Ledger, model: str) -> list[dict[str, Any]]:
    """The rollouts of a model, the oldest first."""
    return [rollout_view(one) for one in ledger.history(model)]


def rollout_view(rollout: Rollout) -> dict[str, Any]:
    """Without the clocks of this process, which mean nothing to another."""
    view = asdict(rollout)
    del view["since"], view["analysis"]["since"]
    view["steps"] = [_step_view(step) for step in rollout.steps.values()]
    view["ended_steps"] = [_step_view(step) for step in rollout.ended_steps]
    return view


def _step_view(step: Step) -> dict[str, Any]:
    view = asdict(step)
    del view["since"]
    return view
