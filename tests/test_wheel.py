"""The wheel: one import name, everything in it, and a pool that runs from it with no checkout in sight."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from hotpool import __version__

from .command_line import TWO_WORKERS, CommandLine
from .pool import ROOT, short_home
from .small_versions import make_tensors, save

pytestmark = pytest.mark.slow
FOLDERS = {
    "hotpool": "hotpool",
    "broker": "hotpool/broker",
    "workers": "hotpool/workers",
    "control": "hotpool/control",
    "gateway": "hotpool/gateway",
}


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: a build leaves folders beside its sources, and finds what earlier ones have left."""
    copy = tmp_path_factory.mktemp("sources")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    made = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", made, copy)
    (path,) = made.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The folder of an environment that has the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--no-cache-dir", wheel)
    # The dependencies are those of this test's own environment, so that nothing is downloaded: a path file names its packages
    # behind the new environment's. Path files in there are not read again, so an editable install does not leak in.
    (site_packages,) = folder.glob("lib/python*/site-packages")
    ours = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in sorted(ours)))
    return folder


def test_the_wheel_has_one_import_name_and_every_module(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"hotpool"}
    assert len(top) == 2
    assert wheel.name.startswith(f"hotpool-{__version__}-")
    modules = {f"{inside}/{path.name}" for folder, inside in FOLDERS.items() for path in (ROOT / folder).glob("*.py")}
    gateway = ROOT / "gateway"
    page = {f"hotpool/gateway/{path.relative_to(gateway)}" for path in gateway.glob("static/**/*") if path.is_file()}
    assert {name for name in names if name.startswith("hotpool/")} == modules | page | {"hotpool/py.typed"}
    assert "hotpool/gateway/static/vendor/pico-2.1.1/LICENSE.md" in page


def test_the_checkout_is_not_seen_from_the_environment(environment, tmp_path):
    others = ("broker", "workers", "control", "tests")
    program = f"import importlib.util as u, hotpool; print(hotpool.__file__, *map(u.find_spec, {others}))"
    done = subprocess.run(
        [environment / "bin" / "python", "-c", program],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        check=True,
    )
    path, *found = done.stdout.split()
    assert Path(path).is_relative_to(environment)
    assert found == ["None"] * len(others)


def test_the_installed_command_starts_a_pool_answers_and_rolls_out(environment, tmp_path):
    picture = tmp_path / "noise.png"
    Image.effect_noise((48, 40), 60).save(picture)
    for seed, name in enumerate(("v1", "v2")):
        save(make_tensors(seed), tmp_path / f"{name}.pth")
    config = tmp_path / "pool.toml"
    config.write_text(TWO_WORKERS)
    with short_home() as home:
        hotpool = CommandLine(home, config, (str(environment / "bin" / "hotpool"),), tmp_path)
        assert "rollout" in hotpool("--help").stdout
        assert hotpool("--version").stdout == f"hotpool, version {__version__}\n"
        hotpool.add(tmp_path / "v1.pth", "v1")
        hotpool("up", "--detach")
        try:
            assert hotpool.json("classify", picture)[0]["prediction"]["version"] == "v1"
            digest = hotpool.add(tmp_path / "v2.pth", "v2")
            hotpool("rollout", "start", "--version", "v2", "--no-analysis", "--bake", "0")
            status = hotpool.json("status")
            assert status["health"] == "healthy"
            assert status["stable"] == {"name": "v2", "digest": digest}
            assert [(worker["state"], worker["digest"]) for worker in status["workers"]] == [("ready", digest)] * 2
            prediction = hotpool.json("classify", picture)[0]["prediction"]
            assert (prediction["version"], prediction["digest"]) == ("v2", digest)
        finally:
            hotpool("down")
        hotpool("status", code=7)
