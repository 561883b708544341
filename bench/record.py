"""Shell: what all benchmarks found so far: bench/results.json, and as text bench/results.md beside it."""

import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from .machine import ROOT
from .report import Entry, write_results

RESULTS = ROOT / "bench" / "results.json"


def read_entries(results: Path) -> dict[str, Entry]:
    try:
        return msgspec.json.decode(results.read_bytes(), type=dict[str, Entry])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        sys.exit(f"{results} can't be read: {error}; delete it and run all benchmarks again")


def write_entries(entries: Mapping[str, Entry], results: Path) -> None:
    results.write_bytes(msgspec.json.format(msgspec.json.encode(entries), indent=1) + b"\n")
    results.with_suffix(".md").write_text(write_results(entries))
