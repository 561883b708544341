"""Shell: where and with what a benchmark was run."""

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
# What hotpool computes and serves with, then what is measured beside it.
PACKAGES = ("torch", "torchvision", "onednn-cpu-gomp", "numpy", "pillow", "simplejpeg", "pyzmq")
BESIDE = ("onnxruntime", "openvino", "nncf", "mosec", "litserve", "bentoml", "ray", "torchserve")
FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
)  # what engines choose kernels by


def describe_machine() -> dict[str, str]:
    cpu = _cpuinfo()
    flags = cpu.get("flags", "").split()
    return {
        "CPU": cpu.get("model name") or platform.processor() or platform.machine(),
        "cores": f"{psutil.cpu_count()}, {len(usable_cores())} usable here",
        "flags": " ".join(flag for flag in FLAGS if flag in flags) or "unknown",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **{package: _version(package) for package in (*PACKAGES, *BESIDE)},
    }


def describe_commit() -> str:
    """`e10463a`, with `+` when files beside the results differ from it; `unknown` outside a checkout."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        is_changed = bool(_git("status", "--porcelain", "--", ".", ":!bench/results.md", ":!bench/results.json"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + "+" * is_changed


def pin_to_one_core() -> str:
    """This thread and what it starts from now on; says where to. Only Linux can."""
    if not hasattr(os, "sched_setaffinity"):
        return "not pinned to a core: only Linux can"
    core = max(usable_cores())  # the first core is where most interrupts go
    os.sched_setaffinity(0, {core})
    return f"pinned to core {core}"


def usable_cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    return dict(re.findall(r"^(model name|flags)\s*: (.*)$", text, re.MULTILINE))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
