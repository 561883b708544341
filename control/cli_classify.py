"""Shell: `hotpool classify`: pictures through the running pool."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import hotpool  # and no names of it: a client takes 0.1 s to import, which other commands need not wait for
from hotpool.errors import BrokerUnreachable, HotpoolError, UnknownModel, UnknownVersion

from . import render
from .exits import Exit
from .terminal import Terminal, end, output_option, pass_terminal

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"})


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", help="Which model.  [the pool's]")
@click.option("--version", help="Which version, by name or digest.  [the one that serves]")
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="How many classes to show.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True, max=3600), default=10.0, show_default=True,
    metavar="SECONDS", help="How long to wait for each answer.",
)  # fmt: skip
@output_option
@pass_terminal
def classify(
    terminal: Terminal,
    paths: tuple[Path, ...],
    model: str | None,
    version: str | None,
    top: int,
    timeout_s: float,
    output: str,
) -> None:
    """Classify pictures: files, or all below a folder.

    A file that fails is named and the rest goes on; the command then ends with 1.

    \b
    Example:
      hotpool classify cat.jpg holiday/
    """
    files = list(_find(paths))
    with hotpool.Client(terminal.home.endpoint("clients")) as client:
        outcomes = client.classify_many(
            files, return_exceptions=True, model=model, version=version, top=top, timeout_s=timeout_s
        )
        n_failed, views = _show(terminal, zip(files, outcomes, strict=True), len(files), output)
    if output == "json":
        terminal.show(output, views, "")
    if len(files) > 1 and n_failed and output == "text":
        terminal.complain(f"{n_failed} of {len(files)} pictures failed", HotpoolError.code)
    end(Exit.UNEXPECTED if n_failed else Exit.OK)


def _find(paths: Iterable[Path]) -> Iterator[Path]:
    """A file as it is named, whatever its suffix; in a folder only what looks like a picture."""
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        else:
            yield path


def _show(
    terminal: Terminal, outcomes: Iterable[tuple[Path, "hotpool.Prediction | HotpoolError"]], n: int, output: str
) -> tuple[int, list[dict[str, Any]]]:
    """Prints each as it comes. Returns how many failed, and all for `-o json`."""
    n_failed, views = 0, []
    # On stderr, so that a pipe gets the predictions alone.
    bar = Progress(
        TextColumn("classifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=terminal.err, transient=True, disable=n == 1 or not terminal.err.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=n)
        for file, outcome in outcomes:
            if isinstance(outcome, HotpoolError):
                n_failed += 1
                _raise_if_hopeless(outcome)
                terminal.complain(_problem(file, outcome), outcome.code, is_retryable=outcome.retryable)
                views.append({"path": str(file), "error": {"code": outcome.code, "message": str(outcome)}})
            else:
                if output == "text":
                    terminal.out.print(_text(file, outcome))
                views.append({"path": str(file), "prediction": asdict(outcome)})
            bar.advance(task)
    return n_failed, views


def _text(file: Path, outcome: "hotpool.Prediction") -> RenderableType:
    again = f", attempt {outcome.attempt}" if outcome.attempt > 1 else ""
    origin = (
        f"{outcome.model} {outcome.version}, {outcome.worker}{again}, {outcome.queue_ms + outcome.service_ms:.1f} ms"
    )
    return render.classes(str(file), origin, [(score.label, score.probability) for score in outcome.classes])


def _problem(file: Path, error: HotpoolError) -> str:
    """With the file's name once: the client names a file that it can't read, the worker knows no names."""
    text = str(error)
    return text if text.startswith(f"{file}: ") else f"{file}: {text}"


def _raise_if_hopeless(error: HotpoolError) -> None:
    """The other pictures would fail in the same way."""
    if isinstance(error, BrokerUnreachable | UnknownModel | UnknownVersion):
        raise error
