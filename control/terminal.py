"""Shell: what every command of the CLI shares: where the pool is, how to print, how a failure ends."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from getpass import getuser
from pathlib import Path
from socket import gethostname
from time import monotonic
from typing import Any, NoReturn

import click
from rich.console import Console, RenderableType

from hotpool.config import Config, find_config, load_config
from hotpool.errors import HotpoolError
from hotpool.home import Home

from .events import Event
from .exits import Exit, exit_for
from .journal import Journal
from .ledger import Ledger, replay
from .trouble import TROUBLE, describe_trouble, is_of_the_disk
from .up import create_folders

_PIPE_WIDTH = 200  # without a terminal rich assumes 80 columns and cuts tables that a pipe could hold

output_option = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of the output."
)
model_option = click.option("--model", help="Which model.  [the pool's]")
reason_option = click.option("--reason", default="", help="Why, for the audit log.")

FOLDER = click.Path(resolve_path=True, path_type=Path)


def _console(*, stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, emoji=False, markup=False)


@dataclass
class Terminal:
    """The object every command gets: `--home` and `--config` resolved, and two consoles."""

    home: Home
    config_option: Path | None
    out: Console = field(default_factory=_console)
    err: Console = field(default_factory=lambda: _console(stderr=True))

    @cached_property
    def config_path(self) -> Path | None:
        return find_config(self.config_option)

    @cached_property
    def config(self) -> Config:
        """Raises ConfigError."""
        return load_config(self.config_path)

    @property
    def operator(self) -> str:
        try:
            user = getuser()
        except (KeyError, OSError):
            user = f"uid-{os.getuid()}"  # a container's user need not have a name
        return f"{user}@{gethostname()}"

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        """Creates the home where there is none: for commands that write."""
        create_folders(self.home)
        with Journal(self.home.database) as journal:
            yield journal

    def events(self) -> list[Event]:
        """All that happened, without creating anything: for commands that only look."""
        if not self.home.database.exists():
            return []
        with Journal(self.home.database) as journal:
            return journal.events()

    def ledger(self) -> Ledger:
        return replay(self.events(), monotonic())

    def say(self, line: str) -> None:
        click.echo(line)  # rich would say it again and again after an error, such as that of a full disk

    def warn(self, line: str) -> None:
        self.err.print(line, style="yellow", soft_wrap=True)

    def complain(self, text: str) -> None:
        for line in text.splitlines() or [""]:
            self.err.print(f"error: {line}", style="red", soft_wrap=True)

    def show(self, output: str, view: Any, *texts: RenderableType) -> None:
        """`view` is the same facts for `-o json`. A sentence stays one line, however long: somebody may search for it."""
        if output == "json":
            click.echo(json.dumps(view, indent=2, ensure_ascii=False))
            return
        for text in texts:
            self.out.print(text, soft_wrap=isinstance(text, str))


pass_terminal = click.make_pass_decorator(Terminal)


def end(code: Exit) -> NoReturn:
    click.get_current_context().exit(code)


@contextmanager
def failures() -> Iterator[None]:
    """A failure in the block becomes one line on stderr and an exit code. What is not listed is a bug: it shows its trace."""
    try:
        yield
    except HotpoolError as error:
        _fail(str(error), exit_for(error))
    except BrokenPipeError:
        raise  # click ends quietly when the reader of our output has gone
    except TROUBLE as error:
        _fail(describe_trouble(error), Exit.DEGRADED if is_of_the_disk(error) else Exit.UNEXPECTED)
    except KeyboardInterrupt:
        _console(stderr=True).print("interrupted")
        end(Exit.INTERRUPTED)


def _fail(text: str, code: Exit) -> NoReturn:
    terminal = click.get_current_context().find_object(Terminal)
    assert terminal is not None, "the group makes it before any command runs"
    terminal.complain(text)
    end(code)
