"""Pure: what each verb of the controller's socket takes. A mistake in it is told by the argument's name."""

import re
from collections.abc import Iterator
from enum import EnumMeta
from functools import cache
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from hotpool.errors import BadInput
from hotpool.messages import MAX_CLASSES, MAX_TEXT
from hotpool.states import Strategy

from .settings import OnInconclusive

Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Operator = Annotated[str, Meta(min_length=1, max_length=64)]
Label = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
Hash = Annotated[str, Meta(max_length=64)]
Workers = Annotated[int, Meta(ge=1, le=1024)]
Share = Annotated[str, Meta(max_length=8)]
Positive = Annotated[int, Meta(ge=1)]
Pixels = Annotated[int, Meta(ge=8, le=2048)]

T = TypeVar("T", bound="Arguments")

TORCHVISION = "torchvision:"
_AT = re.compile(r"(?P<what>.*) - at `\$\.(?P<name>\w+).*`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_NO_CHOICE = re.compile(r"Invalid enum value (?P<value>.*)", re.DOTALL)


class Arguments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base only. What has a default may be left out."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and not text.isprintable():
                    raise ValueError(f"{name} must be one line of printable text, got {text[:100]!r}")


class Nothing(Arguments, frozen=True):
    pass


class OneVersion(Arguments, frozen=True):
    """version: name, digest, or the beginning of a digest."""

    version: Text


class OneJob(Arguments, frozen=True):
    job: Positive


class OneRollout(Arguments, frozen=True):
    number: Positive


class AnyRollout(Arguments, frozen=True):
    """number: without it the newest."""

    number: Positive | None = None


class Newest(Arguments, frozen=True):
    n: Annotated[int, Meta(ge=1, le=100_000)] = 100


class Signed(Arguments, frozen=True):
    """Who changes something, and why: the journal keeps it as it is given."""

    reason: Text
    operator: Operator


class Remove(Signed, frozen=True):
    version: Text


class Command(Signed, frozen=True):
    """number: of the rollout that is meant; without it the one under way, whichever it is."""

    number: Positive | None = None


class Promote(Command, frozen=True):
    """step: the one that is to be left, an empty text where there is none; without it whichever it is."""

    full: bool = False
    step: Text | None = None


class Undo(Signed, frozen=True):
    """number: of the last rollout, as the caller knows it: refused when another was ordered since."""

    number: Positive | None = None
    strategy: Strategy | None = None
    dry_run: bool = False


class Start(Signed, frozen=True):
    """What is left out is as configured. force: although the stable version is not healthy. dry_run: everything is checked,
    nothing is ordered."""

    version: Text
    strategy: Strategy | None = None
    max_unavailable: Workers | Share | None = None
    max_surge: Workers | Share | None = None
    steps: Text | None = None
    canary_workers: Workers | None = None
    bake_s: Annotated[float, Meta(ge=0, le=86_400)] | None = None
    on_inconclusive: OnInconclusive | None = None
    eval_folder: Text | None = None
    force: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_absolute("eval_folder", self.eval_folder)

    @property
    def chosen(self) -> dict[str, Any]:
        """Settings of the rollout."""
        names = ("strategy", "max_unavailable", "max_surge", "steps", "canary_workers", "bake_s", "on_inconclusive")
        return {name: getattr(self, name) for name in names}


class Add(Signed, frozen=True):
    """As `hotpool versions add`. then_start: when these weights are stored, now or before, a rollout to them is ordered."""

    source: Text
    name: Text
    arch: Text | None = None
    labels: Annotated[tuple[Label, ...], Meta(max_length=MAX_CLASSES)] | None = None
    precision: Literal["fp32", "int8", "auto"] = "fp32"
    calibrate: Text | None = None
    min_agreement: Annotated[float, Meta(ge=0, le=1)] = 0.98
    preprocess: Literal["fast", "exact"] = "fast"
    sha256: Hash | None = None
    md5: Hash | None = None
    resize: Pixels | None = None
    crop: Pixels | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    then_start: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.source.startswith(TORCHVISION):
            _require_absolute("source", self.source)
        _require_absolute("calibrate", self.calibrate)
        if self.calibrate and self.precision == "fp32":
            raise ValueError("calibrate is for int8: precision must be int8 or auto")


def read(verb: str, kind: type[T], raw: msgspec.Raw) -> T:
    """The arguments of a verb.

    Raises:
        BadInput: names the argument that is wrong, missing or unknown.
    """
    decoder: msgspec.msgpack.Decoder[T] = _decoder(kind)
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise BadInput(f"{verb}: {_explain(kind, str(error))}") from None


@cache
def _decoder(kind: type[Arguments]) -> "msgspec.msgpack.Decoder[Any]":
    return msgspec.msgpack.Decoder(kind)


def _explain(kind: type[Arguments], text: str) -> str:
    if missing := _MISSING.fullmatch(text):
        return f"{missing['name']} is missing"
    if unknown := _UNKNOWN.fullmatch(text):
        known = ", ".join(kind.__struct_fields__) or "none"
        return f"there is no argument {unknown['name'][:100]!r}; known are {known}"
    if not (at := _AT.fullmatch(text)):
        return text.replace("`", "")
    name, what = at["name"], at["what"].replace("`", "")
    if choice := _NO_CHOICE.fullmatch(what):
        return f"{name} is {choice['value'][:100]}; allowed are {', '.join(choices(kind, name))}"
    return f"{name}: {what[0].lower()}{what[1:]}"


def choices(kind: type[Arguments], name: str) -> list[str]:
    """The words that an argument may be; empty when it may be others too."""
    return list(_words(get_type_hints(kind)[name]))


def _words(hint: Any) -> Iterator[str]:
    if isinstance(hint, EnumMeta):
        yield from map(str, hint)
    elif get_origin(hint) is Literal:
        yield from get_args(hint)
    else:
        for part in get_args(hint):
            yield from _words(part)


def _require_absolute(name: str, path: str | None) -> None:
    """The controller does not know the folder its caller is in."""
    if path is not None and not PurePath(path).is_absolute():
        raise ValueError(f"{name} must be an absolute path, got {path[:100]!r}")
