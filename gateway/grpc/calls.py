"""What every gRPC call of every front does around its own decoding and encoding."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import grpc
import grpc.aio

from gateway import pins
from gateway.backends.base import Backend
from gateway.errors import Code, DuetError, Internal, InvalidArgument, Unavailable
from gateway.grpc import errors
from gateway.grpc.admission import Admission
from gateway.grpc.unread import Unread
from gateway.observation import Observation, Observer
from gateway.types import InferRequest, InferResponse

log = logging.getLogger("duet.grpc")

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_FOR_EVER = 10 * 365 * 86_400.0
#: Requests of one stream that are answered at a time; the client's next ones wait in gRPC's flow control.
_STREAM_WINDOW = 16

STOPPING = "the gateway is about to stop; open the stream again"


class Message(Protocol):
    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's name


@dataclass(slots=True)
class Call:
    """One call as its behaviour sees it. ``deadline`` is of the event loop's clock, ``variant`` the metadata's pin.

    ``criticality`` is as the client wrote it, ``signature`` the one that the metadata names.
    """

    seen: Observation
    variant: str | None
    deadline: float | None
    criticality: str | None = None
    signature: str | None = None

    async def infer(self, backend: Backend, request: InferRequest) -> InferResponse:
        """Calls the backend with what the metadata says of the request."""
        if self.criticality is not None:
            request = replace(request, criticality=pins.criticality(self.criticality))
        return await backend.infer(request)

    def answered(self, request: InferRequest, response: InferResponse) -> None:
        self.seen.answered(request, response)


Behaviour = Callable[[Any, Call], Awaitable[Message]]
#: The code and text of an error in a dialect's own words; None keeps the error's own.
Render = Callable[[DuetError], tuple[grpc.StatusCode, str]]
#: The message that tells of an error inside a stream. The request is None where its bytes were no message.
InBand = Callable[[DuetError, Any], Message]


def plain(error: DuetError) -> tuple[grpc.StatusCode, str]:
    return errors.STATUS[error.code], error.message


class Calls:
    """Makes handlers of behaviours. A behaviour takes a request message and its `Call`; it raises DuetError."""

    def __init__(self, observer: Observer, *, unread: Unread, admission: Admission | None = None) -> None:
        self._observer = observer
        self._unread = unread
        self._admission = admission
        self.statistics = observer.statistics
        #: Set when the server is about to stop: streams take no further request and end.
        self.ending = asyncio.Event()
        #: What needs no admission.
        self.open_paths: set[str] = set()

    def unary(
        self,
        behaviour: Behaviour,
        request: Any,
        *,
        path: str,
        front: str = "",
        render: Render = plain,
        as_stream: bool = False,
        everybody: bool = False,
    ) -> grpc.RpcMethodHandler:
        """A unary call's handler. ``request`` is its message class; ``front`` is empty for what is no inference.

        ``as_stream`` sends the one answer as a stream of one, for a call that the protocol declares so.
        ``everybody`` may make a call that tells of no model.
        """

        admission = None if everybody else self._admission
        if everybody:
            self.open_paths.add(path)

        async def handle(data: bytes, context: Context) -> bytes:
            call = self._begin(context, front)
            try:
                answer = await self._admitted(data, call, behaviour, request, context, admission)
                context.set_trailing_metadata(self._trailing(call))
                self._unread.hold_for_task(context, len(answer))
                return answer
            except DuetError as error:
                code, text = render(error)
                await context.abort(code, text, (*errors.metadata(error), *errors.observed(call.seen)))
                raise  # abort raises; this line tells the type checker
            finally:
                self._observer.finish(call.seen, method="GRPC", path=path, status=_number(call.seen))

        async def handle_as_stream(data: bytes, context: Context) -> None:
            await context.write(await handle(data, context))

        if as_stream:
            return grpc.unary_stream_rpc_method_handler(handle_as_stream)
        return grpc.unary_unary_rpc_method_handler(handle)

    def stream(
        self, behaviour: Behaviour, request: Any, *, path: str, front: str, in_band: InBand
    ) -> grpc.RpcMethodHandler:
        """The handler of a stream in which each request has one answer, in the order of the requests.

        Requests are worked on `_STREAM_WINDOW` at a time. An error is an answer too (``in_band``): the stream goes on.
        """

        async def one(data: bytes, context: Context) -> bytes:
            call = self._begin(context, front)
            try:
                return await self._admitted(data, call, behaviour, request, context, self._admission)
            except DuetError as error:
                with contextlib.suppress(Exception):
                    return in_band(error, request.FromString(data)).SerializeToString()
                return in_band(error, None).SerializeToString()
            finally:
                self._observer.finish(call.seen, method="GRPC", path=path, status=_number(call.seen))

        async def handle(_: object, context: Context) -> None:
            answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(_STREAM_WINDOW)

            async def read(tasks: asyncio.TaskGroup) -> None:
                async for data in self._requests(context):
                    await answers.put(tasks.create_task(one(data, context)))
                await answers.put(None)

            context.set_trailing_metadata(errors.observed(self._begin(context, "").seen))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(read(tasks))
                while (task := await answers.get()) is not None:
                    await self._write(await task, context)
            if self.ending.is_set():
                await context.abort(*plain(Unavailable(STOPPING)))

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _write(self, answer: bytes, context: Context) -> None:
        held = self._unread.hold(context, len(answer))
        try:
            await context.write(answer)
        finally:
            self._unread.release(held)

    async def _admitted(
        self,
        data: bytes,
        call: Call,
        behaviour: Behaviour,
        request: Any,
        context: Context,
        admission: Admission | None,
    ) -> bytes:
        """`_answer`, for those who may ask."""
        if admission is None:
            return await self._answer(data, call, behaviour, request)
        try:
            access = await admission.begin(call.seen, context)
        except DuetError as error:
            call.seen.failed(error)
            raise
        access.bytes_in = len(data)
        try:
            answer = await self._answer(data, call, behaviour, request)
        finally:
            admission.end(call.seen)
        access.bytes_out = len(answer)
        return answer

    async def _answer(self, data: bytes, call: Call, behaviour: Behaviour, request: Any) -> bytes:
        """The serialized answer. Raises nothing but DuetError, after noting it, and CancelledError."""
        in_flight = self._observer.metrics.in_flight(call.seen.front) if call.seen.front else None
        if in_flight is not None:
            in_flight.inc()
        try:
            if call.seen.front:
                self._unread.check()
            return (await behaviour(_parsed(data, request), call)).SerializeToString()
        except DuetError as error:
            call.seen.failed(error)
            raise
        except asyncio.CancelledError:
            call.seen.code = Code.CANCELLED.name
            raise
        except Exception as error:
            log.exception("request %s failed", call.seen.id)
            text = f"the gateway failed on this request; its log tells more under request id {call.seen.id}"
            failure = Internal(text)
            call.seen.failed(failure)
            raise failure from error
        finally:
            if in_flight is not None:
                in_flight.dec()

    def _begin(self, context: Context, front: str) -> Call:
        given = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        seen = self._observer.begin(given.get("x-request-id"), given.get("traceparent"))
        seen.front = front
        left = context.time_remaining()
        # Without a deadline, gRPC gives one that is centuries away.
        deadline = asyncio.get_running_loop().time() + left if left is not None and left < _FOR_EVER else None
        return Call(seen, given.get(pins.VARIANT), deadline, given.get(pins.CRITICALITY), given.get(pins.SIGNATURE))

    def _trailing(self, call: Call) -> errors.Metadata:
        served = ((pins.VARIANT, call.seen.variant), (pins.VERSION, call.seen.version)) if call.seen.variant else ()
        return (*served, *errors.observed(call.seen))

    async def _requests(self, context: Context) -> AsyncIterator[bytes]:
        """The requests of a stream, until the client has no more or the server is about to stop."""
        ending = asyncio.create_task(self.ending.wait())
        try:
            while not self.ending.is_set():
                reading = asyncio.create_task(context.read())
                try:
                    await asyncio.wait([reading, ending], return_when=asyncio.FIRST_COMPLETED)
                    data = reading.result() if reading.done() else grpc.aio.EOF
                finally:
                    reading.cancel()
                if data is grpc.aio.EOF:
                    return
                yield data
        finally:
            ending.cancel()


def _parsed(data: bytes, request: Any) -> Any:
    try:
        return request.FromString(data)
    except DuetError:
        raise
    except Exception as error:
        raise InvalidArgument(f"the request is no message of this call: {error}") from error


def _number(seen: Observation) -> int:
    return int(grpc.StatusCode[seen.code].value[0])
