"""Shell: a version from its folder into memory, beside whatever is served now, and proven before anyone gets it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from hotpool.digest import digest_bytes, digest_tensors
from hotpool.errors import BadVersion
from hotpool.home import Home
from hotpool.logits import TOLERANCES, Verdict, compare_logits
from hotpool.manifest import GOLDEN, WEIGHTS, Manifest, read_manifest, version_folder
from hotpool.states import WorkerState

from .engine import Engine, as_arrays, make_engine, map_tensors
from .golden import compute_logits, read_golden
from .preprocess import Preprocessor
from .verify import compare_digests

OnState = Callable[[WorkerState], None]


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version in memory whose tensors and outputs were found to be those of its manifest."""

    manifest: Manifest
    engine: Engine
    preprocessor: Preprocessor
    verdict: Verdict
    load_s: float
    verify_s: float


def load_verified(home: Home, digest: str, on_state: OnState = lambda state: None) -> LoadedVersion:
    """Loads and verifies; nothing but the return value changes, so a failure leaves the caller as it was.

    Args:
        on_state: called with LOADING, then with VERIFYING, when each begins.

    Raises:
        BadVersion: what is wrong, in which file or tensor, and what to do.
    """
    return load_folder(version_folder(home, digest), on_state)


def load_folder(folder: Path, on_state: OnState = lambda state: None) -> LoadedVersion:
    """As `load_verified`, for a version's folder."""
    on_state(WorkerState.LOADING)
    started = perf_counter()
    manifest = read_manifest(folder)
    who = f"version {manifest.name} ({folder.name[:12]})"
    tensors = map_tensors(folder / WEIGHTS)
    # Before an engine takes them into an order of its own; what it made of them, the golden logits show.
    if reason := compare_digests(manifest.tensors_sha256, digest_tensors(as_arrays(tensors))):
        raise BadVersion(f"{who}: {reason}")
    engine = make_engine(tensors, manifest)
    preprocessor = Preprocessor(manifest.preprocessing, manifest.preprocess)
    loaded = perf_counter()
    on_state(WorkerState.VERIFYING)
    verdict = _compare_golden(folder, manifest, engine, preprocessor)
    if not verdict.passed:
        raise BadVersion(f"{who}: {verdict.reason}; remove this version and add it again")
    return LoadedVersion(manifest, engine, preprocessor, verdict, loaded - started, perf_counter() - loaded)


def _compare_golden(folder: Path, manifest: Manifest, engine: Engine, preprocessor: Preprocessor) -> Verdict:
    check_file(folder / GOLDEN, manifest.golden_sha256)
    inputs, golden = read_golden(folder / GOLDEN, manifest.preprocessing.crop, manifest.classes)
    return compare_logits(golden, compute_logits(engine, preprocessor, inputs), TOLERANCES[manifest.precision])


def check_file(path: Path, sha256: str) -> None:
    """Raises BadVersion: the file is missing or not the one the manifest names."""
    try:
        got = digest_bytes(path.read_bytes())
    except OSError as error:
        raise BadVersion(f"{path.name} can't be read: {error}; remove this version and add it again") from None
    if got != sha256:
        raise BadVersion(
            f"{path.name} has SHA-256 {got[:12]}, the manifest says {sha256[:12]}: the file was changed or is damaged; "
            "remove this version and add it again"
        )
