"""Pure: what the CLI shows, as rich tables and lines: facts in, renderables out."""

from collections.abc import Iterable, Sequence
from math import isnan

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hotpool.messages import Family, QueueReport, Report, Sample, WorkerReport
from hotpool.metrics import count, quantile
from hotpool.states import WorkerState

from .health import Health
from .progress import doing

MIB = 1024 * 1024
_BAR = 24

_STATE_STYLES = {WorkerState.READY: "green", WorkerState.DOWN: "red"}


def table(*headers: str, right: Iterable[str] = ()) -> Table:
    """Columns by two spaces, no lines. right: headers of numeric columns."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    numeric = set(right)
    for header in headers:
        made.add_column(header, justify="right" if header in numeric else "left", overflow="fold")
    return made


def state_text(worker: WorkerReport) -> Text:
    return Text(doing(worker), style=_STATE_STYLES.get(worker.state, "yellow"))


def mebibytes(n_bytes: float) -> str:
    return f"{n_bytes / MIB:.1f} MiB"


def short(digest: str) -> str:
    """Enough of a digest to tell versions apart, and what commands accept."""
    return digest[:12]


def duration(seconds: float) -> str:
    """`0.31 s`, `12.0 s`, `2 min 04 s`, `3 h 05 min`, `6 d 02 h`: two units at most."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    for size, name, below, below_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{int(seconds // size)} {name} {int(seconds % size // below):02d} {below_name}"
    raise AssertionError(seconds)


def health_text(health: Health) -> Text:
    if not health.reasons:
        return Text("healthy", style="green")
    return Text("degraded: " + "; ".join(health.reasons), style="red")


def status(lines: Sequence[tuple[str, str | Text]], report: Report) -> RenderableType:
    """lines: what comes before the workers, each with its label."""
    head = Table.grid(padding=(0, 2, 0, 0))
    for label, value in lines:
        head.add_row(Text(label, style="bold"), value)
    return Group(head, Text(), workers(report.workers))


def queue_text(queue: QueueReport) -> str:
    return (
        f"{queue.requests} of {queue.requests_max} requests, {mebibytes(queue.bytes)} of {mebibytes(queue.bytes_max)}"
    )


def workers(reports: Sequence[WorkerReport]) -> Table:
    made = table(
        "WORKER", "STATE", "VERSION", "CORES", "IN FLIGHT", "SERVED", "MEMORY", "RESTARTS", "NOTE",
        right=("IN FLIGHT", "SERVED", "MEMORY", "RESTARTS"),
    )  # fmt: skip
    for worker in reports:
        made.add_row(
            worker.worker,
            state_text(worker),
            worker.version or short(worker.digest) or "-",
            cores_text(worker.cores),
            str(worker.in_flight),
            str(worker.served),
            mebibytes(worker.private_bytes),
            str(sum(worker.restarts.values())),
            Text(worker.note, style="dim"),
        )
    return made


def worker_details(reports: Sequence[WorkerReport]) -> Table:
    made = table(
        "WORKER", "STATE", "MODEL", "VERSION", "DIGEST", "CORES", "THREADS", "PROCESS", "LIFE", "IN FLIGHT", "SERVED",
        "MEMORY", "RESIDENT", "LAST LOAD", "RESTARTS", "NOTE",
        right=("THREADS", "PROCESS", "LIFE", "IN FLIGHT", "SERVED", "MEMORY", "RESIDENT"),
    )  # fmt: skip
    for worker in reports:
        made.add_row(
            worker.worker,
            state_text(worker),
            worker.model,
            worker.version or "-",
            short(worker.digest) or "-",
            cores_text(worker.cores),
            str(worker.threads),
            str(worker.pid) if worker.pid else "-",
            str(worker.incarnation),
            str(worker.in_flight),
            str(worker.served),
            mebibytes(worker.private_bytes),
            mebibytes(worker.rss_bytes),
            _load_text(worker),
            ", ".join(f"{cause} {n}" for cause, n in sorted(worker.restarts.items())) or "-",
            Text(worker.note, style="dim"),
        )
    return made


def _load_text(worker: WorkerReport) -> Text:
    if worker.load_reason:
        return Text(worker.load_reason, style="red")
    if not worker.token:
        return Text("-")
    return Text(f"{worker.load_s:.2f} s + verify {worker.verify_s:.2f} s")


def cores_text(cores: Sequence[int]) -> str:
    """`0-3,8`; `-` when the worker is not pinned."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs) or "-"


def metrics(families: Iterable[Family]) -> Table:
    """One row a sample. Histograms of seconds as how many, mean and quantiles in milliseconds."""
    made = table("METRIC", "LABELS", "VALUE", "MEAN", "P50", "P95", "P99", right=("VALUE", "MEAN", "P50", "P95", "P99"))
    for family in families:
        for sample in family.samples:
            labels = " ".join(f"{name}={value}" for name, value in sample.labels.items())
            made.add_row(family.name.removeprefix("hotpool_"), Text(labels, style="dim"), *_cells(family, sample))
    return made


def _cells(family: Family, sample: Sample) -> Sequence[str]:
    if family.kind != "histogram":
        value = mebibytes(sample.value) if family.name.endswith("_bytes") else f"{sample.value:g}"
        return (f"{int(sample.value)}" if sample.value == int(sample.value) and "MiB" not in value else value,)
    n = count(sample)
    mean = sample.value / n if n else float("nan")
    return (str(n), *(_milliseconds(value) for value in (mean, *(quantile(sample, q) for q in (0.5, 0.95, 0.99)))))


def _milliseconds(seconds: float) -> str:
    return "-" if isnan(seconds) else f"{seconds * 1000:.1f} ms"


def bar(probability: float) -> str:
    """In eighths of a character, so that small differences show."""
    eighths = round(max(0.0, min(1.0, probability)) * _BAR * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[rest]).ljust(_BAR)


def classes(path: str, origin: str, scores: Iterable[tuple[str, float]]) -> RenderableType:
    """scores: (label, probability), the most probable first. origin: which version and worker said so."""
    rows = Table.grid(padding=(0, 1, 0, 0))
    for label, probability in scores:
        rows.add_row(" ", Text(bar(probability), style="cyan"), f"{probability:6.1%}", Text(label))
    return Group(Text.assemble((path, "bold"), "  ", (origin, "dim")), rows)
