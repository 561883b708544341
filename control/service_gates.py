"""Pure: the gates of service times. On a noisy machine only what both arms went through together can be compared.

What they can't see: docs/gates.md.
"""

import math
from collections.abc import Mapping

from hotpool.evidence import BUCKETS_PER_E, BY_CHANCE, TAIL, Arm, Counts, bucket_us

from .statistics import at_quantile, at_rank, larger_shares, log_evidence, median_interval, upper_rank
from .verdicts import ALMOST, Gate, GateSettings, Verdict, at_least, conclude, grown, least, percent, unless, wager

MAJORITIES = (0.6, 0.7, 0.8, 0.9, 0.99)  # alternatives to a coin
MORE_THAN_CHANCE = (0.3, 0.4, 0.5, 0.6, 0.8)  # and to `BY_CHANCE`: five slow seconds are the fewest that are enough


def latency(counts: Counts, settings: GateSettings) -> Verdict:
    """Is the target slower in most seconds? A sequential sign test, both ways.

    A window is one second in which both arms answered; it is slow when the target's median is above `latency_ratio` times
    stable's. Fails on evidence that more than half of the windows are slow, passes on evidence that fewer are.

    The first design compared all windows of one arm with all of the other (Mann-Whitney). That test is read once, at a size
    fixed before; it needs the windows themselves; and it takes a neighbour that was noisy in some seconds for spread. Here
    a noisy second hits both sides of its own ratio and cancels, counts are enough, and one may look after every window.
    """
    windows = counts.windows
    n, first_slow = sum(windows.values()), 100 * math.log(settings.latency_ratio)
    slow = sum(count for key, count in windows.items() if key > first_slow)
    worse, good = log_evidence(slow, n, 0.5, MAJORITIES), log_evidence(n - slow, n, 0.5, MAJORITIES)
    numbers = {
        "windows": n,
        "slow": slow,
        "limit": settings.latency_ratio,
        "log_evidence": worse,
        "log_evidence_good": good,
    }
    ratios = _median_ratios(windows, settings.alpha)
    enough = settings.enough_to_pass
    few = least(n, lambda windows: log_evidence(windows - slow, windows, 0.5, MAJORITIES) >= enough)
    wanted = max(settings.min_windows, few)
    return conclude(
        Gate.LATENCY,
        f"in {slow} of {n} windows it took over {settings.latency_ratio:g} times as long{_as_text(ratios, settings)}; "
        f"{wager(worse, settings)} for most, {grown(good)} of {grown(enough)} for few",
        worse >= settings.enough_to_fail,
        [unless(n >= wanted, f"{n} of at least {wanted} windows", min(n / settings.min_windows, good / enough))],
        numbers | ratios,
    )


def latency_tail(counts: Counts, settings: GateSettings) -> Verdict:
    """Does more than one reply in 20 take longer than `tail_ratio` times what stable's p95 is at most, and in many seconds?

    Of the batch size with the most replies on its smaller side. The bound on the p95 is an order statistic: no shape is
    assumed. A reply is slow when its whole bucket is.

    Both must be proven. Replies alone are not independent: what else ran for one second on the core of one worker made 20 of
    them slow at once, and that was evidence enough against the same weights. A version that is to blame is slow in more
    seconds than chance makes.
    """
    batch = _common_batch(counts)
    stable, target = counts.stable.service.get(batch, {}), counts.target.service.get(batch, {})
    n_stable, n = sum(stable.values()), sum(target.values())
    missing = [
        at_least(n, settings.min_tail_replies, "replies"),
        at_least(n_stable, math.ceil(math.log(settings.alpha) / math.log(TAIL)), "replies of stable"),
    ]
    rank = upper_rank(n_stable, TAIL, settings.alpha)
    if rank is None or n == 0:
        facts = f"no limit yet from {n_stable} replies of stable and {n} of the target in batches of one size"
        return conclude(Gate.LATENCY_TAIL, facts, False, missing, {"replies": n, "replies_stable": n_stable})
    first_slow = at_rank(stable, rank) + 1 + math.ceil(BUCKETS_PER_E * math.log(settings.tail_ratio))
    numbers = _tail_numbers(batch, stable, target, first_slow) | _window_numbers(
        counts.tails.get(batch, {}), first_slow
    )
    slow, allowed = numbers["slow"], 1 - TAIL
    enough = least(n, lambda replies: slow <= allowed * replies)
    return conclude(
        Gate.LATENCY_TAIL,
        _tail_facts(numbers, settings),
        min(numbers["log_evidence"], numbers["log_evidence_windows"]) >= settings.enough_to_fail,
        [
            *missing,
            unless(n >= enough, f"over {percent(allowed)} that slow in {n} of at least {enough} replies", ALMOST),
        ],
        numbers,
    )


