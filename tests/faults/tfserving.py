"""TensorFlow Serving's gRPC, as far as the gateway calls it, behind a relay that can break the wire."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, ClassVar, cast

import grpc
import grpc.aio

from gateway.protos import tfserving_pb2 as pb
from tests.faults import echo
from tests.faults.replica import Model, die

_Context = Any
_QUEUE_FULL = "The batch scheduling queue to which this task was submitted is full"


async def serve(model: Model, host: str, port: int) -> None:
    options = [("grpc.so_reuseport", 0)]
    if model.age_seconds:
        options += [("grpc.max_connection_age_ms", round(model.age_seconds * 1e3))]
    server = grpc.aio.server(options=options)
    handlers = {
        "PredictionService": {"Predict": _Predict(model).answer, "GetModelMetadata": _metadata},
        "ModelService": {"GetModelStatus": _Status(model).answer},
    }
    for service, methods in handlers.items():
        made = {name: grpc.unary_unary_rpc_method_handler(behaviour) for name, behaviour in methods.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(f"tensorflow.serving.{service}", made),))
    inner = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    model.server = server  # type: ignore[attr-defined]  # or it would be collected
    await asyncio.get_running_loop().create_server(lambda: _Client(model, inner), host, port, backlog=1024)


class _Predict:
    def __init__(self, model: Model) -> None:
        self._model = model

    async def answer(self, data: bytes, context: _Context) -> bytes:
        model, request = self._model, pb.PredictRequest.FromString(data)
        version = request.model_spec.version.value
        x = request.inputs["x"].tensor_content
        model.counts.timeouts.append(context.time_remaining() or 0.0)
        if struct.unpack_from("<f", x)[0] == echo.POISON:
            die()
        fault = model.take()
        if fault == "overload" or model.full:
            await context.abort(grpc.StatusCode.UNAVAILABLE, _QUEUE_FULL)
        if fault == "crash":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Connection reset by peer")
        if version not in model.script.versions:
            spec = f"Servable not found for request: Specific(echo, {version})"
            await context.abort(grpc.StatusCode.NOT_FOUND, spec)
        await model.work()
        model.counts.rows += len(x) // (4 * echo.WIDTH)
        if fault in ("reset_before", "reset_mid"):
            _Client.break_all(0 if fault == "reset_before" else model.script.after_bytes or 20)
        if fault == "stall":
            await asyncio.sleep(3600)
        if fault in ("noise", "html"):
            return b"<html>" * 100
        if fault == "bomb":
            return b"\x0a\xff\xff\xff\xff\x0f" + bytes(100_000)
        return _answer(request, x, version, fault).SerializeToString()


class _Status:
    def __init__(self, model: Model) -> None:
        self._model = model

    async def answer(self, data: bytes, context: _Context) -> bytes:
        request = pb.GetModelStatusRequest.FromString(data)
        if request.model_spec.name != "echo":
            await context.abort(grpc.StatusCode.NOT_FOUND, "Could not find any versions of model")
        answer = pb.GetModelStatusResponse()
        for version in self._model.script.versions:
            answer.model_version_status.add(version=version, state=pb.ModelVersionStatus.AVAILABLE)
        return answer.SerializeToString()


async def _metadata(data: bytes, _: _Context) -> bytes:
    request = pb.GetModelMetadataRequest.FromString(data)

    def info(dtype: pb.DataType, width: int) -> pb.TensorInfo:
        shape = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=-1), pb.TensorShapeProto.Dim(size=width)])
        return pb.TensorInfo(name="t:0", dtype=dtype, tensor_shape=shape)

    definition = pb.SignatureDef(
        inputs={"x": info(pb.DT_FLOAT, echo.WIDTH)},
        outputs={"y": info(pb.DT_FLOAT, echo.WIDTH), "h": info(pb.DT_INT64, 1)},
        method_name="tensorflow/serving/predict",
    )
    definitions = pb.SignatureDefMap(signature_def={"serving_default": definition})
    value = pb.Any(value=definitions.SerializeToString())
    answer = pb.GetModelMetadataResponse(model_spec=request.model_spec, metadata={"signature_def": value})
    return answer.SerializeToString()


def _answer(request: pb.PredictRequest, x: bytes, version: int, fault: str) -> pb.PredictResponse:
    answer = pb.PredictResponse(model_spec=request.model_spec)
    y, h = echo.answer(x, version)
    rows = len(x) // (4 * echo.WIDTH)
    shapes = {"y": [rows, echo.WIDTH], "h": [rows, 1]}
    dtypes = {"y": pb.DT_FLOAT, "h": pb.DT_INT64}
    contents = {"y": y, "h": h}
    if fault == "wrong_dtype":
        dtypes["y"] = pb.DT_INT32
    elif fault == "wrong_shape":
        shapes["y"] = [rows, 2, 2]
    elif fault == "wrong_rows":
        shapes["y"], contents["y"] = [rows + 1, echo.WIDTH], y + bytes(16)
    elif fault == "huge_shape":
        shapes["y"] = [1_000_000_000]
    for name, shape in shapes.items():
        if (fault == "missing" and name == "h") or (fault == "wrong_name" and name == "y"):
            continue
        output = answer.outputs[name]
        output.dtype = dtypes[name]
        output.tensor_shape.CopyFrom(pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in shape]))
        output.tensor_content = contents[name]
    if fault == "wrong_name":
        answer.outputs["z"].dtype = pb.DT_FLOAT
    return answer


class _Client(asyncio.Protocol):
    """A connection from the gateway, passed on to the server's real port and back."""

    _all: ClassVar[set[_Client]] = set()

    def __init__(self, model: Model, inner: int) -> None:
        self._model = model
        self._inner = inner
        self._early: list[bytes] = []
        self._server: asyncio.Transport | None = None
        self._left: int | None = None

    @classmethod
    def break_all(cls, after_bytes: int) -> None:
        """Each connection is reset once so many more bytes went to the client."""
        for client in list(cls._all):
            client._left = after_bytes
            if not after_bytes:
                client._reset()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._all.add(self)
        self._model.counts.connections += 1
        self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: _Server(self), "127.0.0.1", self._inner)
        self._server = transport
        transport.writelines(self._early)

    def data_received(self, data: bytes) -> None:
        if self._server is None:
            self._early.append(data)
        else:
            self._server.write(data)

    def back(self, data: bytes) -> None:
        if self._left is None:
            self._transport.write(data)
            return
        self._transport.write(data[: self._left])
        self._left -= len(data)
        if self._left <= 0:
            self._reset()

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self)
        self._model.counts.connections -= 1
        if self._server is not None:
            self._server.close()

    def _reset(self) -> None:
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def close(self) -> None:
        self._transport.close()


class _Server(asyncio.Protocol):
    def __init__(self, client: _Client) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        self._client.back(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.close()
