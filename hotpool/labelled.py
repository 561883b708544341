"""Shell: a folder of pictures whose classes are known: it has a folder for each class, named by its label or its index."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import BadLabels

LAYOUT = "expected is a folder for each class, named by its label or its index, with pictures in it"
FEW_UNREADABLE = 3  # pictures that may be damaged; of many pictures one in a hundred


@dataclass(frozen=True, slots=True)
class LabelledFolder:
    """files: by the name of their class; names and files in order."""

    path: Path
    files: Mapping[str, tuple[Path, ...]]

    def __len__(self) -> int:
        return sum(map(len, self.files.values()))

    @property
    def pictures(self) -> Iterator[tuple[str, Path]]:
        return ((name, file) for name, files in self.files.items() for file in files)

    @property
    def may_be_unreadable(self) -> int:
        return max(FEW_UNREADABLE, len(self) // 100)


def read_labelled(folder: Path) -> LabelledFolder:
    """Every file below a class's folder counts as a picture, but hidden ones and what lies in hidden folders.

    Raises:
        BadLabels: the folder can't be read, has no folders in it, or they are all empty.
    """
    try:
        classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        files = {path.name: _files(path) for path in classes}
    except OSError as error:
        raise BadLabels(f"{folder} can't be read: {error}; {LAYOUT}") from None
    if not files:
        raise BadLabels(f"{folder} has no folders in it; {LAYOUT}")
    found = LabelledFolder(folder, {name: paths for name, paths in files.items() if paths})
    if not found.files:
        raise BadLabels(f"{folder} has {len(files)} folders and no picture in any of them; {LAYOUT}")
    return found


def find_classes(names: Iterable[str], labels: Sequence[str], version: str) -> dict[str, int]:
    """The index of each name's class. A label comes before an index.

    version: who has these labels, for the message.

    Raises:
        BadLabels: a name is no label or index, or a label that several classes have.
    """
    return {name: _find_class(name, labels, version) for name in names}


def _files(folder: Path) -> tuple[Path, ...]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return tuple(sorted(path for path in found if not _is_hidden(path.relative_to(folder))))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _find_class(name: str, labels: Sequence[str], version: str) -> int:
    found = [index for index, label in enumerate(labels) if label == name]
    if len(found) > 1:
        classes = " and ".join(map(str, found))
        raise BadLabels(
            f"folder {name!r}: in version {version} classes {classes} have this label; name it by the index"
        )
    if found:
        return found[0]
    if name.isascii() and name.isdecimal() and int(name) < len(labels):
        return int(name)
    near = difflib.get_close_matches(name, labels, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise BadLabels(
        f"folder {name!r}: version {version} has no such class; name it by a label of hotpool versions show {version}, or by "
        f"an index from 0 to {len(labels) - 1}{hint}"
    )
