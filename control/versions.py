"""Shell: the version store. A version is built beside, in a process of its own, and appears whole by one rename.

`versions/<digest>/` is never changed afterwards. Folders that start with a dot are work in progress or what a killed process
left of it; nobody reads them, and the next change of the store sweeps them away.
"""

import fcntl
import json
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import psutil
from msgspec import ValidationError, convert

from hotpool.child import give_way
from hotpool.config import Pictures
from hotpool.disk import sync_folder, write_atomically
from hotpool.errors import BadVersion, Conflict, UnknownVersion, Unwritable
from hotpool.fields import Name
from hotpool.home import Home
from hotpool.manifest import (
    MANIFEST,
    Manifest,
    Preprocess,
    Three,
    manifest_json,
    read_manifest,
    read_preprocessing,
    version_folder,
)

from .services import child_environment, describe_exit, module_command

log = logging.getLogger("hotpool.control")

DEFAULT_TIMEOUT_S = 600.0
MIN_PREFIX = 4  # hexadecimal digits by which a version may be called
_IN_PROGRESS = re.compile(r"\.(adding|removing)-(\d+)-")
_LOOK_S = 0.1  # how often `stopping` is looked at
_NEVER = Event()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A version that was built and checked, and is not yet in the store."""

    home: Home
    folder: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Checked:
    """What verifying a stored version found: how many tensors, how far its outputs are from its golden ones."""

    tensors: int
    max_difference: float
    allowed: float
    load_s: float
    verify_s: float


def prepare(
    home: Home,
    source: str,
    *,
    model: str,
    name: str,
    operator: str,
    memory_mb: int,
    arch: str | None = None,
    labels: Path | None = None,
    preprocessing: Mapping[str, object] | None = None,
    preprocess: Preprocess = "fast",
    sha256: str | None = None,
    md5: str | None = None,
    precision: str = "fp32",
    calibrate: Path | None = None,
    min_agreement: float = 0.98,
    parent: str | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    stopping: Event = _NEVER,
) -> Prepared:
    """Reads SOURCE in a scratch process, checks it, and builds a version beside the store. Takes seconds, so ask `refuse_name`
    first if the name must be free.

    Args:
        arch, labels: None for what the source knows of itself, else resnet18 and "0", "1", ...
        preprocessing: fields of a `Preprocessing` that win over what the source knows of itself, else ImageNet's.
        precision: `fp32`, `int8`, or `auto`: int8 if it names the same class as fp32 for `min_agreement` of the held-out
            pictures. They and those it is calibrated by are from the folder `calibrate`, or drawn.
        preprocess: "exact" for inputs bit for bit those of torchvision's reference transforms.
        parent: digest of the version it was made from, if known.
        stopping: once it is set, this ends within a tenth of a second and leaves nothing.

    Raises:
        BadVersion: what is wrong with the source, and what to do.
        Conflict: `stopping` was set.
        Unwritable, OSError: there is no room for it.
    """
    _check_name("model", model)
    _check_name("name", name)
    home.versions.mkdir(parents=True, exist_ok=True)
    _sweep(home)
    folder = _work_folder(home, "adding")
    try:
        options = _scratch_options(arch, labels, preprocessing, sha256, md5)
        options += [f"--preprocess={preprocess}", *_precision_options(precision, calibrate, min_agreement)]
        content = _run_scratch(["build", *options, "--", source, str(folder)], memory_mb, timeout_s, stopping)
        provenance = {"source": source, "added_by": operator, "added_ts": datetime.now(UTC), "parent": parent}
        manifest = convert({**content, "model": model, "name": name, **provenance}, Manifest)
        write_atomically(folder / MANIFEST, manifest_json(manifest))
    except BaseException:
        shutil.rmtree(folder)
        raise
    return Prepared(home, folder, manifest)


def overrides(resize: int | None, crop: int | None, mean: Three | None, std: Three | None) -> dict[str, object]:
    """What is given wins over what the source knows of itself, see `prepare`.

    Raises:
        BadVersion: names the field that is wrong.
    """
    given = {"resize": resize, "crop": crop, "mean": mean, "std": std}
    asked = {name: value for name, value in given.items() if value is not None}
    read = read_preprocessing(asked)
    return {name: getattr(read, name) for name in asked}


def publish(prepared: Prepared) -> Manifest:
    """Puts a prepared version into the store, whole or not at all, also when the power fails. Its files become read-only.

    Raises:
        Conflict: the name was taken meanwhile, or the same weights are there already.
    """
    home, manifest = prepared.home, prepared.manifest
    final = version_folder(home, manifest.digest)
    try:
        with _locked(home):
            refuse_name(home, manifest.model, manifest.name)
            if final.exists():
                present = read_manifest(final)
                raise Conflict(
                    f"model {present.model} has these weights, served in this way, as version {present.name} "
                    f"({present.digest[:12]}) already; use that one"
                )
            _settle(prepared.folder)
            prepared.folder.rename(final)
            sync_folder(home.versions)
    except (Conflict, BadVersion, OSError):
        discard(prepared)
        raise
    log.info("version=%s digest=%s added_by=%s", manifest.name, manifest.digest[:12], manifest.added_by)
    return manifest


def discard(prepared: Prepared) -> None:
    """Throws a prepared version away, also one that was published."""
    if prepared.folder.exists():
        shutil.rmtree(prepared.folder)
    else:
        remove_version(prepared.home, prepared.manifest.digest, keep=frozenset())


def list_versions(home: Home, model: str | None = None) -> list[Manifest]:
    """Versions of this model, or of all, oldest first. A folder whose manifest is damaged is left out and logged."""
    versions = []
    for folder in _folders(home):
        try:
            manifest = read_manifest(folder)
        except BadVersion as error:
            log.warning("skipped_version=%s reason=%s", folder.name[:12], error)
            continue
        if model in (None, manifest.model):
            versions.append(manifest)
    return sorted(versions, key=lambda manifest: manifest.added_ts)


def find_version(home: Home, model: str | None, reference: str) -> Manifest:
    """The version of this name, else the one whose digest starts so (at least 4 digits). model: None for any.

    Raises:
        UnknownVersion: there is none, or more than one.
    """
    versions = list_versions(home, model)
    found = [manifest for manifest in versions if manifest.name == reference]
    if not found and len(reference) >= MIN_PREFIX:
        found = [manifest for manifest in versions if manifest.digest.startswith(reference.lower())]
    of_model = f"model {model}" if model else "any model"
    if not found:
        known = ", ".join(manifest.name for manifest in versions[-10:]) or "none"
        raise UnknownVersion(f"no version {reference!r} of {of_model}; there are: {known}")
    if len(found) > 1:
        candidates = ", ".join(f"{manifest.model}/{manifest.name} ({manifest.digest[:12]})" for manifest in found)
        raise UnknownVersion(f"{reference!r} could be {candidates}; name the model or give more digits of the digest")
    return found[0]


def refuse_name(home: Home, model: str, name: str) -> None:
    """Raises BadVersion: it can be no version's name. Conflict: the model has a version of this name already."""
    _check_name("name", name)
    for manifest in list_versions(home, model):
        if manifest.name == name:
            raise Conflict(f"model {model} has a version {name} already ({manifest.digest[:12]}); choose another name")


