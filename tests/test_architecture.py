"""Who may import whom, what pure modules keep away from, and what nobody may use: read from the source, nothing is run."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec import convert, to_builtins
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from hotpool.config import Config

ROOT = Path(__file__).parent.parent
SERVICES = ("broker", "workers", "control", "gateway")
FOLDERS = ("hotpool", *SERVICES)

# What a pure module may import from elsewhere: it computes. Anything that reads the clock, the disk, the network, the
# environment or chance is missing on purpose. PIL is here for pictures that are open already; Path for the arithmetic.
HARMLESS = {
    "PIL", "base64", "binascii", "bisect", "collections", "dataclasses", "datetime", "difflib", "enum", "functools",
    "hashlib", "heapq", "hmac", "itertools", "json", "math", "msgspec", "numpy", "pathlib", "prometheus_client",
    "python_multipart", "re", "rich", "signal", "statistics", "struct", "typing", "zlib",
}  # fmt: skip
# What harmless modules can be called for that reaches out all the same. `load` and `absolute` are not here: the first also
# makes a PIL image decode that is open already, the second is arithmetic with one constant of the process.
CALLS_OUT = {
    "chmod", "cwd", "exists", "expanduser", "fromfile", "glob", "input", "is_dir", "is_file", "iterdir", "mkdir", "now", "open",
    "print", "read_bytes", "read_text", "rename", "resolve", "rglob", "rmdir", "stat", "today", "tofile", "touch", "unlink",
    "utcnow", "write_bytes", "write_text",
}  # fmt: skip
# On their way out of torch, and nothing that serves needs them.
LEAVING = ("torch.ao", "torch.jit", "torch.quantization")
PICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "multiprocessing"}


@dataclass(frozen=True)
class Module:
    """name: as in the checkout, `broker.core`; that of an `__init__` is the folder's."""

    name: str
    tree: ast.Module

    @property
    def folder(self) -> str:
        return self.name.partition(".")[0]

    @property
    def first_line(self) -> str:
        return (ast.get_docstring(self.tree) or "").partition("\n")[0]

    @property
    def kind(self) -> str:
        """`Pure`, `Shell`, or nothing."""
        word = self.first_line.partition(":")[0]
        return word if word in ("Pure", "Shell") else ""


@dataclass(frozen=True)
class Import:
    """module: absolute, `hotpool.wire`. names: what is taken from it; empty for `import x`."""

    module: str
    names: tuple[str, ...]
    level: int
    line: int


def parse(name: str, source: str) -> Module:
    return Module(name, ast.parse(source))


def shipped() -> dict[str, Module]:
    found = {}
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = parse(name, path.read_text())
    return found


MODULES = shipped()


