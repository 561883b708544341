"""Pure: how the pool served during a rollout, second by second: what the broker counted between two of its reports."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from math import ceil, isnan, log2

import msgspec

from hotpool import messages
from hotpool.errors import BY_CODE, RequestError
from hotpool.evidence import Arm, Counts
from hotpool.messages import Report
from hotpool.metrics import count, quantile

from .progress import doing

_Buckets = tuple[tuple[float, int], ...]


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one instant. counts: evidence of the rollout's arms, when there is any. now: monotonic."""

    report: Report
    counts: Counts | None
    now: float


@dataclass(frozen=True, slots=True)
class Served:
    """By one version since the sample before. Times are from submit to the answer, at the broker; None without answers."""

    answered: int
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class ArmServed:
    """By one arm since the sample before; the words are those of `hotpool.evidence.Arm`."""

    routed: int = 0
    answered: int = 0
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """Since the sample before.

    ts: UTC. at: seconds since the rollout was created. span_s: how long it covers, up to `at`. versions: by name, those that
    answered. failed: requests by the code of their error, without those that the caller is to blame for; the broker does not
    count them by version. workers: what each does and the version it holds, at the end. share: percent of the requests that
    the target was to get, None without arms; nor are there stable and target then.
    """

    ts: str
    at: float
    span_s: float
    versions: dict[str, Served] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    workers: dict[str, tuple[str, str]] = field(default_factory=dict)
    share: float | None = None
    stable: ArmServed | None = None
    target: ArmServed | None = None
    pairs: int = 0
    disagreements: int = 0

    @property
    def share_measured(self) -> float | None:
        """Percent of the requests without a version that the target got; None when there were none."""
        if self.stable is None or self.target is None:
            return None
        routed = self.stable.routed + self.target.routed
        return 100 * self.target.routed / routed if routed else None


def difference(before: Look, after: Look, model: str, ts: str, at: float) -> Sample:
    """What was served between two looks. Another broker counts from zero, and so does another run of evidence."""
    is_same = before.report.boot == after.report.boot
    old = _totals(before.report, model) if is_same else {}
    sample = Sample(
        ts,
        round(at, 3),
        round(after.now - before.now, 3),
        versions={
            name: one for name, now in _totals(after.report, model).items() if (one := _served(old.get(name), now))
        },
        failed=_failed(before.report if is_same else None, after.report, model),
        workers={w.worker: (doing(w), w.version) for w in after.report.workers if w.model == model},
    )
    policy = next((table.policy for table in after.report.models if table.model == model), None)
    if policy is None or after.counts is None:
        return sample
    then = before.counts if is_same and before.counts and before.counts.policy == after.counts.policy else Counts()
    return replace(
        sample,
        share=policy.share,
        stable=_arm(then.stable, after.counts.stable),
        target=_arm(then.target, after.counts.target),
        pairs=after.counts.pairs - then.pairs,
        disagreements=after.counts.disagreements - then.disagreements,
    )


def merge(first: Sample, second: Sample) -> Sample:
    """Both in one. Counts add up exactly. The p50 is their mean, weighted by answers; the p99 the worse of both."""
    names = [*first.versions, *(name for name in second.versions if name not in first.versions)]
    return replace(
        second,
        span_s=second.span_s + first.span_s,
        versions={name: _served_by_both(first.versions.get(name), second.versions.get(name)) for name in names},
        failed=_sum(first.failed, second.failed),
        stable=_arms_together(first.stable, second.stable),
        target=_arms_together(first.target, second.target),
        share=first.share if second.share is None else second.share,
        pairs=first.pairs + second.pairs,
        disagreements=first.disagreements + second.disagreements,
    )


