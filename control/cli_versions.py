"""Shell: `hotpool versions`: the store of what can be served."""

import re
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import get_args

import click
from rich.table import Table
from rich.text import Text

from hotpool.labelled import read_labelled
from hotpool.manifest import Manifest, Preprocess, Three, public_view

from . import registry, render
from .ledger import Ledger
from .statistics import wilson, z
from .terminal import FOLDER, Terminal, model_option, output_option, pass_terminal, reason_option
from .verdicts import percent
from .versions import evaluate_version, find_version, list_versions, overrides, prepare, refuse_name, verify_version

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # as manifest.Name; here it fails before the work


def _check_name(ctx: click.Context, option: click.Parameter, value: str) -> str:
    if not _NAME.fullmatch(value):
        raise click.BadParameter(f"{value!r}: letters, digits, '.', '_' and '-', at most 64, not a sign first")
    return value


@click.group()
def versions() -> None:
    """Add, list, check and remove the versions that can be served.

    A version is a set of weights with its manifest. It never changes; its id is its digest, its name is for people.

    \b
    Example:
      hotpool versions list
    """


@versions.command()
@click.argument("source")
@model_option
@click.option("--name", required=True, callback=_check_name, help="How people call it, such as v2.")
@click.option("--arch", help="A classifier of torchvision by its registry name.  [the source's, else resnet18]")
@click.option("--labels", type=click.Path(path_type=Path), help="A text file, one label a line.")
@click.option("--resize", type=click.IntRange(8, 2048), help="Shorter side of a picture before the crop.  [256]")
@click.option("--crop", type=click.IntRange(8, 2048), help="Side of the square the model sees.  [224]")
@click.option(
    "--mean", type=float, nargs=3, metavar="R G B", help="What is subtracted from colours of 0 to 1.  [ImageNet's]"
)
@click.option("--std", type=float, nargs=3, metavar="R G B", help="What they are divided by then.  [ImageNet's]")
@click.option(
    "--precision", type=click.Choice(["fp32", "int8", "auto"]), default="fp32", show_default=True,
    help="auto takes int8 if it names the same classes as fp32 often enough.",
)  # fmt: skip
@click.option(
    "--calibrate", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR",
    help="Pictures like those that will come: int8 is fitted to some, and compared with fp32 on others.  [drawn ones]",
)  # fmt: skip
@click.option(
    "--min-agreement", type=click.FloatRange(0, 1), default=0.98, show_default=True,
    help="Share of the pictures for which int8 must name the same class.",
)  # fmt: skip
@click.option(
    "--preprocess",
    type=click.Choice(get_args(Preprocess)),
    default="fast",
    show_default=True,
    help="exact: bit for bit as torchvision's transforms. fast: nearly so, in less time.",
)
@click.option("--sha256", help="Refuse a file with another one.")
@click.option("--md5", help="Refuse a file with another one.")
@reason_option
@output_option
@pass_terminal
def add(
    terminal: Terminal,
    source: str,
    model: str | None,
    name: str,
    arch: str | None,
    labels: Path | None,
    resize: int | None,
    crop: int | None,
    mean: Three | None,
    std: Three | None,
    precision: str,
    calibrate: Path | None,
    min_agreement: float,
    preprocess: Preprocess,
    sha256: str | None,
    md5: str | None,
    reason: str,
    output: str,
) -> None:
    """Check weights and put them into the store as a new version.

    SOURCE is a .safetensors file, a .pth or .pt state dict, or torchvision:ARCH/WEIGHTS such as
    torchvision:resnet18/IMAGENET1K_V1. The first version of a model is its stable one at once.

    \b
    Example:
      hotpool versions add resnet18.pth --name v2 --labels labels.txt
    """
    if calibrate and precision == "fp32":
        raise click.UsageError("--calibrate is for int8: add --precision int8 or --precision auto")
    model = model or terminal.config.pool.model
    since = monotonic()
    with terminal.journal() as journal:
        refuse_name(terminal.home, model, name)
        with terminal.err.status(f"checking {source} in a process of its own"):
            prepared = prepare(
                terminal.home, source, model=model, name=name, operator=terminal.operator,
                memory_mb=terminal.config.rollout.preflight_memory_mb, arch=arch, labels=labels,
                preprocessing=overrides(resize, crop, mean, std), preprocess=preprocess, sha256=sha256, md5=md5,
                precision=precision, calibrate=calibrate, min_agreement=min_agreement,
            )  # fmt: skip
        is_first = registry.add(journal, prepared, operator=terminal.operator, reason=reason)
    lines = _added_lines(prepared.manifest, is_first, monotonic() - since)
    if precision != "fp32":
        lines = (_precision_line(prepared.manifest, min_agreement), *lines)
    terminal.show(output, {**public_view(prepared.manifest), "is_stable": is_first}, "\n".join(lines))


def _added_lines(manifest: Manifest, is_first: bool, seconds: float) -> tuple[str, ...]:
    what = f"{manifest.arch} in {manifest.precision}, {manifest.classes} classes, {render.duration(seconds)}"
    return (
        f"added {manifest.name} ({render.short(manifest.digest)}) to {manifest.model}: {what}",
        f"{manifest.name} is the first version of {manifest.model}, so it is stable and serves now"
        if is_first
        else f"roll it out with: hotpool rollout start --version {manifest.name}",
    )


def _precision_line(manifest: Manifest, min_agreement: float) -> str:
    if (agreement := manifest.agreement) is None:
        return f"kept fp32: there is no faster int8 for a {manifest.arch} on this machine"
    pictures = f"{agreement.pictures} drawn" if agreement.source == "drawn" else f"{agreement.pictures} held-out"
    line = (
        f"{'took int8' if manifest.precision == 'int8' else 'kept fp32'}: int8 names the same class as fp32 for "
        f"{agreement.top1:.3f} of {pictures} pictures, needed is {min_agreement:g}"
    )
    if agreement.source == "drawn":
        line += "; --calibrate DIR, with pictures like those that will come, would tell more"
    return line


