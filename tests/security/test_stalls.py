"""What decoding one message may cost on the event loop, in every decoder: printed in ms, held in memory.

The messages are the worst that are known of each kind, as large as the limits let them be. Those of JSON are as large
as is decoded in the gateway's own process; larger ones go aside. What protobuf's own arenas take is
not seen: `gateway.codecs.wire` bounds it by counts. Times are for reading (`-s`): a machine that others
use would fail a test of them.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import pytest

from gateway.codecs import tfserving as tf
from gateway.codecs import tfserving_examples as examples
from gateway.codecs import tfserving_predict as predict
from gateway.codecs import torchserve, v2, v2_grpc, wire
from gateway.codecs.limits import MAX_STRINGS
from gateway.errors import DuetError
from gateway.protos import tfserving_pb2 as pb
from gateway.protos import torchserve_pb2 as torch_pb
from gateway.protos import v2_pb2
from gateway.types import Signature, TensorSpec, VersionMetadata

pytestmark = pytest.mark.full

MOST = 16 << 20
INLINE = (128 << 10) - 1
EXAMPLES = INLINE >> 3
NUMBERS = Signature((TensorSpec("x", "FP32", (-1, -1)),), (TensorSpec("y", "FP32", (-1,)),))
TEXT = Signature((TensorSpec("x", "BYTES", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))
VERSION = VersionMetadata(1, ready=True, signatures={"serving_default": NUMBERS, "text": TEXT})

Decode = Callable[[bytes], Any]


def infer(data: bytes) -> Any:
    return v2_grpc.decode_request(wire.Checked(v2_pb2.ModelInferRequest).FromString(data))


def predicted(data: bytes) -> Any:
    message = wire.Checked(pb.PredictRequest).FromString(data)
    tf.check_names(message.inputs, message.output_filter, NUMBERS)
    return tf.decode_predict(message)


def classified(data: bytes) -> Any:
    return examples.tensor(examples.decode_input(wire.Checked(pb.ClassificationRequest).FromString(data).input))


def handed(data: bytes) -> Any:
    return torchserve.decode_named(wire.Checked(torch_pb.PredictionsRequest).FromString(data).input, NUMBERS)


def by_rows(data: bytes) -> Any:
    return predict.decode(data, VERSION)


def by_torch(content_type: str | None, signature: Signature = NUMBERS) -> Decode:
    return lambda data: torchserve.decode(data, signature, content_type)


def tensor(datatype: str, *shape: int, raw: bytes | None = None, **contents: Any) -> bytes:
    filled = v2_pb2.InferTensorContents(**contents)
    entry = v2_pb2.ModelInferRequest.InferInputTensor(name="x", datatype=datatype, shape=shape, contents=filled)
    return v2_pb2.ModelInferRequest(inputs=[entry], raw_input_contents=[] if raw is None else [raw]).SerializeToString()


def proto(dtype: pb.DataType, *sizes: int, **values: Any) -> bytes:
    shape = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in sizes])
    x = pb.TensorProto(dtype=dtype, tensor_shape=shape, **values)
    return pb.PredictRequest(inputs={"x": x}).SerializeToString()


def filled(piece: bytes, most: int, head: bytes = b"[", tail: bytes = b"0]") -> bytes:
    return head + piece * ((most - len(head) - len(tail)) // len(piece)) + tail


def binary(count: int, blob: bytes) -> tuple[Decode, bytes]:
    entry = {"name": "x", "datatype": "BYTES", "shape": [count], "parameters": {"binary_data_size": len(blob)}}
    document = orjson.dumps({"inputs": [entry]})
    return (lambda data: v2.decode_request(data, len(document))), document + blob


def given(count: int, example: bytes) -> bytes:
    return pb.ClassificationRequest(
        input=pb.Input(example_list=pb.ExampleList(examples=[example] * count))
    ).SerializeToString()


LONG = (MOST - 100) // MAX_STRINGS - 8
#: Name -> what decodes it, and the message.
WORST: dict[str, Callable[[], tuple[Decode, bytes]]] = {
    "empty inputs, gRPC": lambda: (infer, b"\x2a\x00" * (MOST // 2)),
    "empty strings, gRPC": lambda: (infer, tensor("BYTES", MOST // 2, bytes_contents=[b""] * (MOST // 2 - 50))),
    "most strings, gRPC": lambda: (infer, tensor("BYTES", MAX_STRINGS, bytes_contents=[bytes(LONG)] * MAX_STRINGS)),
    "most strings, raw": lambda: (
        infer,
        tensor("BYTES", MAX_STRINGS, raw=(LONG.to_bytes(4, "little") + bytes(LONG)) * MAX_STRINGS),
    ),
    "floats, typed": lambda: (infer, tensor("FP32", 4_000_000, fp32_contents=np.ones(4_000_000, np.float32))),
    "most integers, typed": lambda: (infer, tensor("INT64", 2_000_000, int64_contents=np.full(2_000_000, 1 << 50))),
    "small integers, typed": lambda: (infer, tensor("INT8", 2_000_000, int_contents=bytes(2_000_000))),
    "floats, raw": lambda: (infer, tensor("FP32", 4_000_000, raw=bytes(16_000_000))),
    "binary strings, empty": lambda: binary(MOST // 4, bytes(MOST)),
    "binary strings, most": lambda: binary(MAX_STRINGS, (LONG.to_bytes(4, "little") + bytes(LONG)) * MAX_STRINGS),
    "tensor_content of empty strings": lambda: (predicted, proto(pb.DT_STRING, MOST, tensor_content=bytes(MOST))),
    "tensor_content of most strings": lambda: (
        predicted,
        proto(pb.DT_STRING, MAX_STRINGS, tensor_content=b"\x64" * MAX_STRINGS + bytes(100 * MAX_STRINGS)),
    ),
    "float_val": lambda: (predicted, proto(pb.DT_FLOAT, 4_000_000, 1, float_val=np.ones(4_000_000, np.float32))),
    "int_val": lambda: (predicted, proto(pb.DT_INT8, 2_000_000, 1, int_val=bytes(2_000_000))),
    "one value to all elements": lambda: (predicted, proto(pb.DT_DOUBLE, 1 << 19, double_val=[1])),
    "examples": lambda: (classified, given(MAX_STRINGS, bytes(LONG))),
    "empty examples": lambda: (classified, given(MOST // 2 - 50, b"")),
    "parts": lambda: (
        handed,
        torch_pb.PredictionsRequest(input={str(n): b"[1.5]" for n in range(1_000_000)}).SerializeToString(),
    ),
    "v2: numbers": lambda: (
        v2.decode_request,
        filled(
            b"1.5,",
            INLINE,
            b'{"inputs":[{"name":"x","datatype":"FP32","shape":[32740],"data":[',
            b"1]}]}",
        ),
    ),
    "v2: lists": lambda: (v2.decode_request, filled(b"[],", INLINE, b'{"inputs":[', b"[]]}")),
    "TF Serving: rows": lambda: (by_rows, filled(b"[1],", INLINE, b'{"instances":[', b"[1]]}")),
    "TF Serving: rows with a fault": lambda: (by_rows, filled(b"[1],", INLINE, b'{"instances":[', b'["x"]]}')),
    "TF Serving: objects": lambda: (by_rows, filled(b'{"x":[1]},', INLINE, b'{"instances":[', b'{"x":[1]}]}')),
    "TF Serving: base64": lambda: (
        by_rows,
        filled(b'{"b64":""},', INLINE, b'{"signature_name":"text","instances":[', b'{"b64":""}]}'),
    ),
    "TF Serving: one key twice": lambda: (
        by_rows,
        filled(b"1,", INLINE, b'{"inputs":0,"instances":0,"inputs":[', b"1]}"),
    ),
    "TF Serving: shown": lambda: (by_rows, filled(b"1,", INLINE, b'{"instances":{"a":[', b"1]}}")),
    "examples over REST": lambda: (examples.decode, filled(b"{},", EXAMPLES, b'{"examples":[', b"{}]}")),
    "features over REST": lambda: (examples.decode, filled(b'{"a":1},', EXAMPLES, b'{"examples":[', b"{}]}")),
    "TorchServe: rows": lambda: (by_torch("application/json"), filled(b"[1],", INLINE, tail=b"[1]]")),
    "TorchServe: a picture": lambda: (by_torch(None), b"\x00\x00\x80\x3f" * (MOST // 4)),
    "TorchServe: raw bytes": lambda: (by_torch("application/octet-stream", TEXT), bytes(MOST)),
}


@pytest.mark.parametrize("name", WORST)
def test_a_message_takes_three_times_its_size_at_most(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    """And 8 MiB, which small messages that are filled may take (`gateway.codecs.limits`)."""
    decode, data = WORST[name]()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        with suppress(DuetError):
            decode(data)
        times.append(time.perf_counter() - start)
    tracemalloc.start()
    with suppress(DuetError):
        decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    figure = f"{name}: {len(data) >> 10} KiB, {min(times) * 1e3:.1f} ms, {peak / len(data):.1f} times its size"
    print(figure)
    record_property("figure", figure)
    assert peak <= 3 * len(data) + (8 << 20), figure
