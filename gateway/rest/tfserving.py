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

from gateway import pins
from gateway.backends.base import Entry, completed
from gateway.codecs import tfserving_examples as examples
from gateway.codecs import tfserving_json as json
from gateway.codecs import tfserving_predict as predict
from gateway.codecs import tfserving_rest as codec
from gateway.codecs import tfserving_servables as servables
from gateway.codecs.tfserving_servables import Servable
from gateway.core.modelref import DEFAULT_SIGNATURE, ModelRef
from gateway.errors import DuetError, InvalidArgument
from gateway.information import Models
from gateway.metrics import Metrics
from gateway.observation import Observation
from gateway.rest import asgi, compression, errors
from gateway.rest.aside import Aside
from gateway.rest.bodiless import HEAD
from gateway.rest.endpoint import InferEndpoint, check_read_alike
from gateway.types import InferRequest, InferResponse, Signature, Target

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
        given = body if self.aside.takes(len(body)) else codec.decode_predict(body)
        del body
        read, servable = _Predict(self, scope, given), _servable(match, scope, _signature_name(given))
        del given
        target = _resolved(self.entry, servable)
        with servables.targeted(target):
            response = await self._call(await read(target), scope, seen, start)
            start = perf_counter()
            content = read.encode(response)
        seen.timings["encode"] = perf_counter() - start
        return content

    async def _run_examples(
        self, body: bytes, method: str, match: re.Match[str], scope: asgi.Scope, seen: Observation
    ) -> bytes:
        start = perf_counter()
        given = body if self.aside.takes(len(body) * _EXAMPLES_WEIGHT) else examples.decode(body)
        del body
        read, servable = _Examples(self, scope, given, method), _servable(match, scope, _signature_name(given))
        del given
        target = _resolved(self.entry, servable)
        with servables.targeted(target):
            response = await self._call(await read(target), scope, seen, start)
            start = perf_counter()
            content = read.encode(response)
        seen.timings["encode"] = perf_counter() - start
        return content

    async def _call(self, request: InferRequest, scope: asgi.Scope, seen: Observation, start: float) -> InferResponse:
        seen.timings["decode"] = perf_counter() - start
        response = await self.infer(request, scope)
        seen.answered(request, response)
        return response


class _Predict:
    """Reads a predict body: ``given`` is parsed already, or large, and then decoded once and let go of."""

    def __init__(self, front: Infer, scope: asgi.Scope, given: bytes | codec.PredictBody) -> None:
        self._front = front
        self._scope = scope
        self._given = given
        self._read: tuple[predict.Predict, Signature] | None = None

    async def __call__(self, target: Target) -> InferRequest:
        servables.check_tensors(target)
        asked = await self._asked(target)
        self._read = asked, target.described.signatures[asked.signature_name]
        named = completed(self._front.entry, target.ref.calling(asked.signature_name), target)
        return named.request(asked.fitted.inputs, reread=self)

    async def _asked(self, target: Target) -> predict.Predict:
        if not isinstance(self._given, bytes):
            return predict.fit(self._given, target.described)
        if self._read is None:
            lean = predict.lean(target.described)
            decoding = self._front.decoded_aside(self._scope, predict.decode, self._given, lean)
            self._given = b""
            return await decoding
        asked, before = self._read
        now = servables.signature(target.described, asked.signature_name, codec.unknown_signature)
        check_read_alike(before, now)
        return asked

    def encode(self, response: InferResponse) -> bytes:
        """The answer in the form of the body."""
        if self._read is None:
            raise TypeError("nothing was read")
        asked, _ = self._read
        return codec.encode_predict(asked.fitted.restore(response.outputs), rows=asked.rows)


class _Examples:
    """Reads the body of a classify or a regress. Examples tell what they are: no signature is needed to decode them."""

    def __init__(self, front: Infer, scope: asgi.Scope, given: bytes | examples.ExamplesBody, method: str) -> None:
        self._front = front
        self._scope = scope
        self._given = given
        self._method = method

    async def __call__(self, target: Target) -> InferRequest:
        servables.check_tensors(target)
        if isinstance(self._given, bytes):
            decoding = self._front.decoded_aside(self._scope, examples.decode, self._given)
            self._given = b""
            self._given = await decoding
        name = self._given.signature_name
        examples.check(servables.signature(target.described, name, examples.unknown_signature), self._method)
        named = completed(self._front.entry, target.ref.calling(name), target)
        return named.request((examples.tensor(self._given.examples),), reread=self)

    def encode(self, response: InferResponse) -> bytes:
        if isinstance(self._given, bytes):
            raise TypeError("nothing was read")
        return examples.encode(response.outputs, len(self._given.examples), self._method)


