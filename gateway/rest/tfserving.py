"""TensorFlow Serving's REST: predict, classify and regress, status and metadata.

Source: tensorflow_serving/model_servers/http_rest_api_handler.cc and http_rest_api_util.cc. The status of a model also
has the member that KServe's v1 protocol reads. ``GET /`` and ``GET /v1/models``, which TensorFlow Serving refuses,
answer as that protocol wants.
"""

from __future__ import annotations

import re
from time import perf_counter
from urllib.parse import unquote

from starlette.routing import Route

from gateway import pins, versions
from gateway.backends.base import Backend
from gateway.codecs import tfserving_examples as examples
from gateway.codecs import tfserving_json as json
from gateway.codecs import tfserving_predict as predict
from gateway.codecs import tfserving_rest as codec
from gateway.codecs import tfserving_servables as servables
from gateway.codecs.tfserving_servables import Servable
from gateway.errors import DuetError, InvalidArgument
from gateway.information import Models
from gateway.metrics import Metrics
from gateway.observation import Observation
from gateway.rest import asgi, compression, errors
from gateway.rest.aside import Aside
from gateway.rest.bodiless import HEAD
from gateway.rest.endpoint import InferEndpoint
from gateway.types import InferRequest, InferResponse, ModelMetadata, VersionMetadata

FRONT = "tfserving_rest"

_MAX_VERSION = (1 << 63) - 1
#: A byte of examples takes as long to decode as so many of numbers.
_EXAMPLES_WEIGHT = 8
_SERVABLE = r"/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_INFER = re.compile(rf"(?i:{_SERVABLE}):(?P<verb>predict|classify|regress)")
_DESCRIBE = re.compile(rf"(?i:{_SERVABLE}(?P<metadata>/metadata)?)")
_MODELS = re.compile(r"(?i)/v1/models/?")


class Infer(InferEndpoint):
    """``POST /v1/models/{model}[/versions/{version}|/labels/{label}]:(predict|classify|regress)``."""

    front = FRONT

    def render(self, error: DuetError, scope: asgi.Scope) -> tuple[int, asgi.Headers, bytes]:
        accepted = [compression.ACCEPTED] if isinstance(error, compression.UnknownCoding) else []
        return errors.status(error), [asgi.JSON, *accepted, *errors.headers(error)], errors.body(error.message)

    async def answer(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send, seen: Observation) -> None:
        match = _INFER.fullmatch(_target(scope))
        if match is None:
            raise _malformed(scope)
        # Not held here: a large body is let go of before its answer comes.
        read = compression.read_body(scope, receive, max_bytes=self.max_body_bytes)
        if match["verb"] == "predict":
            content = await self._predict(await read, match, scope, seen)
        else:
            method = examples.CLASSIFY if match["verb"] == "classify" else examples.REGRESS
            content = await self._run_examples(await read, method, match, scope, seen)
        await asgi.respond(send, 200, [asgi.JSON, *_served_by(seen.variant, seen.version)], [content])

    async def _predict(self, body: bytes, match: re.Match[str], scope: asgi.Scope, seen: Observation) -> bytes:
        start = perf_counter()
        elsewhere = self.aside.takes(len(body))
        decoded = None if elsewhere else codec.decode_predict(body)
        servable = _servable(match, scope)
        servable, metadata, version = await _look_up(self.backend, servable)
        with servables.targeted(metadata, version):
            if decoded is None:
                decoding = self.decoded_aside(scope, predict.decode, body, predict.lean(version))
                del body
                asked = await decoding
            else:
                asked = predict.fit(decoded, version)
            response = await self._call(servable.request(asked.fitted.inputs, asked.signature_name), scope, seen, start)
            start = perf_counter()
            content = codec.encode_predict(asked.fitted.restore(response.outputs), rows=asked.rows)
        seen.timings["encode"] = perf_counter() - start
        return content

    async def _run_examples(
        self, body: bytes, method: str, match: re.Match[str], scope: asgi.Scope, seen: Observation
    ) -> bytes:
        start = perf_counter()
        elsewhere = self.aside.takes(len(body) * _EXAMPLES_WEIGHT)
        decoded = None if elsewhere else examples.decode(body)
        servable = _servable(match, scope)
        servable, metadata, version = await _look_up(self.backend, servable)
        with servables.targeted(metadata, version):
            if decoded is None:
                decoding = self.decoded_aside(scope, examples.decode, body)
                del body
                decoded = await decoding
            examples.check(servables.signature(version, decoded.signature_name, examples.unknown_signature), method)
            inputs = (examples.tensor(decoded.examples),)
            response = await self._call(servable.request(inputs, decoded.signature_name), scope, seen, start)
            start = perf_counter()
            content = examples.encode(response.outputs, len(decoded.examples), method)
        seen.timings["encode"] = perf_counter() - start
        return content

    async def _call(self, request: InferRequest, scope: asgi.Scope, seen: Observation, start: float) -> InferResponse:
        seen.timings["decode"] = perf_counter() - start
        response = await self.infer(request, scope)
        seen.answered(request, response)
        return response


