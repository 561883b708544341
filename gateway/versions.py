"""Shell: the versions of the pool: list, upload, remove, and `/update-model`: all in one order."""

import contextlib
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import msgspec
from anyio import to_thread
from msgspec import UNSET, to_builtins
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from hotpool.errors import Conflict, HotpoolError, UnknownVersion
from hotpool.states import Executed

from .api import found, number_in
from .backend import Backend
from .bodies import read_json
from .failures import BadRequest
from .folders import find_allowed
from .multipart import Form
from .orders import MAX_QUERY, Fields, Update
from .resource import resource, told
from .uploads import Uploads


def routes(backend: Backend) -> list[BaseRoute]:
    versions = Versions(backend)
    return [
        resource("/api/versions", GET=versions.list, POST=versions.upload),
        resource("/api/versions/{version}", DELETE=versions.remove),
        resource("/api/jobs/{number}", GET=versions.job),
        resource("/update-model", POST=versions.update),
    ]


class Versions:
    def __init__(self, backend: Backend) -> None:
        self._guard, self._controller = backend.guard, backend.controller
        self._folders = backend.config.gateway.model_folders
        self._uploads = Uploads(backend.home.uploads)
        self._uploads.sweep()

    async def list(self, request: Request) -> Response:
        return told(await self._controller.ask("versions"))

    async def job(self, request: Request) -> Response:
        return told(await found(self._controller.ask("job", job=number_in(request))))

    async def upload(self, request: Request) -> Response:
        operator = await self._guard.require_admin(request)
        form = Form(request.headers.get("content-type", ""))
        upload = await self._uploads.receive(form, request.stream(), self._check)
        try:
            job = await self._add(str(upload.path), operator, _add_of(upload.fields))
        except BaseException as error:
            # A controller that was too slow to say so may have begun with the file; then it removes it, or a sweep does later.
            if not (isinstance(error, HotpoolError) and error.executed is Executed.MAYBE):
                await upload.remove()
            raise
        return told({"job": job}, 202)

    async def remove(self, request: Request) -> Response:
        operator = await self._guard.require_admin(request)
        reason = request.query_params.get("reason", "")
        if len(reason) > MAX_QUERY:
            raise BadRequest(f"reason has {len(reason)} characters, allowed are {MAX_QUERY}")
        version = request.path_params["version"]
        return told(await self._controller.order("remove", version=version, reason=reason, operator=operator))

    async def update(self, request: Request) -> Response:
        operator = await self._guard.require_admin(request)
        asked: dict[str, Any] = to_builtins(await read_json(request, Update))
        if asked.keys() <= {"version", "reason"} and "version" in asked:
            return await self._roll(operator, asked)
        if "version" in asked or "model_path" not in asked:
            raise BadRequest("expected either version, or model_path and what is told of that file")
        source = await to_thread.run_sync(find_allowed, asked.pop("model_path"), self._folders)
        job = await self._add(str(source), operator, {"name": name_of(source), **asked, "then_start": True})
        return told({"rollout": None, "job": job, "watch": f"/api/jobs/{job}"}, 202)

    def _check(self, given: Mapping[str, str]) -> None:
        """In a thread: what came before a file is looked at before the file is received."""
        name = read_fields(given).name
        if name is UNSET:
            return
        with contextlib.suppress(UnknownVersion):
            stored = self._controller.call("version", version=name)
            if stored["name"] == name:  # and not only its digest begins so
                raise Conflict(f"model {stored['model']} has a version {name} already; choose another name")

    async def _add(self, source: str, operator: str, asked: dict[str, Any]) -> int:
        job: int = (await self._controller.order("add", source=source, operator=operator, **asked))["job"]
        return job

    async def _roll(self, operator: str, asked: dict[str, Any]) -> Response:
        made = await self._controller.order("start", operator=operator, **asked)
        if made["rollout"] is None:
            return told({"rollout": None, "job": None, "watch": "/api/status"})
        number = made["rollout"]["number"]
        return told({"rollout": number, "job": None, "watch": f"/api/rollouts/{number}"}, 202)


def read_fields(given: Mapping[str, str]) -> Fields:
    """What was left empty in a form was left out. Raises BadRequest."""
    try:
        return msgspec.convert({name: text for name, text in given.items() if text.strip()}, Fields)
    except msgspec.ValidationError as error:
        raise BadRequest(f"the form is not as it should be: {error}") from None


def name_of(file: PurePath) -> str:
    """What a version is called that was not given a name. Raises BadRequest."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", file.stem).lstrip("._-")[:64]
    if not name:
        raise BadRequest(f"no name can be made of {file.name[:100]!r}: give the version a name")
    return name


def _add_of(given: Mapping[str, str]) -> dict[str, Any]:
    """What the controller wants to know of an uploaded file."""
    asked: dict[str, Any] = to_builtins(read_fields(given))
    if "labels" in asked:
        asked["labels"] = asked["labels"].strip("\n").splitlines()
    if "name" not in asked:
        raise BadRequest("the form has no name for the version")
    return asked
