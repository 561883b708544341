"""Shell: what is checked of a version's files around a rollout."""

import hashlib
import json
import subprocess
from collections.abc import Sequence
from time import monotonic

from hotpool.errors import BadVersion
from hotpool.home import Home
from hotpool.manifest import WEIGHTS, read_manifest, version_folder

from .services import child_environment, describe_exit, give_way
from .settings import Settings
from .view import Finding


class Scratch:
    """The preflight: loads and tries a version in a process of its own, so that whatever it does hurts nobody."""

    def __init__(self, home: Home, command: Sequence[str]) -> None:
        """command: how to start it; the version's folder and the limits follow. It prints `{"ok": bool, "reason": str}`."""
        self._home, self._command = home, command
        self._process: subprocess.Popen[bytes] | None = None
        self._finding: Finding | None = None
        self._started_at = self._timeout_s = 0.0

    def start(self, digest: str, settings: Settings) -> None:
        """Does nothing once started: there is one rollout at a time, and its preflight ends with `stop`."""
        if self._process is not None:
            return
        folder, limit = str(version_folder(self._home, digest)), str(settings.preflight_memory_mb)
        command = [*self._command, folder, "--memory-mb", limit]
        self._started_at, self._timeout_s = monotonic(), settings.preflight_timeout_s
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=child_environment(), start_new_session=True,
            preexec_fn=give_way,
        )  # fmt: skip

    def poll(self) -> Finding | None:
        """What it has found; None while it runs or was not started."""
        if self._finding is None and self._process is not None:
            code, lasted_s = self._process.poll(), monotonic() - self._started_at
            if code is not None:
                self._finding = _read_finding(self._process.communicate()[0], code, lasted_s)
            elif lasted_s >= self._timeout_s:
                self._finding = Finding(False, f"preflight took longer than {self._timeout_s:g} s")
        return self._finding

    def stop(self) -> None:
        """Forgets what was found, and ends the process if it still runs."""
        if self._process is not None:
            with self._process:  # closes the pipe and waits
                self._process.kill()
        self._process = self._finding = None


def check_weights(home: Home, digest: str) -> Finding:
    """Whether the weights file is still the one its manifest names. Reads it once: some 50 ms for a ResNet-18."""
    folder = version_folder(home, digest)
    try:
        promised = read_manifest(folder).weights_sha256
        with (folder / WEIGHTS).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except (BadVersion, OSError) as error:
        return Finding(False, str(error))
    if found != promised:
        return Finding(False, f"{folder / WEIGHTS} was changed: its SHA-256 is {found[:12]}, not {promised[:12]}")
    return Finding(True)


def _read_finding(output: bytes, code: int, lasted_s: float) -> Finding:
    try:
        result = json.loads(output.splitlines()[-1])
        return Finding(bool(result["ok"]), str(result["reason"]), round(lasted_s, 3))
    except (IndexError, KeyError, TypeError, ValueError):
        return Finding(
            False, f"the preflight process {describe_exit(code)} before it had a result; see the log of control"
        )
