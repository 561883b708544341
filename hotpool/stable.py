"""Shell: the pointer to a model's stable version: a file with its digest, which says what workers boot."""

from .disk import write_atomically
from .home import Home


def read_stable(home: Home, model: str) -> str | None:
    """The digest of the model's stable version, or None before its first version was added."""
    try:
        return home.stable_pointer(model).read_text().strip() or None
    except FileNotFoundError:
        return None


def write_stable(home: Home, model: str, digest: str) -> None:
    """Points the model at this version: whole or not at all, also when the power fails."""
    path = home.stable_pointer(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, f"{digest}\n".encode())
