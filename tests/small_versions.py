"""A version of a small network with seeded random weights, made in a tenth of a second."""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision
import os
from datetime import UTC, datetime

import safetensors.torch
import torch
import torchvision.models
from msgspec import convert
from msgspec.structs import asdict

from hotpool.manifest import MANIFEST, Manifest, Preprocessing, manifest_json, version_folder
from workers.golden import make_inputs
from workers.preprocess import Preprocessor
from workers.scratch import build

ARCH, CLASSES, CROP = "shufflenet_v2_x0_5", 5, 32
torch.set_num_threads(1)  # two would wait for each other longer than they compute
SMALL = Preprocessing(resize=36, crop=CROP)


def make_tensors(seed=0):
    """A fresh state dict whose batch norms have seen data: without that the signal dies on its way through the layers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = torchvision.models.get_model(ARCH, weights=None, num_classes=CLASSES)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(Preprocessor(SMALL).normalise(make_inputs(CROP)))
    tensors = model.state_dict()
    tensors["fc.weight"] *= 5
    return {
        name: tensor.zero_() if name.endswith("num_batches_tracked") else tensor for name, tensor in tensors.items()
    }


def save(tensors, path):
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


def add_version(home, source, name="v1", model="shapes", preprocessing=SMALL, arch=ARCH, **options):
    """What `control.versions.prepare` and `publish` do, in this process."""
    folder = home.versions / f".test-{os.getpid()}"
    folder.mkdir(parents=True)
    content = build(str(source), folder, arch=arch, preprocessing=asdict(preprocessing), **options)
    provenance = {"source": source.name, "added_by": "test", "added_ts": datetime.now(UTC)}
    manifest = convert({**content, **provenance, "model": model, "name": name}, Manifest)
    (folder / MANIFEST).write_bytes(manifest_json(manifest))
    folder.rename(version_folder(home, manifest.digest))
    return manifest


def with_noisy_last_layer(tensors, changed, inputs, seed=0):
    """The same weights with as much noise on the last layer as gives this part of `inputs` another class."""
    model = torchvision.models.get_model(ARCH, weights=None, num_classes=CLASSES)
    model.load_state_dict(tensors)
    model.fc = torch.nn.Identity()
    with torch.inference_mode():
        features = model.eval()(Preprocessor(SMALL).normalise(inputs))
    weight, bias = tensors["fc.weight"], tensors["fc.bias"]
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) * weight.std()
    before = (features @ weight.T + bias).argmax(1)
    for percent in range(1, 1000):
        noisy = weight + percent / 100 * noise
        if ((features @ noisy.T + bias).argmax(1) != before).float().mean() >= changed:
            return {**tensors, "fc.weight": noisy}
    raise AssertionError(f"no noise changes {changed:g} of the answers")
