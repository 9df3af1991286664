"""Small messages that ask for much: each product of two fields is bounded before it is made, and each loop by a count.

The memory is measured where the bound is what holds it: without the bound, these few bytes take hundreds of megabytes.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import orjson
import pytest

from gateway.codecs import classification, limits, multipart, npy, raw, torchserve, torchserve_opaque, v2, v2_grpc
from gateway.codecs import tfserving as tf
from gateway.codecs import tfserving_examples as examples
from gateway.codecs import tfserving_json as tf_json
from gateway.codecs import tfserving_rest as tf_rest
from gateway.errors import InvalidArgument
from gateway.protos import tfserving_pb2 as pb
from gateway.protos import v2_pb2
from gateway.types import Signature, Tensor, TensorSpec

KIB, MIB = 1 << 10, 1 << 20
TEXT = Signature((TensorSpec("x", "BYTES", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))
NUMBERS = Signature((TensorSpec("x", "FP32", (-1, -1)),), (TensorSpec("y", "FP32", (-1,)),))
MOST = limits.MAX_STRINGS


def shaped(*sizes: int) -> pb.TensorShapeProto:
    return pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in sizes])


def proto(dtype: int, *sizes: int, **values: Any) -> pb.TensorProto:
    return pb.TensorProto(dtype=dtype, tensor_shape=shaped(*sizes), **values)  # type: ignore[arg-type]


def shared(context: bytes, count: int) -> pb.Input:
    return pb.Input(example_list_with_context=pb.ExampleListWithContext(examples=[b""] * count, context=context))


def examples_body(context: int, count: int) -> bytes:
    return orjson.dumps({"context": {"c": "x" * context}, "examples": [{}] * count})


def predict(inputs: Mapping[str, pb.TensorProto]) -> Any:
    return tf.decode_predict(pb.PredictRequest(inputs=inputs))


def triton(datatype: str, shape: list[int], *raws: bytes, **contents: Any) -> Any:
    entries = [{"name": f"x{n}", "datatype": datatype, "shape": shape} for n in range(max(len(raws), 1))]
    message = v2_pb2.ModelInferRequest(inputs=entries, raw_input_contents=raws)
    if contents:
        message.inputs[0].contents.MergeFrom(v2_pb2.InferTensorContents(**contents))
    return v2_grpc.decode_request(message)


def triton_rest(datatype: str, shape: list[int], data: Any) -> Any:
    entry = {"name": "x", "datatype": datatype, "shape": shape, "data": data}
    return v2.decode_request(orjson.dumps({"inputs": [entry]}))


def triton_binary(count: int, tensors: int = 1) -> Any:
    blob = bytes(4 * count)
    entry = {"datatype": "BYTES", "shape": [count], "parameters": {"binary_data_size": len(blob)}}
    document = orjson.dumps({"inputs": [{"name": f"x{n}", **entry} for n in range(tensors)]})
    return v2.decode_request(document + blob * tensors, len(document))


def torch_json(signature: Signature, document: Any) -> Any:
    return torchserve.decode(orjson.dumps(document), signature, "application/json")


def numpy_file(*shape: int) -> bytes:
    return npy.encode(Tensor("x", "FP32", np.empty(shape, np.float32)))


#: Name -> a small message that asks for much, and what its refusal says.
PRODUCTS: dict[str, tuple[Callable[[], Any], str]] = {
    "context x examples, gRPC": (
        lambda: examples.decode_input(shared(bytes(64 * KIB), 8000)),
        "'context': 8000 copies",
    ),
    "context x examples, REST": (lambda: examples.decode(examples_body(64 * KIB, 8000)), "'context': 8000 copies"),
    "a context that just does not fit": (
        lambda: examples.decode_input(shared(bytes(KIB), 4 * KIB + 1)),
        "copies may take in one request",
    ),
    "value x shape": (lambda: predict({"x": proto(pb.DT_DOUBLE, 1 << 22, double_val=[1])}), "the last value of tensor"),
    "value x shape x inputs": (
        lambda: predict({f"x{n}": proto(pb.DT_FLOAT, 1 << 18, float_val=[1]) for n in range(64)}),
        "the last value of tensor",
    ),
    "string x shape": (
        lambda: predict({"x": proto(pb.DT_STRING, 30_000, string_val=[bytes(64 * KIB)])}),
        "the last value of tensor",
    ),
    "empty strings x shape": (lambda: predict({"x": proto(pb.DT_STRING, 300_000, string_val=[b""])}), "strings"),
    "rows without elements, TF Serving": (lambda: predict({"x": proto(pb.DT_FLOAT, 1 << 30, 0)}), "without elements"),
    "rows without elements, gRPC": (lambda: triton("FP32", [1 << 30, 0], b""), "without elements"),
    "rows without elements, typed": (lambda: triton("BYTES", [0, 1 << 30]), "without elements"),
    "rows without elements, REST": (lambda: triton_rest("FP32", [1 << 30, 0], []), "without elements"),
    "rows without elements, .npy": (lambda: npy.decode("x", "FP32", numpy_file(1 << 30, 0)), "without elements"),
    "rows x best classes": (
        lambda: classification.best((Tensor("y", "FP32", np.zeros((4000, 10), np.float32)),), {"y": 10}),
        "classes are more than",
    ),
    "rows without elements x best classes": (
        lambda: classification.best((Tensor("y", "FP32", np.empty((1 << 30, 0), np.float32)),), {"y": 10}),
        "classes are more than",
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_of_two_fields_is_refused_before_it_is_made(name: str) -> None:
    """The whole kind: what a message's fields make of one another, in every decoder that multiplies them."""
    make, says = PRODUCTS[name]
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArgument, match=says):
            make()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB, f"{peak >> 20} MiB"


