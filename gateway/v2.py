"""Shell: the routes of the Open Inference Protocol, version 2 (KServe, Triton, MLServer): `/v2/...`."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from hotpool import __version__
from hotpool.answers import Answer
from hotpool.errors import HotpoolError, NoReadyWorker, UnknownVersion

from . import models, oip
from .backend import Backend
from .failures import BadRequest, UnsupportedType, body_of, headers_of, status_of
from .health import broken
from .questions import (
    ask,
    check_plain,
    headers_in,
    headers_of_answers,
    headers_of_failure,
    options_of,
    read_body,
    send_answer,
)

EXTENSIONS = ["binary_tensor_data", "classification"]
JSON, BINARY = b"application/json", b"application/octet-stream"
# Of JSON with tensors in it, and of answers: more is done in a thread, so that other requests have their turns between.
AT_ONCE_BYTES = 64 * 1024
AT_ONCE_ANSWERS = 8
READS_AT_ONCE = 2  # of large JSON: each takes several times its size
JSON_BYTES = b"inference-header-content-length"


class _Index(msgspec.Struct):
    ready: bool = False


def routes(backend: Backend) -> list[BaseRoute]:
    protocol, infer = Protocol(backend), Infer(backend)
    model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    return [
        *(Route(f"{path}/infer", infer, methods=["POST"]) for path in (model, version)),
        Route("/v2", protocol.server),
        Route("/v2/health/live", protocol.live),
        Route("/v2/health/ready", protocol.ready),
        *(Route(f"{path}/ready", protocol.model_ready) for path in (model, version)),
        *(Route(path, protocol.model) for path in (model, version)),
        Route("/v2/repository/index", protocol.index, methods=["POST"]),
    ]


class Infer:
    """An ASGI application of its own, as `predict.Predict`."""

    def __init__(self, backend: Backend) -> None:
        self._client, self._guard, self._store = backend.client, backend.guard, backend.store
        self._reads = asyncio.Semaphore(READS_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, names = headers_in(scope), scope["path_params"]
        try:
            await self._guard.require_inference(scope)
            options = options_of(headers, names["model"], names.get("version"))
            check_plain(headers)
            _check_type(headers)
            asked = await self._read(await read_body(receive), _json_bytes(headers))
            answers = await ask(self._client, asked.questions, options, receive)
            body, json_bytes = await _write(asked, answers, self._labels(asked, answers))
        except HotpoolError as error:
            more = headers_of_failure(names["model"], error)
            await send_answer(send, status_of(error), JSON, body_of(error), more)
            return
        more = headers_of_answers(answers)
        if json_bytes is not None:
            more.append((JSON_BYTES, b"%d" % json_bytes))
        await send_answer(send, 200, JSON if json_bytes is None else BINARY, body, more)

    async def _read(self, body: bytes, json_bytes: int | None) -> oip.Asked:
        if (len(body) if json_bytes is None else json_bytes) <= AT_ONCE_BYTES:
            return oip.read_request(body, json_bytes)
        async with self._reads:
            return await asyncio.to_thread(oip.read_request, body, json_bytes)

    def _labels(self, asked: oip.Asked, answers: list[Answer]) -> tuple[str, ...]:
        """Of the version that answered. Without its manifest, classes are named by their number, as workers do."""
        if not oip.needs_labels(asked):
            return ()
        manifest = self._store.manifest(answers[0][0].digest)
        return manifest.labels if manifest else ()


class Protocol:
    """What can be asked about server and models."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self._store = backend, backend.store

    async def server(self, request: Request) -> Response:
        return _json({"name": "hotpool", "version": __version__, "extensions": EXTENSIONS})

    async def live(self, request: Request) -> Response:
        if error := broken(self._backend.client):
            return _not("live", {}, error)
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        return await self._readiness(self._backend.config.pool.model, None, {})

    async def model_ready(self, request: Request) -> Response:
        names = request.path_params
        return await self._readiness(names["model"], names.get("version"), {"name": names["model"]})

    async def model(self, request: Request) -> Response:
        """Its metadata, by the manifest of the version: that which is named, or the stable one."""
        report, names = await self._backend.broker.get(), request.path_params
        model, version = names["model"], names.get("version")
        models.check_model(report, model)
        digest = models.resolve(report, model, version) if version else models.main_digest(report, model)
        manifest = self._store.manifest(digest)
        if manifest is None:
            raise UnknownVersion(f"version {version or digest[:12]} of model {model} is not in this host's store")
        return _json(
            {
                "name": model,
                "versions": models.served(report, model),
                "platform": "hotpool",
                "inputs": oip.input_metadata(manifest.preprocessing.crop),
                "outputs": oip.output_metadata(manifest.classes),
            }
        )

    async def index(self, request: Request) -> Response:
        """All versions there are, of the pool's model."""
        body = await request.body()
        try:
            only_ready = msgspec.json.decode(body, type=_Index).ready if body.strip() else False
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadRequest(f"the request is not as it should be: {error}") from None
        report, model = await self._backend.broker.get(), self._backend.config.pool.model
        stored = await asyncio.to_thread(self._store.manifests, model)
        names = {manifest.name: manifest.digest for manifest in stored} | models.versions(report, model)
        entries = [(name, *models.index_state(report, model, digest)) for name, digest in names.items()]
        return _json(
            [
                {"name": model, "version": name, "state": state, "reason": reason}
                for name, state, reason in entries
                if state == "READY" or not only_ready
            ]
        )

    async def _readiness(self, model: str, version: str | None, about: dict[str, Any]) -> Response:
        """200 or 503: load balancers look at nothing else."""
        try:
            report = await self._backend.broker.get()
            if about:
                models.check_model(report, model)
            digest = models.resolve(report, model, version) if version else None
            models.require_ready(report, model, digest, version or "")
        except NoReadyWorker as error:
            return _not("ready", about, error)
        return _json({**about, "ready": True})


async def _write(asked: oip.Asked, answers: Sequence[Answer], labels: Sequence[str]) -> tuple[bytes, int | None]:
    n_bytes = sum(len(payload) for _, payload in answers if payload is not None)
    if len(answers) > AT_ONCE_ANSWERS or n_bytes > AT_ONCE_BYTES:
        return await asyncio.to_thread(oip.write_response, asked, answers, labels)
    return oip.write_response(asked, answers, labels)


def _json_bytes(headers: dict[bytes, bytes]) -> int | None:
    given = headers.get(JSON_BYTES)
    if given is None:
        return None
    if not given.isdigit() or len(given) > 12:
        raise BadRequest(
            f"Inference-Header-Content-Length is {given.decode('latin-1')[:100]!r}, expected a number of bytes"
        )
    return int(given)


def _check_type(headers: dict[bytes, bytes]) -> None:
    kind = headers.get(b"content-type", JSON).partition(b";")[0].strip().lower()
    if kind not in (JSON, BINARY):
        raise UnsupportedType(
            f"Content-Type is {kind.decode('latin-1')[:100]!r}, expected application/json, or application/octet-stream "
            "when binary tensors follow"
        )


def _not(what: str, about: dict[str, Any], error: HotpoolError) -> Response:
    response = _json({**about, what: False, "error": str(error), "code": error.code}, status_of(error))
    response.raw_headers += headers_of(error)
    return response


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
