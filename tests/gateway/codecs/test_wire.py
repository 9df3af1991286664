"""Protobuf messages of many small fields are refused before a parser has made objects of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.codecs import wire
from gateway.errors import InvalidArgument
from gateway.protos import tfserving_pb2 as tf
from gateway.protos import torchserve_pb2 as torch
from gateway.protos import v2_pb2 as v2

MIB = 1 << 20
MANY = 1 << 16
REQUESTS = {
    message.DESCRIPTOR.name: message
    for message in (
        v2.ModelInferRequest,
        v2.RepositoryIndexRequest,
        v2.ModelStatisticsRequest,
        tf.PredictRequest,
        tf.ClassificationRequest,
        tf.RegressionRequest,
        tf.MultiInferenceRequest,
        tf.GetModelMetadataRequest,
        tf.GetModelStatusRequest,
        torch.PredictionsRequest,
    )
}


def read(data: bytes, message: Any) -> Any:
    return wire.Checked(message).FromString(data)


class Unparsed:
    """A message class that must not be asked to parse."""

    def __init__(self, message: Any) -> None:
        self.DESCRIPTOR = message.DESCRIPTOR

    def FromString(self, data: bytes) -> Any:  # noqa: N802 - protobuf's name
        raise AssertionError(f"{len(data)} bytes are parsed")


def contents(**fields: Any) -> bytes:
    entry = {"name": "x", "contents": v2.InferTensorContents(**fields)}
    return v2.ModelInferRequest(inputs=[entry]).SerializeToString()


def tensor(**fields: Any) -> bytes:
    return tf.PredictRequest(inputs={"x": tf.TensorProto(**fields)}).SerializeToString()


def examples(count: int) -> tf.Input:
    return tf.Input(example_list_with_context=tf.ExampleListWithContext(examples=[b""] * count))


#: Name -> a message of 100 kB to 3 MiB, its class, and what is said of it.
BOMBS: dict[str, tuple[bytes, Any, str]] = {
    "empty inputs": (b"\x2a\x00" * MANY, v2.ModelInferRequest, "4096 messages inside .* InferInputTensor"),
    "empty outputs": (b"\x32\x00" * MANY, v2.ModelInferRequest, "4096 messages inside"),
    "empty parameters": (b"\x22\x00" * MANY, v2.ModelInferRequest, "4096 messages inside"),
    "empty raw contents": (b"\x3a\x00" * MANY, v2.ModelInferRequest, "fields"),
    "one name again and again": (b"\x0a\x00" * MANY, v2.ModelInferRequest, "fields"),
    "contents again and again": (b"\x2a\x80\x80\x04" + b"\x2a\x00" * (MANY // 2), v2.ModelInferRequest, "messages"),
    "empty strings": (contents(bytes_contents=[b""] * MANY), v2.ModelInferRequest, "fields"),
    "dimensions": (
        v2.ModelInferRequest(inputs=[{"shape": [1] * 3 * MIB}]).SerializeToString(),
        v2.ModelInferRequest,
        "2097152 integers as values of 'shape'",
    ),
    "small integers": (contents(int64_contents=[1] * 3 * MIB), v2.ModelInferRequest, "integers as values of"),
    "unknown fields": (b"\x7a\x00" * MANY, v2.ModelInferRequest, "fields"),
    "fields of large numbers": (b"\xfa\xff\x07\x00" * MANY, v2.ModelInferRequest, "fields"),
    "unknown numbers": (b"\x78\x00" * MANY, v2.ModelInferRequest, "fields"),
    "groups": (b"\x7b\x7c" * MANY, v2.ModelInferRequest, "field 15 in ModelInferRequest is a group"),
    "inputs, TF Serving": (b"\x12\x00" * MANY, tf.PredictRequest, "4096 messages inside"),
    "output_filter": (b"\x1a\x00" * MANY, tf.PredictRequest, "fields"),
    "strings, TF Serving": (tensor(string_val=[b""] * MANY), tf.PredictRequest, "fields"),
    "integers, TF Serving": (tensor(int_val=[1] * 3 * MIB), tf.PredictRequest, "integers as values of 'int_val'"),
    "dimensions, TF Serving": (
        tensor(tensor_shape=tf.TensorShapeProto(dim=[tf.TensorShapeProto.Dim()] * MANY)),
        tf.PredictRequest,
        "messages inside",
    ),
    "examples": (
        tf.ClassificationRequest(input=examples(MANY)).SerializeToString(),
        tf.ClassificationRequest,
        "fields",
    ),
    "examples to regress": (
        tf.RegressionRequest(input=examples(MANY)).SerializeToString(),
        tf.RegressionRequest,
        "field",
    ),
    "tasks": (b"\x0a\x00" * MANY, tf.MultiInferenceRequest, "4096 messages inside .* InferenceTask"),
    "metadata fields": (b"\x12\x00" * MANY, tf.GetModelMetadataRequest, "fields"),
    "inputs, TorchServe": (b"\x1a\x00" * MANY, torch.PredictionsRequest, "4096 messages inside"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_many_small_fields_are_refused_before_they_are_parsed(name: str) -> None:
    """The whole kind: whatever a field costs beyond its bytes, in any message of any service."""
    data, message, says = BOMBS[name]
    with pytest.raises(InvalidArgument, match=says):
        wire.Checked(Unparsed(message)).FromString(data)


#: Large messages as clients send them.
SOUND: dict[str, tuple[bytes, Any]] = {
    "raw": (
        v2.ModelInferRequest(
            model_name="m",
            inputs=[{"name": f"x{n}", "datatype": "FP32", "shape": [8, 224, 224, 3]} for n in range(64)],
            raw_input_contents=[bytes(65_536)] * 64,
            parameters={f"p{n}": v2.InferParameter(int64_param=n) for n in range(64)},
        ).SerializeToString(),
        v2.ModelInferRequest,
    ),
    "typed floats": (contents(fp32_contents=np.ones(MIB, np.float32)), v2.ModelInferRequest),
    "typed integers": (contents(int64_contents=np.arange(MIB)), v2.ModelInferRequest),
    "booleans": (contents(bool_contents=[True] * 3 * MIB), v2.ModelInferRequest),
    "strings": (contents(bytes_contents=[b"a" * 64] * 32_768), v2.ModelInferRequest),
    "floats, TF Serving": (tensor(float_val=np.ones(MIB, np.float32)), tf.PredictRequest),
    "content, TF Serving": (tensor(tensor_content=bytes(4 * MIB)), tf.PredictRequest),
    "examples": (
        tf.ClassificationRequest(
            input=tf.Input(example_list=tf.ExampleList(examples=[b"a" * 64] * 32_768))
        ).SerializeToString(),
        tf.ClassificationRequest,
    ),
    "parts": (torch.PredictionsRequest(input={"x": bytes(MIB)}).SerializeToString(), torch.PredictionsRequest),
}


@pytest.mark.parametrize("name", SOUND)
def test_what_clients_send_is_read_as_before(name: str) -> None:
    data, message = SOUND[name]
    assert len(data) > wire.MIN_BYTES
    assert read(data, message) == message.FromString(data)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(REQUESTS)), st.binary(max_size=60), st.integers(0, 3))
def test_any_bytes_are_read_as_the_parser_reads_them(name: str, some: bytes, unknown: int) -> None:
    """Or refused: a look never lets pass what the parser refuses, and never stumbles."""
    message = REQUESTS[name]
    data = some + b"\xfa\x7f\x80\x80\x02" + bytes(wire.MIN_BYTES) + some * unknown
    try:
        expected: Any = message.FromString(data)
    except Exception as error:
        expected = type(error)
    try:
        found: Any = read(data, message)
    except InvalidArgument as error:
        found = error
    except Exception as error:
        found = type(error)
    assert found == expected or "is a group" in str(found)


def test_every_service_looks_first() -> None:
    """Whatever call a service has, its message is read by `wire.Checked`."""
    from gateway.grpc import tfserving, torchserve
    from gateway.grpc import v2 as front

    seen: dict[str, Any] = {}

    class Calls:
        statistics = None

        def unary(self, _: Any, request: Any, *, path: str, **__: Any) -> None:
            seen[path] = request

        stream = unary

    calls: Any = Calls()
    nobody: Any = None
    front.services(nobody, calls, ready=lambda: True)
    tfserving.services(nobody, calls)
    torchserve.services(nobody, calls, ready=lambda: True)
    assert len(seen) > 15
    empty = {path for path, request in seen.items() if not isinstance(request, wire.Checked)}
    assert {path.rpartition("/")[2] for path in empty} <= {"Ping"}
