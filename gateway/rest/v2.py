"""The Open Inference Protocol over REST. Inference is a plain ASGI endpoint, the rest are FastAPI routes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter

import orjson
from fastapi import APIRouter, Request, Response
from starlette.routing import Route

from gateway import __version__, pins, versions
from gateway.backends.base import Backend
from gateway.codecs import v2 as codec
from gateway.codecs import v2_models
from gateway.errors import DuetError, InvalidArgument, OpaqueModel
from gateway.information import Information, Models
from gateway.observation import Observation
from gateway.rest import asgi, compression, errors
from gateway.rest.endpoint import InferEndpoint, arrival
from gateway.statistics import Statistics
from gateway.types import InferRequest, ModelMetadata, Signature, VersionMetadata

FRONT = "v2_rest"

_MAX_INDEX_BYTES = 64 << 10


class Infer(InferEndpoint):
    """``POST /v2/models/{model}[/versions/{version}]/infer``: decode, call, encode."""

    front = FRONT

    def routes(self) -> list[Route]:
        return [
            Route("/v2/models/{model}/infer", self, methods=["POST"]),
            Route("/v2/models/{model}/versions/{version}/infer", self, methods=["POST"]),
        ]

    def render(self, error: DuetError, scope: asgi.Scope) -> tuple[int, asgi.Headers, bytes]:
        accepted = [compression.ACCEPTED] if isinstance(error, compression.UnknownCoding) else []
        return errors.status(error), [asgi.JSON, *errors.headers(error), *accepted], errors.body(error.message)

    async def answer(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send, seen: Observation) -> None:
        body = await compression.read_body(scope, receive, max_bytes=self.max_body_bytes)
        start = perf_counter()
        model, pin = _pinned(scope)
        version, header_length = _version(scope), _header_length(scope)
        named = asgi.text(scope, pins.SIGNATURE.encode())
        if header_length == 0:
            signature = await self._signature(model, pin, version, pins.signature(named))
            decoded = codec.decode_raw_request(body, signature)
        else:
            # The JSON part alone counts: binary tensors are not parsed.
            elsewhere = self.aside.takes(len(body) if header_length is None else header_length)
            if elsewhere:
                # Nothing is decoded at length for somebody whose model this is not.
                await self.backend.metadata(f"{model}@{pin}" if pin else model)
                decoding = self.decoded_aside(scope, codec.decode_request, body, header_length)
                del body
                decoded = await decoding
            else:
                decoded = codec.decode_request(body, header_length)
        timeout = codec.timeout_seconds(decoded.parameters)
        request = InferRequest(
            model,
            decoded.inputs,
            decoded.outputs,
            version,
            pins.agree(pin, codec.variant(decoded.parameters)),
            decoded.parameters,
            decoded.id,
            None if timeout is None else arrival(scope) + timeout,
            pins.signature(named, decoded.signature_name),
        )
        seen.timings["decode"] = perf_counter() - start
        response = await self.infer(request, scope)
        seen.answered(request, response)
        start = perf_counter()
        pieces, json_length = codec.encode_response(response, form=decoded.form, request_id=decoded.id)
        headers: asgi.Headers = [
            asgi.JSON if json_length is None else asgi.OCTETS,
            (b"x-duet-variant", seen.variant.encode()),
            (b"x-duet-version", seen.version.encode()),
        ]
        if json_length is not None:
            headers.append((codec.HEADER_LENGTH.encode(), str(json_length).encode()))
        coding = compression.chosen(scope)
        smaller = await compression.compressed(coding, pieces)
        if coding is not None and smaller is not None:
            headers.append((b"content-encoding", coding.encode()))
            pieces = [smaller]
        seen.timings["encode"] = perf_counter() - start
        await asgi.respond(send, 200, headers, pieces)

    async def _signature(self, model: str, variant: str | None, version: int | None, name: str) -> Signature:
        metadata = await self.backend.metadata(f"{model}@{variant}" if variant else model)
        chosen = versions.choose(metadata, version)
        if chosen.opaque:
            raise OpaqueModel(model)
        found = chosen.signatures.get(name)
        if found is None:
            known = ", ".join(sorted(chosen.signatures)) or "none"
            raise InvalidArgument(
                f"{model} has no signature {name!r}, and its signatures are {known}: name one in the header "
                f"{pins.SIGNATURE}, or send the request as JSON"
            )
        return found


def information(
    backend: Backend, *, ready: Callable[[], bool], models: Models = tuple, statistics: Statistics | None = None
) -> APIRouter:
    """What is no inference: health, metadata, configuration, statistics, index.

    ``models`` names the models of the index and of the statistics of all, ``statistics`` is what the observer fills.
    """
    router = APIRouter(tags=["Open Inference Protocol"])
    told = Information(backend, models=models, statistics=statistics or Statistics())

    @router.get("/v2", summary="Server metadata")
    async def server_metadata() -> Response:
        return _json({"name": "duet", "version": __version__, "extensions": v2_models.EXTENSIONS})

    @router.get("/v2/health/live", summary="Is the gateway alive?")
    async def live() -> Response:
        return _json({"live": True})

    @router.get("/v2/health/ready", summary="Is the gateway ready to serve?")
    async def server_ready() -> Response:
        is_ready = ready()
        return _json({"ready": is_ready}, status=200 if is_ready else 503)

    @router.get("/v2/models", summary="Names of the models")
    async def model_names() -> Response:
        return _json({"models": told.models()})

    @router.post("/v2/repository/index", summary="Each version of each model, and whether it is ready")
    async def repository_index(request: Request) -> Response:
        body = await asgi.read_body(request.scope, request.receive, max_bytes=_MAX_INDEX_BYTES)
        return _json(await told.index(only_ready=codec.decode_index_request(body)))

    # Before the paths in which "stats" could be a model's name.
    @router.get("/v2/models/stats", summary="Statistics of all models")
    async def statistics_of_all() -> Response:
        return _json(await told.statistics(None, None))

    @router.get("/v2/models/{model}/stats", summary="Statistics of a model")
    @router.get("/v2/models/{model}/versions/{version}/stats", summary="Statistics of one version")
    async def model_statistics(request: Request) -> Response:
        return _json(await told.statistics(*_named(request)))

    @router.get("/v2/models/{model}/config", summary="Triton's configuration of a model")
    @router.get("/v2/models/{model}/versions/{version}/config", summary="Triton's configuration, of one version")
    async def model_config(request: Request) -> Response:
        metadata, version = await told.describe(*_named(request))
        return _json(v2_models.config(metadata, version), headers=_served_by(metadata, version))

    @router.get("/v2/models/{model}", summary="Model metadata")
    @router.get("/v2/models/{model}/versions/{version}", summary="Model metadata, of one version")
    async def model_metadata(request: Request) -> Response:
        chosen = pins.signature(asgi.text(request.scope, pins.SIGNATURE.encode()))
        metadata, version, signature = await told.signature(*_named(request), chosen)
        return _json(v2_models.metadata(metadata, signature), headers=_served_by(metadata, version))

    @router.get("/v2/models/{model}/ready", summary="Is the model ready?")
    @router.get("/v2/models/{model}/versions/{version}/ready", summary="Is this version of the model ready?")
    async def model_ready(request: Request) -> Response:
        metadata, version = await told.describe(*_named(request))
        body = {"name": metadata.model, "ready": version.ready}
        return _json(body, status=200 if version.ready else 503, headers=_served_by(metadata, version))

    return router


def _named(request: Request) -> tuple[str, int | None]:
    model, variant = _pinned(request.scope)
    return f"{model}@{variant}" if variant else model, _version(request.scope)


def _served_by(metadata: ModelMetadata, chosen: VersionMetadata) -> dict[str, str]:
    return {pins.VARIANT: metadata.variant, pins.VERSION: str(chosen.version)}


def _json(content: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers=headers, media_type="application/json")


def _pinned(scope: asgi.Scope) -> tuple[str, str | None]:
    model, pin = pins.split_pin(scope["path_params"]["model"])
    given = asgi.header(scope, pins.VARIANT.encode())
    return model, pins.agree(pin, given.decode("latin-1") if given else None)


def _version(scope: asgi.Scope) -> int | None:
    text = scope["path_params"].get("version")
    return None if text is None else codec.version(text)


def _header_length(scope: asgi.Scope) -> int | None:
    text = asgi.header(scope, codec.HEADER_LENGTH.encode())
    if text is None:
        return None
    if not text.isdigit() or len(text) > 18:
        raise InvalidArgument("Inference-Header-Content-Length must be a whole number")
    return int(text)
