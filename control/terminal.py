"""Shell: what every command of the CLI shares: where the pool is, how to print, how a failure ends."""

import json
import os
import sys
from collections.abc import Callable, Iterator
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

from hotpool.config import Config, load_config
from hotpool.environment import find_config
from hotpool.errors import HotpoolError
from hotpool.home import Home

from .events import Event
from .exits import Exit, exit_for
from .journal import Journal
from .ledger import Ledger, replay
from .trouble import TROUBLE, as_error
from .up import create_folders

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_PIPE_WIDTH = 200  # without a terminal rich assumes 80 columns and cuts tables that a pipe could hold


def output_forms(*forms: str) -> Decorator:
    """The option `-o`. Errors have the form that was chosen too, so it is read before what may be wrong with other options."""

    def note(context: click.Context, option: click.Parameter, form: str) -> str:
        if (terminal := context.find_object(Terminal)) is not None:
            terminal.output = form
        return form

    return click.option(
        "-o", "--output", type=click.Choice(forms), default=forms[0], show_default=True, callback=note, is_eager=True,
        help="Form of the output.",
    )  # fmt: skip


output_option = output_forms("text", "json")
model_option = click.option("--model", help="Which model.  [the pool's]")
reason_option = click.option("--reason", default="", help="Why, for the audit log.")

FOLDER = click.Path(resolve_path=True, path_type=Path)
USAGE = "usage"  # the code of what click refuses


def _console(*, stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, emoji=False, markup=False)


@dataclass
class Terminal:
    """The object every command gets: `--home` and `--config` resolved, and two consoles. output: what `-o` says."""

    home: Home
    config_option: Path | None
    output: str = "text"
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
        """On the way, for people: with `-o json` there is the result alone."""
        if self.output != "json":
            click.echo(line)  # rich would say it again and again after an error, such as that of a full disk

    def warn(self, line: str) -> None:
        if self.output == "json":
            self._tell({"warning": line})
        else:
            self.err.print(line, style="yellow", soft_wrap=True)

    def complain(self, text: str, code: str, *, is_retryable: bool = False) -> None:
        if self.output == "json":
            self._tell({"code": code, "message": text, "retryable": is_retryable})
            return
        for line in text.splitlines() or [""]:
            self.err.print(f"error: {line}", style="red", soft_wrap=True)

    def _tell(self, what: dict[str, str | bool]) -> None:
        """One line on stderr, for programs."""
        click.echo(json.dumps(what, ensure_ascii=False), err=True)

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
        _fail(error)
    except BrokenPipeError:
        raise  # click ends quietly when the reader of our output has gone
    except TROUBLE as error:
        _fail(as_error(error))
    except click.UsageError as error:
        terminal = click.get_current_context().find_object(Terminal)  # none when it is the command that is unknown
        if terminal is None or terminal.output != "json":
            raise  # click shows how the command is used
        terminal.complain(error.format_message(), USAGE)
        end(Exit.USAGE)
    except KeyboardInterrupt:
        _terminal().warn("interrupted")
        end(Exit.INTERRUPTED)


def _fail(error: HotpoolError) -> NoReturn:
    _terminal().complain(str(error), error.code, is_retryable=error.retryable)
    end(exit_for(error))


def _terminal() -> Terminal:
    terminal = click.get_current_context().find_object(Terminal)
    assert terminal is not None, "the group makes it before any command runs"
    return terminal
