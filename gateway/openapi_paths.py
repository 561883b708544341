"""Pure: every route, for the OpenAPI document. `tests/test_openapi.py` compares them with the application's."""

from .openapi import BY_CONTROLLER, HTML, JSON, Part, in_path, in_query, operation, told
from .openapi_inference import FORM, INFERENCE, PLAIN
from .openapi_schemas import SCHEMAS, TEXT, WHOLE, Schema, closed, listed, one_of, ref
from .orders import MAX_QUERY

_NUMBER = in_path("number", {"type": "integer", "minimum": 1, "maximum": 2**53 - 1})
_VERSION = in_path("version", {"type": "string", "minLength": 1, "maxLength": 128})
_WHY = in_query("reason", {"type": "string", "maxLength": MAX_QUERY}, "why; kept in the journal")
_NEWEST = in_query("n", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}, "how many")
_EVENTS = "text/event-stream; charset=utf-8"
_FILE: Schema = {"type": "string", "format": "binary", "description": "weights, in .safetensors, .pth or .pt"}
_FIELDS: Schema = SCHEMAS["Fields"]
_UPLOAD: Schema = {**_FIELDS, "required": ["file", "name"], "properties": {"file": _FILE, **_FIELDS["properties"]}}


def _json(name: str) -> Part:
    return {JSON: {"schema": ref(name)}}


def _look(summary: str, schema: Schema, *fails: int, parameters: tuple[Part, ...] = ()) -> Part:
    return operation(summary, {200: told(schema, "as it is now")}, (*BY_CONTROLLER, *fails), parameters=parameters)


def _command(summary: str, body: str = "Order") -> Part:
    """Of the rollout under way."""
    answers = {202: told(ref("Ordered"), "written down; the controller carries it out")}
    fails = (404, 409, 422, *BY_CONTROLLER)
    return operation(summary, answers, fails, body=_json(body), parameters=(_NUMBER,), is_admins=True)


_SESSION = told(ref("Session"), "who gives orders in this browser")
SESSION: Part = {
    "get": operation("Who is logged in", {200: _SESSION}),
    "post": operation("Log in with the admin token", {200: _SESSION}, (401, 403, 429), body=_json("Login")),
    "delete": operation("Log out", {200: _SESSION}),
}
LOOKS: dict[str, Part] = {
    "/api/status": {"get": _look("Health, workers, queue and the rollout under way", ref("Status"))},
    "/api/workers": {"get": _look("The workers", listed(ref("WorkerReport")))},
    "/api/audit": {
        "get": _look(
            "The newest events of the journal, the oldest of them first", listed(ref("Event")),
            parameters=(_NEWEST,),
        ),
    },
    "/api/events": {
        "get": operation(
            "What changes, as it changes: events `history`, `status`, `rollout`, `traffic` and `down`",
            {200: told(TEXT, "server-sent events; it does not end", _EVENTS)},
        )
    },
    "/api/jobs/{number}": {"get": _look("A version that is being added", ref("Job"), 404, parameters=(_NUMBER,))},
    "/api/openapi.json": {"get": operation("This document", {200: told({"type": "object"}, "OpenAPI 3.1")})},
}  # fmt: skip
ROLLOUTS: dict[str, Part] = {
    "/api/rollouts": {
        "get": _look("The newest rollouts, the oldest of them first", listed(ref("Rollout")), parameters=(_NEWEST,)),
        "post": operation(
            "Move the pool to another version",
            {
                200: told(ref("Started"), "nothing was ordered: it is stable already, or only planned"),
                202: told(ref("Started"), "ordered"),
            },
            (404, 409, 422, *BY_CONTROLLER), body=_json("Start"), is_admins=True,
        ),
    },
    "/api/rollouts/undo": {
        "post": operation(
            "Go back to the stable version before this one; a rollout under way is aborted",
            {200: told(ref("Undone"), "only planned"), 202: told(ref("Undone"), "ordered, or aborted what was under way")},
            (409, 422, *BY_CONTROLLER), body=_json("Undo"), is_admins=True,
        ),
    },
    "/api/rollouts/{number}": {"get": _look("One rollout, now", ref("RolloutNow"), 404, parameters=(_NUMBER,))},
    "/api/rollouts/{number}/report": {
        "get": operation(
            "The page that a rollout leaves", {200: told(TEXT, "one file, without script", HTML)},
            (404, *BY_CONTROLLER), parameters=(_NUMBER,),
        ),
    },
    "/api/rollouts/{number}/pause": {"post": _command("Hold it; a step that has begun ends first")},
    "/api/rollouts/{number}/resume": {"post": _command("Let it go on")},
    "/api/rollouts/{number}/promote": {"post": _command("Let it leave its pause or step, whatever the gates say", "Promote")},
    "/api/rollouts/{number}/abort": {"post": _command("Bring every worker back to the stable version")},
}  # fmt: skip
VERSIONS: dict[str, Part] = {
    "/api/versions": {
        "get": _look("All versions that are stored", listed(ref("StoredVersion"))),
        "post": operation(
            "Upload weights: they are checked and become a version",
            {202: told(closed(job=WHOLE), "received; watch /api/jobs/{job}")},
            (409, 422, *BY_CONTROLLER), body={FORM: {"schema": _UPLOAD}}, is_admins=True,
        ),
    },
    "/api/versions/{version}": {
        "delete": operation(
            "Remove a version that nobody needs", {200: told(closed(removed=TEXT), "its digest")},
            (404, 409, 422, *BY_CONTROLLER), parameters=(_VERSION, _WHY),
            is_admins=True,
        ),
    },
    "/update-model": {
        "post": operation(
            "Add a version if need be, and roll it out",
            {200: told(ref("Updating"), "it is stable already"), 202: told(ref("Updating"), "ordered; watch says where")},
            (404, 409, 422, *BY_CONTROLLER), body=_json("Update"), is_admins=True,
        ),
    },
}  # fmt: skip
# A name with a line break in it fits no route: that is told as of any path where nothing is.
_NO_FILE: Part = {PLAIN: {"schema": TEXT}, JSON: {"schema": closed(error=TEXT, code=one_of("not_found"))}}
PAGE: dict[str, Part] = {
    "/": {"get": operation("The Web page", {200: told(TEXT, "for browsers", HTML)})},
    "/static/{name}": {
        "get": operation(
            "What the page is made of",
            {200: {"description": "a file"}, 404: {**told(TEXT, "there is no such file"), "content": _NO_FILE}},
            parameters=(in_path("name", TEXT),),
        ),
    },
}  # fmt: skip
PATHS: dict[str, Part] = {**INFERENCE, **PAGE, "/api/session": SESSION, **LOOKS, **ROLLOUTS, **VERSIONS}