def running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below but those under an `if TYPE_CHECKING:`, which never run."""
    is_for_types = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    for child in node.orelse if is_for_types else ast.iter_child_nodes(node):
        yield child
        yield from running(child)


def imports(module: Module) -> Iterator[Import]:
    """Also those inside functions."""
    for node in running(module.tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, (), 0, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            above = module.folder if node.level else ""  # the folders have no sub-folders
            yield Import(".".join(filter(None, (above, node.module))), names, node.level, node.lineno)


def modules_of_ours(one: Import, known: dict[str, Module]) -> set[str]:
    """`from .x import y` runs x, and y if that is a module."""
    candidates = {one.module, *(f"{one.module}.{name}" for name in one.names)}
    return candidates & known.keys()


def strangers(module: Module) -> list[str]:
    """Imports across a border between the folders, or by a name that the wheel does not have."""
    broken = []
    for one in imports(module):
        parts = one.module.split(".")
        by_wheel_name = parts[0] == "hotpool" and ({*parts[1:2], *one.names} & set(SERVICES))
        absolute_service = one.level == 0 and parts[0] in SERVICES
        if one.level > 1 or by_wheel_name or absolute_service:
            broken.append(f"{module.name}:{one.line} imports {'.' * one.level}{one.module}")
    return broken


def impurities(module: Module, known: dict[str, Module]) -> list[str]:
    broken = []
    for one in imports(module):
        ours = modules_of_ours(one, known)
        # `hotpool` itself is the client library; a module of it, or one taken from it, counts by its own kind.
        shells = [name for name in ours if known[name].kind == "Shell"]
        if one.module == "hotpool" and ours == {"hotpool"}:
            shells.append("hotpool")
        is_harmless = bool(ours) or one.module.partition(".")[0] in HARMLESS
        if shells or not is_harmless:
            broken.append(f"{module.name}:{one.line} imports {', '.join(shells) or one.module}")
    for node in running(module.tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)) if name in CALLS_OUT:
                broken.append(f"{module.name}:{node.lineno} calls {name}")
            case ast.Attribute(value=ast.Name(id="signal"), attr=name) if not name.startswith(("SIG", "Signals")):
                broken.append(f"{module.name}:{node.lineno} uses signal.{name}")
            case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="random"):
                broken.append(f"{module.name}:{node.lineno} uses chance")
    return broken


def forbidden(module: Module) -> list[str]:
    broken = []
    for one in imports(module):
        # The class of torch.load's refusal; it can't unpickle anything.
        is_error_alone = (one.module, one.names) == ("pickle", ("UnpicklingError",))
        if one.module.partition(".")[0] in PICKLERS and not is_error_alone:
            broken.append(f"{module.name}:{one.line} imports {one.module}")
        if any(f"{one.module}.{name}".startswith(LEAVING) for name in ("", *one.names)):
            broken.append(f"{module.name}:{one.line} imports what leaves torch")
    for node in ast.walk(module.tree):
        match node:
            case ast.Attribute() if ast.unparse(node) in LEAVING:
                broken.append(f"{module.name}:{node.lineno} uses what leaves torch")
            case ast.keyword(arg="allow_pickle"):
                broken.append(f"{module.name}:{node.value.lineno} uses allow_pickle")
            case ast.Call(func=ast.Attribute(attr="load", value=ast.Name(id="torch")), keywords=keywords):
                if "weights_only=True" not in map(ast.unparse, keywords):
                    broken.append(f"{module.name}:{node.lineno} loads a pickle in full")
    return broken


def undescribed(module: Module, is_package: bool) -> bool:
    return not module.first_line if is_package else not module.kind


def test_every_folder_was_read():
    for folder in FOLDERS:
        assert sum(module.folder == folder for module in MODULES.values()) >= 5
    for kind in ("Pure", "Shell"):
        assert sum(module.kind == kind for module in MODULES.values()) > 20
    assert not [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if path.parent != ROOT / folder], (
        "relative imports are resolved here as if the folders had no sub-folders"
    )


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_whether_it_is_pure_and_imports_only_what_it_may(name):
    module = MODULES[name]
    assert not undescribed(module, name in FOLDERS), (
        f"{name} begins with {module.first_line!r}, not with Pure: or Shell:"
    )
    assert strangers(module) == []
    assert forbidden(module) == []
    if module.kind == "Pure":
        assert impurities(module, MODULES) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("broker.x", "from workers.seats import SeatTable"),
        ("broker.x", "import control.orders"),
        ("broker.x", "from broker.core import Core"),
        ("broker.x", "from ..workers import seats"),
        ("control.x", "def f():\n    from workers import verify"),
        ("control.x", "from hotpool.workers import verify"),
        ("hotpool.x", "from hotpool import broker"),
        ("hotpool.x", "from .broker import core"),
        ("hotpool.x", "import broker"),
    ],
)
def test_an_import_across_a_border_is_found(name, source):
    assert len(strangers(parse(name, source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from os import environ",
        "import collections, socket",
        "import asyncio",
        "def f():\n    import random",
        "from .server import Server",
        "from . import server",
        "from hotpool import link",
        "from hotpool.courier import Courier",
        "import hotpool",
        "if True:\n    import threading",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import logging",
        "text = path.read_text()",
        "now = datetime.now(UTC)",
        "print(1)",
        "order = np.random.permutation(3)",
        "signal.signal(1, f)",
    ],
)
def test_an_impure_line_is_found(source):
    assert len(impurities(parse("broker.x", source), MODULES)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import json\nfrom collections.abc import Callable",
        "from .core import Core\nfrom hotpool.messages import Request",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .server import Server",
        "os_kill = (signal.SIGKILL, home.root / 'run')",
    ],
)
def test_a_pure_line_is_none_of_these(source):
    assert impurities(parse("broker.x", source), MODULES) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "from pickle import UnpicklingError, loads",
        "import multiprocessing.connection",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "import torch.ao.quantization",
        "from torch import jit",
        "torch.jit.load(path)",
    ],
)
def test_a_forbidden_line_is_found(source):
    assert len(forbidden(parse("workers.x", source))) == 1


@pytest.mark.parametrize("source", ['"""Purely for show."""', '"""Shell (reads files): x."""', "x = 1"])
def test_a_module_that_says_nothing_of_itself_is_found(source):
    assert undescribed(parse("workers.x", source), is_package=False)


def test_the_default_configuration_is_the_code_s_and_names_every_key_in_its_order():
    written = tomllib.loads((ROOT / "configs" / "default.toml").read_text())
    assert convert(written, Config) == Config()
    defaults = to_builtins(Config())
    assert [(section, list(keys)) for section, keys in written.items()] == [
        (section, list(keys)) for section, keys in defaults.items()
    ]


def requirements() -> dict[NormalizedName, Requirement]:
    """Of the wheel, by name."""
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return {canonicalize_name(one.name): one for one in map(Requirement, lines)}


def test_no_older_version_of_anything_is_promised_to_do_than_the_one_that_is_tested():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = {
        canonicalize_name(name): Version(version)
        for name, _, version in (line.partition(";")[0].partition("==") for line in lines)
        if version
    }
    for name, required in requirements().items():
        assert required.specifier.contains(pinned[name])
        (lowest,) = (Version(one.version) for one in required.specifier if one.operator == ">=")
        assert pinned[name].release[: len(lowest.release)] == lowest.release, f"{name}: tested is {pinned[name]}"


def test_what_is_imported_is_required():
    named_otherwise = {"pil": "pillow"}
    imported = {one.module.partition(".")[0] for module in MODULES.values() for one in imports(module)}
    foreign = imported - {*FOLDERS, *sys.stdlib_module_names}
    by_name = {"uvloop", "onednn-cpu-gomp"}  # uvicorn is told what its loop is called; a library without Python in it
    assert (
        by_name | {named_otherwise.get(name, name) for name in map(canonicalize_name, foreign)} == requirements().keys()
    )
