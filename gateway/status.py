"""Pure: the pool's status when no controller tells it: as far as the broker knows."""

from typing import Any

import msgspec

from hotpool.messages import Report
from hotpool.states import WorkerState

NO_CONTROLLER = "no controller is running: serving goes on, rollouts do not (start it with: hotpool up)"
SILENT = "the controller runs but does not answer: serving goes on, rollouts may not (its log may say why)"


def status_without_controller(report: Report, model: str, is_running: bool) -> dict[str, Any]:
    """In the form of the controller's. is_running: it is only silent, and so is what it does."""
    known = next((one for one in report.models if one.model == model and one.stable), None)
    names = {digest: name for name, digest in known.names.items()} if known else {}
    absent = [f"{one.worker} is {one.state}" for one in report.workers if one.state is not WorkerState.READY]
    return {
        "health": "degraded",
        "reasons": [SILENT if is_running else NO_CONTROLLER, *absent],
        "model": model,
        "stable": {"name": names.get(known.stable, ""), "digest": known.stable} if known else None,
        "broker": {"uptime_s": report.uptime_s, "epoch": report.epoch, "boot": report.boot},
        "controller": {"is_running": is_running, "pid": None, "epoch": report.epoch},
        "queue": msgspec.to_builtins(report.queue),
        "rollout": None,
        "workers": msgspec.to_builtins(report.workers),
        "alarm": "",
    }
