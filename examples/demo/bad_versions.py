"""Shell: three ways for a version to be bad: damaged by the disk, built wrong, or whole and a little worse."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from msgspec import structs
from safetensors.numpy import load_file, save_file

from control.versions import Prepared
from hotpool.digest import digest_bytes, digest_tensors
from hotpool.manifest import MANIFEST, WEIGHTS, manifest_json


def retrained(weights: Path, to: Path, seed: int) -> Path:
    """Weights a little different from these, as another day's training would leave them."""
    tensors = load_file(weights)
    bias = tensors["fc.bias"]
    tensors["fc.bias"] = bias + np.random.default_rng(seed).normal(0, 1e-3, bias.shape).astype(bias.dtype)
    save_file(tensors, to)
    return to


def forgetful(weights: Path, to: Path) -> Path:
    """One of the ten classes is never named any more, as after a training without it. No file shows it, and the golden outputs
    are its own."""
    tensors = load_file(weights)
    tensors["fc.bias"][0] -= 1000
    save_file(tensors, to)
    return to


def flip_a_bit(folder: Path) -> None:
    """In the middle of a stored version's weights, as a failing disk may do it."""
    path = folder / WEIGHTS
    path.chmod(0o644)  # the store keeps its files read-only; a disk does not ask
    with path.open("r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x10]))


def swap_classes(prepared: Prepared) -> Prepared:
    """The rows of the last layer in reverse order, all checksums made to fit: whole, finite, and wrong.

    What gives it away are its golden outputs, which were recorded when it was built.
    """
    path = prepared.folder / WEIGHTS
    tensors = load_file(path)
    for name in ("fc.weight", "fc.bias"):
        tensors[name] = tensors[name][::-1].copy()
    save_file(tensors, path)
    digests = {"weights_sha256": digest_bytes(path.read_bytes()), "tensors_sha256": digest_tensors(tensors)}
    manifest = structs.replace(prepared.manifest, **digests)
    (prepared.folder / MANIFEST).write_bytes(manifest_json(manifest))
    return replace(prepared, manifest=manifest)
