"""Pure: is the target as good as stable? One small function for each gate, from counts to a verdict.

Gates depend on counts alone, so a verdict can be taken again from the journal. Those that may fail at any moment use
evidence that stays valid however often it is looked at (statistics.py). What each gate can't see: docs/gates.md.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import replace

from hotpool.evidence import Counts

from .service_gates import latency, latency_tail
from .statistics import (
    binomial_at_least,
    equal_bins,
    larger_shares,
    log_evidence,
    log_likelihood_ratio,
    paired_difference,
    share_of_events,
    stability_index,
    wilson,
    z,
)
from .verdicts import (
    Gate,
    GateResult,
    GateSettings,
    Labelled,
    Verdict,
    at_least,
    conclude,
    least,
    percent,
    share_of,
    unless,
    wager,
)

G = Gate

TIMED = (G.LATENCY, G.LATENCY_TAIL)
_OF_SHARE = (G.ERRORS, G.ERRORS_RELATIVE, G.COLLAPSE, G.DRIFT)

# Which gates see anything when. Only in a shadow does the target answer what stable answers too; but each picture once, and
# stable as often as it comes, so that their classes can't be compared there. Times are compared where the
# workers of both are about equally busy: one that computes now and then does so with cold caches, a fifth slower than one that
# never rests, whatever its version (docs/gates.md). From `rolling` on no step is left to be held, so only failures count.
ARMED: dict[str, tuple[Gate, ...]] = {
    "shadow": (G.ERRORS, G.AGREEMENT, G.DRIFT),
    "share": _OF_SHARE,
    "even_share": (*_OF_SHARE, *TIMED),
    "rolling": (*_OF_SHARE, *TIMED),
    "baking": (G.ERRORS,),
    "watch": (G.ERRORS,),
}

RATIOS_OF_ERRORS = (2.0, 4.0, 8.0, 16.0)  # times the ratio that is allowed
DRIFT_BINS = 10
CHI_SQUARE_99 = {1: 6.63, 2: 9.21, 3: 11.34, 4: 13.28, 5: 15.09, 6: 16.81, 7: 18.48, 8: 20.09, 9: 21.67}


def judge(
    counts: Counts,
    settings: GateSettings,
    labelled: Labelled | None = None,
    *,
    gates: Collection[Gate] = tuple(Gate),
) -> tuple[Verdict, ...]:
    """A verdict of each of these gates, in the order of `Gate`. Without labels there is none of accuracy.

    Where accuracy has passed, agreement is only reported.
    """
    verdicts = [judged(counts, settings) for gate, judged in _GATES.items() if gate in gates]
    if labelled is None:
        return tuple(verdicts)
    knows_better = accuracy(labelled, settings)
    if knows_better.result is GateResult.PASS:
        verdicts = [_reported_only(one, labelled) if one.gate is G.AGREEMENT else one for one in verdicts]
    return (*verdicts, knows_better) if Gate.ACCURACY in gates else tuple(verdicts)


def _reported_only(agreed: Verdict, labelled: Labelled) -> Verdict:
    """A better version differs too, and labels say that it is not worse."""
    reason = f"{agreed.reason}; reported only, because accuracy has passed on {labelled.n} labelled pictures"
    return replace(agreed, enforced=False, reason=reason)


def errors(counts: Counts, settings: GateSettings) -> Verdict:
    """Does more than `error_limit` of the target's replies fail?"""
    n, bad, limit = counts.target.answered, counts.target.errors, settings.error_limit
    evidence = log_evidence(bad, n, limit, larger_shares(limit))
    return conclude(
        Gate.ERRORS,
        f"{bad} of {n} replies were errors ({percent(bad, n)}); {wager(evidence, settings)} for more than {percent(limit)}",
        evidence >= settings.enough_to_fail,
        [at_least(n, settings.min_replies, "replies")],
        {"replies": n, "errors": bad, "limit": limit, "log_evidence": evidence},
    )


def errors_relative(counts: Counts, settings: GateSettings) -> Verdict:
    """Given that there was an error: was it the target's more often than its share of the replies explains?

    Both arms live through the same moments, so a load that changes does not matter. The share is the one that was measured.
    """
    n, bad, ratio = counts.target.answered, counts.target.errors, settings.error_ratio
    n_stable, n_errors = counts.stable.answered, counts.stable.errors + bad
    share, evidence = share_of(n, n + n_stable), 0.0
    if 0 < share < 1:
        others = [share_of_events(share, ratio * multiple) for multiple in RATIOS_OF_ERRORS]
        evidence = log_evidence(bad, n_errors, share_of_events(share, ratio), others)
    return conclude(
        Gate.ERRORS_RELATIVE,
        f"{bad} of {n_errors} errors came from the target, which gave {percent(share)} of the replies; "
        f"{wager(evidence, settings)} for more than {ratio:g} times stable's share of errors",
        evidence >= settings.enough_to_fail,
        [at_least(n, settings.min_replies, "replies"), at_least(n_stable, settings.min_replies, "replies of stable")],
        {"errors": bad, "errors_stable": n_errors - bad, "share": share, "limit": ratio, "log_evidence": evidence},
    )


