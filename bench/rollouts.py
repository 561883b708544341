"""Shell: what a rollout costs the callers while it runs, and how long a worker is away.

    python -m bench rollouts

A ResNet-18 at 224 px, two workers with one thread each, eight requests of a 45 KB JPEG in flight through the client library.
Before each rollout the same load runs without one, so that both sides of a ratio are seconds apart; the strategies take turns.
Times of a step and of a respawn are given in forward passes of torch eager, float32, one picture, one thread, measured in the
same run.
"""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

import os
import signal
import statistics
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic, perf_counter, sleep

import numpy as np
import torch
from torchvision.models import resnet18

from hotpool import Client, Prediction
from hotpool.home import Home
from hotpool.states import Phase, Strategy, WorkerState

from .callers import Callers, History
from .faults import Watch, process_of
from .figures import Bar, Figure, Findings
from .pool import homes, make_jpeg, roll_out, running_pool, wait_until_ready

N_WORKERS, IN_FLIGHT = 2, 8
BEFORE_S, QUICK_BEFORE_S = 2.0, 1.0
LIVED_S = 10.5  # a process that has lived so long is started again at once
N_ROLLOUTS = {"int8": 2, "fp32": 1}  # of each strategy; one of fp32 takes as long and says the same
MOST_P99 = {Strategy.DRAIN: 2.5, Strategy.BESIDE: 1.6}
MOST_PASSES, MOST_RESPAWN_PASSES = {"int8": 25, "fp32": 15}, 15


@dataclass
class Side:
    """Of one strategy, an entry for each rollout, and for each worker's step."""

    p99: list[float] = field(default_factory=list)  # during / before
    p50: list[float] = field(default_factory=list)
    before_ms: list[float] = field(default_factory=list)
    rollouts_s: list[float] = field(default_factory=list)
    steps_s: list[float] = field(default_factory=list)


@dataclass
class Played:
    """What one precision's pool has shown."""

    unit_s: float
    sides: dict[Strategy, Side] = field(default_factory=lambda: {strategy: Side() for strategy in MOST_P99})
    respawns_s: list[float] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    history: History = field(default_factory=History)


class Load:
    """Callers that ask all the time, and (when it was answered, milliseconds) of each request."""

    def __init__(self, client: Client, picture: bytes) -> None:
        self.answers: list[tuple[float, float]] = []
        self._picture = picture
        self.callers = Callers(client, IN_FLIGHT, self._ask, self._note)

    def between(self, begin: float, end: float) -> list[float]:
        return [took_ms for at, took_ms in self.answers if begin <= at < end]

    def _ask(self, n: int) -> tuple[bytes, float]:
        return self._picture, monotonic()

    def _note(self, n: int, begin: float, prediction: Prediction) -> None:
        now = monotonic()
        self.answers.append((now, (now - begin) * 1e3))


def run(quick: bool = False) -> Findings:
    figures: list[Figure] = []
    notes = [f"ResNet-18 at 224, {N_WORKERS} workers, {IN_FLIGHT} in flight, JPEG of {len(make_jpeg(0)) / 1e3:.0f} KB"]
    with homes(N_ROLLOUTS, 2) as filled:
        for precision, n_rollouts in N_ROLLOUTS.items():
            played = play(filled[precision], 1 if quick else n_rollouts, QUICK_BEFORE_S if quick else BEFORE_S)
            figures += describe(precision, played)
            ends = ", ".join(f"{n} {phase}" for phase, n in Counter(played.phases).items())
            got = played.history
            notes.append(
                f"{precision}: rollouts {ends}; {got.sent} requests, {got.lost} lost, {len(got.errors)} errors; "
                f"one eager pass {played.unit_s * 1e3:.1f} ms"
            )
    notes.append(
        f"workers killed had lived {LIVED_S:g} s (younger ones wait before they are started again); two requests under way"
    )
    return Findings(tuple(figures), tuple(notes))


