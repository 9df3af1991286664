"""The Open Inference Protocol over REST. Inference is a plain ASGI endpoint, the rest are FastAPI routes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter

import orjson
from fastapi import APIRouter, Request, Response
from starlette.routing import Route

from gateway import __version__, pins
from gateway.backends.base import Entry, completed
from gateway.codecs import v2 as codec
from gateway.codecs import v2_models
from gateway.core.modelref import ModelRef
from gateway.errors import DuetError, InvalidArgument, OpaqueModel
from gateway.information import Information, Models
from gateway.observation import Observation
from gateway.rest import asgi, compression, errors
from gateway.rest.endpoint import InferEndpoint, arrival
from gateway.statistics import Statistics
from gateway.types import InferRequest, ModelMetadata, Target, Tensor, VersionMetadata

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
        ref, header_length = _ref(scope), _header_length(scope)
        decode = self._of_raw_bytes if header_length == 0 else self._of_tensors
        decoding = decode(ref, body, header_length, scope)
        del body  # what decodes a large one lets go of it
        request, form = await decoding
        seen.timings["decode"] = perf_counter() - start
        response = await self.infer(request, scope)
        seen.answered(request, response)
        start = perf_counter()
        pieces, json_length = codec.encode_response(response, form=form, request_id=request.id)
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

    async def _of_tensors(
        self, ref: ModelRef, body: bytes, header_length: int | None, scope: asgi.Scope
    ) -> tuple[InferRequest, codec.OutputForm]:
        """Tensors that tell what they are: the model's signature is not needed to decode them."""
        named = asgi.text(scope, pins.SIGNATURE.encode())
        target: Target | None = None
        # The JSON part alone counts: binary tensors are not parsed.
        elsewhere = self.aside.takes(len(body) if header_length is None else header_length)
        if elsewhere:
            # Nothing is decoded at length for somebody whose model this is not.
            target = self.entry.resolve(ref)
            decoding = self.decoded_aside(scope, codec.decode_request, body, header_length)
            del body
            decoded = await decoding
        else:
            decoded = codec.decode_request(body, header_length)
        parameters = decoded.parameters
        timeout = codec.timeout_seconds(parameters)
        ref = ref.pinned(codec.variant(parameters)).calling(pins.signature(named, decoded.signature_name))
        deadline = None if timeout is None else arrival(scope) + timeout
        target = completed(self.entry, ref, target)
        return target.request(decoded.inputs, decoded.outputs, parameters, decoded.id, deadline), decoded.form

    async def _of_raw_bytes(
        self, ref: ModelRef, body: bytes, _: int | None, scope: asgi.Scope
    ) -> tuple[InferRequest, codec.OutputForm]:
        named = pins.signature(asgi.text(scope, pins.SIGNATURE.encode()))
        return await self.entry.resolve(ref.calling(named)).read(_RawBytes(body)), codec.RAW_FORM


class _RawBytes:
    """Reads a body that is the only input's bytes: what they are, the signature says."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __call__(self, target: Target) -> InferRequest:
        return target.request(_raw(self._body, target), reread=self)


def _raw(body: bytes, target: Target) -> tuple[Tensor, ...]:
    if target.opaque:
        raise OpaqueModel(target.model)
    if target.signature is None:
        raise InvalidArgument(
            f"{target.model} has no signature {target.ref.signature!r}, and its signatures are "
            f"{target.signature_names}: name one in the header {pins.SIGNATURE}, or send the request as JSON"
        )
    return codec.decode_raw_request(body, target.signature).inputs


def information(
    entry: Entry, *, ready: Callable[[], bool], models: Models = tuple, statistics: Statistics | None = None
) -> APIRouter:
    """What is no inference: health, metadata, configuration, statistics, index.

    ``models`` names the models of the index and of the statistics of all, ``statistics`` is what the observer fills.
    """
    router = APIRouter(tags=["Open Inference Protocol"])
    told = Information(entry, models=models, statistics=statistics or Statistics())

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
        return _json(told.index(only_ready=codec.decode_index_request(body)))

    # Before the paths in which "stats" could be a model's name.
    @router.get("/v2/models/stats", summary="Statistics of all models")
    async def statistics_of_all() -> Response:
        return _json(told.statistics(None))

    @router.get("/v2/models/{model}/stats", summary="Statistics of a model")
    @router.get("/v2/models/{model}/versions/{version}/stats", summary="Statistics of one version")
    async def model_statistics(request: Request) -> Response:
        return _json(told.statistics(_ref(request.scope)))

    @router.get("/v2/models/{model}/config", summary="Triton's configuration of a model")
    @router.get("/v2/models/{model}/versions/{version}/config", summary="Triton's configuration, of one version")
    async def model_config(request: Request) -> Response:
        metadata, version = told.describe(_ref(request.scope))
        return _json(v2_models.config(metadata, version), headers=_served_by(metadata, version))

    @router.get("/v2/models/{model}", summary="Model metadata")
    @router.get("/v2/models/{model}/versions/{version}", summary="Model metadata, of one version")
    async def model_metadata(request: Request) -> Response:
        chosen = pins.signature(asgi.text(request.scope, pins.SIGNATURE.encode()))
        metadata, version, signature = told.signature(_ref(request.scope).calling(chosen))
        return _json(v2_models.metadata(metadata, signature), headers=_served_by(metadata, version))

    @router.get("/v2/models/{model}/ready", summary="Is the model ready?")
    @router.get("/v2/models/{model}/versions/{version}/ready", summary="Is this version of the model ready?")
    async def model_ready(request: Request) -> Response:
        metadata, version = told.describe(_ref(request.scope))
        body = {"name": metadata.model, "ready": version.ready}
        return _json(body, status=200 if version.ready else 503, headers=_served_by(metadata, version))

    return router


def _served_by(metadata: ModelMetadata, chosen: VersionMetadata) -> dict[str, str]:
    return {pins.VARIANT: metadata.variant, pins.VERSION: str(chosen.version)}


def _json(content: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers=headers, media_type="application/json")


def _ref(scope: asgi.Scope) -> ModelRef:
    """What path and header name."""
    given = asgi.header(scope, pins.VARIANT.encode())
    ref = ModelRef.parse(scope["path_params"]["model"], given.decode("latin-1") if given else None)
    text = scope["path_params"].get("version")
    return ref if text is None else ref._replace(version=codec.version(text))


def _header_length(scope: asgi.Scope) -> int | None:
    text = asgi.header(scope, codec.HEADER_LENGTH.encode())
    if text is None:
        return None
    if not text.isdigit() or len(text) > 18:
        raise InvalidArgument("Inference-Header-Content-Length must be a whole number")
    return int(text)
