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
from gateway.backends.base import Entry, completed
from gateway.codecs import torchserve as codec
from gateway.codecs import torchserve_opaque as opaque
from gateway.codecs import v2
from gateway.core.modelref import ModelRef
from gateway.errors import Code, DuetError, Internal, InvalidArgument, NotFound
from gateway.metrics import Metrics
from gateway.observation import Observation
from gateway.rest import asgi, compression, errors, torchserve_openapi
from gateway.rest.aside import Aside
from gateway.rest.endpoint import OBSERVATION, InferEndpoint, check_read_alike
from gateway.types import InferRequest, InferResponse, Payload, Signature, Target

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

    def __init__(self, entry: Entry, *, aside: Aside, metrics: Metrics, max_body_bytes: int) -> None:
        super().__init__(entry, aside=aside, metrics=metrics, max_body_bytes=max_body_bytes)
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
        read = _Reading(self, scope, body)
        del body
        request = await self._find(scope).read(read)
        seen.timings["decode"] = perf_counter() - start
        response = await self.infer(request, scope)
        seen.answered(request, response)
        if read.decoded is None:
            await self._pass_on(response, send, seen)
            return
        start = perf_counter()
        answer = codec.encode(response, read.decoded, codec.accepted(asgi.text(scope, b"accept")))
        seen.timings["encode"] = perf_counter() - start
        headers: asgi.Headers = [
            (b"content-type", answer.content_type.encode()),
            (pins.VARIANT.encode(), seen.variant.encode()),
            (pins.VERSION.encode(), seen.version.encode()),
        ]
        if answer.header_length is not None:
            headers.append((v2.HEADER_LENGTH.encode(), str(answer.header_length).encode()))
        await asgi.respond(send, 200, headers, answer.pieces)

    async def _pass_on(self, response: InferResponse, send: asgi.Send, seen: Observation) -> None:
        if response.payload is None:
            raise Internal(f"the answer of {response.model} is not the one of its handler")
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

    def _find(self, scope: asgi.Scope) -> Target:
        """The version that path and headers name."""
        name, text = _path(scope)
        named = pins.signature(asgi.text(scope, pins.SIGNATURE.encode()))
        ref = ModelRef.parse(name, asgi.text(scope, pins.VARIANT.encode()), signature=named)
        return codec.resolved(self.entry.resolve, ref, text)

    async def _describe(self, scope: asgi.Scope) -> tuple[int, dict[str, Any]]:
        target = self._find(scope)
        if target.opaque:
            return 200, torchserve_openapi.opaque(scope["path"], target.model)
        signature = codec.signature_of(target.described, target.ref.signature)
        return 200, torchserve_openapi.model(scope["path"], target.model, signature)


class _Reading:
    """Makes the request of a body, by the version that it is for. `decoded` is None where the body is passed on.

    A large body is decoded once and let go of.
    """

    def __init__(self, front: Predictions, scope: asgi.Scope, body: bytes) -> None:
        self.decoded: codec.Body | None = None
        self._front = front
        self._scope = scope
        self._body = body
        self._named = asgi.text(scope, pins.SIGNATURE.encode())
        self._content_type = asgi.text(scope, b"content-type")
        #: The signature by which a body was decoded that is not held any more.
        self._read_by: Signature | None = None

    async def __call__(self, target: Target) -> InferRequest:
        if target.opaque and self._read_by is None:
            self.decoded = None
            opaque.check_no_signature(target.model, self._named)
            return target.request((), payload=Payload(self._body, self._content_type), reread=self)
        decoded = self.decoded = await self._decoded(target)
        signature_name = pins.signature(self._named, decoded.signature_name)
        ref = target.ref.pinned(decoded.variant).calling(signature_name)
        target = completed(self._front.entry, ref, target)
        return target.request(decoded.inputs, decoded.outputs, decoded.parameters, decoded.id, reread=self)

    async def _decoded(self, target: Target) -> codec.Body:
        if self.decoded is not None and self._read_by is not None:
            if target.opaque or self.decoded.envelope is not codec.Envelope.V2:  # whose tensors tell what they are
                check_read_alike(self._read_by, target.signature)
            return self.decoded
        signature = codec.signature_of(target.described, pins.signature(self._named))
        header_length = _header_length(self._scope)
        if not self._front.aside.takes(_parsed_bytes(self._body, signature, self._content_type, header_length)):
            return codec.decode(self._body, signature, self._content_type, header_length)
        self._read_by = signature
        lean = replace(signature, native=b"")  # it would go with every body, and nobody reads it there
        decoding = self._front.decoded_aside(
            self._scope, codec.decode, self._body, lean, self._content_type, header_length
        )
        self._body = b""
        return await decoding


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
    entry: Entry, *, ready: Callable[[], bool], aside: Aside, metrics: Metrics, max_body_bytes: int
) -> list[Route]:
    """The calls of the API."""
    predictions = Predictions(entry, aside=aside, metrics=metrics, max_body_bytes=max_body_bytes)

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


def _parsed_bytes(body: bytes, signature: Signature, content_type: str | None, header_length: int | None) -> int:
    """How much of the body has to be parsed, or converted."""
    if header_length:
        return header_length
    whole = codec.may_be_parsed(body, content_type, header_length) or codec.is_converted(body, signature)
    return len(body) if whole else 0


def _header_length(scope: asgi.Scope) -> int | None:
    text = asgi.text(scope, v2.HEADER_LENGTH.encode())
    if text is not None and (not text.isascii() or not text.isdigit() or len(text) > 18):
        raise InvalidArgument("Inference-Header-Content-Length must be a whole number")
    return int(text) if text is not None else None