class Front:
    """Everything under ``/v1/``: TensorFlow Serving takes any other method or path for a malformed request."""

    def __init__(self, backend: Backend, infer: Infer, models: Models) -> None:
        self._backend = backend
        self._infer = infer
        self._models = models

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        if scope["method"] == "POST":
            await self._infer(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            origin = asgi.header(scope, b"origin") or b""
            await asgi.respond(send, 200 if re.match(rb"https?://", origin) else 400, [], [b""])
            return
        if HEAD in scope and _INFER.fullmatch(_path(scope)):
            await asgi.respond(send, 405, [(b"allow", b"POST")], [b""])
            return
        try:
            headers, document = await self._describe(scope)
        except DuetError as error:
            await asgi.respond(
                send, errors.status(error), [asgi.JSON, *errors.headers(error)], [errors.body(error.message)]
            )
            return
        await asgi.respond(send, 200, [asgi.JSON, *headers], [json.dumps(document)])

    async def _describe(self, scope: asgi.Scope) -> tuple[asgi.Headers, object]:
        path = _path(scope)
        if scope["method"] != "GET":
            raise _malformed(scope)
        if _MODELS.fullmatch(path):
            return [], {"models": sorted(self._models())}
        match = _DESCRIBE.fullmatch(path)
        if match is None:
            raise _malformed(scope)
        servable = _servable(match, scope)
        # Compared in lower case, where the pattern takes any: /METADATA answers with the status.
        if match["metadata"] == "/metadata":
            servable, metadata, version = await _look_up(self._backend, servable)
            return _served_by(metadata.variant, str(version.version)), servables.metadata_document(
                servable.name, version
            )
        return await self._status(servable)

    async def _status(self, servable: Servable) -> tuple[asgi.Headers, object]:
        """A label is ignored here, as TensorFlow Serving ignores it (get_model_status_impl.cc)."""
        with servables.status_of(servable):
            metadata = await self._backend.metadata(servable.pinned)
        found = servables.versions(metadata, servable)
        return _served_by(metadata.variant, ""), servables.status_document(found)


class Alive:
    """What KServe's v1 clients ask first. A class, since Starlette calls a function with a Request of its own."""

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        await asgi.respond(send, 200, [asgi.JSON], [b'{"status":"alive"}'])


def routes(
    backend: Backend, *, aside: Aside, metrics: Metrics, max_body_bytes: int, models: Models = tuple
) -> list[Route]:
    """``models`` gives the names of the models that the caller may know of."""
    infer = Infer(backend, aside=aside, metrics=metrics, max_body_bytes=max_body_bytes)
    return [Route("/v1/{rest:path}", Front(backend, infer, models)), Route("/", Alive(), methods=["GET"])]


def _path(scope: asgi.Scope) -> str:
    """The path as it came: names are matched first and percent-decoded then, so that a name may hold a colon."""
    return str(scope["raw_path"].decode("latin-1"))


def _target(scope: asgi.Scope) -> str:
    """Path and query: TensorFlow Serving matches a POST against both, and knows no query."""
    query = scope["query_string"].decode("latin-1")
    return f"{_path(scope)}?{query}" if query else _path(scope)


def _malformed(scope: asgi.Scope) -> InvalidArgument:
    return InvalidArgument(f"Malformed request: {scope['method']} {_target(scope)}")


def _servable(match: re.Match[str], scope: asgi.Scope) -> Servable:
    name = unquote(match["model"])
    model, pin = pins.split_pin(name)
    given = asgi.header(scope, pins.VARIANT.encode())
    variant = pins.agree(pin, given.decode("latin-1") if given else None)
    return Servable(name, model, variant, _version(match["version"]), unquote(match["label"] or ""))


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    # The length first: Python refuses to read an integer of thousands of digits.
    if len(text.lstrip("0")) > len(str(_MAX_VERSION)) or int(text) > _MAX_VERSION:
        raise InvalidArgument(f"Failed to convert version: {text[:64]} to numeric.")
    return int(text)


async def _look_up(backend: Backend, servable: Servable) -> tuple[Servable, ModelMetadata, VersionMetadata]:
    """The servable with its label resolved, the model, and the version that the request is read by."""
    with servables.looked_up(servable):
        metadata = await backend.metadata(servable.pinned)
        servable = servable.at(metadata)
        return servable, metadata, versions.choose(metadata, servable.version)


def _served_by(variant: str, version: str) -> asgi.Headers:
    headers = [(pins.VARIANT.encode(), variant.encode())]
    return [*headers, (pins.VERSION.encode(), version.encode())] if version else headers
