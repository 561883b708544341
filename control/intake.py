"""Shell: from what an operator asks for to an order: what can't be right is told before anything is written down."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from hotpool.config import Config
from hotpool.errors import BadVersion, UnknownVersion
from hotpool.home import Home
from hotpool.labelled import find_classes, read_labelled
from hotpool.manifest import read_manifest, version_folder
from hotpool.messages import WorkerReport

from . import orders
from .journal import Journal
from .ledger import Ledger
from .rollout import Rollout
from .settings import Settings, choose
from .verdicts import GateSettings


def start(
    journal: Journal,
    config: Config,
    *,
    model: str,
    version: str,
    workers: Sequence[WorkerReport],
    chosen: Mapping[str, Any],
    operator: str,
    reason: str,
    force: bool,
    dry_run: bool,
) -> Rollout | None:
    """As `orders.start`, with settings that are `chosen` or configured. dry_run: everything is checked, nothing is ordered."""
    settings = settings_for(config, chosen, len(workers))

    def order() -> Rollout | None:
        return orders.start(
            journal, model=model, version=version, workers=workers, settings=settings, operator=operator, reason=reason,
            force=force,
        )  # fmt: skip

    return orders.preview(journal, order) if dry_run else order()


def undo(
    journal: Journal,
    config: Config,
    *,
    model: str,
    workers: Sequence[WorkerReport],
    chosen: Mapping[str, Any],
    operator: str,
    reason: str,
    dry_run: bool,
    number: int | None = None,
) -> Rollout:
    """As `orders.undo`; without a chosen strategy by the one that the stable version came by."""
    strategy = chosen.get("strategy") or orders.read(journal).strategy_undone(model)
    settings = settings_for(config, {**chosen, "strategy": strategy}, len(workers))

    def order() -> Rollout:
        return orders.undo(
            journal, model=model, workers=workers, settings=settings, operator=operator, reason=reason, number=number
        )

    return orders.preview(journal, order) if dry_run else order()


def settings_for(config: Config, chosen: Mapping[str, Any], n_workers: int) -> Settings:
    """Raises BadRollout."""
    return choose(asdict(config.rollout), gate_settings(config), chosen, n_workers)


def gate_settings(config: Config) -> GateSettings:
    return GateSettings(**asdict(config.gates))


def require_version(ledger: Ledger, model: str, version: str) -> None:
    """A name that does not exist is a mistake in the command, not a version that was refused. Raises UnknownVersion."""
    try:
        ledger.find(model, version)
    except BadVersion as error:
        raise UnknownVersion(str(error)) from None


def labelled_settings(home: Home, ledger: Ledger, model: str, version: str, folder: Path) -> dict[str, Any]:
    """What is chosen with a folder of labelled pictures. The version exists.

    Raises:
        BadLabels: the folder holds no pictures, or is not of the classes of both versions.
    """
    pictures = read_labelled(folder)
    for digest in filter(None, (ledger.stable(model), ledger.find(model, version))):
        manifest = read_manifest(version_folder(home, digest))
        find_classes(pictures.files, manifest.labels, manifest.name)
    return {"eval_folder": str(folder), "eval_pictures": len(pictures)}