def test_what_is_within_the_bounds_is_made_as_before() -> None:
    assert examples.decode_input(shared(b"\x0a\x00", 3)) == [b"\x0a\x00"] * 3
    assert len(examples.decode(examples_body(KIB, 1000)).examples) == 1000
    (filled,), _ = predict({"x": proto(pb.DT_FLOAT, 1 << 20, float_val=[1, 2])})
    assert filled.data[:3].tolist() == [1, 2, 2]
    (rows,), _ = predict({"x": proto(pb.DT_FLOAT, limits.MAX_EMPTY_ROWS, 0)})
    assert rows.shape == (limits.MAX_EMPTY_ROWS, 0)
    assert triton_binary(MOST // 4, 4).inputs[3].shape == (MOST // 4,)


def test_a_servers_own_answers_are_not_held_to_what_clients_may_ask_for() -> None:
    """Labels of a thousand classes for a thousand rows are one answer."""
    answer = pb.PredictResponse(outputs={"y": proto(pb.DT_STRING, MOST + 1, string_val=[b"a"])})
    assert tf.decode_predict_response(answer)[0].shape == (MOST + 1,)
    assert raw.decode("y", "BYTES", (MOST + 1,), bytes(4 * MOST + 4)).shape == (MOST + 1,)


#: Name -> a message with one string too many, however it travels.
STRINGS: dict[str, Callable[[], Any]] = {
    "gRPC, raw": lambda: triton("BYTES", [MOST + 1], bytes(4 * MOST + 4)),
    "gRPC, raw, of two tensors": lambda: triton("BYTES", [MOST], bytes(4 * MOST), bytes(4 * MOST)),
    "gRPC, typed": lambda: triton("BYTES", [MOST + 1], bytes_contents=[b""] * (MOST + 1)),
    "REST, binary": lambda: triton_binary(MOST + 1),
    "REST, binary, of three tensors": lambda: triton_binary(MOST // 2, 3),
    "REST, JSON": lambda: triton_rest("BYTES", [MOST + 1], [""] * (MOST + 1)),
    "TF Serving, string_val": lambda: predict({"x": proto(pb.DT_STRING, MOST + 1, string_val=[b""] * (MOST + 1))}),
    "TF Serving, tensor_content": lambda: predict({"x": proto(pb.DT_STRING, MOST + 1, tensor_content=bytes(MOST + 1))}),
    "TF Serving, JSON": lambda: tf_rest.decode_predict(orjson.dumps({"instances": [""] * (MOST + 1)})).inputs(TEXT),
    "TorchServe, JSON": lambda: torch_json(TEXT, [""] * (MOST + 1)),
    "TorchServe, instances": lambda: torch_json(TEXT, {"instances": [""] * (MOST + 1)}),
}


@pytest.mark.parametrize("name", STRINGS)
def test_the_strings_of_a_request_are_counted_over_all_its_tensors(name: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"strings; at most {MOST} are taken in one request"):
        STRINGS[name]()


#: Name -> a message of more entries than anybody needs, and what it says of them.
COUNTS: dict[str, tuple[Callable[[], Any], str]] = {
    "inputs, gRPC": (lambda: triton("FP32", [0], *[b""] * 257), r"257 'inputs'; at most 256"),
    "outputs, gRPC": (
        lambda: v2_grpc.decode_request(v2_pb2.ModelInferRequest(outputs=[{"name": "y"}] * 257)),
        r"257 'outputs'; at most 256",
    ),
    "parameters, gRPC": (
        lambda: v2_grpc.decode_request(
            v2_pb2.ModelInferRequest(parameters={str(n): v2_pb2.InferParameter(bool_param=True) for n in range(257)})
        ),
        r"257 parameters of the request; at most 256",
    ),
    "dimensions, gRPC": (lambda: triton("FP32", [1] * 1000, b""), "1000 dimensions"),
    "dimensions, REST": (lambda: triton_rest("FP32", ["a" * 1000] * 1000, []), "1000 dimensions"),  # type: ignore[list-item]
    "inputs, TF Serving": (
        lambda: tf.check_names([str(n) for n in range(257)], (), NUMBERS),
        r"257 'inputs'; at most 256",
    ),
    "output_filter, TF Serving": (
        lambda: tf.check_names(["x"], ["y"] * 257, NUMBERS),
        r"257 names in 'output_filter'; at most 256",
    ),
    "outputs, REST": (
        lambda: v2.decode_request(orjson.dumps({"inputs": [], "outputs": [{"name": str(n)} for n in range(257)]})),
        r"257 'outputs'; at most 256",
    ),
    "examples, gRPC": (lambda: examples.decode_input(shared(b"", (1 << 15) + 1)), r"32769 'examples'; at most 32768"),
    "examples, REST": (lambda: examples.decode(examples_body(0, (1 << 15) + 1)), r"32769 'examples'; at most 32768"),
    "parts, TorchServe": (
        lambda: torchserve.decode_named({str(n): b"" for n in range(257)}, NUMBERS),
        r"257 inputs; at most 256",
    ),
    "parts for a handler": (
        lambda: torchserve_opaque.of_parts({str(n): b"" for n in range(257)}),
        rf"257 inputs; at most {multipart.MAX_PARTS}",
    ),
    "characters of a name, gRPC": (lambda: triton("FP" + "3" * 2000, [1], b"1234"), "a datatype in 'inputs' has 2002"),
    "characters of a name, REST": (lambda: triton_rest("FP" + "3" * 2000, [1], [1]), "the datatype of tensor 'x'"),
}


@pytest.mark.parametrize("name", COUNTS)
def test_entries_are_counted_before_anything_loops_over_them(name: str) -> None:
    make, says = COUNTS[name]
    with pytest.raises(InvalidArgument, match=says):
        make()


def test_headers_that_list_what_is_accepted_are_read_up_to_a_count() -> None:
    json = "application/json"
    assert torchserve.accepted("text/html, application/json;q=0.5, */*") == json
    assert torchserve.accepted("a," * 64 + json) is None
    assert torchserve.accepted(json + ";a" * 1000) == json


def test_what_an_error_shows_is_cut_before_it_is_written() -> None:
    """The text is what it would be of the whole value; the memory is what the text takes."""
    import rapidjson

    values: list[Any] = [
        {"a": [1.5] * 200_000},
        ["x" * MIB],
        {"k" * MIB: 1},
        {"a": {"b": ["c" * 100] * 1000}},
        [[[]]] * 1000,
        [[]] * 86,
        {"short": ["text", None, True, 1.5]},
    ]
    for value in values:
        whole = rapidjson.dumps(value, indent=4, number_mode=rapidjson.NM_NAN, ensure_ascii=False)
        tracemalloc.start()
        shown = tf_json.shown(value)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert shown == (whole if len(whole) <= 256 else f"{whole[:256]}...TRUNCATED")
        assert peak < 256 * KIB
