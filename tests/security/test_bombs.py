"""Small requests that ask for much: each is refused, at once, and the memory that it takes is bounded."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable
from pathlib import Path

import grpc
import psutil
import pytest

from gateway.protos import tfserving_pb2 as tf_pb
from gateway.protos import v2_pb2
from tests.security.door import BODY, MODEL, Door, read_answers, request, statuses

CAP = 16 << 20
INFER = f"/v2/models/{MODEL}/infer"
PREDICT = f"/v1/models/{MODEL}:predict"
TORCH = f"/predictions/{MODEL}"
KEYS = b",".join(b'"%d":1' % key for key in range(1_000_000))
NUMBERS = b"1e308," * 1_000_000 + b"1"


def v2(shape: object, data: object = (1,), datatype: object = "FP32", name: str = "x") -> bytes:
    tensor = {"name": name, "shape": shape, "datatype": datatype, "data": data}
    return json.dumps({"inputs": [tensor]}).encode()


def multipart(parts: int) -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n' * parts + b"--b--\r\n"


NPY = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117)
    + b"\n"
)
GZIP = "Content-Encoding: gzip"

#: Name -> path, body, headers, and the status that refuses it.
BOMBS: dict[str, tuple[str, bytes, tuple[str, ...], int]] = {
    "gzip of zeros, 1000:1": (INFER, gzip.compress(bytes(256 << 20), 9), (GZIP,), 413),
    "gzip of JSON, 1000:1": (PREDICT, gzip.compress(b'{"instances":[' + b" " * (200 << 20), 9), (GZIP,), 413),
    "gzip of a hundred thousand members": (TORCH, gzip.compress(b"") * 100_000, (GZIP,), 400),
    "a million lists": (INFER, b'{"inputs":' + b"[" * 1_000_000, (), 400),
    "a million lists, TF Serving": (PREDICT, b'{"instances":' + b"[" * 1_000_000, (), 400),
    "a million lists, TorchServe": (TORCH, b"[" * 1_000_000, ("Content-Type: application/json",), 400),
    "a million objects": (PREDICT, b'{"a":' * 1_000_000, (), 400),
    "a million lists in a form": (TORCH, b"[" * 1_000_000, ("Content-Type: application/x-www-form-urlencoded",), 400),
    "a million keys": (INFER, b"{" + KEYS + b"}", (), 400),
    "a million keys, TF Serving": (PREDICT, b'{"instances":[{' + KEYS + b"}]}", (), 400),
    "a million parameters": (INFER, b'{"parameters":{' + KEYS + b'},"inputs":[]}', (), 400),
    "more than four million values": (INFER, b"[" + b"1," * (4 << 20) + b"1]", (), 400),
    "a million numbers out of range": (INFER, v2([1_000_001, 1]).replace(b"[1]}", b"[" + NUMBERS + b"]}"), (), 400),
    "ragged lists": (
        PREDICT,
        b'{"instances":' + json.dumps([[1] * (i % 7) for i in range(50_000)]).encode() + b"}",
        (),
        400,
    ),
    "negative dimension": (INFER, v2([-1, 1]), (), 400),
    "a dimension of 2^62": (INFER, v2([1 << 62, 4]), (), 400),
    "dimensions whose product overflows": (INFER, v2([1 << 33, 1 << 33]), (), 400),
    "a dimension of 10^400": (
        INFER,
        b'{"inputs":[{"name":"x","datatype":"FP32","data":[1],"shape":[1' + b"0" * 400 + b"]}]}",
        (),
        400,
    ),
    "a thousand dimensions": (INFER, v2([1] * 1000), (), 400),
    "nine dimensions": (INFER, v2([1] * 9), (), 400),
    "NUL in a tensor's name": (INFER, v2([1, 1], name="x\x00"), (), 400),
    "lone surrogate": (INFER, b'{"inputs":[{"name":"\\ud800","shape":[1],"datatype":"FP32","data":[1]}]}', (), 400),
    "bytes that are no UTF-8": (INFER, b'{"inputs":"\xff\xfe"}', (), 400),
    "inputs twice": (INFER, b'{"inputs":[],' + v2([1, 1])[1:], (), 400),
    "NaN": (INFER, v2([1, 1], (float("nan"),)), (), 400),
    "1e400": (INFER, v2([1, 1]).replace(b"[1]}", b"[1e400]}"), (), 400),
    "an integer of a million digits": (INFER, v2([1, 1]).replace(b"[1]}", b"[" + b"9" * 1_000_000 + b"]}"), (), 400),
    "unknown datatype": (INFER, v2([1, 1], datatype="FP128"), (), 400),
    "a datatype that is an object": (INFER, v2([1, 1], datatype={"a": 1}), (), 400),
    "100,000 inputs": (INFER, b'{"inputs":[' + b",".join([v2([1, 1])[12:-2]] * 100_000) + b"]}", (), 400),
    "a header length beyond the body": (INFER, b"{}", ("Inference-Header-Content-Length: 99999999",), 400),
    "binary data that is not there": (
        INFER,
        b'{"inputs":[{"name":"x","shape":[4194304,1],"datatype":"FP32","parameters":{"binary_data_size":16777216}}]}',
        ("Inference-Header-Content-Length: 107",),
        400,
    ),
    "an .npy file of a terabyte": (TORCH, NPY + b"abcd", ("Content-Type: application/x-npy",), 400),
    "an .npy file whose head is code": (
        TORCH,
        NPY.replace(b"'<f4'", b"[].x,"),
        ("Content-Type: application/x-npy",),
        400,
    ),
    "100,000 parts": (TORCH, multipart(100_000), ("Content-Type: multipart/form-data; boundary=b",), 400),
    "100,000 fields": (TORCH, b"x=1&" * 100_000, ("Content-Type: application/x-www-form-urlencoded",), 400),
}


#: What is JSON in every way costs an object a value until its numbers are found to be out of range: in the process
#: that decodes large bodies, one at a time.
BOUNDS = {"a million numbers out of range": 4 * CAP}


def peak_bytes(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


class Memory:
    """The most that the gateway, and the process in which it decodes, have held since `begin`, above what they had."""

    def __init__(self, door: Door) -> None:
        self._process = psutil.Process(door.gateway.process.pid)

    def begin(self) -> None:
        self._before = {}
        for process in (self._process, *self._process.children(recursive=True)):
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # proc(5): resets the peak
            self._before[process.pid] = peak_bytes(process)

    def grown(self) -> int:
        alive = (self._process, *self._process.children(recursive=True))
        return max(peak_bytes(process) - self._before[process.pid] for process in alive if process.pid in self._before)


@pytest.fixture(scope="module")
def memory(door: Door) -> Memory:
    """Once a large body has been decoded, the process for it is there."""
    door.talk(request(PREDICT, b'{"instances":' + json.dumps([[1.0]] * 50_000).encode() + b"}"), seconds=20)
    return Memory(door)


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_and_takes_twice_the_limit_of_a_body_at_most(
    door: Door, memory: Memory, name: str, record_property: Callable[[str, object], None]
) -> None:
    target, body, lines, status = BOMBS[name]
    before = door.predictions
    memory.begin()
    answer = door.talk(request(target, body, *lines), seconds=30)
    grown = memory.grown()
    assert statuses(answer) == [status], answer[:300]
    assert door.predictions == before
    assert grown <= BOUNDS.get(name, 2 * CAP), f"{grown >> 20} MiB"
    record_property("figure", "memory within twice the body's limit, JSON's numbers within four times")


def test_a_body_that_grows_beyond_the_ratio_is_refused_though_it_would_fit(door: Door) -> None:
    body = gzip.compress(BODY.ljust(1 << 20))
    assert statuses(door.talk(request(INFER, body, GZIP))) == [413]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nine dimensions", b"bounds.rank"),
        ("gzip of a hundred thousand members", b"gzip members"),
        ("a million lists", b"levels deep"),
        ("a million keys", b"members"),
        ("100,000 inputs", b"512 objects"),
    ],
)
def test_a_refusal_says_which_bound_was_passed(door: Door, name: str, says: bytes) -> None:
    """So that it is refused by that bound, and not by what would have come later."""
    target, body, lines, _ = BOMBS[name]
    assert says in door.talk(request(target, body, *lines))


def test_a_body_without_a_length_is_cut_off_at_the_limit(door: Door, memory: Memory) -> None:
    memory.begin()
    with socket.create_connection(("127.0.0.1", door.port), 10) as connection:
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: duet\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
        try:
            for _ in range(4096):
                connection.sendall(piece)
        except OSError:
            pass
        assert statuses(read_answers(connection, 5)) in ([413], [])
    assert memory.grown() <= 2 * CAP


def rpc(door: Door, method: str, message: bytes) -> grpc.StatusCode:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{door.gateway.grpc_port}", options=options) as channel:
        # A call is its own outcome: asked for its code, it does not raise.
        return channel.unary_unary(method).future(message, timeout=30).code()


V2 = "/inference.GRPCInferenceService/ModelInfer"
TF = "/tensorflow.serving.PredictionService/Predict"


def infer(shape: list[int], datatype: str = "FP32", raw: bytes = b"") -> bytes:
    message = v2_pb2.ModelInferRequest(model_name=MODEL, raw_input_contents=[raw])
    message.inputs.add(name="x", datatype=datatype, shape=shape)
    return message.SerializeToString()


def predict(shape: list[int], **fields: object) -> bytes:
    dims = [tf_pb.TensorShapeProto.Dim(size=size) for size in shape]
    message = tf_pb.PredictRequest()
    message.model_spec.name = MODEL
    tensor = tf_pb.TensorProto(dtype=tf_pb.DT_FLOAT, tensor_shape=tf_pb.TensorShapeProto(dim=dims), **fields)  # type: ignore[arg-type]
    message.inputs["x"].CopyFrom(tensor)
    return message.SerializeToString()


CALLS = {
    "a dimension of 2^62": (V2, infer([1 << 62, 4])),
    "negative dimension": (V2, infer([-1, 4], raw=b"abcd")),
    "nine dimensions": (V2, infer([1] * 9, raw=b"abcd")),
    "a million dimensions": (V2, infer([1] * 1_000_000, raw=b"abcd")),
    "strings whose lengths lie": (V2, infer([4, 1], "BYTES", b"\xff\xff\xff\x7f" * 4)),
    "a million strings that are not there": (V2, infer([1_000_000, 1], "BYTES", b"\0" * 8)),
    "no message": (V2, b"\xff" * 1_000_000),
    "a group that never ends": (V2, b"\x0b" * 1_000_000),
    "one value for a billion": (TF, predict([1_000_000_000, 1], float_val=[1.0])),
    "a shape that overflows": (TF, predict([1 << 62, 1 << 62], float_val=[1.0])),
    "an unknown rank": (TF, b"\x0a\x08\x0a\x06double\x12\x0d\x0a\x01x\x12\x08\x08\x01\x12\x04\x18\x01\x08\x00"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_bomb_over_grpc_is_refused(door: Door, memory: Memory, name: str) -> None:
    before = door.predictions
    memory.begin()
    assert rpc(door, *CALLS[name]) is grpc.StatusCode.INVALID_ARGUMENT
    assert memory.grown() <= 2 * CAP
    assert door.predictions == before


def test_a_message_above_the_limit_is_refused_before_it_is_read(door: Door, memory: Memory) -> None:
    memory.begin()
    assert rpc(door, V2, bytes(CAP + 1)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert rpc(door, V2, bytes(16 * CAP)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert memory.grown() <= 2 * CAP


def test_metadata_above_16_kb_is_refused(door: Door) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{door.gateway.grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert call.future(b"", timeout=10, metadata=[("x-a", "a" * 1000)]).code() is grpc.StatusCode.OK
        code = call.future(b"", timeout=10, metadata=[(f"x-{n}", "a" * 1000) for n in range(20)]).code()
        assert code is not grpc.StatusCode.OK
