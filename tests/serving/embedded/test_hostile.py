"""What does harm on purpose is refused or dropped, in bounded memory, while others are answered."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import httpx
import numpy as np
import psutil
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.serving.embedded import rawclients, savedmodels
from tests.serving.embedded.process import LIMITS, Server, config_text

MIB = 1 << 20
PREDICT = "/v1/models/half:predict"
PREDICT_CALL = "/tensorflow.serving.PredictionService/Predict"
GOOD = b'{"instances": [1.0]}'


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Not the contract's server: the real one has no limits, and much of this ends it."""
    folder = tmp_path_factory.mktemp("victim")
    models = {"half": savedmodels.half_plus(2), "types": savedmodels.types}
    for name, build in models.items():
        savedmodels.save(folder / name / "1", build)
    (folder / "models.config").write_text(config_text({name: folder / name for name in models}))
    flags = [f"--model_config_file={folder / 'models.config'}", "--rest_api_timeout_in_ms=8000"]
    running = Server(folder, flags).ready()
    running.prediction.Predict(request(), 60)
    yield running
    assert running.process.poll() is None, running.stderr
    assert "Traceback" not in running.stderr
    running.close()


def request(**fields: object) -> predict_pb2.PredictRequest:
    made = predict_pb2.PredictRequest(inputs={"x": tensor_pb2.TensorProto(**fields)})
    if not fields:
        made.inputs["x"].CopyFrom(tf.make_tensor_proto(np.float32([1])))
    made.model_spec.name = "half"
    return made


