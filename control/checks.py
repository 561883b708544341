"""Shell: what is checked of a version's files around a rollout."""

import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from time import monotonic

from hotpool.child import end_with, give_way
from hotpool.errors import BadVersion
from hotpool.home import Home
from hotpool.manifest import WEIGHTS, read_manifest, version_folder

from .services import child_environment, describe_exit
from .settings import Settings
from .verdicts import Labelled
from .view import Evaluating, Finding

PIPE_BYTES = 65_536


class Scratch:
    """The preflight: loads and tries a version in a process of its own, so that whatever it does hurts nobody.

    The process prints lines of JSON: perhaps some `{"pictures": int}`, how many labelled ones it has been through, and at its
    end `{"ok": bool, "reason": str}`, with `labelled` and `unreadable` if there were any.
    """

    def __init__(self, home: Home, command: Sequence[str]) -> None:
        """command: how to start it; the version's folder, the limits and what to compare with follow."""
        self._home, self._command = home, command
        self._process: subprocess.Popen[bytes] | None = None
        self._finding: Finding | None = None
        self._started_at = self._timeout_s = 0.0
        self._said = b""

    def start(self, digest: str, settings: Settings, stable: str) -> None:
        """Does nothing once started: there is one rollout at a time, and its preflight ends with `stop`."""
        if self._process is not None:
            return
        folder, limit = str(version_folder(self._home, digest)), str(settings.preflight_memory_mb)
        command = [*self._command, folder, "--memory-mb", limit]
        if settings.eval_folder:
            command += ["--stable", str(version_folder(self._home, stable)), "--eval", settings.eval_folder]
            command += ["--pictures", str(settings.eval_pictures)]
        self._started_at, self._timeout_s = monotonic(), settings.preflight_timeout_s
        self._timeout_s += settings.eval_timeout_s if settings.eval_folder else 0.0
        parent = os.getpid()

        def prepare() -> None:
            end_with(parent)
            give_way()

        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=child_environment(), start_new_session=True,
            preexec_fn=prepare,
        )  # fmt: skip
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def poll(self) -> Finding | Evaluating | None:
        """What it has found, or how far it is with labelled pictures; None before that."""
        if self._finding is None and self._process is not None:
            code, lasted_s = self._process.poll(), monotonic() - self._started_at
            self._said += _read_all(self._process)
            if code is not None:
                self._finding = _read_finding(self._said, code, lasted_s)
            elif lasted_s >= self._timeout_s:
                self._finding = Finding(False, f"preflight took longer than {self._timeout_s:g} s")
        return self._finding or _read_progress(self._said)

    def stop(self) -> None:
        """Forgets what was found, and ends the process if it still runs."""
        if self._process is not None:
            with self._process:  # closes the pipe and waits
                self._process.kill()
        self._process, self._finding, self._said = None, None, b""


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


def _read_all(process: subprocess.Popen[bytes]) -> bytes:
    """What lies in its pipe; read while it runs, or a full pipe would stop it."""
    assert process.stdout is not None
    parts = []
    with suppress(BlockingIOError):
        while part := os.read(process.stdout.fileno(), PIPE_BYTES):
            parts.append(part)
    return b"".join(parts)


def _read_progress(said: bytes) -> Evaluating | None:
    """The last whole line, if it is such a one."""
    try:
        return Evaluating(int(json.loads(said[: said.rindex(b"\n")].splitlines()[-1])["pictures"]))
    except (IndexError, KeyError, TypeError, ValueError):
        return None


def _read_finding(output: bytes, code: int, lasted_s: float) -> Finding:
    try:
        result = json.loads(output.splitlines()[-1])
        found = Finding(bool(result["ok"]), str(result["reason"]), round(lasted_s, 3))
        if "labelled" not in result:
            return found
        return replace(found, labelled=Labelled(**result["labelled"]), unreadable=int(result["unreadable"]))
    except (IndexError, KeyError, TypeError, ValueError):
        return Finding(
            False, f"the preflight process {describe_exit(code)} before it had a result; see the log of control"
        )
