"""The load generator tells right answers from wrong ones, and counts each once, over both wires."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import pytest

from gateway.protos import v2_pb2
from loadtest.bench.generator import Generator
from loadtest.bench.http1 import joined
from loadtest.bench.jobs import Job
from loadtest.bench.payloads import Payload

PAYLOAD = Payload.random("x", (1, 10), count=4)
RIGHT = replace(PAYLOAD, expected=tuple(batch.tobytes() for batch in PAYLOAD.batches))


@pytest.fixture(scope="module")
def generator() -> Iterator[Generator]:
    with Generator() as running:
        yield running


class _Http(BaseHTTPRequestHandler):
    """Answers with the last forty bytes of the body; the path says what goes wrong."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))[-40:]
        if self.path == "/wrong":
            body = np.zeros(10, np.float32).tobytes()
        self.send_response(503 if self.path == "/busy" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def http_port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Http)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def grpc_port() -> Iterator[int]:
    """Echoes; refuses the model ``none``."""

    def infer(data: bytes, context: grpc.ServicerContext) -> bytes:
        message = v2_pb2.ModelInferRequest.FromString(data)
        if message.model_name == "none":
            context.abort(grpc.StatusCode.NOT_FOUND, "there is none")
        answer = v2_pb2.ModelInferResponse(model_name=message.model_name)
        answer.outputs.add(name="y", datatype="FP32", shape=[1, 10])
        answer.raw_output_contents.append(message.raw_input_contents[0])
        return answer.SerializeToString()

    server = grpc.server(futures.ThreadPoolExecutor(4))
    handler = grpc.unary_unary_rpc_method_handler(infer)
    methods = {"ModelInfer": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(0)


def short(job: Job, *, connections: int = 4, streams: int = 1) -> Job:
    return replace(job, connections=connections, streams=streams, seconds=0.2, warm_seconds=0.05, check_every=1)


def test_right_answers_are_no_fault(generator: Generator, http_port: int, grpc_port: int) -> None:
    for job in (short(RIGHT.v2_binary(http_port, "/")), short(RIGHT.v2_grpc(grpc_port, "m"), streams=8)):
        result = generator.run(job)
        assert result.fault == ""
        assert result.requests > 20
        assert result.checked >= result.requests
        assert 0 < result.p50_us <= result.p99_us


@pytest.mark.parametrize("path", ["/wrong", "/busy"])
def test_wrong_values_and_refusals_are_faults(generator: Generator, http_port: int, path: str) -> None:
    result = generator.run(short(RIGHT.v2_binary(http_port, path)))
    assert result.wrong == result.checked > 0 if path == "/wrong" else result.errors == 4
    assert result.fault


def test_a_refused_call_is_a_fault(generator: Generator, grpc_port: int) -> None:
    """It has no message, and a message is what counts as an answer."""
    result = generator.run(short(RIGHT.v2_grpc(grpc_port, "none")))
    assert result.wrong == result.checked > 0
    assert result.fault


def test_messages_larger_than_a_frame_and_the_first_window_arrive(generator: Generator, grpc_port: int) -> None:
    """60 KB take four frames; of eight at a time most wait for the server to open the connection's window."""
    large = Payload.random("x", (1, 15_000), count=2)
    large = replace(large, expected=tuple(batch.tobytes() for batch in large.batches))
    result = generator.run(short(large.v2_grpc(grpc_port, "m"), connections=1, streams=8))
    assert result.fault == ""
    assert result.requests > 8


def test_a_server_that_is_not_there_is_a_fault(generator: Generator) -> None:
    result = generator.run(short(RIGHT.v2_binary(1, "/")))
    assert result.errors == 1
    assert "1" in result.fault


def test_chunks_are_joined_and_not_before_the_last_one_is_there() -> None:
    whole = b"3\r\nabc\r\n5;name=value\r\n0\r\n\r\n\r\n0\r\n\r\n"
    assert joined(whole, 0) == b"abc0\r\n\r\n"
    assert all(joined(whole[:end], 0) is None for end in range(len(whole)))
