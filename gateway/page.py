"""Shell: the Web page at `/` and what it loads from `/static/`. All of it is read once, when the gateway starts."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from .backend import Backend

STATIC = Path(__file__).parent / "static"

# `data:` is for the icons in the CSS framework, `blob:` for previews of pictures that were chosen and not yet sent anywhere.
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
# A vendored file has its version in its path; ours are asked for again each time, and mostly answered with 304.
_FOR_EVER, _ASK_AGAIN = "public, max-age=31536000, immutable", "no-cache"
_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    headers: dict[str, str]

    @property
    def etag(self) -> str:
        return self.headers["ETag"]


def routes(backend: Backend) -> list[BaseRoute]:
    """A request looks a name up among these files: it never becomes a path, so none outside can be read."""
    files = {path.relative_to(STATIC).as_posix(): _read(path) for path in STATIC.rglob("*") if path.is_file()}

    async def page(request: Request) -> Response:
        return _answer(request, files["index.html"])

    async def static(request: Request) -> Response:
        file = files.get(request.path_params["name"])
        return _answer(request, file) if file else PlainTextResponse("there is no such file\n", 404, headers=_HEADERS)

    return [Route("/", page), Route("/static/{name:path}", static)]


def _read(path: Path) -> _File:
    content = path.read_bytes()
    is_versioned = "vendor" in path.relative_to(STATIC).parts
    headers = {
        **_HEADERS,
        "Content-Type": f"{_TYPES.get(path.suffix, 'text/plain')}; charset=utf-8",
        "Cache-Control": _FOR_EVER if is_versioned else _ASK_AGAIN,
        "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
    }
    return _File(content, headers)


def _answer(request: Request, file: _File) -> Response:
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=file.headers)
    return Response(file.content, headers=file.headers)
