"""What `POST /predict` reads of a request, and what it writes, without a server."""

import asyncio
import json

import pytest
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from gateway import predict
from gateway.app import Direct
from gateway.failures import BadRequest, UnsupportedType
from gateway.predict import failure_page, file_in, page, picture_in, prefers_html, read_query
from hotpool import ClassScore, Prediction, QueueFull

FIREFOX = b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (b"", False),
        (b"*/*", False),
        (b"application/json", False),
        (FIREFOX, True),
        (b"TEXT/HTML", True),
        (b"text/html;q=0.5, application/json", False),
        (b"text/html, application/json;q=0.9", True),
        (b"text/html;q=0", False),
        (b"text/html;q=many", False),
        (b"text/html;level=1;q=0.4, application/json;q=0.3", True),
    ],
)
def test_a_page_is_for_who_prefers_one(accept, expected):
    assert prefers_html(accept) is expected


def test_a_query_may_name_top_and_version():
    assert read_query(b"") == (3, None)
    assert read_query(b"top=5&version=v%32") == (5, "v2")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (b"top=0", "top is '0', expected a whole number from 1"),
        (b"top=", "top is ''"),
        (b"top=-1", "top is '-1'"),
        (b"top=3.0", "top is '3.0'"),
        (b"top=99999999999999999999", "top is"),
        (b"Version=v2", "no parameter 'Version'; there are top and version"),
    ],
)
def test_what_is_wrong_with_a_query_is_named(query, said):
    with pytest.raises(BadRequest, match=said):
        read_query(query)


@pytest.mark.parametrize("kind", [b"image/jpeg", b"Image/PNG; x=1", b"application/octet-stream", b""])
def test_a_body_may_be_the_picture_itself(kind):
    assert picture_in(b"picture", kind) == b"picture"


@pytest.mark.parametrize("kind", [b"application/x-www-form-urlencoded", b"text/plain", b"application/json"])
def test_another_type_is_told_how_to_send_a_picture(kind):
    with pytest.raises(UnsupportedType, match="curl -F file=@cat"):
        picture_in(b"picture", kind)


def part(name: str, data: bytes, filename: str | None = "cat.jpg") -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    return f'--edge\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data + b"\r\n"


FORM = b"multipart/form-data; boundary=edge"
END = b"--edge--\r\n"


def test_a_forms_file_is_the_picture_whatever_else_it_has():
    body = part("note", b"hello", None) + part("file", b"pic\r\n--edg\r\nture") + part("other", b"x") + END
    assert picture_in(body, FORM) == b"pic\r\n--edg\r\nture"
    assert picture_in(part("file", b"picture", None) + END, FORM) == b"picture"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (part("picture", b"x") + END, "no field named file"),
        (END, "no field named file"),
        (part("file", b"x") + part("file", b"y") + END, "several fields named file"),
        (part("file", b"") + END, "no picture"),
        (part("file", b"x"), "ends before its last boundary"),
        (b"nonsense", "the form"),
    ],
)
def test_what_is_wrong_with_a_form_is_named(body, said):
    with pytest.raises(BadRequest, match=said):
        picture_in(body, FORM)


def test_an_empty_body_is_no_picture():
    with pytest.raises(BadRequest, match="no picture"):
        picture_in(b"", b"image/png")


def test_a_form_of_another_kind_is_none():
    with pytest.raises(UnsupportedType):
        file_in(b"", "multipart/mixed; boundary=edge")


def test_labels_and_messages_are_text_on_a_page_never_markup():
    nasty = "<script>alert('&')</script>"
    shown = page(Prediction((ClassScore(0, nasty, 0.5),), "m", nasty, "d" * 64, "worker-0", 1, 1.0, 2.0)).decode()
    assert "<script" not in shown
    assert "&lt;script&gt;alert(&#x27;&amp;&#x27;)" in shown
    assert "50.0%" in shown
    assert "<script" not in failure_page(QueueFull(nasty)).decode()


# ---- past the application's layers


class Raises:
    """A route's application that ends with this."""

    def __init__(self, error):
        self.error = error

    async def __call__(self, scope, receive, send):
        raise self.error


async def passed_by(scope, receive, send):
    await send("the application")


def asked(route_error, method="POST", path=predict.PATH):
    """What was sent, and what was raised."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        raise AssertionError("nobody reads it")

    direct = Direct(passed_by, Route(predict.PATH, Raises(route_error), methods=["POST"]))
    try:
        asyncio.run(direct({"type": "http", "method": method, "path": path, "headers": []}, receive, send))
    except (ValueError, ClientDisconnect) as error:
        return sent, error
    return sent, None


@pytest.mark.parametrize(("method", "path"), [("GET", "/predict"), ("POST", "/predict/"), ("POST", "/v2")])
def test_all_but_pictures_go_to_the_application(method, path):
    assert asked(ValueError(), method, path) == (["the application"], None)


def test_a_bug_is_answered_without_a_word_of_it_and_raised_for_the_log():
    bug = ValueError("secret")
    (start, body), raised = asked(bug)
    assert raised is bug
    assert (start["status"], json.loads(body["body"])["code"]) == (500, "internal")
    assert b"secret" not in body["body"]


def test_who_hung_up_is_told_nothing():
    gone = ClientDisconnect()
    assert asked(gone) == ([], gone)
