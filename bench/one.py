"""Shell: one benchmark in a process of its own, because many pin themselves or change global state.

    python -m bench.one MODULE FILE [--quick]

Its findings go to FILE as JSON.
"""

import argparse
import importlib
from pathlib import Path

import msgspec

from .figures import Findings


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.one")
    parser.add_argument("module", help="has a `run`, see figures.py")
    parser.add_argument("file", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    findings: Findings = importlib.import_module(arguments.module).run(quick=arguments.quick)
    arguments.file.write_bytes(msgspec.json.encode(findings))


if __name__ == "__main__":
    main()
