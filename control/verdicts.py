"""Pure: the words of the gates: what a verdict is, what it is held against, and how evidence is written down.

A verdict can be taken again from the journal: `judge(counts_from_json(evidence), GateSettings(**settings))`.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from hotpool.errors import ConfigError
from hotpool.evidence import Counts


class Gate(StrEnum):
    ERRORS = "errors"
    ERRORS_RELATIVE = "errors_relative"
    AGREEMENT = "agreement"
    COLLAPSE = "collapse"
    LATENCY = "latency"
    LATENCY_TAIL = "latency_tail"
    DRIFT = "drift"
    ACCURACY = "accuracy"


class GateResult(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"  # too little evidence, or evidence that lies between


ALMOST = 0.99  # the progress of what is not decided ends here

_FROM_BEST = (GateResult.PASS, GateResult.INCONCLUSIVE, GateResult.FAIL)

# Both ends excluded. Shares end far below one, so that there are larger ones to hold them against.
_RANGES = {
    "alpha": (0.0, 0.5),
    "beta": (0.0, 0.5),
    "min_replies": (0, 1e9),
    "error_limit": (0.0, 0.5),
    "error_ratio": (1.0, 1000.0),
    "disagreement_ok": (0.0, 0.5),
    "disagreement_bad": (0.0, 1.0),
    "collapse_margin": (0.0, 1.0),
    "latency_ratio": (1.0, 100.0),
    "min_windows": (0, 1e9),
    "tail_ratio": (1.0, 100.0),
    "min_tail_replies": (0, 1e9),
    "drift_min_replies": (0, 1e9),
    "accuracy_margin": (0.0, 1.0),
}


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What the gates hold the target to, frozen with the rollout.

    alpha: the chance that a gate fails a version that is just within its limit. beta: the chance that agreement or latency
    passes one that is just outside. min_replies: of an arm, before errors or collapse may pass.

    error_limit: share of replies. error_ratio: times stable's share of errors. disagreement_ok, disagreement_bad: shares of
    pairs; agreement decides which of the two it is. collapse_margin: on top of the share of stable's most frequent class.
    latency_ratio: of median service times. tail_ratio: times stable's p95. accuracy_margin: share of labelled requests.
    """

    alpha: float = 0.01
    beta: float = 0.05
    min_replies: int = 200
    error_limit: float = 0.01
    error_ratio: float = 1.5
    disagreement_ok: float = 0.02  # for the same weights in another encoding: 0.001 and 0.01
    disagreement_bad: float = 0.05
    collapse_margin: float = 0.2
    latency_ratio: float = 1.15
    min_windows: int = 20
    tail_ratio: float = 1.3
    min_tail_replies: int = 90
    drift_min_replies: int = 500
    accuracy_margin: float = 0.01

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            if not low < getattr(self, name) < high:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above {low:g} and below {high:g}")
        if self.disagreement_ok >= self.disagreement_bad:
            raise ConfigError(
                f"disagreement_ok is {self.disagreement_ok}; it must be below disagreement_bad, {self.disagreement_bad}"
            )

    @property
    def enough_to_fail(self) -> float:
        """Logarithm of the evidence."""
        return -math.log(self.alpha)

    @property
    def enough_to_pass(self) -> float:
        return -math.log(self.beta)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one gate. enforced: False when it is only reported. numbers: finite. progress: 1 when there is a decision."""

    gate: Gate
    result: GateResult
    enforced: bool
    reason: str
    numbers: Mapping[str, float]
    progress: float


@dataclass(frozen=True, slots=True)
class Labelled:
    """Pictures whose true class is known and that both versions answered. only_stable: only stable was right."""

    n: int
    both_right: int
    only_stable: int
    only_target: int

    @property
    def right_stable(self) -> int:
        return self.both_right + self.only_stable

    @property
    def right_target(self) -> int:
        return self.both_right + self.only_target


def worst(verdicts: Iterable[Verdict]) -> GateResult:
    """Of the enforced ones. None at all is inconclusive: no evidence is never a pass."""
    results = [verdict.result for verdict in verdicts if verdict.enforced]
    return max(results, key=_FROM_BEST.index, default=GateResult.INCONCLUSIVE)


def counts_to_json(counts: Counts) -> dict[str, Any]:
    """What json.dumps takes: whole numbers that are keys become text."""
    written = msgspec.to_builtins(counts, str_keys=True)
    assert isinstance(written, dict)
    return written


def counts_from_json(written: Mapping[str, Any]) -> Counts:
    """Raises msgspec.ValidationError."""
    return msgspec.convert(written, Counts, str_keys=True)


# ---- how a gate comes to its verdict


@dataclass(frozen=True, slots=True)
class Missing:
    """What a gate needs before it may pass. progress: how much of it is there."""

    what: str
    progress: float


def conclude(
    gate: Gate,
    facts: str,
    has_failed: bool,
    missing: Iterable[Missing | None],
    numbers: Mapping[str, float],
    *,
    enforced: bool = True,
) -> Verdict:
    """A failure needs nothing more; a pass needs that nothing is missing."""
    lacks = [one for one in missing if one]
    if has_failed or not lacks:
        return Verdict(gate, GateResult.FAIL if has_failed else GateResult.PASS, enforced, facts, numbers, 1.0)
    reason = f"{facts}; undecided: {', '.join(one.what for one in lacks)}"
    progress = min(max(0.0, min(one.progress for one in lacks)), ALMOST)
    return Verdict(gate, GateResult.INCONCLUSIVE, enforced, reason, numbers, progress)


def unless(is_there: bool, what: str, progress: float) -> Missing | None:
    return None if is_there else Missing(what, progress)


def at_least(n: int, wanted: int, what: str) -> Missing | None:
    return unless(n >= wanted, f"{n} of {wanted} {what}", n / wanted)


def least(n: int, is_enough: Callable[[int], bool]) -> int:
    """How many it takes, these n among them, if all that come speak for the target. is_enough: once it is, it stays so."""
    more = 1
    while not is_enough(n + more):
        more *= 2
    return n + bisect_left(range(more), True, key=lambda fewer: is_enough(n + fewer))


def wager(log_evidence: float, settings: GateSettings) -> str:
    return f"evidence {grown(log_evidence)} of {grown(settings.enough_to_fail)}"


def grown(log_evidence: float) -> str:
    """Beyond what a float holds it is only called large."""
    return f"{math.exp(log_evidence):.3g}" if log_evidence < 30 else "over 1e+13"


def share_of(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def percent(part: float, whole: float = 1) -> str:
    return f"{100 * share_of(part, whole):.3g} %"
