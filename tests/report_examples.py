"""Rollouts that never were, for tests of the report, and to look at: `python -m tests.report_examples FOLDER`.

Events and samples are made up; verdicts are the gates' own, on evidence that is drawn with a seed.
"""

import math
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from control.events import Event, EventKind
from control.gates import ARMED, judge
from control.report import render
from control.samples import ArmServed, Sample, Served
from control.verdicts import GateSettings, counts_to_json, worst
from hotpool.evidence import Arm, Counts, bucket

OLD, NEW = "a" * 64, "b" * 64
BEGAN = datetime(2026, 11, 23, 10, 0, 5, 120000, tzinfo=UTC)
WORKERS = ["worker-0", "worker-1", "worker-2", "worker-3"]
SETTINGS = {
    "max_unavailable": 1, "bake_s": 30.0, "drain_timeout_s": 30.0, "load_timeout_s": 60.0, "progress_deadline_s": 600.0,
    "max_worker_retries": 2, "preflight_memory_mb": 8192, "preflight_timeout_s": 120.0, "strategy": "drain",
    "steps": ["shadow", "5", "25"], "canary_workers": 1,
}  # fmt: skip
PER_SECOND = 60


class Tale:
    """Events and samples of one rollout, told from its beginning."""

    def __init__(self, seed: int = 1, *, reason: str = "retrained on the November pictures", **settings: Any) -> None:
        self.random = Random(seed)
        self.at = 0.0
        self.events: list[Event] = []
        self.samples: list[Sample] = []
        self.holds = dict.fromkeys(WORKERS, "v6")
        self.state = dict.fromkeys(WORKERS, "ready")
        self.share: float | None = None
        self.shadow = False
        self.slow = 1.0
        self.faults = 0.0
        self.counts = Counts()
        body = {
            "kind": "start", "stable": OLD, "stable_name": "v6", "target": NEW, "target_name": "v7", "workers": WORKERS,
            "settings": {**SETTINGS, **settings}, "reason": reason,
        }  # fmt: skip
        self.happens("rollout_created", body)

    def happens(self, kind: str, body: dict[str, Any] | None = None, who: str = "control@edge") -> None:
        who = "ann@edge" if kind == "rollout_created" else who
        ts = (BEGAN + timedelta(seconds=self.at)).isoformat(timespec="milliseconds")
        self.events.append(Event(len(self.events) + 41, ts, 1, EventKind(kind), "resnet18", 7, who, body or {}))

    def wait(self, seconds: float) -> None:
        """Serves meanwhile, with a sample about each second."""
        end = self.at + seconds
        while self.at < end - 1e-6:
            span = min(1.0, end - self.at)
            self.at += span
            self.sample(span)

    def sample(self, span: float) -> None:
        ready = [worker for worker in WORKERS if self.state[worker].startswith("ready")]
        offered = PER_SECOND * span * (1 + 0.08 * self.random.uniform(-1, 1)) * min(1, len(ready) / 3.2)
        share = (self.share or 0) / 100
        if self.share is None:
            share = sum(self.holds[worker] == "v7" for worker in ready) / max(1, len(ready))
        routed = sum(self.random.random() < share for _ in range(round(offered)))
        n = {"v6": round(offered) - routed, "v7": routed}
        served = {
            name: Served(some, round(self._ms(name, ready), 2), round(self._ms(name, ready) * self.random.uniform(2.1, 2.9), 2))
            for name, some in n.items() if some
        }  # fmt: skip
        failed = sum(self.random.random() < self.faults for _ in range(routed))
        ts = (BEGAN + timedelta(seconds=self.at)).isoformat(timespec="milliseconds")
        sample = Sample(
            ts, self.at, span, served, {"model_error": failed} if failed else {},
            {worker: (self.state[worker], self.holds[worker]) for worker in WORKERS},
        )  # fmt: skip
        self.samples.append(self._with_arms(sample, n, failed) if self.share is not None else sample)

    def _ms(self, version: str, ready: list[str]) -> float:
        slow = self.slow if version == "v7" else 1.0
        return 21 * slow * self.random.uniform(0.93, 1.08) * math.sqrt(4 / max(1, len(ready)))

    def _with_arms(self, sample: Sample, n: dict[str, int], failed: int) -> Sample:
        copied = round(n["v6"] * 0.2) if self.shadow else 0
        differ = sum(self.random.random() < 0.006 for _ in range(copied))
        self._gather(n["v6"], n["v7"] + copied, n["v7"], failed)
        self.counts.pairs += copied
        self.counts.disagreements += differ
        return Sample(
            sample.ts, sample.at, sample.span_s, sample.versions, sample.failed, sample.workers, self.share,
            ArmServed(n["v6"], n["v6"]), ArmServed(n["v7"], n["v7"] + copied, failed), copied, differ,
        )  # fmt: skip

    def _gather(self, n_stable: int, n_target: int, routed: int, failed: int) -> None:
        for arm, n, slow in ((self.counts.stable, n_stable, 1.0), (self.counts.target, n_target, self.slow)):
            arm.answered += n
            for _ in range(n):
                name = self.random.choice((3, 3, 3, 8, 8, 21, 40, 77))
                arm.classes[name] = arm.classes.get(name, 0) + 1
                percent = min(99, int(100 * self.random.betavariate(6, 1.4)))
                arm.confidence[percent] = arm.confidence.get(percent, 0) + 1
                service = bucket(15_000 * slow * self.random.lognormvariate(0, 0.12))
                arm.service.setdefault(1, {})[service] = arm.service.setdefault(1, {}).get(service, 0) + 1
        self.counts.stable.routed += n_stable
        self.counts.target.routed += routed
        self.counts.target.errors += failed
        window = round(100 * self.random.gauss(0.0, 0.04) + 100 * (self.slow - 1))
        self.counts.windows[window] = self.counts.windows.get(window, 0) + 1

    # ---- what rollouts are made of

    def preflight(self, seconds: float = 6.2, passes: bool = True) -> None:
        self.wait(0.3)
        self.happens("preflight_started")
        self.wait(seconds)
        if passes:
            self.happens(
                "canary_started" if self.events[0].body["settings"]["steps"] else "preflight_passed",
                {"seconds": seconds},
            )

    def step(self, worker: str, goal: str = NEW, attempt: int = 1, fails: str = "") -> None:
        drain, load, verify = (round(self.random.uniform(*ends), 3) for ends in ((0.4, 1.6), (2.0, 3.1), (0.9, 1.4)))
        self.happens("step_started", {"worker": worker, "incarnation": 1, "goal": goal, "attempt": attempt})
        self._is("draining", worker, drain)
        self.happens("step_drained", {"worker": worker, "drain_s": drain})
        self._is("loading", worker, load + verify)
        if fails:
            self.happens("step_failed", {"worker": worker, "part": "load", "fault": "worker", "reason": fails})
            return
        self.happens("step_loaded", {"worker": worker, "load_s": load, "verify_s": verify, "digest": goal})
        self.holds[worker] = "v7" if goal == NEW else "v6"
        self._is("ready", worker, 0.12)
        self.happens("step_finished", {"worker": worker, "rejoin_s": 0.12})

    def _is(self, state: str, worker: str, seconds: float) -> None:
        self.state[worker] = state
        self.wait(seconds)

    def analysis(self, index: int, seconds: float) -> str:
        """Returns how it was judged."""
        step = str(self.events[0].body["settings"]["steps"][index])
        self.shadow, self.share = step == "shadow", 0.0 if step == "shadow" else float(step)
        self.happens("analysis_started", {"step": index})
        self.counts = Counts(policy=self.events[-1].seq, stable=Arm(), target=Arm())
        self.wait(seconds)
        return self.judge(index, seconds, ARMED["shadow" if self.shadow else "even_share"])

    def judge(self, index: int, seconds: float, armed: Any) -> str:
        verdicts = judge(self.counts, GateSettings(), gates=armed)
        result = worst(verdicts)
        deciding = next(one for one in verdicts if one.enforced and one.result is result)
        body = {
            "step": index, "phase": "analyzing", "result": str(result), "reason": f"gate {deciding.gate}: {deciding.reason}",
            "verdicts": [asdict(one) for one in verdicts], "counts": counts_to_json(self.counts), "elapsed_s": seconds,
        }  # fmt: skip
        self.happens("judged", body)
        return str(body["reason"])

    def page(self) -> str:
        return render(7, self.events, self.samples)


