"""Shell: the one TOML file. Every error names file, key, value and what is allowed."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, ValidationError, convert

from .errors import ConfigError
from .fields import Name, problems

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Positive = Annotated[int, Meta(ge=1)]
Percentage = Annotated[str, Meta(pattern=r"^\d{1,3}%\Z", description="a percentage like '25%'")]


class _Section(Struct, frozen=True, forbid_unknown_fields=True):
    """By msgspec and not by pydantic, whose import would be half of the time that a killed broker takes to come back."""


class Pool(_Section, frozen=True):
    """Which model is served, by how many workers."""

    model: Name = "default"
    workers: Annotated[int, Meta(ge=1, le=1024)] | Literal["auto"] = "auto"
    threads: Annotated[int, Meta(ge=1, le=256)] = 1
    allow_oversubscription: bool = False
    max_batch: Annotated[int, Meta(ge=1, le=256)] = 4
    load_memory_mb: Annotated[int, Meta(ge=16)] = 8192


class Dispatch(_Section, frozen=True):
    """Queue, leases and heartbeats of the broker."""

    queue_max_requests: Positive = 10_000
    queue_max_bytes: Positive = 512 * 1024 * 1024
    heartbeat_s: Annotated[float, Meta(ge=0.01, le=10)] = 0.25
    lease_s: Seconds = 10.0
    max_attempts: Annotated[int, Meta(ge=1, le=10)] = 3


class Pictures(_Section, frozen=True):
    """What a request may carry. Checked before anything is decoded."""

    max_bytes: Annotated[int, Meta(ge=1024, le=1024**3)] = 16 * 1024 * 1024
    max_pixels: Positive = 50_000_000


class Rollout(_Section, frozen=True):
    """Defaults of `hotpool rollout start`."""

    strategy: Literal["drain", "beside", "surge"] = "drain"
    max_unavailable: Positive | Percentage = 1
    max_surge: Positive | Percentage = 1
    bake_s: Annotated[float, Meta(ge=0, le=86_400)] = 2.0
    drain_timeout_s: Seconds = 30.0
    load_timeout_s: Seconds = 60.0
    progress_deadline_s: Seconds = 600.0
    max_worker_retries: Annotated[int, Meta(ge=0, le=10)] = 2
    preflight_memory_mb: Annotated[int, Meta(ge=256)] = 8192
    preflight_timeout_s: Seconds = 120.0
    eval_timeout_s: Seconds = 3600.0
    steps: str = "auto"
    canary_workers: Positive = 1
    step_min_s: Annotated[float, Meta(ge=0, le=86_400)] = 60.0
    step_max_s: Seconds = 600.0
    on_inconclusive: Literal["pause", "abort"] = "pause"
    watch_s: Annotated[float, Meta(ge=0, le=604_800)] = 900.0


class Gates(_Section, frozen=True):
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


class Probe(_Section, frozen=True):
    """Whether workers still answer as they should."""

    interval_s: Annotated[float, Meta(ge=0, le=86_400)] = 30.0


class Gateway(_Section, frozen=True):
    """HTTP and the Web page."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8080
    inference_token: bool = False
    model_folders: list[Annotated[str, Meta(pattern=r"^/", description="an absolute path")]] = []
    max_connections: Annotated[int, Meta(ge=8, le=65_536)] = 512
    header_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 20.0
    max_upload_bytes: Annotated[int, Meta(ge=1024)] = 2 * 1024**3


class Config(_Section, frozen=True):
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
        return convert(data, Config)
    except ValidationError:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems(data, Config))) from None
