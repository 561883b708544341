"""Pure: the routes of inference and health, for the OpenAPI document."""

from .openapi import HTML, JSON, Part, in_header, in_path, in_query, operation, told
from .openapi_schemas import TENSOR, TEXT, TRUTH, Schema, closed, listed, one_of, open_object, ref

BINARY, FORM = "application/octet-stream", "multipart/form-data"
PLAIN, SCRAPED = "text/plain; charset=utf-8", "text/plain; version=0.0.4; charset=utf-8"

_NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 128}
_MODEL, _VERSION = in_path("model", _NAME), in_path("version", _NAME)
_ASKED: tuple[Part, ...] = (
    in_header(
        "X-Request-Timeout-Seconds",
        {"type": "number", "exclusiveMinimum": 0, "maximum": 3600},
        "the deadline; without it 10",
    ),
    in_header("X-Hotpool-Route-Key", _NAME, "who asks: the same version for the same key"),
    in_header("X-Request-Id", TEXT, "comes back"),
)
# 401, 403: where a token for inference is wanted.
_FAILS = (401, 403, 404, 413, 415, 422, 429, 500, 503, 504)
_SOURCE: Part = {
    f"X-Hotpool-{name}": {"schema": TEXT, "description": "Who answered."}
    for name in ("Model", "Version", "Digest", "Worker")
} | {"Server-Timing": {"schema": TEXT, "description": "queue and service, in milliseconds"}}


def _answered(*contents: tuple[str, Schema]) -> Part:
    made = told({}, "the answer, and who gave it")
    return {
        **made,
        "content": {kind: {"schema": schema} for kind, schema in contents},
        "headers": made["headers"] | _SOURCE,
    }


_FILE: Schema = {"type": "string", "format": "binary", "description": "a picture: JPEG, PNG, WebP, BMP or GIF"}
_PICTURE: Part = {
    FORM: {"schema": {"type": "object", "required": ["file"], "properties": {"file": _FILE}}},
    "image/*": {"schema": _FILE},
    BINARY: {"schema": _FILE},
}
_READY = open_object(ready=TRUTH)
_METADATA = closed(name=TEXT, versions=listed(TEXT), platform=TEXT, inputs=listed(TENSOR), outputs=listed(TENSOR))
_ENTRY = closed(name=TEXT, version=TEXT, state=one_of("READY", "LOADING", "UNAVAILABLE"), reason=TEXT)


def _infer(*path: Part) -> Part:
    answers = {200: _answered((JSON, ref("InferResponse")), (BINARY, {}))}
    body = {
        JSON: {"schema": ref("InferRequest")},
        BINARY: {
            "schema": {
                "type": "string",
                "format": "binary",
                "description": "JSON, then tensors; see Inference-Header-Content-Length",
            }
        },
    }
    length = in_header(
        "Inference-Header-Content-Length", {"type": "integer", "minimum": 1}, "bytes of JSON before the tensors"
    )
    return {"post": operation("Infer", answers, _FAILS, body=body, parameters=(*path, length, *_ASKED))}


_IS_NOT = told(open_object(error=TEXT, code=TEXT), "it is not")


def _ready(*path: Part) -> Part:
    answers = {200: told(_READY, "it would answer"), 503: _IS_NOT}
    return {"get": operation("Whether it would be answered", answers, (404,) if path else (), parameters=path)}


def _metadata(*path: Part) -> Part:
    return {
        "get": operation(
            "What goes in and what comes out", {200: told(_METADATA, "of a version")}, (404,), parameters=path
        )
    }


_SINGLE, _NAMED = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
_TOP = in_query("top", {"type": "integer", "minimum": 1, "maximum": 100_000, "default": 3}, "how many classes")
_OF_VERSION = in_query("version", _NAME, "a version's name or digest; without it the pool chooses")
_INDEX: Part = {JSON: {"schema": {"type": "object", "properties": {"ready": TRUTH}}}}
PREDICT: Part = {
    "post": operation(
        "What is in the picture; as a page for who prefers text/html",
        {200: _answered((JSON, ref("Prediction")), (HTML, TEXT))},
        _FAILS, body=_PICTURE, parameters=(_TOP, _OF_VERSION, *_ASKED), or_page=True,
    ),
}  # fmt: skip
PROTOCOL: dict[str, Part] = {
    "/v2": {
        "get": operation("The server", {200: told(closed(name=TEXT, version=TEXT, extensions=listed(TEXT)), "its extensions")})
    },
    "/v2/health/live": {"get": operation("The gateway is alive", {200: told(closed(live=TRUTH), "it is"), 503: _IS_NOT})},
    "/v2/health/ready": _ready(),
    _SINGLE: _metadata(_MODEL),
    f"{_SINGLE}/ready": _ready(_MODEL),
    f"{_SINGLE}/infer": _infer(_MODEL),
    _NAMED: _metadata(_MODEL, _VERSION),
    f"{_NAMED}/ready": _ready(_MODEL, _VERSION),
    f"{_NAMED}/infer": _infer(_MODEL, _VERSION),
    "/v2/repository/index": {
        "post": operation("All versions and their state", {200: told(listed(_ENTRY), "a list")}, (413, 429), body=_INDEX)
    },
}  # fmt: skip
HEALTH: dict[str, Part] = {
    "/healthz": {"get": operation("The gateway is alive", {200: told(TEXT, "ok", PLAIN)})},
    "/readyz": {"get": operation("The pool would answer", {200: told(TEXT, "ok", PLAIN)})},
    "/metrics": {"get": operation("What all of it has counted, for Prometheus", {200: told(TEXT, "metrics", SCRAPED)})},
}
INFERENCE: dict[str, Part] = {"/predict": PREDICT, **PROTOCOL, **HEALTH}
