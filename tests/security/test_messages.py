"""Bytes in place of messages: whatever comes, a decoder gives tensors or a failure that clients can read."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from gateway.codecs import (
    raw,
    scan,
    tfserving,
    tfserving_examples,
    tfserving_rest,
    torchserve,
    v2,
    v2_grpc,
)
from gateway.errors import DuetError, InvalidArgument
from gateway.layers.bounds import Bounds, check
from gateway.protos import tfserving_pb2 as tf_pb
from gateway.protos import v2_pb2
from gateway.types import InferRequest, Signature, Tensor, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("t", "BYTES", (-1,)), TensorSpec("n", "INT64", (-1, 1))),
    (TensorSpec("y", "FP32", (-1, 1)),),
)
ALONE = Signature((TensorSpec("x", "FP32", (-1, 2)),), SIGNATURE.outputs)
BOUNDS = Bounds(elements=1 << 16)
#: What makes a fuzzer's day: the ends of integers, varints, shapes and JSON.
TOKENS = [
    *(b"\xff" * 8, b"\0" * 8, b"\x80" * 10, b"\xff\xff\xff\xff\x0f", b"\x7f\xff\xff\xff", struct.pack("<q", -1)),
    *(b"[" * 40, b"{" * 40, b'"', b"\\", b"]", b"}", b",", b":", b"null", b"true", b"NaN", b"-1", b"1e400", b"9" * 30),
    *(
        b'"shape":[',
        b'"data":',
        b'"binary_data_size":',
        b"BYTES",
        b"FP16",
        b"BF16",
        b"\xed\xa0\x80",
        b"\xf0\x9f\x98\x80",
    ),
    *(b"\r\n--b\r\n", b"\x93NUMPY\x01\x00", b"x", b"t", b"n"),
]


def tensors() -> tuple[Tensor, ...]:
    text = np.empty(2, np.object_)
    text[:] = [b"ab", b"\xff\x00"]
    numbers = np.array([[1.5, 2.5], [3.0, -0.0]], np.float32)
    return Tensor("x", "FP32", numbers), Tensor("t", "BYTES", text), Tensor("n", "INT64", np.array([[1], [-5]]))


def v2_messages() -> list[bytes]:
    message = v2_pb2.ModelInferRequest(model_name="m", id="7")
    message.parameters["timeout"].int64_param = 5
    typed = v2_pb2.ModelInferRequest()
    typed.CopyFrom(message)
    for tensor in tensors():
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_input_contents.append(bytes(raw.encode(tensor)))
    typed.inputs.add(name="x", datatype="FP32", shape=[2, 2]).contents.fp32_contents.extend([1, 2, 3, 4])
    typed.inputs.add(name="n", datatype="INT8", shape=[2]).contents.int_contents.extend([1, -2])
    return [message.SerializeToString(), typed.SerializeToString()]


def predict_messages() -> list[bytes]:
    found = []
    for typed in (False, True):
        message = tf_pb.PredictRequest(output_filter=["y"])
        message.model_spec.name = "m"
        for tensor in tensors():
            tfserving.encode_tensor(tensor, message.inputs[tensor.name], typed=typed)
        found.append(message.SerializeToString())
    return found


def binary_bodies() -> list[bytes]:
    pieces, length = v2.encode_request(InferRequest("m", tensors(), ("y",)))
    return [struct.pack("<H", length) + b"".join(pieces)]


def json_bodies() -> list[bytes]:
    rows = [{"x": [1.0, 2.0], "t": "a", "n": [1]}, {"x": [3, 4], "t": {"b64": "AA=="}, "n": [2]}]
    inputs = [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]
    documents: list[object] = [
        {"instances": rows},
        {"inputs": {"x": [[1, 2]]}},
        {"inputs": inputs},
        [[1, 2]],
        {"x": [[1, 2]]},
    ]
    return [json.dumps(document).encode() for document in documents]


def of_v2_grpc(data: bytes) -> None:
    bounded(v2_grpc.decode_request(v2_pb2.ModelInferRequest.FromString(data)).inputs)


def of_predict(data: bytes) -> None:
    bounded(tfserving.decode_predict(tf_pb.PredictRequest.FromString(data))[0])


def of_classify(data: bytes) -> None:
    tfserving_examples.decode_input(tf_pb.Input.FromString(data))


def of_binary(data: bytes) -> None:
    length = struct.unpack("<H", data[:2].ljust(2, b"\0"))[0]
    bounded(v2.decode_request(data[2:], length).inputs)


def of_rest(data: bytes) -> None:
    """One body for each of the REST fronts, JSON or not."""
    failures = 0
    for decode in (
        lambda: bounded(v2.decode_request(data).inputs),
        lambda: bounded(tfserving_rest.decode_predict(data).inputs(SIGNATURE)),
        lambda: tfserving_examples.decode(data),
        lambda: bounded(torchserve.decode(data, ALONE, "application/json").inputs),
        lambda: bounded(torchserve.decode(data, SIGNATURE).inputs),
        lambda: bounded(torchserve.decode(data, ALONE, "multipart/form-data; boundary=b").inputs),
        lambda: bounded(torchserve.decode(data, ALONE, "application/x-npy").inputs),
        lambda: scan.check(data),
    ):
        try:
            decode()
        except DuetError:
            failures += 1
    if failures >= 7:  # a look over the structure alone makes no tensor
        raise InvalidArgument("no front takes it")


def bounded(inputs: tuple[Tensor, ...]) -> None:
    check(InferRequest("m", inputs), BOUNDS)
    for tensor in inputs:
        assert tensor.data.shape == tensor.shape


def mutated(data: bytes, dice: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 3, 8))):
        place = dice.randrange(len(found) + 1)
        match dice.randrange(6):
            case 0 if found:
                found[place % len(found)] ^= 1 << dice.randrange(8)
            case 1 if found:
                found[place % len(found)] = dice.randrange(256)
            case 2:
                del found[place : place + dice.choice((1, 2, 8, 64))]
            case 3:
                found[place:place] = dice.choice(TOKENS)
            case 4:
                found[place:place] = found[place : place + dice.choice((1, 4, 32))] * dice.choice((1, 2, 50))
            case _:
                found[place:] = dice.randbytes(dice.randrange(12))
    return bytes(found)


FUZZED: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "v2 over gRPC": (of_v2_grpc, v2_messages),
    "Predict": (of_predict, predict_messages),
    "Classify": (of_classify, lambda: [b"\x0a\x0c\x0a\x0a\x0a\x08\x0a\x06\x0a\x01x\x12\x01\x12"]),
    "binary tensors": (of_binary, binary_bodies),
    "bodies over REST": (of_rest, json_bodies),
}


def fuzz(name: str, count: int) -> int:
    """How many of them were tensors all the same."""
    decode, seeds = FUZZED[name]
    dice, corpus, good = random.Random(f"{name} {count}"), seeds(), 0
    for seed in corpus:
        decode(seed)  # a seed that is refused would make a fuzzer of refusals
    for _ in range(count):
        data = mutated(dice.choice(corpus), dice)
        try:
            decode(data)
            good += 1
            if len(corpus) < 500 and len(data) < 4096:
                corpus.append(data)
        except (DuetError, DecodeError):
            pass
    return good


@pytest.mark.parametrize("name", FUZZED)
def test_thousands_of_broken_messages_are_refused_or_read(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    count = 2_000
    assert 0 < fuzz(name, count) < count
    record_property("cases", count)


@pytest.mark.full
@pytest.mark.parametrize("name", FUZZED)
def test_hundreds_of_thousands_of_broken_messages_are_refused_or_read(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    count = 100_000
    assert 0 < fuzz(name, count) < count
    record_property("cases", count)
    record_property("figure", "0 crashes")
