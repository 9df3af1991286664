"""The gateway's own fronts, called as their transports call them: one message in, one answer or refusal out.

Nothing of a front is written again here: REST is `gateway.app`'s application, gRPC its services' handlers, which take
a whole message as the native transport gives it. Behind them is a model that knows every form of signature, and behind
the bounds a server that is away. So a message is decoded, checked, bounded, and refused at the latest then.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, TypeVar

import grpc
from prometheus_client import CollectorRegistry

from gateway import app
from gateway.backends.base import Backend
from gateway.config import Settings
from gateway.errors import DuetError, NotFound, Unavailable
from gateway.grpc import health, reflection
from gateway.grpc import tfserving as grpc_tfserving
from gateway.grpc import torchserve as grpc_torchserve
from gateway.grpc import v2 as grpc_v2
from gateway.grpc.calls import Calls
from gateway.grpc.unread import Unread
from gateway.layers.bounds import Bounded, Bounds
from gateway.logging import LineWriter, QueuedAccessLog
from gateway.metrics import Metrics
from gateway.observation import Observer
from gateway.rest.aside import Aside
from gateway.rest.endpoint import OBSERVATION
from gateway.types import (
    DATATYPES,
    InferRequest,
    InferResponse,
    ModelMetadata,
    Signature,
    TensorSpec,
    VersionMetadata,
)
from tests.security.fuzzing.measure import Once, Steps

MODEL = "m"
_T = TypeVar("_T")
_Y = (TensorSpec("y", "FP32", (-1,)),)
#: One signature for each datatype, and those that need more than one value, or examples.
SIGNATURES: Mapping[str, Signature] = {
    "serving_default": Signature((TensorSpec("x", "FP32", (-1, -1)),), _Y),
    **{name: Signature((TensorSpec("x", name, (-1,)),), _Y) for name in DATATYPES},
    "two": Signature((TensorSpec("x", "FP32", (-1, 1)), TensorSpec("t", "BYTES", (-1,))), _Y),
    "many": Signature(tuple(TensorSpec(f"x{n}", "FP32", (-1,), optional=n > 0) for n in range(64)), _Y),
    "examples": Signature((TensorSpec("inputs", "BYTES", (-1,)),), (TensorSpec("outputs", "FP32", (-1,)),)),
    "classes": Signature((TensorSpec("inputs", "BYTES", (-1,)),), (TensorSpec("scores", "FP32", (-1, -1)),)),
    "none": Signature((), _Y),
}
SIGNATURE_NAMES = tuple(SIGNATURES)
_VERSION = VersionMetadata(1, ready=True, signatures=SIGNATURES)
_METADATA = ModelMetadata(MODEL, "pytorch", "pytorch", {1: _VERSION}, 1, {"stable": 1})


class Away:
    """A server that told of its model, and cannot be reached any more."""

    async def infer(self, request: InferRequest) -> InferResponse:
        raise Unavailable("the server is away")

    async def metadata(self, model: str) -> ModelMetadata:
        if model.partition("@")[0] != MODEL:
            raise NotFound(f"unknown model {model!r}")
        return _METADATA

    async def models(self) -> Collection[str] | None:
        return [MODEL]

    async def aclose(self) -> None: ...


class Beside(Aside):
    """The decode process in this one: what goes there and back is pickled, and its time is not the loop's."""

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self._steps = steps

    async def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        question = pickle.dumps((function, arguments), protocol=5)
        await asyncio.sleep(0)
        with self._steps.elsewhere():
            called, given = pickle.loads(question)  # noqa: S301 - our own
            try:
                result = called(*given)
            except DuetError as error:
                result = error.with_traceback(None)
            answer = pickle.dumps(result, protocol=5)
        await asyncio.sleep(0)
        found = pickle.loads(answer)  # noqa: S301 - our own
        if isinstance(found, DuetError):
            raise found
        return found  # type: ignore[no-any-return]


class Refused(Exception):
    """A gRPC call was aborted."""


class Context:
    """One call, as far as handlers ask for it. ``messages`` are those of a stream."""

    def __init__(self, metadata: Mapping[str, str], *messages: bytes) -> None:
        self._metadata = tuple(metadata.items())
        self._messages = list(messages)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def time_remaining(self) -> None:
        return None

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def set_trailing_metadata(self, _: object) -> None: ...

    async def read(self) -> Any:
        return self._messages.pop(0) if self._messages else grpc.aio.EOF

    async def write(self, _: bytes) -> None: ...

    async def abort(self, code: grpc.StatusCode, details: str = "", _: object = ()) -> None:
        raise Refused(code, details)


class Fronts:
    """All of them, of one gateway without its sockets."""

    def __init__(self, steps: Steps) -> None:
        logging.getLogger("duet").setLevel(logging.CRITICAL)
        logging.getLogger("duet").addHandler(logging.NullHandler())
        settings = Settings.model_validate({"servers": {"pytorch": {"kind": "tfserving", "endpoint": "127.0.0.1:1"}}})
        backend: Backend = Bounded(Away(), bounds=Bounds())
        with open(os.devnull, "wb") as nowhere:
            writer = LineWriter(nowhere)
        self._observer = Observer(metrics=Metrics(CollectorRegistry()), access_log=QueuedAccessLog(writer))
        gateway = _Gateway(Beside(steps))
        self._app, _ = app._http_app(settings, backend, self._observer, gateway)  # type: ignore[arg-type]
        calls = Calls(self._observer, unread=Unread(max_bytes=1 << 40))
        services = {
            **grpc_v2.services(backend, calls, ready=gateway.ready, models=gateway.models),
            **grpc_tfserving.services(backend, calls),
            **grpc_torchserve.services(backend, calls, ready=gateway.ready, aside=gateway.aside),
        }
        services |= health.services(calls, ready=gateway.ready, names=services)
        self._services = services | reflection.services(calls, names=services)

    def rest(self, path: str, headers: Mapping[str, str], body: bytes, method: str = "POST") -> Once:
        given = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(_: object) -> None: ...

        def once() -> Awaitable[object]:
            scope = {
                "type": "http",
                "http_version": "1.1",
                "method": method,
                "scheme": "http",
                "path": path,
                "raw_path": path.encode(),
                "query_string": b"",
                "root_path": "",
                "headers": given,
                "client": ("127.0.0.1", 1),
                "server": ("127.0.0.1", 8000),
                OBSERVATION: self._observer.begin(None, None),
            }
            return self._app(scope, receive, send)

        return once

    def grpc(self, service: str, method: str, metadata: Mapping[str, str], data: bytes) -> Once:
        handler = self._services[service][method]

        async def once() -> None:
            try:
                if handler.request_streaming:
                    await handler.stream_stream(None, Context(metadata, data))
                elif handler.response_streaming:
                    await handler.unary_stream(None, Context(metadata, data))
                else:
                    # A message that is read: open methods bound it then.
                    await handler.unary_unary(None, Context(metadata, data))
            except Refused:
                pass

        return once


class _Gateway:
    """What of `gateway.app`'s the fronts ask for."""

    def __init__(self, aside: Aside) -> None:
        self.aside = aside

    def ready(self) -> bool:
        return True

    def models(self) -> Collection[str]:
        return [MODEL]
