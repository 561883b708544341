"""gateway/multipart.py: a form in pieces."""

import random
from contextlib import suppress

import pytest

from gateway.failures import BadRequest, UnsupportedType
from gateway.multipart import MAX_PARTS, Begin, Data, Form

TYPE = "multipart/form-data; boundary=xyz"


def part(head: str, data: bytes) -> bytes:
    return b"--xyz\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n"


def named(name: str, data: bytes, more: str = "") -> bytes:
    return part(f'Content-Disposition: form-data; name="{name}"{more}', data)


def read(body: bytes, cuts: list[int] | None = None) -> list[tuple[str, str | None, bytes]]:
    """The parts, from a body that comes in pieces which end at `cuts`."""
    form, found = Form(TYPE), []
    ends = [*(cuts or []), len(body)]
    for begin, end in zip([0, *ends], ends, strict=False):
        for piece in form.feed(body[begin:end]):
            match piece:
                case Begin(name, filename):
                    found.append((name, filename, b""))
                case Data(data):
                    name, filename, before = found.pop()
                    found.append((name, filename, before + data))
    form.finish()
    return found


def test_wherever_the_body_is_cut_the_parts_are_the_same():
    tricky = b"\r\n--xy\r\n--xyzz\r\r\n\r\n--" + bytes(range(256)) + b"\r"
    body = named("a", b"1") + named("file", tricky, '; filename="w.pth"') + named("empty", b"") + b"--xyz--\r\n"
    expected = [("a", None, b"1"), ("file", "w.pth", tricky), ("empty", None, b"")]
    assert read(body) == expected
    assert read(body, list(range(1, len(body)))) == expected
    rng = random.Random(1)
    for _ in range(200):
        cuts = sorted(rng.sample(range(1, len(body)), rng.randrange(1, 6)))
        assert read(body, cuts) == expected, f"seed 1, cuts {cuts}"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"nothing of a form", b"--xyz", b"--other\r\n\r\n--other--\r\n",
        named("a", b"1"),
        named("a", b"1") + b"--xyz-",
        named("a", b"1")[:-20],
        part("X: y", b"1") + b"--xyz--\r\n",
        part("Content-Disposition: attachment; name=a", b"1") + b"--xyz--\r\n",
        part('Content-Disposition: form-data; name=""', b"1") + b"--xyz--\r\n",
        part("no colon", b"1") + b"--xyz--\r\n",
        part("A: " + "x" * 100_000, b"1") + b"--xyz--\r\n",
        "".join(f"A{n}: b\r\n" for n in range(1000)).join(["--xyz\r\n", "\r\n1\r\n--xyz--\r\n"]).encode(),
        named("n" * 300, b"1") + b"--xyz--\r\n",
        named("a", b"1") * (MAX_PARTS + 1) + b"--xyz--\r\n",
    ],
)  # fmt: skip
def test_what_is_no_whole_form_is_refused(body):
    with pytest.raises(BadRequest):
        read(body)
    with pytest.raises(BadRequest):
        read(body, list(range(1, len(body))))


@pytest.mark.parametrize("kind", ["", "text/plain", "application/json", "multipart/mixed; boundary=x", "\xff"])
def test_another_type_is_refused(kind):
    with pytest.raises(UnsupportedType):
        Form(kind)


@pytest.mark.parametrize("options", ["", "; boundary", "; boundary=", "; boundary=" + "x" * 1000, '; boundary=""'])
def test_a_boundary_that_is_none_is_refused(options):
    with pytest.raises(BadRequest):
        Form("multipart/form-data" + options)


def test_what_follows_the_end_is_ignored():
    assert read(named("a", b"1") + b"--xyz--\r\nmore and more") == [("a", None, b"1")]


def test_any_damage_leaves_a_form_or_is_refused():
    rng = random.Random(2)
    whole = named("a", b"1") + named("file", b"2", '; filename="w.pth"') + b"--xyz--\r\n"
    for _ in range(500):
        body = bytearray(whole)
        for _ in range(rng.randrange(1, 5)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        with suppress(BadRequest):
            assert len(read(bytes(body), [rng.randrange(len(body))])) <= 2
