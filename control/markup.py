"""Pure: HTML and SVG as text. Whatever comes from outside goes through `text` or an attribute, and both escape it."""

from collections.abc import Iterable
from typing import NewType

Markup = NewType("Markup", str)  # safe to put into a page: mypy tells it from text that nobody has escaped yet

# Control characters are no part of HTML, and those that turn the direction of writing could make a name look like another.
_HARMFUL = (*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F),
            *range(0x2066, 0x206A), *range(0xD800, 0xE000), 0xFEFF)  # fmt: skip
_ESCAPES = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord('"'): "&quot;", ord("'"): "&#39;"}
_TABLE: dict[int, str] = {**dict.fromkeys(_HARMFUL, "\ufffd"), **_ESCAPES}
_VOID = {"meta", "br"}


def text(value: object) -> Markup:
    return Markup(str(value).translate(_TABLE))


def join(parts: Iterable[Markup], between: str = "") -> Markup:
    return Markup(between.join(parts))


def tag(name: str, /, *children: Markup, **attributes: object) -> Markup:
    """`tag("a", text("x"), class_="b", stroke_width=2)`. Numbers are rounded to a tenth: a page holds thousands of them.

    An attribute that is None is left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    opening = f"<{name}{written}>"
    return Markup(opening if name in _VOID else f"{opening}{''.join(children)}</{name}>")


def table(
    headers: Iterable[str], rows: Iterable[Iterable[Markup]], *, numeric: Iterable[str] = (), class_: str = ""
) -> Markup:
    """numeric: headers of columns that are set to the right. Each cell knows its header, for narrow screens."""
    headers, right = list(headers), set(numeric)
    head = tag("tr", *(tag("th", text(header), scope="col", class_=_align(header, right)) for header in headers))
    body = [
        tag(
            "tr",
            *(
                tag("td", cell, data_label=header, class_=_align(header, right))
                for header, cell in zip(headers, row, strict=True)
            ),
        )
        for row in rows
    ]
    return tag("table", tag("thead", head), tag("tbody", *body), class_=class_ or None)


def chip(style: str, word: str) -> Markup:
    """A word in a coloured frame."""
    return tag("span", text(word), class_=f"chip {style}")


def about(words: str) -> Markup:
    """What a part of the page shows."""
    return tag("p", text(words), class_="about")


def many(n: int) -> str:
    """`12 345`."""
    return f"{n:,}".replace(",", "\u202f")


def _align(header: str, right: set[str]) -> str | None:
    return "number" if header in right else None


def _attribute(value: object) -> Markup:
    if isinstance(value, float):
        return number(value)
    return text(value)


def number(value: float) -> Markup:
    """`12.3`, `12`: for coordinates."""
    return Markup(f"{value:.1f}".removesuffix(".0"))
