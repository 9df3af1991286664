"""What every gRPC call of every front does around its own decoding and encoding."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio

from gateway import pins
from gateway.errors import DuetError, Internal, InvalidArgument
from gateway.grpc import errors
from gateway.observation import Observation, Observer
from gateway.types import InferRequest, InferResponse

log = logging.getLogger("duet.grpc")

_FOR_EVER = 10 * 365 * 86_400.0


class Message(Protocol):
    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's name


@dataclass(slots=True)
class Call:
    """One call as its behaviour sees it. ``deadline`` is of the event loop's clock, ``variant`` the metadata's pin."""

    seen: Observation
    variant: str | None
    deadline: float | None

    def answered(self, request: InferRequest, response: InferResponse) -> None:
        self.seen.answered(request, response)


Behaviour = Callable[[Any, Call], Awaitable[Message]]
#: The code and text of an error in a dialect's own words; None keeps the error's own.
Render = Callable[[DuetError], tuple[grpc.StatusCode, str]]


def plain(error: DuetError) -> tuple[grpc.StatusCode, str]:
    return errors.STATUS[error.code], error.message


class Calls:
    """Makes handlers of behaviours. A behaviour takes a request message and its `Call`; it raises DuetError."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def unary(
        self, behaviour: Behaviour, request: Any, *, path: str, front: str = "", render: Render = plain
    ) -> grpc.RpcMethodHandler:
        """A unary call's handler. ``request`` is its message class; ``front`` is empty for what is no inference."""
        in_flight = self._observer.metrics.in_flight(front) if front else None

        async def handle(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            call = self._begin(context, front)
            if in_flight is not None:
                in_flight.inc()
            try:
                try:
                    message = request.FromString(data)
                except Exception as error:
                    raise InvalidArgument(f"the request is no message of this call: {error}") from error
                answer = await behaviour(message, call)
                context.set_trailing_metadata(self._trailing(call))
                return answer.SerializeToString()
            except DuetError as error:
                await self._abort(error, call, context, render)
                raise  # abort raises; this line tells the type checker
            except Exception as error:
                if isinstance(error, grpc.aio.AbortError):
                    raise
                log.exception("request %s failed", call.seen.id)
                text = f"the gateway failed on this request; its log tells more under request id {call.seen.id}"
                await self._abort(Internal(text), call, context, render)
                raise
            finally:
                if in_flight is not None:
                    in_flight.dec()
                self._observer.finish(call.seen, method="GRPC", path=path, status=_number(call.seen))

        return grpc.unary_unary_rpc_method_handler(handle)

    def _begin(self, context: grpc.aio.ServicerContext[Any, Any], front: str) -> Call:
        given = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        seen = self._observer.begin(given.get("x-request-id"), given.get("traceparent"))
        seen.front = front
        left = context.time_remaining()
        # Without a deadline, gRPC gives one that is centuries away.
        deadline = asyncio.get_running_loop().time() + left if left is not None and left < _FOR_EVER else None
        return Call(seen, given.get(pins.VARIANT), deadline)

    def _trailing(self, call: Call) -> errors.Metadata:
        served = ((pins.VARIANT, call.seen.variant), (pins.VERSION, call.seen.version)) if call.seen.variant else ()
        return (*served, *_observed(call.seen))

    async def _abort(
        self, error: DuetError, call: Call, context: grpc.aio.ServicerContext[Any, Any], render: Render
    ) -> None:
        call.seen.failed(error)
        code, text = render(error)
        await context.abort(code, text, (*errors.metadata(error), *_observed(call.seen)))


def _observed(seen: Observation) -> errors.Metadata:
    return (("x-request-id", seen.id), ("traceparent", seen.traceparent), ("server-timing", seen.server_timing()))


def _number(seen: Observation) -> int:
    return int(grpc.StatusCode[seen.code].value[0])