class Others:
    """A client of each transport that behaves, from entry to exit, on new connections and old ones."""

    def __init__(self, server: Server) -> None:
        self._server, self._stop = server, threading.Event()
        self.answered, self.failures = {"grpc": 0, "rest": 0}, list[str]()
        self._threads = [threading.Thread(target=self._run, args=(call,)) for call in (self._grpc, self._rest)]

    def __enter__(self) -> Others:
        for thread in self._threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self.failures == []

    def go_on(self) -> None:
        """Until each has been answered some more."""
        before = dict(self.answered)
        until(lambda: self.failures != [] or all(self.answered[name] > count + 2 for name, count in before.items()))

    def _run(self, call: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                call()
            except (grpc.RpcError, httpx.HTTPError, AssertionError) as error:
                self.failures.append(repr(error))
            time.sleep(0.01)

    def _grpc(self) -> None:
        address, options = f"127.0.0.1:{self._server.port}", [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(address, options=options) as channel:
            new = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for stub in (self._server.prediction, new):
                assert list(stub.Predict(request(), 60).outputs["y"].float_val) == [2.5]
        self.answered["grpc"] += 1

    def _rest(self) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{self._server.rest_port}", timeout=60) as client:
            for _ in range(2):
                answer = client.post(PREDICT, content=GOOD)
                assert (answer.status_code, answer.json()) == (200, {"predictions": [2.5]}), answer.text
        self.answered["rest"] += 1


class Memory:
    """The most that a process holds resident between entry and exit, beyond what it held before."""

    def __init__(self, server: Server) -> None:
        self._process, self._stop = psutil.Process(server.process.pid), threading.Event()
        self._before = self._peak = 0
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Memory:
        self._before = self._peak = self._process.memory_info().rss
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def grown(self) -> int:
        return self._peak - self._before

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self._peak = max(self._peak, self._process.memory_info().rss)


def until(fact: Callable[[], bool], seconds: float = 90) -> None:
    limit = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < limit
        time.sleep(0.02)


def error(server: Server, body: bytes, verb: str = "predict", **headers: str) -> tuple[int, str]:
    address = f"http://127.0.0.1:{server.rest_port}/v1/models/half:{verb}"
    answer = httpx.post(address, content=body, headers=headers, timeout=60)
    return answer.status_code, answer.json()["error"]


def stream_chunks(connection: socket.socket, total: int) -> None:
    """A body that never says how long it will be."""
    chunk = b"%x\r\n%s\r\n" % (MIB, b"1" * MIB)
    for _ in range(total // MIB):
        connection.sendall(chunk)
    connection.sendall(b"0\r\n\r\n")


@pytest.mark.parametrize("size", [80 * MIB, pytest.param(1024 * MIB, marks=pytest.mark.full)])
def test_a_huge_body_is_refused_in_little_memory(victim: Server, size: int) -> None:
    with Others(victim) as others, Memory(victim) as memory:
        connection = rawclients.http(victim.rest_port, rawclients.head(PREDICT))
        stream_chunks(connection, size)
        status, body = rawclients.answer(connection)
        connection.close()
        others.go_on()
    assert (status, b"over the limit" in body) == (400, True)
    assert memory.grown < 300 * MIB


def test_a_huge_declared_length_is_refused_before_the_body(victim: Server) -> None:
    with Memory(victim) as memory:
        connection = rawclients.http(victim.rest_port, rawclients.head(PREDICT, 1 << 30), b"[" * 1000)
        status, body = rawclients.answer(connection)
        connection.close()
    assert (status, b"over the limit" in body) == (400, True)
    assert memory.grown < 50 * MIB


def test_a_message_of_a_gigabyte_is_refused_before_it_is_read(victim: Server) -> None:
    with Others(victim) as others, Memory(victim) as memory:
        connection = rawclients.half_call(victim.port, PREDICT_CALL, 1 << 30)
        told = rawclients.send_on(connection, 1 << 30)
        connection.close()
        others.go_on()
    assert b"grpc-status\x018" in told  # RESOURCE_EXHAUSTED
    assert b"larger than max" in told
    assert memory.grown < 100 * MIB


@pytest.mark.full
def test_large_messages_at_once_stay_within_bounds(victim: Server) -> None:
    """Eight of 200 MiB: each is answered, or told that there is too much at once."""
    big = request(dtype=types_pb2.DT_FLOAT, tensor_content=bytes(200 * MIB))
    big.inputs["x"].tensor_shape.dim.add(size=50 * MIB)
    big.output_filter.append("nope")
    with Others(victim) as others, Memory(victim) as memory:
        calls = []
        for _ in range(8):
            with grpc.insecure_channel(f"127.0.0.1:{victim.port}", options=LIMITS) as channel:
                call = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict.future(big, 120)
                calls.append(call.code())
        others.go_on()
    assert set(calls) <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert memory.grown < 3072 * MIB


DEEP = {
    "brackets": b'{"instances": ' + b"[" * 500_000 + b"]" * 500_000 + b"}",
    "brackets without end": b"[" * 1_000_000,
    "objects": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "both": b'{"instances": ' + b'[{"x":' * 200_000,
    "under another key": b'{"instances": [1.0], "other": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "more than a tensor's": b'{"inputs": ' + b"[" * 65 + b"1.0" + b"]" * 65 + b"}",
    "an example's feature": b'{"examples": [{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
}


@pytest.mark.parametrize("case", DEEP)
@pytest.mark.parametrize("verb", ["predict", "classify", "regress"])
def test_deep_nesting_is_400(victim: Server, case: str, verb: str) -> None:
    """CVE-2025-0649: the real server's stack ends, and with it the server."""
    status, text = error(victim, DEEP[case], verb)
    assert status == 400
    assert len(text) < 1000


#: Bodies of a few megabytes that would need gigabytes: by layout of the answer, in an error's text, by repetition.
GROWING = {
    "indentation": ("predict", b'{"inputs": ' + b"[" * 60 + b"0," * 1_200_000 + b"0" + b"]" * 60 + b"}", "too large"),
    "an error's text": ("predict", b'{"inputs": [' + b"[" * 60 + b"0," * 200_000 + b'"x"' + b"]" * 61 + b"}", "Type"),
    "no object": ("predict", b"[" * 900 + b"0," * 1_200_000 + b"0" + b"]" * 900, "Is not object"),
    "a context": (
        "regress",
        b'{"signature_name": "regress_x_to_y", "context": {"z": "%s"}, "examples": [%s{}]}'
        % (b"z" * MIB, b"{}," * 9999),
        "the context is too large",
    ),
    "too many values": ("predict", b'{"inputs": [%s0]}' % (b"0," * (5 << 20)), "more than 4194304 values"),
    "a long number": ("predict", b'{"inputs": [' + b"9" * 4 * MIB + b"]}", "JSON Parse error"),
}


@pytest.mark.parametrize("case", GROWING)
def test_a_body_that_would_grow_is_refused(victim: Server, case: str) -> None:
    verb, body, words = GROWING[case]
    with Memory(victim) as memory:
        status, text = error(victim, body, verb)
    assert (status, words in text) == (400, True), text
    assert memory.grown < 400 * MIB


def test_a_bomb_of_gzip_is_refused(victim: Server) -> None:
    with Memory(victim) as memory:
        status, text = error(victim, gzip.compress(bytes(300 * MIB), 1), **{"content-encoding": "gzip"})
    assert (status, "over the limit" in text) == (400, True)
    assert memory.grown < 400 * MIB


F, S, I64 = types_pb2.DT_FLOAT, types_pb2.DT_STRING, types_pb2.DT_INT64
LIES = {
    "a product that overflows": (F, (1 << 32, 1 << 32), {"float_val": [1]}),
    "a product that overflows to zero": (F, (1 << 62, 4), {"tensor_content": b""}),
    "a product that overflows to the content": (F, ((1 << 62) + 1, 4), {"tensor_content": bytes(16)}),
    "a terabyte by repetition": (F, (1 << 38,), {"float_val": [1]}),
    "half a gigabyte by repetition": (F, (1 << 27,), {"float_val": [1]}),
    "a terabyte of strings": (S, (1 << 38,), {"string_val": [b"a"]}),
    "a negative size": (F, (-5,), {"float_val": [1]}),
    "too little content": (F, (4,), {"tensor_content": bytes(15)}),
    "too much content": (F, (4,), {"tensor_content": bytes(17)}),
    "content of another type": (I64, (4,), {"tensor_content": bytes(16)}),
    "strings whose lengths lie": (S, (2,), {"tensor_content": b"\xff\xff\xff\xff\x0f\x01ab"}),
    "more dimensions than there are": (F, (1,) * 300, {"float_val": [1]}),
    "more dimensions than numpy has": (F, (1,) * 65, {"float_val": [1]}),
    "a resource": (types_pb2.DT_RESOURCE, (1,), {"float_val": [1]}),
    "a variant": (types_pb2.DT_VARIANT, (), {"variant_val": [{"type_name": "tensorflow::Tensor", "metadata": b"x"}]}),
    "a reference": (types_pb2.DT_FLOAT_REF, (1,), {"float_val": [1]}),
    "no type": (0, (1,), {"float_val": [1]}),
    "another type than the model's": (I64, (1,), {"int64_val": [1]}),
}


@pytest.mark.parametrize("case", LIES)
def test_a_tensor_that_lies_is_invalid(victim: Server, case: str) -> None:
    dtype, shape, values = LIES[case]
    asked = request(dtype=dtype, **values)
    for size in shape:
        asked.inputs["x"].tensor_shape.dim.add(size=size)
    with Memory(victim) as memory:
        call = victim.prediction.Predict.future(asked, 60)
        assert call.code() is grpc.StatusCode.INVALID_ARGUMENT, call.details()
    assert memory.grown < 50 * MIB


def test_a_type_whose_values_are_of_another_is_zeros(victim: Server) -> None:
    """As in TensorFlow: only the field of the type is looked at."""
    asked = request(dtype=F, double_val=[7.0])
    asked.inputs["x"].tensor_shape.dim.add(size=2)
    assert list(victim.prediction.Predict(asked, 60).outputs["y"].float_val) == [2.0, 2.0]


def test_callers_that_do_not_finish_sending_hold_up_nobody(victim: Server) -> None:
    """More half messages than there are threads, and half bodies; the bodies' senders are told."""
    half = request().SerializeToString()[:10]
    with Others(victim) as others:
        calls = [rawclients.half_call(victim.port, PREDICT_CALL, 1000, half) for _ in range(100)]
        bodies = [rawclients.http(victim.rest_port, rawclients.head(PREDICT, 1000), b'{"inst') for _ in range(100)]
        others.go_on()
        told = [rawclients.answer(connection) for connection in bodies]
        others.go_on()
    for connection in (*calls, *bodies):
        connection.close()
    assert {status for status, _ in told} == {408}
    assert json.loads(told[0][1]) == {"error": "the body did not come in time"}


def test_a_head_without_end_is_refused(victim: Server) -> None:
    connection = rawclients.http(victim.rest_port, f"POST {PREDICT} HTTP/1.1\r\n".encode())
    connection.sendall(b"a: b\r\n" * 20_000)
    assert rawclients.answer(connection)[0] == 431
    connection.close()


@pytest.mark.full
def test_half_a_head_is_given_up(victim: Server) -> None:
    with (
        rawclients.http(victim.rest_port, b"POST /v1/mod") as half,
        rawclients.http(victim.rest_port) as silent,
    ):
        assert rawclients.answer(half)[0] == 408
        assert silent.recv(1) == b""


def test_clients_that_vanish_leave_nothing_behind(victim: Server) -> None:
    """In the middle of a request, and before and in the middle of an answer of 3 MB, over both transports."""
    body = b'{"inputs": [' + b"0," * 200_000 + b"0]}"
    large = request(dtype=F, tensor_content=bytes(MIB))
    large.inputs["x"].tensor_shape.dim.add(size=MIB // 4)
    handles = psutil.Process(victim.process.pid)
    with Others(victim) as others:
        before = handles.num_fds()
        for turn in range(20):
            rawclients.rst(rawclients.http(victim.rest_port, rawclients.head(PREDICT, 1000), b"{"))
            rawclients.rst(rawclients.http(victim.rest_port, rawclients.head(PREDICT, len(body)), body))
            reading = rawclients.http(victim.rest_port, rawclients.head(PREDICT, len(body)), body)
            reading.recv(1000)
            rawclients.rst(reading)
            rawclients.rst(rawclients.half_call(victim.port, PREDICT_CALL, 1000, b"abc"))
            if not turn % 5:
                with grpc.insecure_channel(f"127.0.0.1:{victim.port}") as channel:
                    prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict.future(large, 60).cancel()
        others.go_on()
        until(lambda: handles.num_fds() < before + 10)


def test_answers_that_nobody_takes_are_dropped(victim: Server) -> None:
    """A client asks for many large answers and reads none of them."""
    body = b'{"inputs": [' + b"0," * 150_000 + b"0]}"
    handles = psutil.Process(victim.process.pid)
    with Others(victim) as others, Memory(victim) as memory:
        before = handles.num_fds()
        silent = []
        for _ in range(20):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", victim.rest_port))
            connection.sendall(rawclients.head(PREDICT, len(body)) + body)
            silent.append(connection)
        others.go_on()
        until(lambda: handles.num_fds() < before + 10)
        others.go_on()
    for connection in silent:
        connection.close()
    assert memory.grown < 700 * MIB


def room_for(count: int) -> bool:
    """Raises this process's limit of open files where it may be raised."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most == resource.RLIM_INFINITY or most > count + 500


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.full)])
def test_many_connections_leave_room_for_others(victim: Server, count: int) -> None:
    """Silent ones, halves of heads, halves of bodies; silent ones and halves of messages over gRPC."""
    if not room_for(count):
        pytest.skip("the system allows too few open files")
    half_message = request().SerializeToString()[:10]
    kinds: list[Callable[[], socket.socket]] = [
        lambda: rawclients.http(victim.rest_port),
        lambda: rawclients.http(victim.rest_port, b"POST /v1/models/ha"),
        lambda: rawclients.http(victim.rest_port, rawclients.head(PREDICT, 1000), b'{"inst'),
        lambda: rawclients.http(victim.port),
        lambda: rawclients.http(victim.port, rawclients.PREFACE),
        lambda: rawclients.half_call(victim.port, PREDICT_CALL, 1000, half_message),
    ]
    connections = []
    with Others(victim) as others, Memory(victim) as memory:
        for number in range(count):
            connections.append(kinds[number % len(kinds)]())
        others.go_on()
    for connection in connections:
        connection.close()
    assert memory.grown < 1024 * MIB
