"""Pure: results of all benchmarks as text: the bars first, then the machine, then a table of each benchmark."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .figures import NOT_MEASURED, Bar, Figure, Findings, write_spread
from .table import BENCHMARKS

BY_HAND = ("soak",)  # takes half an hour and has a command of its own, bench/soak.py; its results stay
ALL = Bar("`make bench`, all of it", "≤", 600)  # s


@dataclass(frozen=True, slots=True)
class Entry:
    """One benchmark's last run. load: the machine's load average before. failed: why there are no findings, or empty."""

    shows: str
    date: str
    commit: str
    machine: dict[str, str]
    load: float
    took_s: float
    findings: Findings
    failed: str = ""


def write_results(entries: Mapping[str, Entry]) -> str:
    """Markdown. Entries that were measured at other times keep their own date and commit."""
    machine = max(entries.values(), key=lambda entry: entry.date).machine
    lines = [
        "# Results",
        "",
        "Written by `make bench`; how the sides are measured is in docs/performance.md. Median and range of",
    ]
    lines += ["the rounds; a ratio is taken within each round. Bars hold for the median.", ""]
    lines += ["## Bars", "", *write_table(("what", "bar", "seen", "met"), [*bar_rows(entries), total_row(entries)]), ""]
    lines += ["## Machine", "", *write_table(("", ""), machine.items()), ""]
    for name, entry in entries.items():
        lines += [*_write_entry(name, entry, machine), ""]
    return "\n".join(lines)


def bar_rows(entries: Mapping[str, Entry]) -> list[tuple[str, str, str, str]]:
    """What, bar, seen, and met: `yes`, `no`, or why it is not known."""
    rows = []
    for name, entry in entries.items():
        if entry.failed:
            rows.append((f"(all of {name})", "", f"failed: {entry.failed}", "no"))
        groups: dict[str, list[tuple[Figure, Bar]]] = {}
        for figure in entry.findings.figures:
            if figure.bar:
                groups.setdefault(figure.bar.what, []).append((figure, figure.bar))
        rows += [(what, *_judge(group)) for what, group in groups.items()]
    return rows


def total_row(entries: Mapping[str, Entry]) -> tuple[str, str, str, str]:
    """What all took together that are not run by hand; not known where some are missing, or of another commit or machine."""
    run = [entries[name] for name in BENCHMARKS if name in entries]
    is_whole = len(run) == len(BENCHMARKS)
    is_one_run = is_whole and all((entry.commit, entry.machine) == (run[0].commit, run[0].machine) for entry in run)
    took_s = (sum(entry.took_s for entry in run),) if is_one_run else ()
    return (ALL.what, *_judge([(Figure("all", "took", took_s, "s", ALL), ALL)]))


def figure_lines(findings: Findings) -> list[str]:
    """For a terminal: side, name, median and range of each."""
    rows = [(figure.side, figure.name, f"{write_spread(figure)} {figure.unit}") for figure in findings.figures]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def write_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *escaped)]


def _judge(group: list[tuple[Figure, Bar]]) -> tuple[str, str, str]:
    bars = " or ".join(f"{bar.sign} {bar.limit:,g} {figure.unit}".rstrip() for figure, bar in group)
    seen = "; ".join(
        f"{write_spread(figure)} {figure.unit}".rstrip() if figure.values else NOT_MEASURED for figure, _ in group
    )
    verdicts = {figure.is_met for figure, _ in group}
    if True in verdicts:
        return bars, seen, "yes"
    return bars, seen, NOT_MEASURED if None in verdicts else "no"


def _write_entry(name: str, entry: Entry, machine: dict[str, str]) -> list[str]:
    measured = f"{entry.date}, commit {entry.commit}, load {entry.load:.2f} before, {entry.took_s:.0f} s"
    elsewhere = [f"{key}: {value}" for key, value in entry.machine.items() if machine.get(key) != value]
    lines = [f"## {name}", "", f"{entry.shows[0].upper()}{entry.shows[1:]}.", f"({measured}.)"]
    if elsewhere:
        lines.append(f"Not measured on the machine above but with {'; '.join(elsewhere)}.")
    if entry.failed:
        return [*lines, "", f"Failed: {entry.failed}"]
    lines += ["", *_write_figures(entry.findings.figures)]
    return [*lines, "", *(f"- {note}" for note in entry.findings.notes)] if entry.findings.notes else lines


def _write_figures(figures: tuple[Figure, ...]) -> list[str]:
    cells = {(figure.side, _column(figure)): write_spread(figure) for figure in figures}
    sides, columns = (dict.fromkeys(keys) for keys in zip(*cells, strict=True))
    rows = [(side, *(cells.get((side, name), "") for name in columns)) for side in sides]
    return write_table(("", *columns), rows)


def _column(figure: Figure) -> str:
    return f"{figure.name}, {figure.unit}" if figure.unit else figure.name
