"""Pure: the one shape of what a benchmark found: figures, the bars they are held against, and notes.

Every benchmark in bench/table.py has a `run(quick: bool = False) -> Findings`; quick means few rounds:

    Findings(
        figures=(
            Figure("hotpool", "16 in flight", (5610.0, 5675.0, 6150.0), "requests/s"),
            Figure("bare echo", "16 in flight", (8990.0, 9060.0, 9780.0), "requests/s"),
            Figure("hotpool", "16 in flight / bare echo", (0.624, 0.626, 0.629), bar=Bar("rate of a no-op model", "≥", 0.65)),
        ),
        notes=("payload 10,266 bytes, 2 workers",),
    )

Its table has a row for each side and a column for each name, both in the order in which they come first.
"""

import math
import statistics
from dataclasses import dataclass
from typing import Literal

NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Bar:
    """What is promised of a figure's median. Bars with the same `what` are alternatives: one that is met is enough."""

    what: str
    sign: Literal["≤", "≥"]
    limit: float

    def is_met_by(self, value: float) -> bool:
        return value <= self.limit if self.sign == "≤" else value >= self.limit


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity of one side.

    side: what was measured; a row. name: what of it; a column. values: one of each round, from rounds in which the sides took
    turns; none when it could not be measured. unit: `ms`, `requests/s`, `MB`; empty for a ratio.
    """

    side: str
    name: str
    values: tuple[float, ...]
    unit: str = ""
    bar: Bar | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def is_met(self) -> bool | None:
        """Whether the median keeps the bar; None without a bar or without a measurement."""
        return self.bar.is_met_by(self.median) if self.bar and self.values else None


@dataclass(frozen=True, slots=True)
class Findings:
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()


def ratios(values: tuple[float, ...], others: tuple[float, ...]) -> tuple[float, ...]:
    """Of each round; none when either side was not measured."""
    return tuple(a / b for a, b in zip(values, others, strict=True)) if values and others else ()


def write_spread(figure: Figure) -> str:
    """`0.626 (0.624 to 0.629)`: median and range."""
    if not figure.values:
        return NOT_MEASURED
    median = write_number(figure.median)
    if len(figure.values) == 1:
        return median
    return f"{median} ({write_number(min(figure.values))} to {write_number(max(figure.values))})"


def write_number(value: float) -> str:
    """Three digits that count, all digits before the point: 0.0123, 1.00, 36.9, 5,673."""
    if value == 0 or abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
