"""Shell: a version's manifest, and the folder it lies in: `versions/<digest>/`. Written by control, read by workers and CLI."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import DecodeError, Meta, Struct, ValidationError, convert, json, to_builtins

from .digest import digest_json
from .errors import BadVersion
from .fields import Name, problems
from .home import Home

WEIGHTS, MANIFEST, GOLDEN = "weights.safetensors", "manifest.json", "golden.safetensors"

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_OF_COLOURS = "of colours from 0 to 1: who has them of 0 to 255 divides by that"
Mean = Annotated[float, Meta(ge=0, le=1, description=_OF_COLOURS)]
Deviation = Annotated[float, Meta(ge=0.001, le=10, description=_OF_COLOURS)]
Three = tuple[float, float, float]
Precision = Literal["fp32", "int8"]
Preprocess = Literal["fast", "exact"]


class Preprocessing(Struct, frozen=True, forbid_unknown_fields=True):
    """How a picture becomes an input: resize the shorter side, crop the centre, scale to 0..1, normalise.

    What comes from outside goes through `read_preprocessing`: the constructor checks nothing. The defaults are those of
    torchvision's classification models (ImageNet means and deviations of R, G, B).
    """

    resize: Annotated[int, Meta(ge=8, le=2048)] = 256
    crop: Annotated[int, Meta(ge=8, le=2048)] = 224
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    mean: tuple[Mean, Mean, Mean] = (0.485, 0.456, 0.406)
    std: tuple[Deviation, Deviation, Deviation] = (0.229, 0.224, 0.225)


class Agreement(Struct, frozen=True, forbid_unknown_fields=True):
    """How often int8 weights name the same class as the float32 weights they were made of."""

    top1: Annotated[float, Meta(ge=0, le=1)]
    pictures: Annotated[int, Meta(ge=1)]  # none of which the ranges were chosen by
    source: str  # the folder they are from, or `drawn`


class Manifest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a version is (the content, which its digest names) and where it came from (the provenance).

    What comes from outside is converted: the constructor checks nothing.
    """

    # content
    model: Name
    arch: str
    classes: Annotated[int, Meta(ge=1)]
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
        return digest_json({name: value for name, value in to_builtins(self).items() if name not in provenance})


def read_preprocessing(given: Mapping[str, object]) -> Preprocessing:
    """Raises BadVersion: names the fields that are wrong, and what is allowed."""
    try:
        return convert(given, Preprocessing)
    except ValidationError:
        raise BadVersion("\n".join(problems(given, Preprocessing, "preprocessing."))) from None


def version_folder(home: Home, digest: str) -> Path:
    return home.versions / digest


def read_manifest(folder: Path) -> Manifest:
    """Raises BadVersion: the manifest is missing, unreadable or not that of this folder."""
    path = folder / MANIFEST
    try:
        manifest = json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise BadVersion(f"no version in {folder}: {MANIFEST} is missing") from None
    except DecodeError as error:
        raise BadVersion(f"{path} can't be read: {_plain(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadVersion(f"{path} can't be read: {error}") from None
    if manifest.digest != folder.name:
        raise BadVersion(f"{path} was changed: its content has digest {manifest.digest[:12]}, not {folder.name[:12]}")
    return manifest


def _plain(error: DecodeError) -> str:
    """`mean[0]: Expected float <= 1.0`, where msgspec says "Expected `float` <= 1.0 - at `$.mean[0]`"."""
    what, _, where = str(error).replace("`", "").partition(" - at $.")
    return f"{where}: {what}" if where else what


def manifest_json(manifest: Manifest) -> bytes:
    return json.format(json.encode(manifest), indent=2) + b"\n"


def public_view(manifest: Manifest) -> dict[str, Any]:
    """For `-o json`: the manifest with its digest."""
    return {"digest": manifest.digest, **to_builtins(manifest)}
