"""A TorchServe with Duet's handler that doubles: y = 2x, for every model that it was given, with scripted faults.

Of two inputs, ``query`` and ``candidates``, y is each candidate times the query, summed up.

Inference and management share one port here. Its answers are those that were seen on TorchServe 0.12.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

SIGNATURE = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}],
}
PAIR = {
    "inputs": [
        {"name": "query", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "candidates", "datatype": "FP32", "shape": [-1, 2]},
    ],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}],
}

_INTEGER = {
    "inputs": [{"name": "x", "datatype": "INT32", "shape": [-1, 1]}],
    "outputs": [{"name": "y", "datatype": "INT32", "shape": [-1, 1]}],
}

#: A prediction's answer in place of the right one: status, headers, body.
Answer = tuple[int, dict[str, str], bytes]


class FakeTorchServe:
    """Serves ``models`` (name -> version texts) on a port of its own. Its faults are read at each call."""

    def __init__(self, models: dict[str, list[str]], *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.models = models
        self.delay_seconds = 0.0
        self.key: str | None = None
        self.workers_ready = True
        self.answer: Callable[[], Answer] | None = None
        #: What single requests meet, by their tensors' bytes or their body: an answer, bytes in place of one after
        #: which the connection is closed, or None for the right answer.
        self.poison: Callable[[bytes], Answer | bytes | None] = lambda blob: None
        self.close_idle_connections = False
        self.break_off_after: int | None = None
        self.predicted: list[dict[str, Any]] = []
        #: Calls without the binary form's header, which a user's own handler would get.
        self.handed_over: list[dict[str, Any]] = []
        #: The path of every call, of management's too.
        self.asked: list[str] = []
        self.describes_signatures = True
        #: What the handler tells of every model, and what TorchServe itself adds to a description.
        self.signature: dict[str, Any] = SIGNATURE
        self.described: dict[str, Any] = {}
        #: Whether an answer has the mean of all rows in it, as of a model whose rows depend on one another.
        self.answers_by_company = False
        #: Whether versions that are not listed are refused in TorchServe's words.
        self.only_listed = False
        #: Versions of which x and y are INT32 and y = 3x.
        self.integer_versions: frozenset[str] = frozenset()
        self._server = _Server(("127.0.0.1", port), _handler(self))
        self.port = self._server.server_address[1]
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """As a killed process does: nobody listens, and the connections that were open are reset."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in self._server.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.connections: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address


def failure(status: int, kind: str, message: str) -> Answer:
    body = json.dumps({"code": status, "type": kind, "message": message}).encode()
    return status, {"content-type": "application/json", "connection": "close"}, body


def _handler(fake: FakeTorchServe) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            fake.asked.append(self.path)
            self._send(_refused(fake, self) or _describe(fake, self.path))

        def do_POST(self) -> None:
            fake.asked.append(self.path)
            body = self.rfile.read(int(self.headers["content-length"]))
            own = "inference-header-content-length" not in self.headers
            met = fake.poison(body if own else body[int(self.headers["inference-header-content-length"]) :])
            if isinstance(met, bytes):
                self.wfile.write(met)
                self.close_connection = True
                return
            self._send(met or _refused(fake, self) or (self._hand_over(body) if own else self._predict(body)))

        def _hand_over(self, body: bytes) -> Answer:
            """As a user's own handler that answers with what it got, and with its type."""
            fake.handed_over.append({"path": self.path, "headers": dict(self.headers), "body": body})
            time.sleep(fake.delay_seconds)
            if fake.answer is not None:
                return fake.answer()
            return 200, {"content-type": self.headers["content-type"]} if self.headers["content-type"] else {}, body

        def _predict(self, body: bytes) -> Answer:
            length = int(self.headers["inference-header-content-length"])
            message = json.loads(body[:length])
            fake.predicted.append({"path": self.path, "headers": dict(self.headers), "message": message})
            time.sleep(fake.delay_seconds)
            if fake.answer is not None:
                return fake.answer()
            _, _, name, version = self.path.split("/")
            if fake.only_listed and version not in fake.models[name]:
                text = f"Model version: {version} does not exist for model: {name}"
                return failure(404, "ModelVersionNotFoundException", text)
            blob = body[length:]
            if version in fake.integer_versions:
                tripled = 3 * np.frombuffer(blob, "<i4")
                return _output(message["inputs"][0]["shape"], tripled.tobytes(), "INT32")
            if len(message["inputs"]) == 2:
                try:
                    found = scores(message["inputs"], blob)
                except ValueError as error:
                    return failure(503, "InternalServerException", f"the model failed: {error}")
                return _output([len(found) // 4, 1], found)
            count = len(blob) // 4
            values = struct.unpack(f"<{count}f", blob)
            mean = sum(values) / count if fake.answers_by_company and count > 1 else 0.0
            doubled = struct.pack(f"<{count}f", *(2 * value - mean for value in values))
            return _output(message["inputs"][0]["shape"], doubled)

        def _send(self, answer: Answer) -> None:
            status, headers, body = answer
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: fake.break_off_after])
            self.close_connection = fake.close_idle_connections or fake.break_off_after is not None or status >= 400

    return Handler


def scores(inputs: list[dict[str, Any]], blob: bytes) -> bytes:
    """Of each candidate by the only query, or by its own."""
    size = 4 * inputs[0]["shape"][0] * 2
    given = {}
    for entry, part in zip(inputs, (blob[:size], blob[size:]), strict=True):
        given[entry["name"]] = np.frombuffer(part, "<f4").reshape(entry["shape"])
    return (given["query"] * given["candidates"]).sum(axis=1).astype("<f4").tobytes()


def _output(shape: list[int], data: bytes, datatype: str = "FP32") -> Answer:
    output = {"name": "y", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
    document = json.dumps({"outputs": [output]}).encode()
    return 200, {"inference-header-content-length": str(len(document))}, document + data


def _refused(fake: FakeTorchServe, request: BaseHTTPRequestHandler) -> Answer | None:
    if request.path == "/ping":
        return 200, {"content-type": "application/json"}, b'{"status": "Healthy"}'
    if fake.key is None or request.headers["authorization"] == f"Bearer {fake.key}":
        return None
    return failure(
        400, "InvalidKeyException", "Token Authorization failed. Token either incorrect, expired, or not provided"
    )


def _describe(fake: FakeTorchServe, path: str) -> Answer:
    path, _, query = path.partition("?")
    if path == "/models":
        listed = {"models": [{"modelName": name, "modelUrl": f"{name}.mar"} for name in sorted(fake.models)]}
        return 200, {"content-type": "application/json"}, json.dumps(listed).encode()
    _, _, name, *rest = path.split("/")
    versions = fake.models.get(name)
    if versions is None:
        return failure(404, "ModelNotFoundException", f"Model not found: {name}")
    wanted = versions if rest == ["all"] else rest or versions[:1]
    status = "READY" if fake.workers_ready else "UNLOADING"
    entries: list[dict[str, Any]] = [
        {"modelName": name, "modelVersion": version, "workers": [{"id": "9000", "status": status}], **fake.described}
        for version in wanted
    ]
    if "customized=true" in query and fake.describes_signatures:
        for entry in entries:
            integer = entry["modelVersion"] in fake.integer_versions
            entry["customizedMetadata"] = _INTEGER if integer else fake.signature
    return 200, {"content-type": "application/json"}, json.dumps(entries).encode()
