"""TorchServe's inference API over REST.

Source: serve ``docs/inference_api.md`` and ``frontend/server/.../http``. Any verb predicts (the documented ``curl -T``
is a PUT), except OPTIONS, which describes. Checked in TorchServe's order: size, route, model, version, body.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import perf_counter
from typing import Any

import orjson
from starlette.routing import Route

from gateway import pins
from gateway.backends.base import Backend
from gateway.codecs import torchserve as codec
from gateway.codecs import torchserve_opaque as opaque
from gateway.codecs import v2
from gateway.errors import Code, DuetError, Internal, InvalidArgument, NotFound, Target
from gateway.metrics import Metrics
from gateway.observation import Observation
from gateway.rest import asgi, compression, errors, torchserve_openapi
from gateway.rest.aside import Aside
from gateway.rest.endpoint import OBSERVATION, InferEndpoint
from gateway.types import InferRequest, ModelMetadata, Payload, Signature, VersionMetadata
from gateway.versions import choose

FRONT = "torchserve_rest"

#: TorchServe's exceptions by our codes. Overload is told from a server that is away by its status, 429 and 503.
TYPES: dict[Code, str] = {
    Code.OK: "",
    Code.CANCELLED: "InternalServerException",
    Code.INVALID_ARGUMENT: "BadRequestException",
    Code.DEADLINE_EXCEEDED: "RequestTimeoutException",
    Code.NOT_FOUND: "ModelNotFoundException",
    Code.PERMISSION_DENIED: "InvalidKeyException",
    Code.RESOURCE_EXHAUSTED: "ServiceUnavailableException",
    Code.FAILED_PRECONDITION: "BadRequestException",
    Code.UNIMPLEMENTED: "BadRequestException",
    Code.INTERNAL: "InternalServerException",
    Code.UNAVAILABLE: "ServiceUnavailableException",
    Code.DATA_LOSS: "InternalServerException",
    Code.UNAUTHENTICATED: "InvalidKeyException",
}

#: Calls of TorchServe that are not offered here: explanations, SageMaker's, workflows, management.
_ABSENT = ("predictions", "explanations", "invocations", "models", "workflows", "wfpredict")


class ResourceNotFound(NotFound):
    def __init__(self) -> None:
        super().__init__("Requested resource is not found, please refer to API document.")


def render(error: DuetError) -> tuple[int, asgi.Headers, bytes]:
    """An error as TorchServe shows it: ``{"code", "type", "message"}``."""
    status = errors.status(error)
    kinds = {codec.VersionNotFound: "ModelVersionNotFoundException", ResourceNotFound: "ResourceNotFoundException"}
    kind = "BadRequestException" if status == 413 else kinds.get(type(error), TYPES[error.code])
    body = orjson.dumps({"code": status, "type": kind, "message": error.message})
    accepted = [compression.ACCEPTED] if isinstance(error, compression.UnknownCoding) else []
    return status, [asgi.JSON, *errors.headers(error), *accepted], body


class Predictions(InferEndpoint):
    """``/predictions/{model}[/{version}]``: decode by the model's signature, call, encode as asked.

    Bodies of an opaque model are passed on as they are, and so are its answers.
    """

    front = FRONT

    def __init__(self, backend: Backend, *, aside: Aside, metrics: Metrics, max_body_bytes: int) -> None:
        super().__init__(backend, aside=aside, metrics=metrics, max_body_bytes=max_body_bytes)
        self._description = Told(self._describe)

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        if scope["method"] == "OPTIONS":
            await self._description(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def render(self, error: DuetError, scope: asgi.Scope) -> tuple[int, asgi.Headers, bytes]:
        return render(error)

    async def answer(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send, seen: Observation) -> None:
        body = await compression.read_body(scope, receive, max_bytes=self.max_body_bytes)
        start = perf_counter()
        pin, metadata, chosen = await self._find(scope)
        named = asgi.text(scope, pins.SIGNATURE.encode())
        if chosen.opaque:
            opaque.check_no_signature(metadata.model, named)
            payload = Payload(body, asgi.text(scope, b"content-type"))
            version = chosen.version if _path(scope)[1] else None
            await self._pass_on(InferRequest(metadata.model, (), (), version, pin, payload=payload), scope, send, seen)
            return
        target = Target(metadata.model, metadata.variant, chosen.version)
        try:
            decoding = self._decode(scope, body, codec.signature_of(chosen, pins.signature(named)))
            del body
            decoded = await decoding
            signature_name = pins.signature(named, decoded.signature_name)
            variant = pins.agree(pin, decoded.variant)
        except DuetError as error:
            error.target = target
            raise
        version = chosen.version if _path(scope)[1] else None
        request = InferRequest(
            metadata.model,
            decoded.inputs,
            decoded.outputs,
            version,
            variant,
            decoded.parameters,
            decoded.id,
            signature_name=signature_name,
        )
        seen.timings["decode"] = perf_counter() - start
        response = await self.infer(request, scope)
        seen.answered(request, response)
        start = perf_counter()
        answer = codec.encode(response, decoded, codec.accepted(asgi.text(scope, b"accept")))
        seen.timings["encode"] = perf_counter() - start
        headers: asgi.Headers = [
            (b"content-type", answer.content_type.encode()),
            (pins.VARIANT.encode(), seen.variant.encode()),
            (pins.VERSION.encode(), seen.version.encode()),
        ]
        if answer.header_length is not None:
            headers.append((v2.HEADER_LENGTH.encode(), str(answer.header_length).encode()))
        await asgi.respond(send, 200, headers, answer.pieces)

    async def _decode(self, scope: asgi.Scope, body: bytes, signature: Signature) -> codec.Body:
        content_type, header_length = asgi.text(scope, b"content-type"), _header_length(scope)
        parsed = header_length or (len(body) if codec.may_be_parsed(body, content_type, header_length) else 0)
        if not parsed and codec.is_converted(body, signature):
            parsed = len(body)
        if self.aside.takes(parsed):
            signature = replace(signature, native=b"")  # it would go with every body, and nobody reads it there
            decoding = self.decoded_aside(scope, codec.decode, body, signature, content_type, header_length)
            del body
            return await decoding
        return codec.decode(body, signature, content_type, header_length)

    async def _pass_on(self, request: InferRequest, scope: asgi.Scope, send: asgi.Send, seen: Observation) -> None:
        response = await self.infer(request, scope)
        seen.answered(request, response)
        if response.payload is None:
            raise Internal(f"the answer of {request.model} is not the one of its handler")
        retry: asgi.Headers = []
        if response.payload.status >= 400:
            error = opaque.error_of(response.payload)
            seen.code, retry = error.code.name, errors.headers(error)
        headers: asgi.Headers = [
            *retry,
            (pins.VARIANT.encode(), seen.variant.encode()),
            (pins.VERSION.encode(), seen.version.encode()),
        ]
        if response.payload.content_type is not None:
            headers.append((b"content-type", response.payload.content_type.encode("latin-1")))
        await asgi.respond(send, response.payload.status, headers, [response.payload.body])

    async def _find(self, scope: asgi.Scope) -> tuple[str | None, ModelMetadata, VersionMetadata]:
        """The variant that the client pinned, if any, and the model and version that the path names."""
        name, text = _path(scope)
        model, pin = pins.split_pin(name)
        variant = pins.agree(pin, asgi.text(scope, pins.VARIANT.encode()))
        try:
            metadata = await self.backend.metadata(f"{model}@{variant}" if variant else model)
        except NotFound as error:
            raise error if variant else codec.ModelNotFound(model) from None
        version = codec.version(text) if text else None
        try:
            if text and version not in metadata.versions:
                raise codec.VersionNotFound(model, text)
            return variant, metadata, choose(metadata, version)
        except DuetError as error:
            error.target = Target(model, metadata.variant, None)
            raise

    async def _describe(self, scope: asgi.Scope) -> tuple[int, dict[str, Any]]:
        _, metadata, chosen = await self._find(scope)
        if chosen.opaque:
            return 200, torchserve_openapi.opaque(scope["path"], metadata.model)
        signature = codec.signature_of(chosen, pins.signature(asgi.text(scope, pins.SIGNATURE.encode())))
        return 200, torchserve_openapi.model(scope["path"], metadata.model, signature)


class Told:
    """A plain ASGI application that answers any verb with what ``produce`` gives: a status and a JSON document."""

    def __init__(self, produce: Callable[[asgi.Scope], Awaitable[tuple[int, dict[str, Any]]]]) -> None:
        self._produce = produce

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        try:
            status, document = await self._produce(scope)
        except DuetError as error:
            seen: Observation = scope[OBSERVATION]
            seen.failed(error)
            status, headers, body = render(error)
        else:
            headers, body = [asgi.JSON], orjson.dumps(document)
        await asgi.respond(send, status, headers, [body])


def routes(
    backend: Backend, *, ready: Callable[[], bool], aside: Aside, metrics: Metrics, max_body_bytes: int
) -> list[Route]:
    """The calls of the API."""
    predictions = Predictions(backend, aside=aside, metrics=metrics, max_body_bytes=max_body_bytes)

    async def ping(_: asgi.Scope) -> tuple[int, dict[str, Any]]:
        return (200, {"status": "Healthy"}) if ready() else (500, {"status": "Unhealthy"})

    async def describe(_: asgi.Scope) -> tuple[int, dict[str, Any]]:
        return 200, torchserve_openapi.server()

    async def absent(_: asgi.Scope) -> tuple[int, dict[str, Any]]:
        raise ResourceNotFound

    return [
        Route("/predictions/{path:path}", predictions),
        Route("/ping", Told(ping)),
        Route("/api-description", Told(describe)),
        Route("/", Told(describe), methods=["OPTIONS"]),
        *(Route(f"/{name}{rest}", Told(absent)) for name in _ABSENT for rest in ("", "/{rest:path}")),
    ]


def _path(scope: asgi.Scope) -> tuple[str, str]:
    """The model's name and the version's text, which may be empty. What follows is for handlers of TorchServe."""
    name, _, rest = scope["path_params"]["path"].partition("/")
    if not name:
        raise ResourceNotFound
    return name, rest.partition("/")[0]


def _header_length(scope: asgi.Scope) -> int | None:
    text = asgi.text(scope, v2.HEADER_LENGTH.encode())
    if text is not None and (not text.isascii() or not text.isdigit() or len(text) > 18):
        raise InvalidArgument("Inference-Header-Content-Length must be a whole number")
    return int(text) if text is not None else None
