"""Shell: torchvision's classifiers by name, as empty modules that wait for their weights."""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torchvision.models
from torch.overrides import TorchFunctionMode

from hotpool.errors import BadVersion

from .verify import Shape

# Built for torchvision's own weights these normalise once more what was normalised by ImageNet's figures (`transform_input`).
# Together that is `TRANSFORMED`. Built otherwise they don't, and a state dict doesn't say which it was: half of all files would
# be served with wrong answers and nothing to notice it by. Here they never do, and the manifest has the figures.
TRANSFORMS_INPUT = {"googlenet", "inception_v3"}
TRANSFORMED = (0.5, 0.5, 0.5)  # means, and deviations too

# Beginnings of names of tensors that these have for training alone, and only if they were built so.
_FOR_TRAINING = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}

_RANDOM = (torch.Tensor.normal_, torch.Tensor.uniform_)

Spec = tuple[Shape, str]


def build_empty(arch: str, classes: int, crop: int) -> torch.nn.Module:
    """The network in eval mode without values that mean anything; its large tensors are on the meta device: no time, no memory.

    Raises:
        BadVersion: no such architecture, or it can't be built for inputs of this size.
    """
    check_arch(arch)
    arguments = {"num_classes": classes, **_arguments(arch, crop)}
    try:
        with torch.no_grad(), _Hollow():  # no_grad: parameters are written to
            model = torchvision.models.get_model(arch, weights=None, **arguments)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise BadVersion(f"{arch} can't be built for inputs of {crop} x {crop}: {error}") from None
    network: torch.nn.Module = model.eval().requires_grad_(False)
    return network


class _Hollow(TorchFunctionMode):
    """What waits for values is made on the meta device, and no first values are drawn. To make all of a network there, as
    `torch.device("meta")` does, is too much: some compute with small tensors while they are built, and on the meta device torch
    fails at that or imports its compiler, a second and 70 MB in each worker."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # Zeros, not nothing: a truncated normal distribution is drawn from until all values lie within its bounds.
        if function in _RANDOM or getattr(function, "__module__", "") == torch.nn.init.__name__:
            return (args[0] if args else kwargs["tensor"]).zero_()
        return function(*args, **kwargs | ({"device": "meta"} if function is torch.empty else {}))


def check_arch(arch: str) -> None:
    """Raises BadVersion: not one of torchvision's classifiers."""
    known = torchvision.models.list_models(module=torchvision.models)
    if arch not in known:
        near = difflib.get_close_matches(arch, known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; `resnet18` is one"
        raise BadVersion(f"architecture {arch!r} is not one of torchvision's {len(known)} classifiers{hint}")


def for_serving(arch: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without what is there for training alone."""
    return {name: one for name, one in tensors.items() if not name.startswith(_FOR_TRAINING.get(arch, ()))}


def expected_tensors(model: torch.nn.Module) -> dict[str, Spec]:
    """Name -> (shape, dtype) of every tensor a state dict of this network has."""
    return specs(model.state_dict())


def specs(tensors: Mapping[str, torch.Tensor]) -> dict[str, Spec]:
    return {name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in tensors.items()}


def find_classes(arch: str, crop: int, tensors: Mapping[str, torch.Tensor]) -> int:
    """How many classes these tensors tell apart: the size of the dimension that follows `num_classes` in this architecture.

    Raises:
        BadVersion: the tensors have no such dimension.
    """
    seven, eleven = (expected_tensors(build_empty(arch, classes, crop)) for classes in (7, 11))
    for name, (shape, _) in seven.items():
        for axis, (size, other) in enumerate(zip(shape, eleven[name][0], strict=True)):
            if size != other:
                if name not in tensors or tensors[name].dim() != len(shape):
                    raise BadVersion(
                        f"tensor {name} is missing or not of {len(shape)} dimensions, as in {arch}; is --arch {arch} right?"
                    )
                return int(tensors[name].shape[axis])
    raise BadVersion(f"{arch} has no tensor that tells the number of classes")


def _arguments(arch: str, crop: int) -> dict[str, object]:
    if arch in _FOR_TRAINING:
        return {"aux_logits": False, "init_weights": False}
    # The position tensors of these depend on the size of the input.
    if arch.startswith("vit_"):
        return {"image_size": crop}
    return {"input_size": (crop, crop)} if arch.startswith("maxvit") else {}
