"""Pure: the OpenAPI document of all routes: what each takes, and every status it can answer with."""

from collections.abc import Iterable, Mapping
from typing import Any

from .failures import RETRY_LATER, STATUS
from .openapi_schemas import SCHEMAS, TEXT, WHOLE, Schema, closed, one_of

Part = dict[str, Any]

JSON, HTML = "application/json", "text/html; charset=utf-8"
UNUSABLE = {422: {"bad_input"}}  # `failures.Unusable`
ALWAYS = (400, 408, 431, 503)  # said of any request by the connection itself: no HTTP, too slow, too large, too many
WITH_BODY = (413, 415, 429)
AS_ADMIN = (401, 403, 429)
BY_CONTROLLER = (413, 500, 503, 507)  # its answer is too large, or it can't write its journal


def operation(
    summary: str,
    answers: Mapping[int, Part],
    fails: Iterable[int] = (),
    *,
    body: Part | None = None,
    parameters: Iterable[Part] = (),
    is_admins: bool = False,
    or_page: bool = False,
) -> Part:
    """fails: what it may answer besides `ALWAYS`. or_page: its failures may also come as a page."""
    statuses = sorted({*ALWAYS, *fails, *(AS_ADMIN if is_admins else ()), *(WITH_BODY if body else ())} - set(answers))
    made: Part = {
        "summary": summary,
        "responses": {str(status): answer for status, answer in answers.items()}
        | {str(status): _failure(status, or_page) if or_page else _failure_ref(status) for status in statuses},
    }
    if parameters:
        made["parameters"] = list(parameters)
    if body:
        made["requestBody"] = {"required": True, "content": body}
    if is_admins:
        made["security"] = [{"token": []}, {"session": []}]
    return made


def told(schema: Schema, description: str, kind: str = JSON) -> Part:
    return {"description": description, "content": {kind: {"schema": schema}}, "headers": {"X-Request-Id": _REQUEST_ID}}


def in_path(name: str, schema: Schema) -> Part:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def in_query(name: str, schema: Schema, description: str) -> Part:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def in_header(name: str, schema: Schema, description: str) -> Part:
    return {"name": name, "in": "header", "schema": schema, "description": description}


_REQUEST_ID: Part = {"schema": TEXT, "description": "The request's own, or one made for it."}
_RETRY_AFTER: Part = {"schema": WHOLE, "description": "Seconds.", "required": False}


def failures() -> dict[str, Part]:
    """One response for each status, with the codes that it may have."""
    return {f"Failure{status}": _failure(status) for status in sorted(set(STATUS.values()))}


def _failure_ref(status: int) -> Part:
    return {"$ref": f"#/components/responses/Failure{status}"}


def _failure(status: int, or_page: bool = False) -> Part:
    codes = sorted({code for code, one in STATUS.items() if one == status} | UNUSABLE.get(status, set()))
    made = told(closed(error={**TEXT, "description": "plain text for people"}, code=one_of(*codes)), " or ".join(codes))
    if or_page:
        made["content"][HTML] = {"schema": TEXT}
    if status in RETRY_LATER:
        made["headers"] = {**made["headers"], "Retry-After": _RETRY_AFTER}
    return made


def document(paths: Mapping[str, Mapping[str, Part]]) -> Part:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hotpool",
            "version": "1",
            "description": "A pool of workers that serves an image classifier and changes its weights while it serves.",
        },
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "responses": failures(),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "the text in HOME/admin-token"},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "hotpool_session",
                    "description": "POST /api/session",
                },
            },
        },
    }