def verify_version(home: Home, digest: str, *, memory_mb: int, timeout_s: float = DEFAULT_TIMEOUT_S) -> Checked:
    """Checks a stored version in a scratch process: files, tensors, values, golden outputs. Takes seconds.

    Raises:
        BadVersion: what differs from the manifest, and what to do.
    """
    folder = version_folder(home, digest)
    read_manifest(folder)  # a missing folder is told at once
    return Checked(**_run_scratch(["check", "--", str(folder)], memory_mb, timeout_s))


@dataclass(frozen=True, slots=True)
class Evaluated:
    """How often a version is right. pictures: those that could be read."""

    pictures: int
    right: int
    unreadable: int


def evaluate_version(
    home: Home, digest: str, folder: Path, *, limits: Pictures, memory_mb: int, timeout_s: float
) -> Evaluated:
    """Asks a stored version about a folder of labelled pictures, in a scratch process.

    Raises:
        BadVersion: what is wrong with the version or the folder, and what to do.
    """
    where = version_folder(home, digest)
    read_manifest(where)
    options = [f"--eval={folder}", *picture_options(limits)]
    return Evaluated(**_run_scratch(["evaluate", *options, "--", str(where)], memory_mb, timeout_s))


def picture_options(limits: Pictures) -> list[str]:
    """For a scratch process that reads pictures: it refuses what the pool's workers would."""
    return [f"--max-bytes={limits.max_bytes}", f"--max-pixels={limits.max_pixels}"]


