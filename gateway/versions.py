"""Shell: the versions of the pool: list, upload, remove, and `/update-model`: all in one order."""

from functools import partial
from typing import Any

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from .api import found, number_in
from .backend import Backend
from .bodies import read_json
from .failures import BadRequest
from .folders import find_allowed
from .jobs import Job, Jobs
from .multipart import Form
from .orders import MAX_QUERY, Update
from .resource import resource, told
from .uploads import Upload, Uploads


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
        self._jobs = Jobs(backend.controller)
        self._uploads = Uploads(backend.home.root / "uploads")
        self._uploads.sweep()

    async def list(self, request: Request) -> Response:
        return told(await self._controller.ask("versions"))

    async def job(self, request: Request) -> Response:
        return told(await found(self._jobs.view(number_in(request))))

    async def upload(self, request: Request) -> Response:
        operator = await self._guard.require_admin(request)
        form = Form(request.headers.get("content-type", ""))
        upload = await self._uploads.receive(form, request.stream())
        try:
            job = await self._add(str(upload.path), operator, **_asked(upload))
        except BaseException:
            upload.remove()
            raise
        self._jobs.follow(job, partial(_remove, upload))
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
        asked = await read_json(request, Update)
        of_file = {"name": asked.name, "arch": asked.arch, "precision": asked.precision}
        given = {name: value for name, value in of_file.items() if value is not UNSET}
        if asked.version is not UNSET and asked.model_path is UNSET and not given:
            return await self._roll(asked.version, asked.reason, operator)
        if asked.version is not UNSET or asked.model_path is UNSET or "name" not in given:
            raise BadRequest("expected either version, or model_path and name")
        source = find_allowed(asked.model_path, self._folders)
        job = await self._add(str(source), operator, reason=asked.reason, **given)
        self._jobs.follow(job, partial(self._roll_added, asked.reason, operator))
        return told({"rollout": None, "job": job, "watch": f"/api/jobs/{job}"}, 202)

    async def _add(self, source: str, operator: str, **asked: Any) -> int:
        job: int = (await self._controller.order("add", source=source, operator=operator, **asked))["job"]
        return job

    async def _roll(self, version: str, reason: str, operator: str) -> Response:
        made = await self._controller.order("start", version=version, reason=reason, operator=operator)
        if made["rollout"] is None:
            return told({"rollout": None, "job": None, "watch": "/api/status"})
        number = made["rollout"]["number"]
        return told({"rollout": number, "job": None, "watch": f"/api/rollouts/{number}"}, 202)

    async def _roll_added(self, reason: str, operator: str, job: Job | None) -> int | None:
        if job is None or job["state"] != "done" or job["is_stable"]:
            return None
        made = await self._controller.order("start", version=job["version"]["digest"], reason=reason, operator=operator)
        number: int | None = made["rollout"] and made["rollout"]["number"]
        return number


async def _remove(upload: Upload, job: Job | None) -> None:
    upload.remove()


def _asked(upload: Upload) -> dict[str, Any]:
    """What the controller wants to know of a file. What was left empty in the form was left out."""
    given: dict[str, Any] = {name: text for name, text in upload.fields.items() if text.strip()}
    if "labels" in given:
        given["labels"] = given["labels"].strip("\n").splitlines()
    if "name" not in given:
        raise BadRequest("the form has no name for the version")
    return {"reason": "", **given}
