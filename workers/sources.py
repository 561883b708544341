"""Shell: what `versions add` is pointed at, to named tensors.

Everything read here may be hostile; no code in a file is ever run. Called in the scratch process only, under its memory limit.
"""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # the error alone: nothing here unpickles, see _read_pickled

import safetensors.torch
import torch
import torchvision.models
from safetensors import SafetensorError

from hotpool.errors import BadVersion
from hotpool.manifest import Preprocessing, read_preprocessing

from .architecture import (
    TRANSFORMED,
    TRANSFORMS_INPUT,
    build_empty,
    check_arch,
    expected_tensors,
    find_classes,
    for_serving,
    specs,
)
from .verify import find_misfit, find_not_finite

TORCHVISION = "torchvision:"
_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
)  # how training loops commonly name the state dict in a checkpoint
_PREFIXES = ("module.", "_orig_mod.")  # left by DataParallel and by torch.compile
_HALF = (torch.float16, torch.bfloat16)  # every value of these is a float32 value too
_SAVE_STATE_DICT = "save the state dict alone, torch.save(model.state_dict(), path), or use a .safetensors file"
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")
# torchvision's densenet files were saved with names its own builder rewrites.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\.\w+)$")


@dataclass(frozen=True, slots=True)
class Source:
    """A file with weights, and what is known of them beside; None where it isn't."""

    path: Path
    arch: str | None = None
    labels: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None


def find_source(source: str) -> Source:
    """The file, downloaded first if the source is `torchvision:ARCH/WEIGHTS`.

    Raises:
        BadVersion: no such file or weights, or they can't be downloaded whole.
    """
    if source.startswith(TORCHVISION):
        return _find_torchvision(source)
    path = Path(source)
    if not path.is_file():
        raise BadVersion(
            f"{source}: no such file; expected a .safetensors, .pth or .pt file or torchvision:ARCH/WEIGHTS"
        )
    return Source(path)


def check_hashes(path: Path, sha256: str | None, md5: str | None) -> None:
    """Raises BadVersion: the file is not the one that was meant."""
    for algorithm, expected in (("sha256", sha256), ("md5", md5)):
        if expected is None:
            continue
        with path.open("rb") as file:
            got = hashlib.file_digest(file, algorithm).hexdigest()
        if got != expected.strip().lower():
            raise BadVersion(
                f"{path.name} has {algorithm} {got}, expected {expected}: it is another file or damaged; fetch it again"
            )


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in this file, without the wrapping that training loops put around it.

    Raises:
        BadVersion: the file is damaged, of another kind, or holds anything but named tensors.
    """
    match path.suffix:
        case ".safetensors":
            return _clean(_read_safetensors(path), path)
        case ".pth" | ".pt":
            return _clean(_read_pickled(path), path)
    raise BadVersion(f"{path.name}: expected a file that ends in .safetensors, .pth or .pt")


def fit(tensors: Mapping[str, torch.Tensor], arch: str, crop: int) -> tuple[int, dict[str, torch.Tensor]]:
    """Number of classes, and the tensors just as the architecture needs them: float32, contiguous, none missing or over.

    Raises:
        BadVersion: names the tensor that is missing, unexpected, of another shape or dtype, or not finite.
    """
    check_arch(arch)
    classes = find_classes(arch, crop, tensors)
    expected = expected_tensors(build_empty(arch, classes, crop))
    fitted = for_serving(arch, tensors)
    for name, (shape, dtype) in expected.items():
        if name.endswith(".num_batches_tracked") and name not in fitted:
            fitted[name] = torch.zeros(
                shape, dtype=torch.int64
            )  # files from before torch 0.4.1 lack it; only training uses it
        elif name in fitted and dtype == "float32" and fitted[name].dtype in _HALF:
            fitted[name] = fitted[name].float()
    if misfit := find_misfit(expected, specs(fitted), arch):
        raise BadVersion(f"{misfit}; is --arch {arch} right?")
    dense = {name: tensor.contiguous().clone() for name, tensor in fitted.items()}
    if reason := find_not_finite({name: tensor.numpy() for name, tensor in dense.items()}):
        raise BadVersion(f"{reason}; such a network answers nonsense: train it again or take an earlier checkpoint")
    return classes, dense


def _find_torchvision(source: str) -> Source:
    arch, _, name = source.removeprefix(TORCHVISION).partition("/")
    check_arch(arch)
    known = torchvision.models.get_model_weights(arch)
    if name not in known.__members__:
        raise BadVersion(f"torchvision has no weights {name!r} for {arch}; it has {', '.join(known.__members__)}")
    weights = known[name]
    preprocessing = torchvision_preprocessing(arch, name)
    return Source(_download(weights.url), arch, tuple(weights.meta["categories"]), preprocessing)


def torchvision_preprocessing(arch: str, weights: str) -> Preprocessing:
    """What torchvision's own weights were trained with; `DEFAULT` for the best of them."""
    used = torchvision.models.get_model_weights(arch)[weights].transforms()
    mean, std = (TRANSFORMED, TRANSFORMED) if arch in TRANSFORMS_INPUT else (used.mean, used.std)
    size = {"resize": used.resize_size[0], "crop": used.crop_size[0], "interpolation": used.interpolation.value}
    return read_preprocessing({**size, "mean": mean, "std": std})


