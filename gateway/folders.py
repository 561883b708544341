"""Shell: files on the server that a request may name."""

from collections.abc import Sequence
from pathlib import Path

from .failures import BadRequest, Forbidden


def find_allowed(path: str, folders: Sequence[str]) -> Path:
    """Where it really is. Of what lies elsewhere nothing is told, not even whether it is there.

    What is opened later is that place; who may write in an allowed folder can still put a link there in between.

    Raises:
        Forbidden: it is in none of these folders, once all links are followed.
        BadRequest: there is no such file.
    """
    if not folders:
        raise Forbidden(
            'model_path is not allowed here: to allow files of a folder, set model_folders = ["/that/folder"] in [gateway] '
            "of the configuration; or upload the file to POST /api/versions"
        )
    try:
        real = Path(path).resolve()
        is_file = real.is_file()
        is_allowed = path.startswith("/") and any(real.is_relative_to(Path(folder).resolve()) for folder in folders)
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name that is too long, a zero byte
        is_allowed = is_file = False
    if not is_allowed:
        raise Forbidden(f"model_path {path[:200]!r} is in none of the folders that are allowed: {', '.join(folders)}")
    if not is_file:
        raise BadRequest(f"model_path {path[:200]!r}: there is no such file")
    return real
