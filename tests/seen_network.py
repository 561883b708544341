"""A network with seeded random weights whose batch norms have seen data: without that the signal of a ResNet dies on its way
through, and a norm that is left out or folded wrongly would change nothing."""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

import functools

import torch
import torchvision.models


def batch_of(n, crop, seed=1):
    return torch.randn(n, 3, crop, crop, generator=torch.Generator().manual_seed(seed))


@functools.lru_cache(4)  # some have 500 MB
def seen_network(arch, classes=5, crop=64):
    """The module, and its state dict, which nobody may change."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        more = {"image_size": crop} if arch.startswith("vit") else {}
        if arch in ("googlenet", "inception_v3"):
            more = {"aux_logits": False, "init_weights": False}
        model = torchvision.models.get_model(arch, weights=None, num_classes=classes, **more)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            model.train()(batch_of(8, crop))
    model.eval().requires_grad_(False)
    return model, model.state_dict()