def _tail_numbers(
    batch: int, stable: Mapping[int, int], target: Mapping[int, int], first_slow: int
) -> dict[str, float]:
    n, slow = sum(target.values()), sum(count for key, count in target.items() if key >= first_slow)
    p95, p99 = (bucket_us(at_quantile(target, q)) / bucket_us(at_quantile(stable, q)) for q in (TAIL, 0.99))
    return {
        "batch": batch,
        "replies": n,
        "replies_stable": sum(stable.values()),
        "slow": slow,
        "limit_ms": math.exp(first_slow / BUCKETS_PER_E) / 1000,
        "log_evidence": log_evidence(slow, n, 1 - TAIL, larger_shares(1 - TAIL)),
        "p95_ratio": p95,
        "p99_ratio": p99,
    }


def _window_numbers(tails: Mapping[int, int], first_slow: int) -> dict[str, float]:
    n, slow = sum(tails.values()), sum(count for key, count in tails.items() if key >= first_slow)
    evidence = log_evidence(slow, n, BY_CHANCE, MORE_THAN_CHANCE)
    return {"windows": n, "slow_windows": slow, "log_evidence_windows": evidence}


def _tail_facts(numbers: Mapping[str, float], settings: GateSettings) -> str:
    slow, n = numbers["slow"], numbers["replies"]
    return (
        f"{slow} of {n} replies in batches of {numbers['batch']} ({percent(slow, n)}) took over {numbers['limit_ms']:.3g} ms, "
        f"{settings.tail_ratio:g} times stable's p95; {wager(numbers['log_evidence'], settings)} for more than "
        f"{percent(1 - TAIL)}; in {numbers['slow_windows']} of {numbers['windows']} seconds they were many, evidence "
        f"{grown(numbers['log_evidence_windows'])} of {grown(settings.enough_to_fail)} that it is more than chance "
        f"(p95 ratio {numbers['p95_ratio']:.2f}, p99 ratio {numbers['p99_ratio']:.2f})"
    )


def _common_batch(counts: Counts) -> int:
    """0: none."""
    stable, target = _by_batch(counts.stable), _by_batch(counts.target)
    return max(sorted(stable.keys() & target.keys()), key=lambda batch: min(stable[batch], target[batch]), default=0)


def _by_batch(arm: Arm) -> dict[int, int]:
    return {batch: sum(histogram.values()) for batch, histogram in arm.service.items()}


def _median_ratios(windows: Mapping[int, int], alpha: float) -> dict[str, float]:
    """Empty until there are windows enough for an interval."""
    interval = median_interval(windows, alpha)
    if interval is None:
        return {}
    ratio, low, high = (math.exp(key / 100) for key in (at_quantile(windows, 0.5), *interval))
    return {"ratio": ratio, "ratio_low": low, "ratio_high": high}


def _as_text(ratios: Mapping[str, float], settings: GateSettings) -> str:
    if not ratios:
        return ""
    interval = f"{percent(1 - 2 * settings.alpha)} interval {ratios['ratio_low']:.2f} to {ratios['ratio_high']:.2f}"
    return f" (median ratio {ratios['ratio']:.2f}, {interval})"