def play(home: Home, n_rollouts: int, before_s: float) -> Played:
    picture, played = make_jpeg(0), Played(eager_pass_s())
    with (
        running_pool(home, N_WORKERS, ("broker", "workers", "control")),
        Client(home.endpoint("clients")) as client,
    ):
        since, load = monotonic(), Load(client, picture)
        with load.callers, Watch(home) as watch:
            sleep(1.0)
            for _ in range(n_rollouts):
                for strategy in MOST_P99:
                    observe(home, load, watch, strategy, played, before_s)
        played.history = load.callers.history
        sleep(max(0.0, since + LIVED_S - monotonic()))
        played.respawns_s += respawns_s(home, client, picture)
    return played


def observe(home: Home, load: Load, watch: Watch, strategy: Strategy, played: Played, before_s: float) -> None:
    """One rollout and the time before it."""
    side, calm = played.sides[strategy], monotonic()
    sleep(before_s)
    begin = monotonic()
    played.phases.append(roll_out(home, "v1" if len(played.phases) % 2 else "v2", strategy))
    end = monotonic()
    before, during = load.between(calm, begin), load.between(begin, end)
    side.p99.append(float(np.percentile(during, 99) / np.percentile(before, 99)))
    side.p50.append(float(np.percentile(during, 50) / np.percentile(before, 50)))
    side.before_ms.append(float(np.percentile(before, 99)))
    side.rollouts_s.append(end - begin)
    side.steps_s += steps_s(watch, begin)


def steps_s(watch: Watch, since: float) -> list[float]:
    """Of each worker: drained -> ready again, by the broker's clock."""
    drained: dict[str, int] = {}
    steps = []
    for at, changed in list(watch.heard):
        if at < since:
            continue
        if changed.after == WorkerState.DRAINED and changed.before == WorkerState.DRAINING:
            drained[changed.worker] = changed.at_us
        elif changed.after == WorkerState.READY and changed.worker in drained:
            steps.append((changed.at_us - drained.pop(changed.worker)) / 1e6)
    return steps


def respawns_s(home: Home, client: Client, picture: bytes) -> list[float]:
    """From SIGKILL to the first answer of the worker's next process, two requests under way all the time: one alone would go
    to the other worker, which computed last."""
    took = []
    for victim in ("worker-0", "worker-1"):
        pid = process_of(wait_until_ready(home, N_WORKERS), victim)
        begin = monotonic()
        os.kill(pid, signal.SIGKILL)
        while victim not in {future.result().worker for future in [client.submit(picture) for _ in range(2)]}:
            pass
        took.append(monotonic() - begin)
    return took


def eager_pass_s(n_passes: int = 20) -> float:
    """The unit: one picture through torchvision's own network, one thread."""
    torch.set_num_threads(1)
    network, row, times = resnet18().eval(), torch.rand(1, 3, 224, 224), []
    with torch.inference_mode():
        for _ in range(n_passes):
            begin = perf_counter()
            network(row)
            times.append(perf_counter() - begin)
    return statistics.median(times[2:])


def describe(precision: str, played: Played) -> list[Figure]:
    figures = []
    for strategy, side in played.sides.items():
        row = f"{precision}, {strategy}"
        bar = Bar(f"rollout {strategy}, {precision}: p99 during / before", "≤", MOST_P99[strategy])
        figures += [
            Figure(row, "p99 during / before", tuple(side.p99), bar=bar),
            Figure(row, "p50 during / before", tuple(side.p50)),
            Figure(row, "p99 before", tuple(side.before_ms), "ms"),
            Figure(row, "a rollout takes", tuple(side.rollouts_s), "s"),
        ]
    steps = tuple(step_s / played.unit_s for step_s in played.sides[Strategy.DRAIN].steps_s)
    step = Bar(f"one worker's step, drained to ready again, {precision}, in eager passes", "≤", MOST_PASSES[precision])
    respawns = tuple(respawn_s / played.unit_s for respawn_s in played.respawns_s)
    who = f"of a worker that had lived {LIVED_S:g} s"
    respawn = Bar(f"SIGKILL {who} to the next process's answer, {precision}, in eager passes", "≤", MOST_RESPAWN_PASSES)
    return [
        *figures,
        Figure(f"{precision}, {Strategy.DRAIN}", "a step takes", steps, "eager passes", step),
        Figure(precision, "a respawn takes", respawns, "eager passes", respawn),
    ]
