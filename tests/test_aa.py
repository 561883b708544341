"""Whole rollouts by the real controller with simulated requests: how often an identical version goes back, and how soon a bad
one does. The gates alone, on worse machines: test_gates_simulated.py.
"""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from control.rollout import Rollout
from control.settings import Settings
from control.verdicts import Gate, GateSettings
from hotpool.states import Phase
from tests.fake_pool import World, fast_folder, settings
from tests.fake_traffic import Behaviour, Traffic

pytestmark = pytest.mark.slow

G = Gate
N_WORKERS = 4
RATE = 100.0  # requests per second
DEFAULTS = settings(
    steps=("shadow", "5", "25", "50"), canary_workers=2, step_min_s=60.0, step_max_s=600.0, bake_s=30.0, watch_s=60.0,
    gates=GateSettings(),
)  # fmt: skip
SHADOW, SHARE = ("shadow", "25"), ("25",)


@dataclass(frozen=True)
class Ended:
    """Of one rollout. gate: that failed."""

    rollout: Rollout
    seconds: float
    gate: Gate | None
    counts: dict[str, Any]

    @property
    def what(self) -> str:
        return f"{self.gate}" if self.gate else "paused" if self.rollout.paused else f"{self.rollout.phase}"


def run(folder: Path, seed: int, chosen: Settings, behaviour: Behaviour, tick_s: float) -> Ended:
    """Until it is over, and watched to the end if it has succeeded."""
    world = World(folder, N_WORKERS, chosen)
    world.tick_s = tick_s
    traffic = Traffic(world.pool, seed, RATE)
    traffic.behaviours[world.digests["v2"]] = behaviour
    world.start("v2")
    world.run(lambda: world.last().is_over or world.last().paused)
    first, until = world.last(), world.pool.now
    if first.phase is Phase.SUCCEEDED:
        world.run(lambda: world.pool.now > until + chosen.watch_s)
        if world.last().number != first.number:
            first = replace(first, phase=Phase.ROLLED_BACK)
    elif first.is_over:
        world.run_to_end()
    if not first.paused:
        world.check(Phase.SUCCEEDED, Phase.ROLLED_BACK)
    judged = first.judged[-1]
    failed = [Gate(one["gate"]) for one in judged["verdicts"] if one["enforced"] and one["result"] == "fail"]
    world.close()
    return Ended(first, until - 100.0, failed[0] if failed else None, judged["counts"])


def test_an_identical_version_goes_back_in_at_most_one_rollout_of_twenty() -> None:
    n_rollouts = 200
    with fast_folder() as folder:
        ended = [run(folder / str(seed), seed, DEFAULTS, Behaviour(), tick_s=3.0) for seed in range(n_rollouts)]
    ways = Counter(one.what for one in ended)
    seconds = median(one.seconds for one in ended)
    print(f"\nA/A, seeds 0 to {n_rollouts - 1}: {dict(ways)}; median {seconds:g} s of virtual time")
    assert n_rollouts - ways["succeeded"] - ways["paused"] <= 0.05 * n_rollouts
    assert ways["paused"] <= 0.05 * n_rollouts


EITHER = {G.ERRORS, G.ERRORS_RELATIVE}

# fmt: off
BAD: list[tuple[str, Behaviour, tuple[str, ...], set[Gate], int]] = [
    # what                       how it behaves                                            steps   gate          replies
    ("5 % errors",               Behaviour(errors=0.05),                                   SHADOW, {G.ERRORS},       300),
    ("5 % errors in a share",    Behaviour(errors=0.05),                                   SHARE,  EITHER,           300),
    ("20 % errors",              Behaviour(errors=0.2),                                    SHADOW, {G.ERRORS},        40),
    ("10 % of top-1 changed",    Behaviour(disagreement=0.1),                              SHADOW, {G.AGREEMENT},    150),
    ("30 % slower",              Behaviour(slower=1.3),                                    SHADOW, {G.LATENCY},     1000),
    ("15 % three times slower",  Behaviour(tail=0.15),                                     SHADOW, {G.LATENCY_TAIL}, 400),
    ("one class for all",        Behaviour(classes=(1.0, 0.0, 0.0, 0.0)),                  SHARE,  {G.COLLAPSE},     210),
]
# fmt: on


@pytest.mark.parametrize(("what", "behaviour", "steps", "gates", "most"), BAD, ids=[row[0] for row in BAD])
def test_a_bad_version_goes_back_by_the_gate_that_is_meant_for_it(
    what: str, behaviour: Behaviour, steps: tuple[str, ...], gates: set[Gate], most: int
) -> None:
    """most: the median number of the target's replies, shadow copies included, until its gate fails."""
    n_rollouts = 40
    chosen = replace(DEFAULTS, steps=steps, canary_workers=1, step_min_s=10.0)
    with fast_folder() as folder:
        ended = [run(folder / str(seed), seed, chosen, behaviour, tick_s=0.2) for seed in range(n_rollouts)]
    found = [one for one in ended if one.rollout.phase is Phase.ROLLED_BACK and one.gate in gates]
    replies = sorted(one.counts["target"]["answered"] for one in found)
    others = Counter(one.what for one in ended if one not in found)
    print(
        f"\n{what}, seeds 0 to {n_rollouts - 1}: {len(found)} by {', '.join(sorted(gates))}, others {dict(others)}; replies "
        f"of the target: median {median(replies):g}, most {replies[-1]}; median {median(one.seconds for one in found):.3g} s"
    )
    assert len(found) >= 0.95 * n_rollouts
    assert median(replies) <= most
