"""Writes the generated parts of the docs: `python -m tests.generate_docs`; with --check it only says which are stale.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`. Everything else in the files is written by hand.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import get_args

import click

from broker.lifecycle import TRANSITIONS as WORKER_TRANSITIONS
from broker.metrics import Metrics
from control.cli import cli
from control.exits import Exit
from control.ledger import Ledger
from control.rollout import TRANSITIONS as ROLLOUT_TRANSITIONS
from control.rollout_metrics import gate_progress, malformed_counter, rollout_families
from control.verbs import VERBS
from gateway.health import up_families
from gateway.observed import HttpMetrics
from gateway.openapi_paths import PATHS
from hotpool.errors import BY_CODE
from hotpool.messages import (
    Family,
    FromAdmin,
    FromClient,
    FromControl,
    FromWorker,
    ToAdmin,
    ToClient,
    ToControl,
    ToWorker,
)

HELP_WIDTH = 100
ROOT = Path(__file__).parent.parent
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in (header, *rows)]
    return "\n".join([lines[0], "|" + " --- |" * len(header), *lines[1:]]) + "\n"


def one_line(doc: str | None) -> str:
    return " ".join((doc or "").split())


def errors() -> str:
    rows = (
        (f"`{code}`", f"`{kind.__name__}`", "yes" if kind.retryable else "no", one_line(kind.__doc__))
        for code, kind in sorted(BY_CODE.items())
    )
    return table(("code", "class", "retryable", "meaning"), rows)


def worker_states() -> str:
    rows = (
        (f"`{state}`", f"`{event}`", f"`{after}`")
        for state, row in WORKER_TRANSITIONS.items()
        for event, after in row.items()
    )
    return table(("state", "event", "next state"), rows)


def rollout_phases() -> str:
    rows = (
        (f"`{phase}`", f"`{event}`", f"`{after}`")
        for phase, row in ROLLOUT_TRANSITIONS.items()
        for event, after in row.items()
    )
    return table(("phase", "event", "next phase"), rows)


def exit_codes() -> str:
    meanings = dict(re.findall(r"^    ([A-Z_]+) = \d+  # (.+)$", inspect.getsource(Exit), re.MULTILINE))
    return table(("code", "name", "meaning"), ((code.value, code.name.lower(), meanings[code.name]) for code in Exit))


def messages() -> str:
    unions = {
        "client to broker": FromClient, "broker to client": ToClient, "worker or supervisor to broker": FromWorker,
        "broker to worker or supervisor": ToWorker, "controller or CLI to broker": FromAdmin,
        "broker to controller or CLI": ToAdmin, "anybody to controller": ToControl, "controller to who asked": FromControl,
    }  # fmt: skip
    parts = []
    for direction, union in unions.items():
        rows = (
            (kind.__struct_config__.tag, f"`{kind.__name__}`", ", ".join(f"`{name}`" for name in kind.__struct_fields__),
             one_line(vars(kind).get("__doc__")))
            for kind in get_args(union) or (union,)
        )  # fmt: skip
        parts.append(f"From {direction}:\n\n{table(('tag', 'message', 'fields', 'meaning'), rows)}")
    return "\n".join(parts)


def verbs() -> str:
    """A question mark: may be left out."""
    rows = []
    for name, verb in VERBS.items():
        fields = inspect.signature(verb.takes).parameters.values()
        takes = (f"`{field.name}{'' if field.default is field.empty else '?'}`" for field in fields)
        rows.append((f"`{name}`", ", ".join(takes), one_line(verb.act.__doc__)))
    return table(("verb", "takes", "what it does, or gives"), rows)


def metrics() -> str:
    of_controller = (*rollout_families(Ledger()), gate_progress(None, ()), malformed_counter().family())
    return families([*Metrics().families([], (0, 0)), *of_controller])


def http_metrics() -> str:
    return families([*HttpMetrics().families(), *up_families(True, True)])


def families(found: Iterable[Family]) -> str:
    return table(("name", "kind", "meaning"), ((f"`{one.name}`", one.kind, one.help) for one in found))


def commands(command: click.Command, path: str = "hotpool", parent: click.Context | None = None) -> Iterator[str]:
    settings = {**command.context_settings, "terminal_width": HELP_WIDTH}
    context = click.Context(command, info_name=path.rpartition(" ")[2], parent=parent, **settings)
    yield f"### `{path}`\n\n```text\n{command.get_help(context).rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            if (sub := command.get_command(context, name)) is not None:
                yield from commands(sub, f"{path} {name}", context)


def routes() -> str:
    rows = (
        (f"`{method.upper()} {path}`", one["summary"], "admin" if "security" in one else "")
        for path, methods in PATHS.items()
        for method, one in methods.items()
    )
    return table(("route", "what", "token"), rows)


PARTS: dict[str, Callable[[], str]] = {
    "errors": errors,
    "messages": messages,
    "verbs": verbs,
    "worker_states": worker_states,
    "rollout_phases": rollout_phases,
    "exit_codes": exit_codes,
    "metrics": metrics,
    "http_metrics": http_metrics,
    "routes": routes,
    "commands": lambda: "\n".join(commands(cli)),
}


def current(text: str) -> str:
    return PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n{part[3]}", text)


def main(arguments: list[str]) -> int:
    stale = []
    for path in sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]):
        if not path.exists():
            continue
        text = path.read_text()
        if (new := current(text)) != text:
            stale.append(path)
            if "--check" not in arguments:
                path.write_text(new)
    for path in stale:
        print(f"{'stale' if '--check' in arguments else 'written'}: {path.relative_to(ROOT)}")
    if stale and "--check" in arguments:
        print("run: make docs")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
