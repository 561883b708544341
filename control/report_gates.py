"""Pure: what the gates said, for the report: an overview, then each judged step with one row a gate."""

from collections.abc import Mapping
from typing import Any

from .charts import clock, meter
from .chronicle import Chronicle, Judged
from .markup import Markup, about, chip, join, many, table, tag, text
from .render import duration
from .verdicts import GateResult

_RESULTS: dict[str, tuple[str, str]] = {
    GateResult.PASS: ("good", "✓ pass"),
    GateResult.FAIL: ("bad", "✕ fail"),
    GateResult.INCONCLUSIVE: ("warn", "… inconclusive"),
}


def gates(told: Chronicle) -> Markup:
    if not told.judged:
        said = (
            "The rollout ended before a step was judged." if told.shares else "No canary: nothing was judged by gates."
        )
        return tag("section", tag("h2", text("Gates")), about(said))
    said = about(
        "A gate that is only reported decides nothing. The bar is how far the evidence had come towards a decision."
    )
    return tag("section", tag("h2", text("Gates")), said, _overview(told), *map(_judged, told.judged))


def _overview(told: Chronicle) -> Markup:
    """All steps side by side; for a single one it would say everything twice."""
    if len(told.judged) < 2:
        return Markup("")
    results = [
        {str(v.get("gate")): str(v.get("result")) for v in one.body.get("verdicts") or ()} for one in told.judged
    ]
    names = list(dict.fromkeys(name for one in results for name in one))
    rows = [
        (text(name.replace("_", " ")), *(_word(one[name]) if name in one else text("-") for one in results))
        for name in names
    ]
    made = table(("gate", *(one.step for one in told.judged)), rows, class_="overview")
    return tag("div", made, class_="scroll")


def _word(result: str) -> Markup:
    style, word = _RESULTS.get(result, ("calm", result))
    return tag("span", text(word), class_=style)


def _judged(judged: Judged) -> Markup:
    body = judged.body
    elapsed = f", after {duration(float(body['elapsed_s']))} of evidence" if "elapsed_s" in body else ""
    rows = [_verdict(verdict) for verdict in body.get("verdicts") or ()]
    return join(
        (
            tag("h3", text(f"{judged.step} "), _result(str(body.get("result", "")))),
            tag("p", text(f"Judged at {clock(judged.at)}{elapsed}.{_shares(body)}"), class_="about"),
            table(("gate", "result", "progress", "why"), rows, class_="gates cards"),
        )
    )


def _shares(body: Mapping[str, Any]) -> str:
    """What was asked for is in the step's name; this is what was measured."""
    counts = body.get("counts") or {}
    stable, target = ((counts.get(arm) or {}).get("routed", 0) for arm in ("stable", "target"))
    total = stable + target
    return f" The target got {100 * target / total:.3g} % of {many(total)} requests." if total else ""


def _verdict(verdict: Mapping[str, Any]) -> tuple[Markup, ...]:
    style = _RESULTS.get(str(verdict.get("result")), ("calm", ""))[0]
    note = tag("span", text("reported only"), class_="note") if not verdict.get("enforced", True) else Markup("")
    progress = float(verdict.get("progress", 0.0))
    numbers = sorted((verdict.get("numbers") or {}).items())
    shown = tag(
        "details",
        tag("summary", text("numbers")),
        tag(
            "table",
            *(
                tag("tr", tag("td", text(key)), tag("td", text(_value(value)), class_="number"))
                for key, value in numbers
            ),
        ),
    )
    return (
        join((text(str(verdict.get("gate", "")).replace("_", " ")), note)),
        _result(str(verdict.get("result", ""))),
        join((meter(progress, style), text(f"{100 * progress:.0f} %"))),
        join((text(verdict.get("reason", "")), shown if numbers else Markup(""))),
    )


def _result(result: str) -> Markup:
    return chip(*_RESULTS.get(result, ("calm", result or "not judged")))


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
