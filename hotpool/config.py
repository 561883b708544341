"""Shell: the one TOML file. Every error names file, key, value and what is allowed."""

import difflib
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import ConfigError
from .home import Home

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Positive = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Pool(_Section):
    """Which model is served, by how many workers."""

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "default"
    workers: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    allow_oversubscription: bool = False
    max_batch: Annotated[int, Field(ge=1, le=256)] = 4
    load_memory_mb: Annotated[int, Field(ge=16)] = 8192


class Dispatch(_Section):
    """Queue, leases and heartbeats of the broker."""

    queue_max_requests: Positive = 10_000
    queue_max_bytes: Positive = 512 * 1024 * 1024
    heartbeat_s: Annotated[float, Field(ge=0.01, le=10)] = 0.25
    lease_s: Seconds = 10.0
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3


class Pictures(_Section):
    """What a request may carry. Checked before anything is decoded."""

    max_bytes: Annotated[int, Field(ge=1024, le=1024**3)] = 16 * 1024 * 1024
    max_pixels: Positive = 50_000_000


class Rollout(_Section):
    """Defaults of `hotpool rollout start`."""

    strategy: Literal["drain", "beside", "surge"] = "drain"
    max_unavailable: Positive | Annotated[str, Field(pattern=r"^\d{1,3}%$")] = 1
    max_surge: Positive | Annotated[str, Field(pattern=r"^\d{1,3}%$")] = 1
    bake_s: Annotated[float, Field(ge=0, le=86_400)] = 2.0
    drain_timeout_s: Seconds = 30.0
    load_timeout_s: Seconds = 60.0
    progress_deadline_s: Seconds = 600.0
    max_worker_retries: Annotated[int, Field(ge=0, le=10)] = 2
    preflight_memory_mb: Annotated[int, Field(ge=256)] = 8192
    preflight_timeout_s: Seconds = 120.0
    eval_timeout_s: Seconds = 3600.0
    steps: str = "auto"
    canary_workers: Positive = 1
    step_min_s: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    step_max_s: Seconds = 600.0
    on_inconclusive: Literal["pause", "abort"] = "pause"
    watch_s: Annotated[float, Field(ge=0, le=604_800)] = 900.0


class Gates(_Section):
    """What the gates of a rollout hold the target to; `control/verdicts.py` says what each number means, and its range."""

    alpha: float = 0.01
    beta: float = 0.05
    min_replies: Positive = 200
    error_limit: float = 0.01
    error_ratio: float = 1.5
    disagreement_ok: float = 0.02
    disagreement_bad: float = 0.05
    collapse_margin: float = 0.2
    latency_ratio: float = 1.15
    min_windows: Positive = 20
    tail_ratio: float = 1.3
    min_tail_replies: Positive = 90
    drift_min_replies: Positive = 500
    accuracy_margin: float = 0.01


class Probe(_Section):
    """Whether workers still answer as they should."""

    interval_s: Annotated[float, Field(ge=0, le=86_400)] = 30.0


class Gateway(_Section):
    """HTTP and the Web page."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    inference_token: bool = False
    model_folders: list[Annotated[str, Field(pattern=r"^/")]] = []
    max_connections: Annotated[int, Field(ge=8, le=65_536)] = 512
    header_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 20.0
    max_upload_bytes: Annotated[int, Field(ge=1024)] = 2 * 1024**3


class Config(_Section):
    """All of `configs/default.toml`."""

    pool: Pool = Pool()
    dispatch: Dispatch = Dispatch()
    pictures: Pictures = Pictures()
    rollout: Rollout = Rollout()
    gates: Gates = Gates()
    probe: Probe = Probe()
    gateway: Gateway = Gateway()


def load_config(path: Path | None) -> Config:
    """The configuration in this file; without a file, the defaults.

    Raises:
        ConfigError: the file can't be read, is not TOML, or a key or value is not allowed.
    """
    if path is None:
        return Config()
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(path, data, entry) for entry in error.errors())) from None


def find_config(explicit: Path | None) -> Path | None:
    """`--config`, else `HOTPOOL_CONFIG`, else `hotpool.toml` in this folder if there is one."""
    if explicit is not None:
        return explicit
    if name := os.environ.get("HOTPOOL_CONFIG"):
        return Path(name)
    here = Path("hotpool.toml")
    return here if here.exists() else None


def find_home(explicit: Path | None) -> Home:
    """`--home`, else `HOTPOOL_HOME`, else `./var`."""
    return Home((explicit or Path(os.environ.get("HOTPOOL_HOME", "var"))).absolute())


def _explain(path: Path, data: dict[str, Any], entry: Any) -> str:
    keys = [str(part) for part in entry["loc"] if part not in ("int", "literal['auto']")]
    key = ".".join(keys)
    if entry["type"] == "extra_forbidden":
        return f"{path}: unknown key {key!r}{_nearest(keys)}"
    value = data
    for part in keys:
        value = value.get(part, value) if isinstance(value, dict) else value
    return f"{path}: {key} = {value!r}: {entry['msg'][0].lower()}{entry['msg'][1:]}"


def _nearest(keys: list[str]) -> str:
    known = list(Config.model_fields)
    if len(keys) > 1:
        section = Config.model_fields[keys[0]].default
        known = [f"{keys[0]}.{name}" for name in type(section).model_fields]
    matches = difflib.get_close_matches(".".join(keys), known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else f"; known are {', '.join(known)}"