def agreement(counts: Counts, settings: GateSettings) -> Verdict:
    """Does the target name another class than stable too often? Wald's sequential test, which may pass early too."""
    n, differ, ok, bad = counts.pairs, counts.disagreements, settings.disagreement_ok, settings.disagreement_bad
    score = log_likelihood_ratio(differ, n, ok, bad)
    passes, fails = math.log(settings.beta / (1 - settings.alpha)), math.log((1 - settings.beta) / settings.alpha)
    low, high = wilson(differ, n, z(1 - settings.alpha)) if n else (0.0, 1.0)
    enough = least(n, lambda pairs: log_likelihood_ratio(differ, pairs, ok, bad) <= passes)
    return conclude(
        Gate.AGREEMENT,
        f"{differ} of {n} pairs differ ({percent(differ, n)}, {percent(1 - 2 * settings.alpha)} interval {percent(low)} to "
        f"{percent(high)}); score {score:+.2f}, passes at {passes:+.2f} as {percent(ok)}, fails at {fails:+.2f} as "
        f"{percent(bad)}",
        score >= fails,
        [unless(n >= enough, f"{n} of at least {enough} pairs", max(score / passes, score / fails))],
        {
            "pairs": n,
            "disagreements": differ,
            "low": low,
            "high": high,
            "score": score,
            "passes": passes,
            "fails": fails,
        },
    )


def collapse(counts: Counts, settings: GateSettings) -> Verdict:
    """Does the target name one class far more often than stable names any, or nothing else?

    A single class alone is no fault: where stable names it nearly always, so may the target. It is one when so long a row
    of that class is less likely than alpha.
    """
    stable, target = counts.stable.classes, counts.target.classes
    n_stable, n = sum(stable.values()), sum(target.values())
    top = max(sorted(target), key=lambda index: target[index], default=-1)
    share, usual = share_of(target.get(top, 0), n), share_of(max(stable.values(), default=0), n_stable)
    limit = usual + settings.collapse_margin
    likely = wilson(stable.get(top, 0), n_stable, z(1 - settings.alpha))[1] if n_stable else 1.0
    is_single = share == 1 and n * math.log(likely) < math.log(settings.alpha)
    facts = f"class {top} is {percent(share)} of {n} answers" if n else "no answers"
    facts += f", the most frequent of stable's {n_stable} is {percent(usual)}; fails above {percent(limit)}"
    if is_single:
        facts += f", or alone when at most {percent(likely)} of stable's"
    missing = [
        at_least(n, settings.min_replies, "answers"),
        at_least(n_stable, settings.min_replies, "answers of stable"),
    ]
    numbers = {"answers": n, "answers_stable": n_stable, "share": share, "share_stable": usual, "limit": limit}
    return conclude(Gate.COLLAPSE, facts, not any(missing) and (share > limit or is_single), missing, numbers)


def drift(counts: Counts, settings: GateSettings) -> Verdict:
    """Has the confidence moved? PSI over bins of equal parts of stable's answers, against its 99 % quantile by chance.

    Reported only: a better version is often more confident. The rule of thumb 0.1 / 0.25 ignores how many answers there are.
    """
    stable, target = counts.stable.confidence, counts.target.confidence
    n_stable, n = sum(stable.values()), sum(target.values())
    ends = equal_bins(stable, DRIFT_BINS)
    index = stability_index(stable, target, ends)
    limit = (1 / n + 1 / n_stable) * CHI_SQUARE_99[len(ends)] if n and n_stable and ends else 0.0
    missing = [
        at_least(n, settings.drift_min_replies, "answers"),
        at_least(n_stable, settings.drift_min_replies, "answers of stable"),
        unless(bool(ends), "all answers of stable have one confidence", 0.0),
    ]
    return conclude(
        Gate.DRIFT,
        f"confidence of {n} answers is {index:.3g} from stable's (PSI of {len(ends) + 1} bins); chance stays below {limit:.3g}",
        not any(missing) and index > limit,
        missing,
        {"answers": n, "answers_stable": n_stable, "psi": index, "limit": limit, "bins": len(ends) + 1},
        enforced=False,
    )


def accuracy(labelled: Labelled, settings: GateSettings) -> Verdict:
    """Is the target right less often, by more than the margin?

    Passes when the lower end of the Bonett-Price interval of (only_target - only_stable) / n is above -margin. Fails when
    stable is right more often by more than the margin and McNemar's exact test, one-sided, says that this is not chance.
    Labels come in one piece, so unlike the others it is read once.
    """
    n, worse, better, margin = labelled.n, labelled.only_stable, labelled.only_target, settings.accuracy_margin
    chance = binomial_at_least(worse, worse + better, 0.5)
    difference = share_of(better - worse, n)
    low, high = paired_difference(worse, better, n, z(1 - settings.alpha))
    return conclude(
        Gate.ACCURACY,
        f"right in {percent(labelled.right_target, n)} of {n} labelled pictures, stable in "
        f"{percent(labelled.right_stable, n)}: {100 * difference:+.2f} points, at least {100 * low:+.2f}, passes above "
        f"{-100 * margin:+.2f} (McNemar p {chance:.2g})",
        difference < -margin and chance <= settings.alpha,
        [unless(low > -margin, f"{n} labelled pictures", share_of(margin, -low))],
        {"pictures": n, "difference": difference, "low": low, "high": high, "p": chance, "limit": -margin},
    )


_GATES: dict[Gate, Callable[[Counts, GateSettings], Verdict]] = {
    G.ERRORS: errors,
    G.ERRORS_RELATIVE: errors_relative,
    G.AGREEMENT: agreement,
    G.COLLAPSE: collapse,
    G.LATENCY: latency,
    G.LATENCY_TAIL: latency_tail,
    G.DRIFT: drift,
}
