"""Shell: versions as the store and the journal have them together, and changes of both.

Store and journal are two places, and a process may be killed between them. `reconcile` brings the journal up to what the
store holds, at the start of every change: nobody has to know where the last one stopped.
"""

from typing import Any

from hotpool.errors import BadVersion, Unwritable
from hotpool.home import Home
from hotpool.manifest import Manifest, public_view, version_folder
from hotpool.stable import read_stable, write_stable

from .events import EventKind
from .journal import Journal
from .ledger import Ledger
from .orders import read
from .versions import Prepared, discard, find_version, list_versions, publish, remove_version


def add(journal: Journal, prepared: Prepared, *, operator: str, reason: str) -> bool:
    """Puts a prepared version into store and journal. The first of a model is its stable version at once: returns True.

    Raises:
        Conflict: its name is taken, or the same version is there under another name.
        Unwritable: it could not be written down; the store does not have it either.
    """
    home, manifest = prepared.home, prepared.manifest
    try:
        reconcile(journal, home, operator)
        with journal.transaction():
            is_first = read(journal).stable(manifest.model) is None
            _append(journal, EventKind.VERSION_ADDED, manifest, operator, reason)
            publish(prepared)
            if is_first:
                _append(journal, EventKind.STABLE_SET, manifest, operator, reason)
    except Unwritable:
        discard(prepared)
        raise
    if is_first:
        write_stable(home, manifest.model, manifest.digest)
    return is_first


def remove(journal: Journal, home: Home, model: str, digest: str, *, operator: str, reason: str) -> None:
    """Removes a version from store and journal.

    Raises:
        Conflict: it is stable, the stable one before, or a rollout's target.
        UnknownVersion: it is not in the store.
    """
    reconcile(journal, home, operator)
    with journal.transaction():
        ledger = read(journal)
        body = {"name": ledger.name(model, digest), "digest": digest, "reason": reason}
        journal.append(EventKind.VERSION_REMOVED, model=model, operator=operator, body=body)
        remove_version(home, digest, keep=ledger.in_use(model))


def find_digest(home: Home, ledger: Ledger, model: str, version: str) -> str:
    """From the journal, else from the store: so a version whose manifest is damaged can be named too.

    Raises:
        UnknownVersion: it is in neither.
    """
    try:
        return ledger.find(model, version)
    except BadVersion:
        return find_version(home, model, version).digest


def version_view(ledger: Ledger, manifest: Manifest) -> dict[str, Any]:
    """As plain values: its manifest, and what it is for now."""
    return {**public_view(manifest), "use": ledger.use(manifest.model, manifest.digest)}


def reconcile(journal: Journal, home: Home, operator: str) -> None:
    """Writes down what a killed command has done to the store without saying so, and points at the first stable version."""
    with journal.transaction():
        ledger = read(journal)
        for manifest in list_versions(home):
            if manifest.digest not in ledger.versions.get(manifest.model, {}).values():
                _append(journal, EventKind.VERSION_ADDED, manifest, operator, _FOUND)
        _forget_missing(journal, home, ledger, operator)
        ledger = read(journal)
        for manifest in list_versions(home):  # the oldest first
            if ledger.stable(manifest.model) is None:
                _append(journal, EventKind.STABLE_SET, manifest, operator, _FOUND)
                ledger = read(journal)
    for model, stack in ledger.stables.items():
        if read_stable(home, model) is None:
            write_stable(home, model, stack[-1])


_FOUND = "found in the store"


def _forget_missing(journal: Journal, home: Home, ledger: Ledger, operator: str) -> None:
    for model, names in ledger.versions.items():
        for name, digest in names.items():
            if digest not in ledger.in_use(model) and not version_folder(home, digest).exists():
                body = {"name": name, "digest": digest, "reason": "missing in the store"}
                journal.append(EventKind.VERSION_REMOVED, model=model, operator=operator, body=body)


def _append(journal: Journal, kind: EventKind, manifest: Manifest, operator: str, reason: str) -> None:
    body = {"name": manifest.name, "digest": manifest.digest, "reason": reason}
    journal.append(kind, model=manifest.model, operator=operator, body=body)
