"""`hotpool` as its users run it: a process of its own, with a home and a configuration in the environment."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotpool.home import Home

from .pool import ROOT, short_home

TWO_WORKERS = "[gateway]\nenabled = false\n[pool]\nworkers = 2\nallow_oversubscription = true\n"
# Of tests.small_versions. `exact`, because answers are compared with those of torchvision's own transforms.
SMALL_NETWORK = ("--arch", "shufflenet_v2_x0_5", "--resize", "36", "--crop", "32", "--preprocess", "exact")


@dataclass(frozen=True)
class CommandLine:
    """Call it with the words of a command. command: how to start it. folder: from where it is run."""

    home: Home
    config: Path
    command: tuple[str, ...] = (sys.executable, "-m", "control.cli")
    folder: Path = ROOT

    def __call__(self, *words: object, code: int = 0) -> "subprocess.CompletedProcess[str]":
        """Runs a command to its end, which must be with this code."""
        done = subprocess.run(
            [*self.command, *map(str, words)], **self._surroundings(), capture_output=True, timeout=90
        )
        assert done.returncode == code, (
            f"hotpool {' '.join(map(str, words))} ended with {done.returncode}, not {code}:\n{done.stdout}{done.stderr}"
        )
        return done

    def json(self, *words: object, code: int = 0) -> Any:
        return json.loads(self(*words, "-o", "json", code=code).stdout)

    def start(self, *words: object) -> "subprocess.Popen[str]":
        """Runs a command that Ctrl-C can reach, also where the tests themselves were started with signals ignored."""
        return subprocess.Popen(
            [*self.command, *map(str, words)],
            **self._surroundings(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def add(self, source: Path, name: str) -> str:
        """The new version's digest."""
        digest: str = self.json("versions", "add", source, "--name", name, *SMALL_NETWORK)["digest"]
        return digest

    def _surroundings(self) -> dict[str, Any]:
        ours = {"HOTPOOL_HOME": str(self.home.root), "HOTPOOL_CONFIG": str(self.config)}
        inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COLUMNS")}
        return {"env": {**inherited, **ours}, "cwd": self.folder, "text": True, "stdin": subprocess.DEVNULL}


@contextmanager
def prepared_home(folder: Path) -> Iterator[CommandLine]:
    """A home without a pool, and its command line."""
    config = folder / "pool.toml"
    config.write_text(TWO_WORKERS)
    with short_home() as home:
        yield CommandLine(home, config)
