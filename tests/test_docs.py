"""What the documents state as defaults and guarantees is what the code has and what tests show."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotpool.config import Config

ROOT = Path(__file__).parent.parent
ROLLOUTS, GATES, PROMISES = (ROOT / "docs" / name for name in ("rollouts.md", "gates.md", "promises.md"))


def rows(page: Path, heading: str) -> Iterator[list[str]]:
    """The cells of the table under this heading, without its head."""
    section = re.split(r"^## ", page.read_text(), flags=re.MULTILINE)
    (text,) = (part for part in section if part.startswith(heading + "\n"))
    for line in [line for line in text.splitlines() if line.startswith("| `")]:
        yield [cell.strip() for cell in line.strip("| ").split(" | ")]


def written_defaults(page: Path) -> dict[str, str]:
    defaults = {}
    for names, values, *_ in rows(page, "Settings"):
        pairs = zip(re.findall(r"`([a-z_0-9]+)`", names), values.split(","), strict=True)
        defaults |= {name: value.strip(" `") for name, value in pairs}
    return defaults


@pytest.mark.parametrize(("page", "section"), [(ROLLOUTS, "rollout"), (GATES, "gates")])
def test_the_defaults_in_the_docs_are_those_of_the_code(page, section):
    real = {name: str(value) for name, value in getattr(Config(), section).model_dump().items()}
    assert written_defaults(page) == real


def test_the_configuration_that_shows_every_key_has_the_defaults():
    shown = tomllib.loads((ROOT / "configs" / "default.toml").read_text())
    assert shown == Config().model_dump()


def test_every_test_that_a_promise_names_is_there():
    named = set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PROMISES.read_text()))
    assert len(named) > 40
    functions = {file: functions_in(ROOT / file) for file in {file for file, _ in named}}
    for file, name in sorted(named):
        assert not name or name in functions[file], f"{file} has no {name}"


def functions_in(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_sentence_on_rollouts_that_guarantees_something_names_what_shows_it():
    """The table in promises.md quotes the sentence; both must change together."""
    text = " ".join(ROLLOUTS.read_text().split())
    quoted = [cells[0].strip('“”" ') for cells in quotes()]
    assert len(quoted) > 20
    assert [quote for quote in quoted if quote not in text] == []


def quotes() -> Iterator[list[str]]:
    part = PROMISES.read_text().partition("## What docs/rollouts.md guarantees\n")[2]
    for line in [line for line in part.splitlines() if line.startswith("| “")]:
        yield [cell.strip() for cell in line.strip("| ").split(" | ")]