def _download(url: str) -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    found = _HASH_IN_NAME.search(path.name)
    prefix = found[1] if found else ""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), prefix)
        except (OSError, RuntimeError) as error:  # RuntimeError: the hash differs
            raise BadVersion(
                f"{url} can't be downloaded: {error}; without a network, fetch the file elsewhere and add it as a .pth file"
            ) from None
    with path.open("rb") as file:  # torch.hub trusts what it downloaded once; the file may have been changed since
        if not hashlib.file_digest(file, "sha256").hexdigest().startswith(prefix):
            raise BadVersion(
                f"{path} is not the file torchvision published (SHA-256 {prefix}...); delete it and try again"
            )
    return path


def _read_safetensors(path: Path) -> object:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadVersion(
            f"{path.name} is damaged, truncated or not a safetensors file: {error}; fetch it again"
        ) from None


def _read_pickled(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise BadVersion(_explain_pickle(path, str(error))) from None
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        text = str(error)
        if "allocate memory" in text:
            raise MemoryError(text) from None
        if "TorchScript" in text:
            raise BadVersion(f"{path.name} is a TorchScript program, not a state dict; {_SAVE_STATE_DICT}") from None
        sentence = re.split(r"\. |\n", text or type(error).__name__)[0]
        raise BadVersion(f"{path.name} is damaged, truncated or not a state dict: {sentence}; fetch it again") from None


def _explain_pickle(path: Path, text: str) -> str:
    if named := re.search(r"GLOBAL ([\w.]+)", text):
        return (
            f"{path.name} names the Python object {named[1]!r}: reading it would run code, and it was not run; "
            f"{_SAVE_STATE_DICT}"
        )
    return f"{path.name} is damaged or a pickle of something else; nothing in it was run; {_SAVE_STATE_DICT}"


def _clean(held: object, path: Path) -> dict[str, torch.Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(held, Mapping) and isinstance(held.get(wrapper), Mapping):
            held = held[wrapper]
    if not isinstance(held, Mapping) or not held:
        raise BadVersion(f"{path.name} holds {type(held).__name__}, expected a state dict: tensors by name")
    for name, value in held.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise BadVersion(
                f"{path.name}: {name!r} is {type(value).__name__}, expected a tensor; save the state dict alone"
            )
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise BadVersion(f"{path.name}: tensor {name} is sparse, quantised or empty, expected a dense one")
    tensors = {str(name): value.detach() for name, value in held.items()}
    while prefix := next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in tensors)), ""):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return {_OLD_DENSENET.sub(r"\1\2", name): value for name, value in tensors.items()}
