"""Shell: `python -m examples.up`, or `make up`: makes the demo model if need be, adds it as v1 and v2, and leaves a pool
running on v1 in `HOTPOOL_HOME` (./var)."""

import subprocess
import sys
from pathlib import Path

from rich.console import Console

from control.versions import list_versions
from examples.shapes.train import Settings, UnexpectedAccuracy, make_model
from hotpool.config import load_config
from hotpool.environment import find_home

ROOT = Path(__file__).parent.parent
MODEL_FOLDER = Path("var/demo/model")
CONFIG = ROOT / "configs" / "demo.toml"


def main() -> int:
    console, home = Console(highlight=False), find_home(None)
    try:
        make_model(MODEL_FOLDER, console)
    except UnexpectedAccuracy as error:
        console.print(f"[red]{error}")
        return 1
    model, size = load_config(CONFIG).pool.model, str(Settings().resolution)
    present = {manifest.name for manifest in list_versions(home, model)}
    for name in ("v1", "v2"):
        if name not in present:
            options = ("--name", name, "--labels", str(MODEL_FOLDER / "labels.txt"), "--resize", size, "--crop", size)
            if code := hotpool("versions", "add", str(MODEL_FOLDER / f"{name}.pth"), *options):
                return code
    if code := hotpool("up", "--detach"):
        return code
    picture = next((MODEL_FOLDER / "pictures").glob("*.png"))
    command = f"{Path(sys.executable).relative_to(ROOT)} -m control.cli --config {CONFIG.relative_to(ROOT)}"
    console.print("\nTry, in this folder:", style="bold")
    for arguments in (f"classify {picture}", "status", "rollout start --version v2", "audit", "down"):
        console.print(f"  {command} {arguments}", soft_wrap=True)
    return 0


def hotpool(*arguments: str) -> int:
    """Runs one command of hotpool with the demo's configuration; its exit code."""
    return subprocess.run(
        [sys.executable, "-m", "control.cli", "--config", str(CONFIG), *arguments], check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
