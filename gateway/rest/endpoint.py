"""What every inference endpoint over REST does around its own decoding and encoding."""

from __future__ import annotations

import asyncio
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import perf_counter
from typing import Any, TypeVar

from gateway import pins
from gateway.backends.base import Entry
from gateway.errors import SWAPPED, DuetError, Internal, InvalidArgument, Unavailable
from gateway.metrics import Metrics
from gateway.observation import Observation
from gateway.rest import asgi
from gateway.rest.aside import Aside
from gateway.security.grants import Verb
from gateway.security.shares import of_address
from gateway.types import InferRequest, InferResponse, Signature

_T = TypeVar("_T")

OBSERVATION = "duet.observation"

log = logging.getLogger("duet.rest")

STOPPING = "the gateway was told to stop at once"
_MILLISECONDS = re.compile(rb"(?=.*[1-9])[0-9]{1,9}(\.[0-9]{1,9})?")


class InferEndpoint(ABC):
    """A plain ASGI application. A dialect says how it answers (`answer`) and how its errors look (`render`)."""

    #: The name of the front in metrics and logs, e.g. ``v2_rest``.
    front: str

    def __init__(self, entry: Entry, *, aside: Aside, metrics: Metrics, max_body_bytes: int) -> None:
        self.entry = entry
        self.aside = aside
        self.max_body_bytes = max_body_bytes
        self._in_flight = metrics.in_flight(self.front)

    @abstractmethod
    async def answer(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send, seen: Observation) -> None:
        """Reads, resolves, decodes, calls `infer`, encodes, sends. Raises DuetError before anything is sent."""

    @abstractmethod
    def render(self, error: DuetError, scope: asgi.Scope) -> tuple[int, asgi.Headers, bytes]:
        """Status, headers and body of an error in the dialect's own shape."""

    def decoded_aside(self, scope: asgi.Scope, function: Callable[..., _T], *arguments: Any) -> Awaitable[_T]:
        """`Aside.call` in the caller's turn. Holds no body: let go of it before you wait, and its memory is free."""
        return self.aside.call(function, *arguments, caller=_caller(scope))

    async def infer(self, request: InferRequest, scope: asgi.Scope) -> InferResponse:
        """Sends the request to its target. The header `pins.TIMEOUT` is the deadline of a request that has none."""
        if request.deadline is None:
            timeout = asgi.header(scope, pins.TIMEOUT.encode())
            if timeout is not None:
                request = replace(request, deadline=arrival(scope) + _seconds(timeout))
        wish = asgi.header(scope, pins.CRITICALITY.encode())
        if wish is not None:
            request = replace(request, criticality=pins.criticality(wish.decode("latin-1")))
        return await self.entry.infer(request)

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        seen: Observation = scope[OBSERVATION]
        seen.front = self.front
        if seen.access is not None:
            seen.access.verb = Verb.PREDICT
        self._in_flight.inc()
        try:
            await self.answer(scope, receive, send, seen)
        except asgi.ClientGone as gone:
            seen.code = gone.code.name
        except DuetError as error:
            await self._refuse(error, scope, send, seen)
        except asyncio.CancelledError:
            if asgi.GONE in scope:
                seen.code = asgi.ClientGone.code.name
                raise
            await self._refuse(Unavailable(STOPPING, retry_after_seconds=1), scope, send, seen)
            raise
        except Exception:
            log.exception("request %s failed", seen.id)
            text = f"the gateway failed on this request; its log tells more under request id {seen.id}"
            await self._refuse(Internal(text), scope, send, seen)
        finally:
            self._in_flight.dec()

    async def _refuse(self, error: DuetError, scope: asgi.Scope, send: asgi.Send, seen: Observation) -> None:
        seen.failed(error)
        status, headers, body = self.render(error, scope)
        await asgi.respond(send, status, headers, [body])


def _caller(scope: asgi.Scope) -> str:
    """As `gateway.rest.connection` counts bodies: an identity, or where nobody is asked an address."""
    seen: Observation = scope[OBSERVATION]
    if seen.access is not None:
        return seen.access.identity.id
    client = scope.get("client")
    return of_address(client[0] if client else "")


def check_read_alike(before: Signature, now: Signature | None) -> None:
    """A large body is let go of once it is decoded, and what came of it is kept.

    Raises Unavailable where another version would make something else of the body: its caller can send it again.
    """
    if now is None or before.inputs != now.inputs:
        raise Unavailable(SWAPPED, retry_after_seconds=1)


def arrival(scope: asgi.Scope) -> float:
    """When the request's head had come, by the event loop's clock: deadlines count from then."""
    seen: Observation = scope[OBSERVATION]
    return asyncio.get_running_loop().time() - (perf_counter() - seen.started)


def _seconds(milliseconds: bytes) -> float:
    if not _MILLISECONDS.fullmatch(milliseconds):
        raise InvalidArgument(f"{pins.TIMEOUT} must be a number of milliseconds above 0")
    return float(milliseconds) / 1e3
