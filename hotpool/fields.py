"""Pure: names, and what is wrong with fields that came from outside, in plain words.

msgspec tells of the first wrong one alone, and not which words are allowed.
"""

import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct, ValidationError, convert, inspect, structs

# `\Z` and not `$`, which a line feed may follow.
Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z",
        description="1 to 64 letters, digits, '.', '_' or '-', no sign first",
    ),
]


def problems(given: Mapping[str, Any], struct: type[Struct], above: str = "") -> Iterator[str]:
    """One for each field that is not allowed, `pool.workers = 0: expected ...`.

    struct: all its fields have defaults, so that none can be missing. above: what stands before each name, `pool.`
    """
    types = {field.name: field.type for field in structs.fields(struct)}
    for name, value in given.items():
        if name not in types:
            yield _unknown(f"{above}{name}", [f"{above}{one}" for one in types])
            continue
        kind = inspect.type_info(types[name])
        if isinstance(kind, inspect.StructType) and isinstance(value, Mapping):
            yield from problems(value, kind.cls, f"{above}{name}.")
            continue
        try:
            convert(value, types[name])
        except ValidationError:
            yield f"{above}{name} = {value!r}: expected {_described(kind)}"


def _unknown(key: str, known: Collection[str]) -> str:
    matches = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {matches[0]!r}?" if matches else f"known are {', '.join(known)}"
    return f"unknown key {key!r}; {hint}"


def _described(kind: inspect.Type) -> str:
    """`a whole number from 1 up to 256`. Knows the types that configuration and preprocessing are made of."""
    match kind:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"a whole number{_range(kind)}"
        case inspect.FloatType():
            return f"a number{_range(kind)}"
        case inspect.StrType(pattern=None):
            return "text"
        case inspect.LiteralType(values=values):
            return " or ".join(map(repr, values))
        case inspect.UnionType(types=types):
            return ", or ".join(map(_described, types))
        case inspect.ListType(item_type=item):
            return f"a list, each {_described(item)}"
        case inspect.TupleType(item_types=items):
            return f"{len(items)} values, each {_described(items[0])}"
        case inspect.StructType():
            return "a table"
        case inspect.Metadata(type=inner, extra_json_schema={"description": said}):
            return said if isinstance(inner, inspect.StrType) else f"{_described(inner)} ({said})"
    raise TypeError(kind)


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    limits = {"above": kind.gt, "from": kind.ge, "up to": kind.le}
    return "".join(f" {word} {limit:,}" for word, limit in limits.items() if limit is not None)
