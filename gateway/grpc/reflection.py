"""gRPC's server reflection, v1 and v1alpha: what is served here, for clients that have no stubs.

It tells of services and messages, which are public, and of no model. With keys on it takes one all the same, as the
other calls that describe do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Any

from grpc_reflection.v1alpha import reflection_pb2 as pb
from grpc_reflection.v1alpha.reflection import aio

from gateway.codecs import wire
from gateway.errors import DuetError
from gateway.grpc import descriptors, errors
from gateway.grpc.calls import Call, Calls
from gateway.grpc.server import Services

_METHOD = "ServerReflectionInfo"
_V1 = "grpc.reflection.v1"
#: The messages of both are the same on the wire.
SERVICES = (f"{_V1}.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


def services(calls: Calls, *, names: Collection[str]) -> Services:
    """``names`` are the services that are listed beside these."""
    own = pb.DESCRIPTOR
    files = (
        descriptors.renamed(own, _V1, "grpc/reflection/v1/reflection.proto"),
        descriptors.renamed(own, own.package, own.name),
    )
    servicer = aio.ReflectionServicer((*names, *SERVICES), pool=descriptors.pool(files))

    async def reflect(request: pb.ServerReflectionRequest, _: Call) -> pb.ServerReflectionResponse:
        async for answer in servicer.ServerReflectionInfo(_one(_asked(request)), None):
            answer.original_request.CopyFrom(request)
            return answer
        raise AssertionError("each request has an answer")

    def service(name: str) -> dict[str, Any]:
        request = wire.Checked(pb.ServerReflectionRequest, max_bytes=wire.MAX_NAMING_BYTES)
        return {_METHOD: calls.stream(reflect, request, path=f"/{name}/{_METHOD}", front="", in_band=_in_band)}

    return {name: service(name) for name in SERVICES}


def _asked(request: pb.ServerReflectionRequest) -> pb.ServerReflectionRequest:
    """With the service in a method's place: Python's descriptor pool finds no methods, which may be asked for."""
    service, _, method = request.file_containing_symbol.rpartition(".")
    if method in descriptors.SERVICES.get(service, {_METHOD} if service in SERVICES else ()):
        return pb.ServerReflectionRequest(host=request.host, file_containing_symbol=service)
    return request


async def _one(request: pb.ServerReflectionRequest) -> AsyncIterator[pb.ServerReflectionRequest]:
    yield request


def _in_band(error: DuetError, request: pb.ServerReflectionRequest | None) -> pb.ServerReflectionResponse:
    code = errors.STATUS[error.code].value[0]
    told = pb.ErrorResponse(error_code=code, error_message=error.message)
    return pb.ServerReflectionResponse(original_request=request, error_response=told)
