"""Who calls over gRPC: settled from the metadata before a message is read, by the same gate as over REST."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from contextvars import ContextVar
from typing import Any, TypeAlias

import grpc
import grpc.aio

from gateway.errors import DuetError
from gateway.grpc import errors
from gateway.observation import Observation, Observer
from gateway.security import certificates
from gateway.security.access import ACCESS, NOBODY, Access, Identity
from gateway.security.gate import Gate
from gateway.security.grants import Verb
from gateway.security.quotas import QuotaExceeded

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]]


#: Of a whole call: a stream has many requests.
_CALLER: ContextVar[Identity | None] = ContextVar("duet.grpc.caller", default=None)


class Admission:
    """Lets requests in, one by one: the messages of a stream are requests too."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def begin(self, seen: Observation, context: Context) -> Access:
        """Raises what says why not. Otherwise call `end`, whatever happens."""
        access = seen.access = Access(NOBODY, Verb.PREDICT if seen.front else Verb.METADATA)
        caller = _CALLER.get()
        if caller is None:
            await self._gate.identify(access, *self.shown(context.invocation_metadata(), context))
        else:
            access.identity = caller
        try:
            seen.notes = self._gate.enter(access)
        except QuotaExceeded as error:
            seen.notes = error.notes
            raise
        ACCESS.set(access)
        return access

    def end(self, seen: Observation) -> None:
        if seen.access is not None:
            self._gate.leave(seen.access)

    def shown(
        self, metadata: Iterable[tuple[str, str | bytes]] | None, context: Context | None
    ) -> tuple[list[bytes], list[bytes], certificates.Names]:
        """As `Gate.identify` takes it."""
        authorization: list[bytes] = []
        api_key: list[bytes] = []
        for name, value in metadata or ():
            if name == "authorization":
                authorization.append(_bytes(value))
            elif name == "x-api-key":
                api_key.append(_bytes(value))
        names: certificates.Names = ()
        if context is not None and self._gate.reads_certificates:
            names = certificates.of_auth_context(context.auth_context())
        return authorization, api_key, names


class Interceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Refuses before the message is read. A certificate is not seen here: who shows nothing else is asked later.

    ``open_paths`` are the methods that everybody may call.
    """

    def __init__(self, gate: Gate, observer: Observer, *, open_paths: Collection[str]) -> None:
        self._gate = gate
        self._admission = Admission(gate)
        self._observer = observer
        self._open = open_paths

    async def intercept_service(
        self, continuation: _Continuation, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        if details.method in self._open:
            return await continuation(details)
        authorization, api_key, _ = self._admission.shown(details.invocation_metadata, None)
        if self._gate.reads_certificates and not authorization and not api_key:
            return await continuation(details)
        access = Access(NOBODY)
        try:
            await self._gate.identify(access, authorization, api_key)
        except DuetError as error:
            return self._refusal(error, access, details.method)
        _CALLER.set(access.identity)
        return await continuation(details)

    def _refusal(self, error: DuetError, access: Access, path: str) -> grpc.RpcMethodHandler:
        """As a stream, whatever the method is: gRPC reads no message of a stream unless it is asked to."""

        async def refuse(_: object, context: Context) -> None:
            given = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
            seen = self._observer.begin(given.get("x-request-id"), given.get("traceparent"))
            seen.access = access
            seen.failed(error)
            code = errors.STATUS[error.code]
            try:
                await context.abort(code, error.message, (*errors.metadata(error), *errors.observed(seen)))
            finally:
                self._observer.finish(seen, method="GRPC", path=path, status=int(code.value[0]))

        return grpc.stream_stream_rpc_method_handler(refuse)


def _bytes(value: str | bytes) -> bytes:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
