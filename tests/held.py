"""What a controller holds in its memory, to be held against what the journal says."""

from dataclasses import replace
from typing import Any

import msgspec

from control.ledger import Ledger
from control.rollout import Rollout
from hotpool.wire import decode_value, encode_value

VERB = "held"  # by which a controller of `tests.control_process` tells it


def without_clocks(ledger: Ledger) -> Ledger:
    """Those of one process mean nothing to another."""
    rollouts = {number: _without_clocks(rollout) for number, rollout in ledger.rollouts.items()}
    repairs = {worker: replace(repair, at=0.0) for worker, repair in ledger.repairs.items()}
    return replace(ledger, rollouts=rollouts, repairs=repairs)


def _without_clocks(rollout: Rollout) -> Rollout:
    return replace(
        rollout,
        since=0.0,
        analysis=replace(rollout.analysis, since=0.0),
        steps={worker: replace(step, since=0.0) for worker, step in rollout.steps.items()},
        ended_steps=tuple(replace(step, since=0.0) for step in rollout.ended_steps),
    )


def as_told(ledger: Ledger) -> Any:
    """As it comes through a socket."""
    return decode_value(encode_value(msgspec.to_builtins(without_clocks(ledger), str_keys=True)))
