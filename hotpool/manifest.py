"""Shell: a version's manifest, and the folder it lies in: `versions/<digest>/`. Written by control, read by workers and CLI."""

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .digest import digest_json
from .errors import BadVersion
from .home import Home

WEIGHTS, MANIFEST, GOLDEN = "weights.safetensors", "manifest.json", "golden.safetensors"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Of colours of 0 to 1: who has them of 0 to 255 divides by that.
Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(ge=0.001, le=10)]
Three = tuple[float, float, float]
Precision = Literal["fp32", "int8"]
Preprocess = Literal["fast", "exact"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preprocessing(_Part):
    """How a picture becomes an input: resize the shorter side, crop the centre, scale to 0..1, normalise.

    The defaults are those of torchvision's classification models (ImageNet means and deviations of R, G, B).
    """

    resize: Annotated[int, Field(ge=8, le=2048)] = 256
    crop: Annotated[int, Field(ge=8, le=2048)] = 224
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    mean: tuple[Mean, Mean, Mean] = (0.485, 0.456, 0.406)
    std: tuple[Deviation, Deviation, Deviation] = (0.229, 0.224, 0.225)


class Agreement(_Part):
    """How often int8 weights name the same class as the float32 weights they were made of."""

    top1: Annotated[float, Field(ge=0, le=1)]
    pictures: Annotated[int, Field(ge=1)]  # none of which the ranges were chosen by
    source: str  # the folder they are from, or `drawn`


class Manifest(_Part):
    """What a version is (the content, which its digest names) and where it came from (the provenance)."""

    # content
    model: Name
    arch: str
    classes: Annotated[int, Field(ge=1)]
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    preprocess: Preprocess = "fast"
    precision: Precision = "fp32"
    weights_sha256: Sha256
    tensors_sha256: Sha256
    golden_sha256: Sha256
    # provenance
    name: Name
    source: str
    added_by: str
    added_ts: datetime
    parent: str | None = None
    agreement: Agreement | None = None

    @property
    def digest(self) -> str:
        """The version's id: SHA-256 of its content. The same weights served in the same way are the same version."""
        provenance = {"name", "source", "added_by", "added_ts", "parent", "agreement"}
        provenance |= {"weights_sha256", "golden_sha256"}  # follow from the rest
        return digest_json(self.model_dump(mode="json", exclude=provenance))


def read_preprocessing(given: Mapping[str, object]) -> Preprocessing:
    """Raises BadVersion: names the field that is wrong."""
    try:
        return Preprocessing.model_validate(given)
    except ValidationError as error:
        raise BadVersion(f"preprocessing {_first_line(error)}") from None


def version_folder(home: Home, digest: str) -> Path:
    return home.versions / digest


def read_manifest(folder: Path) -> Manifest:
    """Raises BadVersion: the manifest is missing, unreadable or not that of this folder."""
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise BadVersion(f"no version in {folder}: {MANIFEST} is missing") from None
    except (OSError, ValidationError) as error:
        raise BadVersion(f"{path} can't be read: {_first_line(error)}") from None
    if manifest.digest != folder.name:
        raise BadVersion(f"{path} was changed: its content has digest {manifest.digest[:12]}, not {folder.name[:12]}")
    return manifest


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else str(first["msg"])
    return str(error)


def read_stable(home: Home, model: str) -> str | None:
    """The digest of the model's stable version, or None before its first version was added."""
    try:
        return home.stable_pointer(model).read_text().strip() or None
    except FileNotFoundError:
        return None


def write_stable(home: Home, model: str, digest: str) -> None:
    """Points the model at this version: whole or not at all, also when the power fails."""
    path = home.stable_pointer(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, f"{digest}\n".encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside, sync, rename, sync the folder.

    Raises:
        OSError: names the file, which is as it was.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None  # else nobody would know which file
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes a rename in this folder survive a power failure."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def manifest_json(manifest: Manifest) -> bytes:
    return manifest.model_dump_json(indent=2).encode() + b"\n"


def public_view(manifest: Manifest) -> dict[str, Any]:
    """For `-o json`: the manifest with its digest."""
    return {"digest": manifest.digest, **manifest.model_dump(mode="json")}
