"""Shell: lets torchvision be imported beside a CPU build of torch, and without torch's compiler.

torchvision from the package index is built against CUDA torch. Its compiled operators can't load beside a CPU torch, and the
import then stops at `torchvision::nms` and `torchvision::qnms`, for which it registers shape functions. Declaring the two
schemas before the import cures it. hotpool uses torchvision's models, weights metadata and transforms, never these operators.

One of torchvision's modules wants a function of torch's compiler, for a call that hotpool never makes. Importing the compiler
takes a second, 40 % of all that a worker imports, and 70 MB. So the module finds a stand-in there, which asks the compiler when
it is called.

Import this module before torchvision.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

ASKED = "torch._dynamo.utils"

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


class _StandIn(ModuleType):
    """Has the one function; a torchvision that wants more of this module gets torch's own, and with it the compiler."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system looks for some
            raise AttributeError(name)
        sys.modules.pop(ASKED, None)
        return getattr(importlib.import_module(ASKED), name)

    @staticmethod
    def is_compile_supported(device_type: str) -> bool:
        """torch's own. Called when the stand-in has gone."""
        supported: bool = importlib.import_module(ASKED).is_compile_supported(device_type)
        return supported


def _import_without_compiler() -> None:
    if ASKED in sys.modules:
        return
    stand_in = sys.modules[ASKED] = _StandIn(ASKED)
    try:
        importlib.import_module("torchvision.ops.roi_align")
    finally:
        if sys.modules.get(ASKED) is stand_in:
            del sys.modules[ASKED]


declare_missing_operators()
_import_without_compiler()