def succeeded() -> Tale:
    tale = Tale(seed=3)
    tale.preflight()
    tale.step("worker-0")
    tale.analysis(0, 60)
    tale.analysis(1, 75)
    tale.happens("paused", {"reason": "lunch first", "cause": "user"}, "bob@laptop")
    tale.wait(24)
    tale.happens("resumed", {"reason": ""}, "bob@laptop")
    tale.analysis(2, 90)
    tale.happens("roll_started", {"step": 3, "reason": "passed"})
    tale.share = None
    tale.step("worker-1")
    tale.step("worker-2", fails="worker-2: the process ended with signal 9 while it was loading")
    tale._is("down", "worker-2", 3)
    tale._is("ready", "worker-2", 1)
    tale.step("worker-2", attempt=2)
    tale.step("worker-3")
    tale.happens("bake_started")
    tale.wait(30)
    tale.happens("commit_started", {"digest": NEW})
    tale.wait(0.2)
    tale.happens("succeeded", {"digest": NEW})
    return tale


def rolled_back() -> Tale:
    tale = Tale(seed=5, reason="int8 of v6: half the memory")
    tale.preflight()
    tale.step("worker-0")
    tale.analysis(0, 60)
    tale.slow, tale.faults = 1.32, 0.03
    reason = tale.analysis(1, 64)
    tale.happens("rollback_started", {"cause": "gate", "reason": reason})
    tale.share = None
    tale.step("worker-0", OLD)
    tale.happens("rolled_back")
    return tale


def rejected() -> Tale:
    tale = Tale(seed=7, reason="try the new backbone")
    tale.preflight(4.4, passes=False)
    tale.happens(
        "rejected", {"cause": "preflight", "reason": "golden logits differ by 0.41 in row 3, allowed are 0.001"}
    )
    return tale


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for tell in (succeeded, rolled_back, rejected):
        (folder / f"{tell.__name__}.html").write_text(tell().page())
