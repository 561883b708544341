"""Shell: what the environment says of where the pool's folder and its configuration are."""

import os
from pathlib import Path

from .home import Home


def find_home(explicit: Path | None) -> Home:
    """`--home`, else `HOTPOOL_HOME`, else `./var`."""
    return Home((explicit or Path(os.environ.get("HOTPOOL_HOME", "var"))).absolute())


def find_config(explicit: Path | None) -> Path | None:
    """`--config`, else `HOTPOOL_CONFIG`, else `hotpool.toml` in this folder if there is one."""
    if explicit is not None:
        return explicit
    if name := os.environ.get("HOTPOOL_CONFIG"):
        return Path(name)
    here = Path("hotpool.toml")
    return here if here.exists() else None
