"""The files of the Web page: how they are served, and that they load nothing from elsewhere."""

import asyncio
import hashlib
import re
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from starlette.applications import Starlette

from gateway.page import STATIC, routes

OURS = sorted(path for path in STATIC.iterdir() if path.is_file())


APP = Starlette(routes=routes(None))  # type: ignore[arg-type]  # the page alone needs no pool


def ask(path, method="GET", **headers):
    """Without a client's own ideas of what a path with dots means."""
    sent: list[Any] = []

    async def receive():
        return {"type": "http.request"}

    async def send(message):
        sent.append(message)

    names = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": unquote(path), "raw_path": path.encode(), "headers": names}
    asyncio.run(APP({**scope, "query_string": b"", "root_path": ""}, receive, send))
    start, *bodies = sent
    body = b"".join(part.get("body", b"") for part in bodies)
    return httpx.Response(start["status"], headers=start["headers"], content=body)


def test_the_page_may_run_and_load_what_is_ours_alone():
    answer = ask("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["object-src"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert not {"script-src", "style-src", "connect-src"} & set(policy), "these follow default-src"


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/static/nothing.js"])
def test_every_answer_tells_nobody_where_it_came_from_and_stands_in_no_frame(path):
    headers = ask(path).headers
    assert headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize("path", [path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file()])
def test_each_file_is_served_as_it_is_and_not_sent_twice(path):
    answer = ask(f"/static/{path}")
    assert (answer.status_code, answer.content) == (200, (STATIC / path).read_bytes())
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "html": "text/html"}
    assert answer.headers["content-type"].startswith(kinds.get(path.rpartition(".")[2], "text/plain"))
    assert ("immutable" in answer.headers["cache-control"]) == path.startswith("vendor/")
    again = ask(f"/static/{path}", if_none_match=answer.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")
    assert ask(f"/static/{path}", "HEAD").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "../page.py",
        "%2e%2e/page.py",
        "..%2fpage.py",
        "vendor/../../page.py",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "vendor",
        "",
        "main.js/",
        "MAIN.JS",
        "..\\page.py",
        "main.js%00",
    ],
)
def test_no_path_outside_can_be_read(path):
    answer = ask(f"/static/{path}")
    assert answer.status_code == 404
    assert b"import" not in answer.content
    assert b"root" not in answer.content


def test_vendored_files_are_those_of_their_packages():
    listed = dict(re.findall(r"\| `([^`]+)` \| `([0-9a-f]{64})` \|", (STATIC / "vendor" / "README.md").read_text()))
    found = {
        path.relative_to(STATIC / "vendor").as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (STATIC / "vendor").glob("*/*")
    }
    assert listed == found
    folders = {path.partition("/")[0] for path in found}
    assert all(any(path.startswith(f"{folder}/LICENSE") for path in found) for folder in folders)


def test_nothing_of_ours_names_another_host_or_becomes_markup():
    for path in OURS:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", text), path.name
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert forbidden not in text, f"{path.name} has {forbidden}"
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|<script(?![^>]*\bsrc=)|\son[a-z]+=|\sstyle=", page)


def test_each_file_is_loaded_by_another():
    text = {path.name: path.read_text() for path in OURS}
    for name in text.keys() - {"index.html"}:
        assert any(re.search(rf'["/]{re.escape(name)}["#]', other) for path, other in text.items() if path != name), (
            name
        )
    loaded = re.findall(r'(?:href|src)="static/([^"#]+)"', text["index.html"])
    modules = [
        module for name in text if name.endswith(".js") for module in re.findall(r'from "\./([^"]+)"', text[name])
    ]
    assert all((STATIC / path).is_file() for path in loaded + modules)
