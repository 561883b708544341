"""Pure: a multipart form as its pieces come: where a part begins, what is in it, where it ends."""

from collections.abc import Iterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from .failures import BadRequest, UnsupportedType

MAX_PARTS = 32
MAX_NAME = 256  # characters of a part's or a file's name


@dataclass(frozen=True, slots=True)
class Begin:
    """A part's header. filename: None when the part is a plain field."""

    name: str
    filename: str | None


@dataclass(frozen=True, slots=True)
class Data:
    """A piece of the part that began last."""

    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """Of the part that began last."""


Piece = Begin | Data | End


class Form:
    """Feed it the body as it comes, then `finish`.

    Raises:
        UnsupportedType: the content type is not that of such a form.
        BadRequest: the body is not such a form, whole.
    """

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data":
            raise UnsupportedType(f"Content-Type is {content_type[:100]!r}, expected multipart/form-data")
        self._pieces: list[Piece] = []
        self._field = self._value = b""
        self._disposition = b""
        self._parts, self._is_whole = 0, False
        callbacks = {
            "on_part_begin": self._on_part_begin, "on_part_data": self._on_part_data, "on_part_end": self._on_part_end,
            "on_header_field": self._on_header_field, "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end, "on_headers_finished": self._on_headers_finished, "on_end": self._on_end,
        }  # fmt: skip
        try:
            self._parser = MultipartParser(options.get(b"boundary", b""), callbacks)  # type: ignore[arg-type]
        except FormParserError as error:
            raise BadRequest(f"the form's boundary: {error}") from None
        if not options.get(b"boundary"):
            raise BadRequest("Content-Type names no boundary")

    def feed(self, data: bytes) -> Iterator[Piece]:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise BadRequest(f"the form can't be read: {error}") from None
        pieces, self._pieces = self._pieces, []
        return iter(pieces)

    def finish(self) -> None:
        """Raises BadRequest: the body has ended before the form."""
        if not self._is_whole:
            raise BadRequest("the form ends before its last boundary")

    def _on_part_begin(self) -> None:
        self._disposition = b""
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BadRequest(f"the form has more than {MAX_PARTS} parts")

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._disposition)
        name, filename = options.get(b"name"), options.get(b"filename")
        if kind != b"form-data" or not name:
            raise BadRequest("a part of the form has no name: it needs Content-Disposition: form-data; name=...")
        self._pieces.append(Begin(_text(name), None if filename is None else _text(filename)))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(Data(data[start:end]))

    def _on_part_end(self) -> None:
        self._pieces.append(End())

    def _on_end(self) -> None:
        self._is_whole = True


def _text(name: bytes) -> str:
    if len(name) > MAX_NAME:
        raise BadRequest(f"a name in the form has more than {MAX_NAME} bytes")
    return name.decode("utf-8", "replace")
