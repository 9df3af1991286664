"""Who calls over gRPC: settled from the metadata before a message is read, by the same gate as over REST."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import grpc.aio

from gateway.errors import DuetError
from gateway.grpc import errors
from gateway.grpc.arriving import Arriving
from gateway.observation import Observation, Observer
from gateway.security import certificates
from gateway.security.access import ACCESS, NOBODY, Access
from gateway.security.gate import Gate
from gateway.security.grants import Verb
from gateway.security.quotas import QuotaExceeded

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(frozen=True, slots=True)
class Shown:
    """What a call shows of who makes it, as `Gate.identify` takes it."""

    authorization: list[bytes]
    api_key: list[bytes]
    certificate: certificates.Names = ()


class Admission:
    """Lets requests in, one by one: the messages of a stream are requests too, and are asked anew who sends them.

    A key that is revoked, a token that ends and a grant that changes so count from the next message on. It costs a look
    into what the gate remembers.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def identify(self, seen: Observation, shown: Shown) -> Access:
        """Whose request it is. Raises Unauthenticated, and Unavailable where that cannot be said now."""
        access = seen.access = Access(NOBODY)
        await self._gate.identify(access, shown.authorization, shown.api_key, shown.certificate)
        access.verb = Verb.PREDICT if seen.front else Verb.METADATA
        return access

    def enter(self, seen: Observation, access: Access) -> None:
        """Raises QuotaExceeded. Otherwise call `leave`, whatever happens."""
        try:
            seen.notes = self._gate.enter(access)
        except QuotaExceeded as error:
            seen.notes = error.notes
            raise
        ACCESS.set(access)

    def leave(self, access: Access) -> None:
        self._gate.leave(access)

    def shown(self, context: Context) -> Shown:
        metadata: Iterable[tuple[str, str | bytes]] = context.invocation_metadata() or ()
        authorization: list[bytes] = []
        api_key: list[bytes] = []
        for name, value in metadata:
            if name == "authorization":
                authorization.append(_bytes(value))
            elif name == "x-api-key":
                api_key.append(_bytes(value))
        names: certificates.Names = ()
        if self._gate.reads_certificates:
            names = certificates.of_auth_context(context.auth_context())
        return Shown(authorization, api_key, names)


class Unknown(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Answers calls of methods that are not there. Who may not call is not even told so."""

    def __init__(self, admission: Admission, observer: Observer, arriving: Arriving) -> None:
        self._arriving = arriving
        self._admission = admission
        self._observer = observer

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """As a stream, whatever the method is: gRPC reads no message of a stream unless it is asked to."""

        async def refuse(_: object, context: Context) -> None:
            self._arriving.call(context)
            given = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
            seen = self._observer.begin(given.get("x-request-id"), given.get("traceparent"))
            try:
                await self._admission.identify(seen, self._admission.shown(context))
            except DuetError as error:
                seen.failed(error)
                code = errors.STATUS[error.code]
                try:
                    await context.abort(code, error.message, (*errors.metadata(error), *errors.observed(seen)))
                finally:
                    self._observer.finish(seen, method="GRPC", path=details.method, status=int(code.value[0]))
            # gRPC's own words.
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

        return grpc.stream_stream_rpc_method_handler(refuse)


def _bytes(value: str | bytes) -> bytes:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
