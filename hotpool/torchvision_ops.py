"""Shell: lets torchvision be imported beside a CPU build of torch.

torchvision from the package index is built against CUDA torch. Its compiled operators can't load beside a CPU torch, and the
import then stops at `torchvision::nms` and `torchvision::qnms`, for which it registers shape functions. Declaring the two
schemas before the import cures it. hotpool uses torchvision's models, weights metadata and transforms, never these operators.
Import this module before torchvision; where the compiled operators load, it does nothing.
"""

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_declared: list[torch.library.Library] = []  # the schemas live as long as the library object that declared them


def declare_missing_operators() -> None:
    """Makes `import torchvision` work. May be called any number of times; does nothing where the operators exist."""
    if _exist() or _load_compiled():
        return
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)


def _exist() -> bool:
    return all(hasattr(torch.ops.torchvision, schema.partition("(")[0]) for schema in _SCHEMAS)


def _load_compiled() -> bool:
    # The package's folder is found without importing it: the import is what fails without the operators.
    spec = importlib.util.find_spec("torchvision")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for compiled in sorted(Path(folder).glob("_C*.so")):
            try:
                torch.ops.load_library(compiled)  # type: ignore[no-untyped-call]
            except (ImportError, OSError):
                continue
            return _exist()
    return False


declare_missing_operators()
