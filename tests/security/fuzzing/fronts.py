"""The gateway's own fronts, called as their transports call them: one message in, one answer or refusal out.

Nothing of a front is written again here: REST is `gateway.app`'s application, gRPC its services' handlers, which take
a whole message as the native transport gives it. Behind them are the gateway's own stack, registry and router, a model
that has every form of signature, and a server that is away. So a message is decoded, checked, bounded, and refused at
the latest then, by a refusal that is known (`AWAY`). A front that fails in any other way is `Broken`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import traceback
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc
from prometheus_client import CollectorRegistry

from gateway import app
from gateway.backends.base import Entry, Server
from gateway.config import Settings
from gateway.errors import Unavailable
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
from gateway.registry import Registry
from gateway.rest.aside import Aside
from gateway.rest.endpoint import OBSERVATION
from gateway.router import Open, Router, Swapped
from gateway.types import (
    DATATYPES,
    InferRequest,
    InferResponse,
    ModelMetadata,
    Signature,
    TensorSpec,
    VersionMetadata,
)
from tests.security.fuzzing.beside import Beside
from tests.security.fuzzing.measure import Steps

MODEL, AWAY = "m", "the server is away"
_VARIANT = "pytorch"
_FAILED = ("0", "500", "INTERNAL", "UNKNOWN")
_FORMAT = logging.Formatter()
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
        raise Unavailable(AWAY)

    async def metadata(self, model: str) -> ModelMetadata:
        return _METADATA

    async def models(self) -> Collection[str] | None:
        return [MODEL]

    async def aclose(self) -> None: ...


class Broken(Exception):
    """A front failed, where it should have answered or refused: nothing that is measured then means anything."""


class Answer(NamedTuple):
    """How a call ended: HTTP's status or the name of gRPC's code, and all bytes or the text that came with it."""

    code: str
    data: bytes

    @property
    def is_away(self) -> bool:
        """The message has come to its end: the server behind was asked. Streams tell it in band."""
        return AWAY.encode() in self.data and self.code in ("503", "UNAVAILABLE", "OK")


Call = Callable[[], Coroutine[Any, Any, Answer]]


class Refused(Exception):
    """A gRPC call was aborted."""


class Context:
    """One call, as far as handlers ask for it. ``messages`` are those of a stream."""

    def __init__(self, metadata: Mapping[str, str], *messages: bytes) -> None:
        self.written: list[bytes] = []
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

    async def write(self, data: bytes) -> None:
        self.written.append(data)

    async def abort(self, code: grpc.StatusCode, details: str = "", _: object = ()) -> None:
        raise Refused(code, details)


class Fronts:
    """All of them, of one gateway without its sockets."""

    def __init__(self, steps: Steps, loop: asyncio.AbstractEventLoop) -> None:
        self._failures = _Failures()
        loop.set_exception_handler(self._failures.unhandled)
        settings = Settings.model_validate({"servers": {_VARIANT: {"kind": "tfserving", "endpoint": "127.0.0.1:1"}}})
        away: Server = Away()
        registry = Registry(servers={_VARIANT: away}, variants={MODEL: [_VARIANT]})
        loop.run_until_complete(_known(registry))
        router = Router(registry=registry, backends={_VARIANT: away}, rules={})
        bounded = Bounded(router, bounds=Bounds())
        backend: Entry = Open(Swapped(bounded, router=router, registry=registry, models=lambda: [MODEL]), router)
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

    def rest(self, path: str, headers: Mapping[str, str], body: bytes, method: str = "POST") -> Call:
        given = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def once() -> Answer:
            status, data = 0, []

            async def send(message: Any) -> None:
                nonlocal status
                status = message.get("status", status)
                data.append(message.get("body", b""))

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
            with self._failures.watched():
                await self._app(scope, receive, send)
            return self._failures.none(Answer(str(status), b"".join(data)))

        return once

    def grpc(self, service: str, method: str, metadata: Mapping[str, str], data: bytes) -> Call:
        handler = self._services[service][method]

        async def once() -> Answer:
            context = Context(metadata, data)
            with self._failures.watched():
                try:
                    if handler.request_streaming:
                        await handler.stream_stream(None, context)
                    elif handler.response_streaming:
                        await handler.unary_stream(None, context)
                    else:
                        # A message that is read: open methods bound it then.
                        context.written.append(await handler.unary_unary(None, context))
                    answer = Answer("OK", b"".join(context.written))
                except Refused as refused:
                    code, text = refused.args
                    answer = Answer(code.name, text.encode())
            return self._failures.none(answer)

        return once


class _Failures(logging.Handler):
    """What the fronts say of errors that nobody foresaw: they log them, and answer 500, INTERNAL or UNKNOWN."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._told: list[str] = []
        for name in ("duet", "asyncio"):
            logger = logging.getLogger(name)
            logger.setLevel(logging.ERROR)
            logger.propagate = False
            logger.handlers[:] = [self]

    def emit(self, record: logging.LogRecord) -> None:
        self._told.append(_FORMAT.format(record))

    def unhandled(self, _: object, context: Mapping[str, Any]) -> None:
        """Of a task whose exception nobody took."""
        error = context.get("exception")
        told = traceback.format_exception(error) if isinstance(error, BaseException) else []
        self._told.append("".join((f"{context.get('message')}\n", *told)))

    @contextmanager
    def watched(self) -> Iterator[None]:
        self._told.clear()
        try:
            yield
        except Exception as error:
            raise Broken("".join((*self._told, *traceback.format_exception(error)))) from None

    def none(self, answer: Answer) -> Answer:
        """The answer. Raises Broken where it, or anything that was logged, tells of a failure."""
        if self._told or answer.code in _FAILED:
            raise Broken("\n".join((f"{answer.code}: {answer.data[:1000]!r}", *self._told)))
        return answer


async def _known(registry: Registry) -> None:
    registry.start()
    await registry.asked(seconds=10)
    await registry.aclose()


class _Gateway:
    """What of `gateway.app`'s the fronts ask for."""

    def __init__(self, aside: Aside) -> None:
        self.aside = aside

    def ready(self) -> bool:
        return True

    def models(self) -> Collection[str]:
        return [MODEL]