def thin(samples: Sequence[Sample], n: int) -> list[Sample]:
    """At most n samples, each of about the same length of time.

    That length is a power of two of seconds and counts from 0: so what was merged before fits in whole, and a file that is
    thinned again and again does not become coarser at its beginning.
    """
    if len(samples) <= n:
        return list(samples)
    if n == 1 or samples[0].at == samples[-1].at:
        return [reduce(merge, samples)]
    cell = 2.0 ** ceil(log2((samples[-1].at - samples[0].at) / (n - 1)))
    cells: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        cells[ceil(sample.at / cell)].append(sample)
    return [reduce(merge, cells[key]) for key in sorted(cells)]


def to_line(sample: Sample) -> bytes:
    """JSON, without the final line break."""
    return msgspec.json.encode(sample)


def from_lines(lines: Iterable[bytes]) -> list[Sample]:
    """In the order of time. A line that is no sample is left out: the last one may have been cut off by a power failure."""
    found = []
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=Sample))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
    return sorted(found, key=lambda sample: sample.at)


# ---- from the broker's cumulative counts


def _totals(report: Report, model: str) -> dict[str, _Buckets]:
    """By version the histogram of all answers so far."""
    return {
        sample.labels["version"]: sample.buckets
        for family in report.metrics
        if family.name == "hotpool_total_seconds"
        for sample in family.samples
        if sample.labels.get("model") == model
    }


def _served(before: _Buckets | None, after: _Buckets) -> Served | None:
    """None without answers. Cumulative buckets minus cumulative buckets are cumulative again."""
    old = dict(before or ())
    since = messages.Sample({}, buckets=tuple((bound, n - old.get(bound, 0)) for bound, n in after))
    n = count(since)
    return Served(n, _ms(quantile(since, 0.5)), _ms(quantile(since, 0.99))) if n > 0 else None


def _ms(seconds: float) -> float | None:
    return None if isnan(seconds) else round(1000 * seconds, 3)


def _failed(before: Report | None, after: Report, model: str) -> dict[str, int]:
    old = _outcomes(before, model) if before else {}
    found: dict[str, int] = defaultdict(int)
    for (version, code), n in _outcomes(after, model).items():
        if not _is_callers(code):
            found[code] += n - old.get((version, code), 0)
    return {code: n for code, n in found.items() if n > 0}


def _outcomes(report: Report, model: str) -> dict[tuple[str, str], int]:
    """By version and outcome: those of a version out of use end when it is removed, or eight others were in use since."""
    return {
        (sample.labels.get("version", ""), sample.labels["outcome"]): int(sample.value)
        for family in report.metrics
        if family.name == "hotpool_requests_total"
        for sample in family.samples
        if sample.labels.get("model") == model
    }


def _is_callers(outcome: str) -> bool:
    """Whether nobody here is to blame: it went well, the caller took it back, or no worker could have answered it."""
    return outcome in ("ok", "cancelled") or issubclass(BY_CODE.get(outcome, Exception), RequestError)


def _arm(before: Arm, after: Arm) -> ArmServed:
    return ArmServed(
        after.routed - before.routed, after.answered - before.answered, after.errors - before.errors
    )  # fmt: skip


# ---- two samples in one


def _served_by_both(first: Served | None, second: Served | None) -> Served:
    both = [one for one in (first, second) if one]
    n = sum(one.answered for one in both)
    medians = [(one.answered, one.p50_ms) for one in both if one.p50_ms is not None]
    weight = sum(answered for answered, _ in medians)
    p50 = round(sum(answered * median for answered, median in medians) / weight, 3) if weight else None
    return Served(n, p50, max((one.p99_ms for one in both if one.p99_ms is not None), default=None))


def _arms_together(first: ArmServed | None, second: ArmServed | None) -> ArmServed | None:
    if first is None or second is None:
        return first or second
    return ArmServed(
        first.routed + second.routed, first.answered + second.answered, first.errors + second.errors
    )  # fmt: skip


def _sum(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {key: first.get(key, 0) + second.get(key, 0) for key in (*first, *(k for k in second if k not in first))}