@versions.command("list")
@model_option
@output_option
@pass_terminal
def list_(terminal: Terminal, model: str | None, output: str) -> None:
    """List the versions in the store, the oldest first.

    \b
    Example:
      hotpool versions list -o json
    """
    known, ledger = list_versions(terminal.home, model), terminal.ledger()
    terminal.show(output, [registry.version_view(ledger, manifest) for manifest in known], _table(known, ledger))


def _table(known: list[Manifest], ledger: Ledger) -> Table:
    made = render.table(
        "MODEL", "VERSION", "DIGEST", "USE", "ARCH", "PRECISION", "CLASSES", "ADDED", "BY", "SOURCE", right=["CLASSES"]
    )
    for manifest in known:
        use = ledger.use(manifest.model, manifest.digest)
        made.add_row(
            manifest.model,
            manifest.name,
            render.short(manifest.digest),
            Text(use or "-", style="green" if use == "stable" else ""),
            manifest.arch,
            manifest.precision,
            str(manifest.classes),
            f"{manifest.added_ts:%Y-%m-%d %H:%M:%S}",
            manifest.added_by,
            Text(manifest.source, style="dim"),
        )
    return made


@versions.command()
@click.argument("version")
@model_option
@output_option
@pass_terminal
def show(terminal: Terminal, version: str, model: str | None, output: str) -> None:
    """Show a version's manifest: what it is and where it came from.

    \b
    Example:
      hotpool versions show v2
    """
    manifest = find_version(terminal.home, model or terminal.config.pool.model, version)
    view = registry.version_view(terminal.ledger(), manifest)
    rows = Table.grid(padding=(0, 2, 0, 0))
    for key, value in view.items():
        rows.add_row(Text(key, style="bold"), Text(_field(value)))
    terminal.show(output, view, rows)


def _field(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_field(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        shown = " ".join(str(part) if isinstance(part, float) else f"{part}," for part in value[:6]).rstrip(",")
        return f"{shown} ... ({len(value)})" if len(value) > 6 else shown
    return "-" if value in (None, "") else str(value)


@versions.command()
@click.argument("version")
@model_option
@output_option
@pass_terminal
def verify(terminal: Terminal, version: str, model: str | None, output: str) -> None:
    """Check that a stored version still is what its manifest says.

    Digest of the files and of the tensors, every value finite, outputs for the golden inputs.

    \b
    Example:
      hotpool versions verify v2
    """
    model = model or terminal.config.pool.model
    digest = registry.find_digest(terminal.home, terminal.ledger(), model, version)
    with terminal.err.status(f"checking {version} in a process of its own"):
        checked = verify_version(terminal.home, digest, memory_mb=terminal.config.rollout.preflight_memory_mb)
    text = (
        f"{version} ({render.short(digest)}) is intact: {checked.tensors} tensors, outputs differ by at most "
        f"{checked.max_difference:.1e} (allowed {checked.allowed:.0e}), "
        f"load {render.duration(checked.load_s)}, verify {render.duration(checked.verify_s)}"
    )
    terminal.show(output, {"digest": digest, **asdict(checked)}, text)


@versions.command()
@click.argument("version")
@model_option
@click.option(
    "--eval", "folder", type=FOLDER, metavar="DIR", required=True, help="Has a folder of pictures for each class."
)
@output_option
@pass_terminal
def evaluate(terminal: Terminal, version: str, model: str | None, folder: Path, output: str) -> None:
    """Tell how often a stored version names the right class of labelled pictures.

    DIR has a folder for each class, named by its label or index. They are read and computed as a worker does it.

    \b
    Example:
      hotpool versions evaluate v2 --eval pictures/
    """
    model, limits = model or terminal.config.pool.model, terminal.config.rollout
    digest = registry.find_digest(terminal.home, terminal.ledger(), model, version)
    n = len(read_labelled(folder))
    with terminal.err.status(f"asking {version} about {n} pictures in a process of its own"):
        found = evaluate_version(
            terminal.home, digest, folder, limits=terminal.config.pictures, memory_mb=limits.preflight_memory_mb,
            timeout_s=limits.eval_timeout_s,
        )  # fmt: skip
    low, high = wilson(found.right, found.pictures, z(0.95))
    made = render.table("VERSION", "DIGEST", "PICTURES", "RIGHT", "TOP-1", "90 % INTERVAL", "UNREADABLE")
    made.add_row(
        version, render.short(digest), str(found.pictures), str(found.right), percent(found.right, found.pictures),
        f"{percent(low)} to {percent(high)}", str(found.unreadable),
    )  # fmt: skip
    view = {"digest": digest, **asdict(found), "top1": found.right / found.pictures, "low": low, "high": high}
    terminal.show(output, view, made)


@versions.command()
@click.argument("version")
@model_option
@reason_option
@output_option
@pass_terminal
def remove(terminal: Terminal, version: str, model: str | None, reason: str, output: str) -> None:
    """Remove a version from the store; not one that is stable, was stable before, or is a rollout's target.

    \b
    Example:
      hotpool versions remove v1 --reason "older than a year"
    """
    model = model or terminal.config.pool.model
    digest = registry.find_digest(terminal.home, terminal.ledger(), model, version)
    with terminal.journal() as journal:
        registry.remove(journal, terminal.home, model, digest, operator=terminal.operator, reason=reason)
    terminal.show(output, {"removed": digest}, f"removed {version} ({render.short(digest)}) from {model}")
