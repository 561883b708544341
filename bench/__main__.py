"""Shell: runs the benchmarks one after the other and writes bench/results.md and bench/results.json.

    python -m bench [NAME ...] [--quick]

With names, only these are run and the results of the others stay as they are. Ends with 1 where one fails or misses a bar.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import msgspec

from .figures import Findings
from .machine import ROOT, describe_commit, describe_machine
from .pool import MADE
from .record import RESULTS, read_entries, write_entries
from .report import BY_HAND, Entry, bar_rows, figure_lines, write_results
from .table import BENCHMARKS, Benchmark

LIMIT_S = 600.0  # of one benchmark: the longest takes 180 s where cores are slow, with two more trainings 260


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of: {', '.join(BENCHMARKS)}")
    parser.add_argument(
        "--quick", action="store_true", help="few rounds, to see that they run; the results are not kept"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    names = arguments.names or list(BENCHMARKS)
    with tempfile.TemporaryDirectory(prefix="hp") as folder:
        os.environ[MADE] = str(Path(folder) / "made")
        if arguments.quick:
            entries = run_all(BENCHMARKS, names, Path(folder) / RESULTS.name, quick=True)
            print(write_results(entries))
        else:
            entries = run_all(BENCHMARKS, names, RESULTS)
            print(f"written: {RESULTS.relative_to(ROOT)} and {RESULTS.with_suffix('.md').name} beside it")
    return 0 if all_well({name: entries[name] for name in names}, quick=arguments.quick) else 1


def all_well(entries: Mapping[str, Entry], *, quick: bool) -> bool:
    """Whether none failed or missed a bar. A few rounds say nothing of bars."""
    if quick:
        return not any(entry.failed for entry in entries.values())
    return not any(met == "no" for *_, met in bar_rows(entries))


def run_all(
    benchmarks: Mapping[str, Benchmark], names: Iterable[str], results: Path, *, quick: bool = False
) -> dict[str, Entry]:
    """Runs these and writes the results after each, with those of the others as they were; gives them all."""
    entries = read_entries(results)
    commit, begin = describe_commit(), monotonic()
    for name in names:
        print(f"{monotonic() - begin:4.0f} s  {name}: {benchmarks[name].shows}", flush=True)
        entries[name] = run_one(benchmarks[name], commit, quick=quick)
        for line in figure_lines(entries[name].findings):
            print(f"        {line}", flush=True)
        for what, bar, seen, met in bar_rows({name: entries[name]}):
            print(f"        {met:>3}: {what} {bar}, seen {seen}", flush=True)
        entries = {known: entries[known] for known in (*benchmarks, *BY_HAND) if known in entries}
        write_entries(entries, results)
    return entries


def run_one(benchmark: Benchmark, commit: str, *, quick: bool = False, limit_s: float = LIMIT_S) -> Entry:
    """In a process of its own. Whatever goes wrong there is told in the entry."""
    date, load, begin = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), os.getloadavg()[0], monotonic()
    findings, failed = Findings(()), ""
    with tempfile.TemporaryDirectory(prefix="hp") as folder:
        file, log = Path(folder) / "findings.json", Path(folder) / "log"
        try:
            _run_process([benchmark.module, str(file), *["--quick"] * quick], log, limit_s)
            findings = msgspec.json.decode(file.read_bytes(), type=Findings)
        except (Failed, msgspec.DecodeError) as error:
            failed = str(error)
            print("\n".join(log.read_text(errors="replace").splitlines()[-20:]), file=sys.stderr)
    took_s = monotonic() - begin
    return Entry(benchmark.shows, date, commit, describe_machine(), load, took_s, findings, failed)


class Failed(Exception):
    """A benchmark that found nothing, and why."""


def _run_process(arguments: list[str], log: Path, limit_s: float) -> None:
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.one", *arguments], cwd=ROOT, stdout=out, stderr=out, start_new_session=True
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"not done after {limit_s:g} s") from None
        finally:
            _end_group(process)
    if code:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise Failed(lines[-1] if lines else f"exit code {code}")


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """Also what the benchmark started and left behind."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