class Front:
    """Everything under ``/v1/``: TensorFlow Serving takes any other method or path for a malformed request."""

    def __init__(self, entry: Entry, infer: Infer, models: Models) -> None:
        self._entry = entry
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
            headers, document = self._describe(scope)
        except DuetError as error:
            await asgi.respond(
                send, errors.status(error), [asgi.JSON, *errors.headers(error)], [errors.body(error.message)]
            )
            return
        await asgi.respond(send, 200, [asgi.JSON, *headers], [json.dumps(document)])

    def _describe(self, scope: asgi.Scope) -> tuple[asgi.Headers, object]:
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
            target = _resolved(self._entry, servable)
            document = servables.metadata_document(servable.name, target.described)
            return _served_by(target.variant, str(target.version)), document
        return self._status(servable)

    def _status(self, servable: Servable) -> tuple[asgi.Headers, object]:
        """A label is ignored here, as TensorFlow Serving ignores it (get_model_status_impl.cc)."""
        with servables.status_of(servable):
            metadata = self._entry.describe(servable.ref)
        found = servables.versions(metadata, servable)
        return _served_by(metadata.variant, ""), servables.status_document(found)


class Alive:
    """What KServe's v1 clients ask first. A class, since Starlette calls a function with a Request of its own."""

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        await asgi.respond(send, 200, [asgi.JSON], [b'{"status":"alive"}'])


def routes(entry: Entry, *, aside: Aside, metrics: Metrics, max_body_bytes: int, models: Models = tuple) -> list[Route]:
    """``models`` gives the names of the models that the caller may know of."""
    infer = Infer(entry, aside=aside, metrics=metrics, max_body_bytes=max_body_bytes)
    return [Route("/v1/{rest:path}", Front(entry, infer, models)), Route("/", Alive(), methods=["GET"])]


def _path(scope: asgi.Scope) -> str:
    """The path as it came: names are matched first and percent-decoded then, so that a name may hold a colon."""
    return str(scope["raw_path"].decode("latin-1"))


def _target(scope: asgi.Scope) -> str:
    """Path and query: TensorFlow Serving matches a POST against both, and knows no query."""
    query = scope["query_string"].decode("latin-1")
    return f"{_path(scope)}?{query}" if query else _path(scope)


def _malformed(scope: asgi.Scope) -> InvalidArgument:
    return InvalidArgument(f"Malformed request: {scope['method']} {_target(scope)}")


def _servable(match: re.Match[str], scope: asgi.Scope, signature: str = DEFAULT_SIGNATURE) -> Servable:
    name = unquote(match["model"])
    given = asgi.header(scope, pins.VARIANT.encode())
    variant = given.decode("latin-1") if given else None
    version, label = _version(match["version"]), unquote(match["label"] or "")
    return Servable(name, ModelRef.parse(name, variant, version=version, label=label, signature=signature))


def _signature_name(given: bytes | codec.PredictBody | examples.ExamplesBody) -> str:
    """The signature that a body names; a large one has not been read so far."""
    return DEFAULT_SIGNATURE if isinstance(given, bytes) else given.signature_name


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    # The length first: Python refuses to read an integer of thousands of digits.
    if len(text.lstrip("0")) > len(str(_MAX_VERSION)) or int(text) > _MAX_VERSION:
        raise InvalidArgument(f"Failed to convert version: {text[:64]} to numeric.")
    return int(text)


def _resolved(entry: Entry, servable: Servable) -> Target:
    with servables.looked_up(servable):
        return entry.resolve(servable.ref)


def _served_by(variant: str, version: str) -> asgi.Headers:
    headers = [(pins.VARIANT.encode(), variant.encode())]
    return [*headers, (pins.VERSION.encode(), version.encode())] if version else headers