def remove_version(home: Home, digest: str, *, keep: Set[str]) -> None:
    """Removes a version, also one whose files are damaged.

    keep: digests in use: stable, previous stable, target of a rollout.

    Raises:
        Conflict: it is one of those.
        UnknownVersion: there is no such version.
    """
    if digest in keep:
        raise Conflict(f"version {digest[:12]} is in use (stable, previous stable or target of a rollout); it stays")
    folder = version_folder(home, digest)
    if folder not in _folders(home):
        raise UnknownVersion(f"no version {digest[:12]} in {home.versions}")
    with _locked(home):
        # A rename first: whoever is killed half way leaves no folder that looks like a version.
        folder.rename(_work_folder(home, "removing") / folder.name)
        sync_folder(home.versions)
    _sweep(home, own=True)
    log.info("removed_version=%s", digest[:12])


def _folders(home: Home) -> list[Path]:
    if not home.versions.is_dir():
        return []
    return sorted(path for path in home.versions.iterdir() if path.is_dir() and not path.name.startswith("."))


@contextmanager
def _locked(home: Home) -> Iterator[None]:
    # The folder itself carries the lock: it is there, and its owner's death frees it.
    fd = os.open(home.versions, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _work_folder(home: Home, purpose: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{purpose}-{os.getpid()}-", dir=home.versions))


def _sweep(home: Home, *, own: bool = False) -> None:
    """Removes what killed processes left, and with `own` what this one has marked for removal."""
    for path in home.versions.iterdir():
        if not (match := _IN_PROGRESS.match(path.name)):
            continue
        purpose, pid = match[1], int(match[2])
        if not psutil.pid_exists(pid) or (own and purpose == "removing" and pid == os.getpid()):
            shutil.rmtree(path, ignore_errors=True)


def _settle(folder: Path) -> None:
    for path in folder.iterdir():
        path.chmod(0o444)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    folder.chmod(0o755)
    sync_folder(folder)


def _scratch_options(
    arch: str | None,
    labels: Path | None,
    preprocessing: Mapping[str, object] | None,
    sha256: str | None,
    md5: str | None,
) -> list[str]:
    options = {"--arch": arch, "--sha256": sha256, "--md5": md5}
    if labels:
        options["--labels"] = str(labels)
    if preprocessing:
        options["--preprocessing"] = json.dumps(preprocessing)
    return [f"{key}={value}" for key, value in options.items() if value is not None]


def _precision_options(precision: str, calibrate: Path | None, min_agreement: float) -> list[str]:
    options = [f"--precision={precision}", f"--min-agreement={min_agreement}"]
    return [*options, f"--calibrate={calibrate}"] if calibrate else options


def _check_name(field: str, value: str) -> None:
    try:
        convert(value, Name)
    except ValidationError:
        raise BadVersion(
            f"{field} {value!r} is not allowed: 1 to 64 letters, digits, '.', '_' or '-', no sign first"
        ) from None


def _run_scratch(
    arguments: Sequence[str], memory_mb: int, timeout_s: float, stopping: Event = _NEVER
) -> dict[str, Any]:
    command, *rest = arguments
    argv = module_command("workers.scratch", [command, f"--memory-mb={memory_mb}", *rest])
    # A session of its own: Ctrl-C is for this process, which then ends the child.
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=give_way,
        env=child_environment(),
    )
    with process:
        try:
            said = _hear(process, timeout_s, stopping)
        except BaseException:
            process.kill()
            raise
    return _answer(said, process.returncode, memory_mb)


def _hear(process: "subprocess.Popen[bytes]", timeout_s: float, stopping: Event) -> bytes:
    """All it has said when it has ended."""
    give_up_at = monotonic() + timeout_s
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=min(_LOOK_S, max(0.0, give_up_at - monotonic())))[0]
        if stopping.is_set():
            raise Conflict("whoever read and checked it was told to stop; add it again")
        if monotonic() >= give_up_at:
            raise BadVersion(f"reading and checking it took longer than {timeout_s:g} s and was ended")


def _answer(stdout: bytes, returncode: int, memory_mb: int) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise BadVersion(
            f"the process that read it {describe_exit(returncode)} and gave no verdict; "
            f"it may need more than {memory_mb} MB of memory (rollout.preflight_memory_mb)"
        ) from None
    reason, code = answer.pop("reason"), answer.pop("code", None)
    if not answer.pop("ok"):
        raise Unwritable(reason) if code == Unwritable.code else BadVersion(reason)
    return answer
