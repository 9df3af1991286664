"""A server of the Open Inference Protocol that doubles, y = 2x, over REST and over gRPC, with scripted faults.

It answers as Triton does unless it is told otherwise: with integer versions, an index, and ``EXTENSIONS``.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from concurrent import futures
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

import grpc

from gateway.protos import v2_pb2 as pb
from tests.fakes.torchserve import SIGNATURE, Answer, _Server

EXTENSIONS = ["model_repository", "schedule_policy", "binary_tensor_data"]

#: What is said in place of an answer over gRPC.
Said = tuple[grpc.StatusCode, str]


def failure(status: int, text: str) -> Answer:
    return status, {"content-type": "application/json"}, json.dumps({"error": text}).encode()


class FakeV2:
    """Serves ``models`` (name -> version texts) on two ports of its own. Its faults are read at each call."""

    def __init__(
        self,
        models: dict[str, list[str]],
        *,
        tls: ssl.SSLContext | None = None,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.models = models
        self.extensions = EXTENSIONS
        self.signature: dict[str, Any] = SIGNATURE
        #: What REST answers to a question about a model, in place of its description.
        self.description: bytes | None = None
        self.delay_seconds = 0.0
        #: ``index`` as Triton and MLServer have it, ``list`` as KServe, or neither.
        self.lists = "index"
        self.unready: set[str] = set()
        #: What a prediction meets, by the bytes of its tensor: what is answered in its place, or None.
        self.rest: Callable[[bytes], Answer | bytes | None] = lambda blob: None
        self.grpc: Callable[[bytes], Said | pb.ModelInferResponse | None] = lambda blob: None
        #: Whether gRPC answers are typed, not raw.
        self.typed = False
        #: Requests for predictions: documents of REST and messages of gRPC.
        self.predicted: list[Any] = []
        self.asked: list[str] = []
        self.timeouts: list[float | None] = []
        #: Of gRPC: a call is there, and it was given up while it was worked on.
        self.working, self.cancelled = threading.Event(), threading.Event()
        self._http = _Server(("127.0.0.1", 0), _handler(self))
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self.http_port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self._grpc = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        self._grpc.add_generic_rpc_handlers([_services(self)])
        add = self._grpc.add_insecure_port if credentials is None else None
        self.grpc_port = add("127.0.0.1:0") if add else self._grpc.add_secure_port("127.0.0.1:0", credentials)
        self._grpc.start()

    @property
    def http_endpoint(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc_endpoint(self) -> str:
        return f"grpc://127.0.0.1:{self.grpc_port}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        for connection in self._http.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._grpc.stop(None).wait()

    def known(self, model: str, version: str) -> str:
        """Why there is no such model or version; empty if there is."""
        versions = self.models.get(model)
        if versions is None:
            return f"Request for unknown model: '{model}' is not found"
        if version and version not in versions:
            return f"Request for unknown model: '{model}' version {version} is not found"
        return ""


def _doubled(blob: bytes) -> bytes:
    count = len(blob) // 4
    return struct.pack(f"<{count}f", *(2 * value for value in struct.unpack(f"<{count}f", blob)))


def _handler(fake: FakeV2) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            fake.asked.append(self.path)
            self._send(_described(fake, self.path))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v2/repository/index":
                return self._send(_index(fake))
            length = self.headers["inference-header-content-length"]
            document = json.loads(body[: int(length)] if length else body)
            fake.predicted.append(document)
            time.sleep(fake.delay_seconds)
            values = [value for entry in document["inputs"] for value in entry.get("data", ())]
            blob = body[int(length) :] if length else struct.pack(f"<{len(values)}f", *values)
            met = fake.rest(blob)
            if isinstance(met, bytes):
                self.wfile.write(met)
                self.close_connection = True
                return None
            return self._send(met or self._predicted(document, blob))

        def _predicted(self, document: dict[str, Any], blob: bytes) -> Answer:
            _, _, _, model, *rest = self.path.split("/")
            if unknown := fake.known(model, rest[1] if rest[0] == "versions" else ""):
                return failure(404, unknown)
            output: dict[str, Any] = {"name": "y", "datatype": "FP32", "shape": document["inputs"][0]["shape"]}
            found = _doubled(blob)
            if document.get("parameters", {}).get("binary_data_output"):
                output["parameters"] = {"binary_data_size": len(found)}
                text = json.dumps({"outputs": [output]}).encode()
                return 200, {"inference-header-content-length": str(len(text))}, text + found
            output["data"] = list(struct.unpack(f"<{len(found) // 4}f", found))
            return 200, {}, json.dumps({"outputs": [output]}).encode()

        def _send(self, answer: Answer) -> None:
            status, headers, body = answer
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def _index(fake: FakeV2) -> Answer:
    if fake.lists != "index":
        return 404, {}, b'{"detail":"Not Found"}'
    entries = [{"name": name, "version": text, "state": "READY"} for name in fake.models for text in fake.models[name]]
    return 200, {}, json.dumps(entries or [{"name": name} for name in fake.models]).encode()


def _described(fake: FakeV2, path: str) -> Answer:
    if path == "/v2":
        return 200, {}, json.dumps({"name": "fake", "version": "1", "extensions": fake.extensions}).encode()
    if path == "/v2/models":
        listed = json.dumps({"models": list(fake.models)}).encode()
        return (200, {}, listed) if fake.lists == "list" else (404, {}, b"")
    _, _, _, model, *rest = path.split("/")
    version = rest[1] if rest[:1] == ["versions"] else ""
    if unknown := fake.known(model, version):
        return failure(404, unknown)
    if rest[-1:] == ["ready"]:
        unready = model in fake.unready or f"{model}/{version}" in fake.unready
        return failure(400, "Model version not ready") if unready else (200, {}, b"")
    if fake.description is not None:
        return 200, {}, fake.description
    told = {"name": model, "versions": fake.models[model], "platform": "fake", **fake.signature}
    return 200, {"content-type": "application/json"}, json.dumps(told).encode()


def _services(fake: FakeV2) -> grpc.GenericRpcHandler:
    def infer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        fake.predicted.append(request)
        fake.timeouts.append(context.time_remaining())
        fake.working.set()
        context.add_callback(lambda: fake.cancelled.set() if context.code() is None else None)
        time.sleep(fake.delay_seconds)
        (blob,) = request.raw_input_contents
        met = fake.grpc(blob)
        if isinstance(met, pb.ModelInferResponse):
            return met
        if met is not None:
            context.abort(*met)
        if unknown := fake.known(request.model_name, request.model_version):
            context.abort(grpc.StatusCode.NOT_FOUND, unknown)
        answer = pb.ModelInferResponse(model_name=request.model_name)
        output = answer.outputs.add(name="y", datatype="FP32", shape=request.inputs[0].shape)
        found = _doubled(blob)
        if fake.typed:
            output.contents.fp32_contents.extend(struct.unpack(f"<{len(found) // 4}f", found))
        else:
            answer.raw_output_contents.append(found)
        return answer

    def metadata(request: pb.ModelMetadataRequest, context: grpc.ServicerContext) -> pb.ModelMetadataResponse:
        if unknown := fake.known(request.name, request.version):
            context.abort(grpc.StatusCode.NOT_FOUND, unknown)
        answer = pb.ModelMetadataResponse(name=request.name, versions=fake.models[request.name], platform="fake")
        for entry in fake.signature["inputs"]:
            answer.inputs.add(**entry)
        for entry in fake.signature["outputs"]:
            answer.outputs.add(**entry)
        return answer

    def ready(request: pb.ModelReadyRequest, context: grpc.ServicerContext) -> pb.ModelReadyResponse:
        names = {request.name, f"{request.name}/{request.version}"}
        return pb.ModelReadyResponse(ready=not names & fake.unready)

    def index(request: pb.RepositoryIndexRequest, context: grpc.ServicerContext) -> pb.RepositoryIndexResponse:
        if fake.lists != "index":
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        answer = pb.RepositoryIndexResponse()
        for name in fake.models:
            answer.models.add(name=name, state="READY")
        return answer

    def unary(does: Any, request: Any) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            does,
            request_deserializer=request.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    methods = {
        "ModelInfer": unary(infer, pb.ModelInferRequest),
        "ModelMetadata": unary(metadata, pb.ModelMetadataRequest),
        "ModelReady": unary(ready, pb.ModelReadyRequest),
        "RepositoryIndex": unary(index, pb.RepositoryIndexRequest),
    }
    return grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods)
