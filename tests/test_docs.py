"""What the documents state as defaults and guarantees is what the code has and what tests show."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from msgspec import to_builtins
from msgspec.structs import asdict

from control.cli_rollout import start
from control.gates import accuracy
from control.plan import DEFAULT, SHADOW
from control.prober import PATIENCE_S
from control.settings import DEFAULT_GATES
from control.verdicts import GateResult, Labelled
from hotpool.config import Config
from hotpool.labelled import FEW_UNREADABLE
from hotpool.logits import TOLERANCES

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
    real = {name: str(value) for name, value in asdict(getattr(Config(), section)).items()}
    assert written_defaults(page) == real


def test_the_figures_in_the_text_on_rollouts_are_those_of_the_code():
    config, page = Config(), " ".join(ROLLOUTS.read_text().split())
    interval_s, fp32, int8 = config.probe.interval_s, TOLERANCES["fp32"], TOLERANCES["int8"]
    enough = next(n for n in count(1) if accuracy(Labelled(n, n, 0, 0), DEFAULT_GATES).result is GateResult.PASS)
    for stated in (
        f"every `[probe] interval_s` seconds ({interval_s:g}; 0 for never)",
        f"eight of those every {interval_s:g} s",
        f"given up after {PATIENCE_S:g} s",
        f"is `load_memory_mb` in `[pool]`, {config.pool.load_memory_mb}:",
        f"**{', '.join(step for step in DEFAULT if step != SHADOW)}**",
        f"fewer than {enough} pictures",
        f"more than {FEW_UNREADABLE} pictures",
        f"up to {fp32.difference:g} of the largest golden logit",
        f"In int8 they are {int8.difference:g} for any input, because other ways to compute round a few values otherwise, and "
        f"{int8.typical:g} in the median",
    ):
        assert stated in page, stated
    assert f"{enough} pictures without a difference" in GATES.read_text()


def test_an_option_that_a_setting_names_is_there():
    options = {option for parameter in start.params for option in parameter.opts}
    named = re.findall(r"(--[a-z-]+)`", "".join("".join(cells) for cells in rows(ROLLOUTS, "Settings")))
    assert len(named) >= 10
    assert set(named) <= options


@pytest.mark.slow
def test_the_parts_that_are_generated_are_current():
    """In a process of its own: other tests make errors and metrics of theirs, which would stand in the tables."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.generate_docs", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_that_shows_every_key_has_the_defaults():
    shown = tomllib.loads((ROOT / "configs" / "default.toml").read_text())
    assert shown == to_builtins(Config())


def test_every_test_that_a_promise_names_is_there():
    named = set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PROMISES.read_text()))
    assert len(named) > 40
    functions = {file: functions_in(ROOT / file) for file in {file for file, _ in named}}
    for file, name in sorted(named):
        assert not name or name in functions[file], f"{file} has no {name}"


def functions_in(file: Path) -> set[str]:
    return set(re.findall(r"(?m)^ *(?:async )?def (\w+)\(", file.read_text()))


# ---- docs/rollouts.md: what is shown, what is not, and what promises nothing


def test_every_block_on_rollouts_is_shown_by_tests_or_listed_as_one_that_is_not():
    """So nobody adds a guarantee without saying what shows it, or that nothing does."""
    known = [*shown(), *quotes("Stated, not shown by a test")]
    explains = tuple(quotes("What only explains"))
    assert [b[:100] for b in blocks() if not b.startswith(explains) and not any(quote in b for quote in known)] == []


def test_what_is_listed_of_rollouts_stands_there():
    """Both must change together."""
    text, stated = blocks(), quotes("Stated, not shown by a test")
    assert len(shown()) > 150
    assert [quote for quote in [*shown(), *stated] if not any(quote in block for block in text)] == []
    for words in quotes("What only explains"):
        (block,) = (block for block in text if block.startswith(words))
        assert not any(quote in block for quote in [*shown(), *stated]), f"{words} promises something"


def test_every_guarantee_on_rollouts_names_a_test_and_rows_of_the_fault_table_that_are_there():
    table = (ROOT / "tests" / "test_fault_table.py").read_text()
    for quote, tests in shown().items():
        assert "`tests/" in tests, quote
        assert all(f'{row}":' in table for row in re.findall("“(.+?)”", tests)), tests


def blocks() -> list[str]:
    """Paragraphs, list items and rows of tables, each in one line; without code, what is generated, headings and the heads of
    tables. The rows of settings have a test of their own."""
    text = re.sub(r"(?ms)^```.*?^```$|^<!-- generated.*?^<!-- end -->$", "", ROLLOUTS.read_text())
    text = re.sub(r"(?m)^\|.*\n\| --- .*$|^#.*$", "", text)
    found = (" ".join(part.split()) for part in re.split(r"\n\s*\n|\n(?=- |\d+\. |\| )", text))
    settings = tuple(f"| `{name}` |" for name in Config().rollout.__struct_fields__)
    return [block for block in found if block and not block.startswith(settings)]


def shown() -> dict[str, str]:
    """What shows it, by what is quoted."""
    lines = (line for line in part_of_promises("What docs/rollouts.md guarantees") if line.startswith("| “"))
    cells = (line.strip("| ").split(" | ") for line in lines)
    return {quote.strip("“”"): tests for quote, tests in cells}


def quotes(heading: str) -> list[str]:
    """One an item."""
    return [line.partition("“")[2].partition("”")[0] for line in part_of_promises(heading) if line.startswith("- “")]


def part_of_promises(heading: str) -> list[str]:
    (text,) = (part for part in re.split(r"(?m)^##+ ", PROMISES.read_text()) if part.startswith(heading + "\n"))
    return text.splitlines()
