"""Shell: how often versions are right on pictures whose classes are known, by the preprocessing and the engine of a worker."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hotpool.config import Pictures
from hotpool.errors import BadLabels, BadVersion, HotpoolError, TooLarge
from hotpool.labelled import LabelledFolder, find_classes, read_labelled
from hotpool.manifest import Preprocess, Preprocessing

from .loading import load_folder
from .pictures import Picture, decode
from .torch_version import FloatArray, TorchVersion

TOLD = 10  # times in the course of it that it says how far it is

Tell = Callable[[int], None]
Answers = tuple[bool, ...]  # which of the versions are right on one picture


@dataclass(frozen=True, slots=True)
class Outcome:
    """answers: one for each picture that could be read."""

    answers: tuple[Answers, ...]
    unreadable: int


def compare(folder: Path, stable: Path, target: Path, expected: int, limits: Pictures, tell: Tell) -> dict[str, Any]:
    """The counts by which accuracy is judged. stable, target: folders of versions. expected: pictures, when it was ordered.

    Raises:
        BadLabels: what is wrong with the folder or with files in it, and what to do.
        BadVersion: stable or target can't be loaded.
    """
    pictures = read_labelled(folder)
    if len(pictures) != expected:
        raise BadLabels(
            f"{folder} has {len(pictures)} pictures, it had {expected} when the rollout was ordered; order it again"
        )
    outcome = evaluate(pictures, [_load(stable, "stable"), _load(target, "target")], limits, tell)
    answers = outcome.answers
    labelled = {
        "n": len(answers),
        "both_right": answers.count((True, True)),
        "only_stable": answers.count((True, False)),
        "only_target": answers.count((False, True)),
    }
    return {"labelled": labelled, "unreadable": outcome.unreadable}


def measure(folder: Path, version: Path, limits: Pictures, tell: Tell) -> dict[str, Any]:
    """How often one version is right. Raises as `compare`."""
    outcome = evaluate(read_labelled(folder), [_load(version, "version")], limits, tell)
    n, right = len(outcome.answers), outcome.answers.count((True,))
    return {"pictures": n, "right": right, "unreadable": outcome.unreadable}


def evaluate(pictures: LabelledFolder, versions: Sequence[TorchVersion], limits: Pictures, tell: Tell) -> Outcome:
    """Asks every version about every picture. limits: those of the pool; what a worker would refuse can't be read.
    tell: hears up to ten times how many pictures it has been through.

    Raises:
        BadLabels: a folder is no class of a version, or more than a few pictures can't be read.
    """
    classes = [find_classes(pictures.files, one.manifest.labels, one.manifest.name) for one in versions]
    n, answers, unreadable = len(pictures), list[Answers](), list[str]()
    for number, (name, path) in enumerate(pictures.pictures, start=1):
        try:
            inputs = list(_inputs(path, versions, limits))
        except (HotpoolError, OSError) as error:
            unreadable.append(f"{path}: {error}")
            _refuse_many(unreadable, pictures)
        else:
            found = [_top1(version, rows) for version, rows in zip(versions, inputs, strict=True)]
            answers.append(tuple(top1 == known[name] for top1, known in zip(found, classes, strict=True)))
        if number * TOLD // n > (number - 1) * TOLD // n:
            tell(number)
    if not answers:
        raise BadLabels(f"no picture in {pictures.path} can be read; {unreadable[0]}")
    return Outcome(tuple(answers), len(unreadable))


def _load(folder: Path, who: str) -> TorchVersion:
    try:
        return TorchVersion(load_folder(folder))
    except BadVersion as error:
        raise BadVersion(f"{who}: {error}") from None


def _inputs(path: Path, versions: Sequence[TorchVersion], limits: Pictures) -> Iterator[FloatArray]:
    """For each version; what two of them prepare in the same way is prepared once."""
    data, decoded = _read(path, limits.max_bytes), dict[int | None, Picture]()
    made: dict[tuple[Preprocessing, Preprocess], FloatArray] = {}
    for version in versions:
        way, least = (version.manifest.preprocessing, version.manifest.preprocess), version.least_side
        if least not in decoded:
            decoded[least] = decode(data, limits.max_bytes, limits.max_pixels, least)
        if way not in made:
            rows = np.empty((1, version.side, version.side, 3), np.float32)
            version.picture(decoded[least], rows[0])
            made[way] = rows.transpose(0, 3, 1, 2)
        yield made[way]


def _read(path: Path, limit: int) -> bytes:
    if (size := path.stat().st_size) > limit:
        raise TooLarge(f"the picture has {size} bytes, allowed are {limit}")
    return path.read_bytes()


def _top1(version: TorchVersion, rows: FloatArray) -> int:
    return int(version.logits(rows)[0].argmax())


def _refuse_many(unreadable: Sequence[str], pictures: LabelledFolder) -> None:
    if len(unreadable) > pictures.may_be_unreadable:
        raise BadLabels(
            f"more than {pictures.may_be_unreadable} of the {len(pictures)} files in {pictures.path} can't be read as "
            f"pictures; take them out or put whole ones in their place. The first: {unreadable[0]}"
        )
