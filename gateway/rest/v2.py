"""The Open Inference Protocol over REST. Inference is a plain ASGI endpoint, the rest are FastAPI routes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from time import perf_counter

import orjson
from fastapi import APIRouter, Request, Response
from starlette.routing import Route

from gateway import __version__, pins
from gateway.backends.base import Backend
from gateway.codecs import v2 as codec
from gateway.errors import DuetError, InvalidArgument, NotFound, Unimplemented
from gateway.observation import Observation
from gateway.rest import asgi, errors
from gateway.rest.endpoint import InferEndpoint
from gateway.types import InferRequest, ModelMetadata, Parameter, VersionMetadata

FRONT = "v2_rest"
EXTENSIONS = ["binary_tensor_data"]


class Infer(InferEndpoint):
    """``POST /v2/models/{model}[/versions/{version}]/infer``: decode, call, encode."""

    front = FRONT

    def routes(self) -> list[Route]:
        return [
            Route("/v2/models/{model}/infer", self, methods=["POST"]),
            Route("/v2/models/{model}/versions/{version}/infer", self, methods=["POST"]),
        ]

    def render(self, error: DuetError, scope: asgi.Scope) -> tuple[int, asgi.Headers, bytes]:
        return errors.status(error), [asgi.JSON, *errors.headers(error)], errors.body(error.message)

    async def answer(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send, seen: Observation) -> None:
        if asgi.header(scope, b"content-encoding") not in (None, b"identity"):
            raise Unimplemented("no Content-Encoding is taken here; send the body as it is")
        body = await asgi.read_body(scope, receive, max_bytes=self.max_body_bytes)
        start = perf_counter()
        decoded = codec.decode_request(body, _header_length(scope))
        model, variant = _pinned(scope, decoded.parameters.get("variant"))
        request = InferRequest(
            model,
            decoded.inputs,
            decoded.outputs,
            _version(scope),
            variant,
            decoded.parameters,
            decoded.id,
            _deadline(decoded.parameters),
        )
        seen.timings["decode"] = perf_counter() - start
        response = await self.backend.infer(request)
        seen.answered(request, response)
        start = perf_counter()
        pieces, header_length = codec.encode_response(response, form=decoded.form, request_id=decoded.id)
        seen.timings["encode"] = perf_counter() - start
        headers: asgi.Headers = [
            asgi.JSON if header_length is None else asgi.OCTETS,
            (b"x-duet-variant", seen.variant.encode()),
            (b"x-duet-version", seen.version.encode()),
        ]
        if header_length is not None:
            headers.append((codec.HEADER_LENGTH.encode(), str(header_length).encode()))
        await asgi.respond(send, 200, headers, pieces)


def information(backend: Backend, *, ready: Callable[[], bool]) -> APIRouter:
    """Server and model metadata, and health."""
    router = APIRouter(tags=["Open Inference Protocol"])

    @router.get("/v2", summary="Server metadata")
    async def server_metadata() -> Response:
        return _json({"name": "duet", "version": __version__, "extensions": EXTENSIONS})

    @router.get("/v2/health/live", summary="Is the gateway alive?")
    async def live() -> Response:
        return _json({"live": True})

    @router.get("/v2/health/ready", summary="Is the gateway ready to serve?")
    async def server_ready() -> Response:
        is_ready = ready()
        return _json({"ready": is_ready}, status=200 if is_ready else 503)

    @router.get("/v2/models/{model}", summary="Model metadata")
    @router.get("/v2/models/{model}/versions/{version}", summary="Model metadata, of one version")
    async def model_metadata(request: Request) -> Response:
        metadata, chosen = await _describe(backend, request)
        return _json(codec.model_metadata(metadata, chosen.signature), headers=_served_by(metadata, chosen))

    @router.get("/v2/models/{model}/ready", summary="Is the model ready?")
    @router.get("/v2/models/{model}/versions/{version}/ready", summary="Is this version of the model ready?")
    async def model_ready(request: Request) -> Response:
        metadata, chosen = await _describe(backend, request)
        body = {"name": metadata.model, "ready": chosen.ready}
        return _json(body, status=200 if chosen.ready else 503, headers=_served_by(metadata, chosen))

    return router


async def _describe(backend: Backend, request: Request) -> tuple[ModelMetadata, VersionMetadata]:
    model, variant = _pinned(request.scope, None)
    metadata = await backend.metadata(f"{model}@{variant}" if variant else model)
    version = _version(request.scope)
    if version is None:
        version = metadata.default
    if version is None:
        return metadata, VersionMetadata(0, ready=False)
    if version not in metadata.versions:
        known = ", ".join(map(str, metadata.versions))
        raise NotFound(f"{metadata.model}@{metadata.variant} has no version {version}; its versions are {known}")
    return metadata, metadata.versions[version]


def _served_by(metadata: ModelMetadata, chosen: VersionMetadata) -> dict[str, str]:
    return {pins.VARIANT: metadata.variant, pins.VERSION: str(chosen.version)}


def _json(content: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers=headers, media_type="application/json")


def _pinned(scope: asgi.Scope, parameter: Parameter | None) -> tuple[str, str | None]:
    model, pin = pins.split_pin(scope["path_params"]["model"])
    if parameter is not None and not isinstance(parameter, str):
        raise InvalidArgument("parameter 'variant' must be a string")
    given = asgi.header(scope, pins.VARIANT.encode())
    return model, pins.agree(pin, given.decode("latin-1") if given else None, parameter)


def _version(scope: asgi.Scope) -> int | None:
    text = scope["path_params"].get("version")
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 18:
        raise NotFound(f"version {text!r} does not exist: versions are whole numbers")
    return int(text)


def _header_length(scope: asgi.Scope) -> int | None:
    text = asgi.header(scope, codec.HEADER_LENGTH.encode())
    if text is None:
        return None
    if not text.isdigit() or len(text) > 18:
        raise InvalidArgument("Inference-Header-Content-Length must be a whole number")
    return int(text)


def _deadline(parameters: Mapping[str, Parameter]) -> float | None:
    """Triton's ``timeout`` parameter: microseconds from now."""
    timeout = parameters.get("timeout")
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout <= 0:
        raise InvalidArgument("parameter 'timeout' must be a whole number of microseconds above 0")
    return asyncio.get_running_loop().time() + timeout / 1e6
