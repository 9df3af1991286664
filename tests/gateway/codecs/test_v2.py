from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from gateway.codecs import v2, v2_models
from gateway.errors import DataLoss, InvalidArgument
from gateway.types import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    Signature,
    Tensor,
    TensorSpec,
    VersionMetadata,
)

X = Tensor("x", "FP32", np.array([[1, 2]], np.float32))
ANSWER = InferResponse("m", "tensorflow", 3, (Tensor("y", "FP32", np.array([[0.1]], np.float32)), X))


def request(**members: Any) -> bytes:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    return orjson.dumps({"inputs": [tensor], **members})


def test_a_json_request_is_decoded() -> None:
    body = v2.decode_request(request(id="7", parameters={"variant": "pytorch"}, outputs=[{"name": "y"}]))
    assert body.id == "7"
    assert body.parameters == {"variant": "pytorch"}
    assert body.outputs == ("y",)
    assert body.inputs[0].data.tolist() == [[1, 2]]
    assert not body.form.binary("y")


def test_the_binary_request_that_we_send_is_the_one_that_we_read() -> None:
    strings = Tensor("s", "BYTES", np.array([b"\xff\x00", "ü".encode()], np.object_))
    pieces, length = v2.encode_request(InferRequest("m", (X, strings), outputs=("y",)))
    body = v2.decode_request(b"".join(pieces), length)
    assert [tensor.name for tensor in body.inputs] == ["x", "s"]
    assert body.inputs[0].data.tolist() == X.data.tolist()
    assert body.inputs[1].data.tolist() == strings.data.tolist()
    assert body.outputs == ("y",)


def test_json_and_binary_tensors_may_stand_side_by_side() -> None:
    inputs = [
        {"name": "a", "shape": [1], "datatype": "INT32", "data": [7]},
        {"name": "b", "shape": [1], "datatype": "INT32", "parameters": {"binary_data_size": 4}},
    ]
    document = orjson.dumps({"inputs": inputs})
    body = v2.decode_request(document + b"\x09\0\0\0", len(document))
    assert [tensor.data.tolist() for tensor in body.inputs] == [[7], [9]]


def test_an_answer_is_json_unless_asked_otherwise() -> None:
    pieces, length = v2.encode_response(ANSWER, form=v2.OutputForm(), request_id="7")
    assert length is None
    assert b"".join(pieces) == (
        b'{"model_name":"m","model_version":"3","id":"7","outputs":['
        b'{"name":"y","datatype":"FP32","shape":[1,1],"data":[0.1]},'
        b'{"name":"x","datatype":"FP32","shape":[1,2],"data":[1.0,2.0]}]}'
    )


def test_each_output_takes_the_form_asked_for() -> None:
    """``binary_data`` of an output goes before ``binary_data_output`` of the request."""
    asked = v2.decode_request(
        request(
            parameters={"binary_data_output": True},
            outputs=[{"name": "y", "parameters": {"binary_data": False}}, {"name": "x"}],
        )
    )
    assert "binary_data_output" not in asked.parameters
    pieces, length = v2.encode_response(ANSWER, form=asked.form)
    body = b"".join(pieces)
    assert length is not None
    outputs = orjson.loads(body[:length])["outputs"]
    assert outputs[0]["data"] == [0.1]
    assert outputs[1]["parameters"] == {"binary_data_size": 8}
    assert body[length:] == X.data.tobytes()
    decoded = v2.decode_response(body, length)
    assert [tensor.data.tolist() for tensor in decoded] == [tensor.data.tolist() for tensor in ANSWER.outputs]


@pytest.mark.parametrize(
    ("body", "length", "says"),
    [
        (b"{", None, "not valid JSON"),
        (b"[]", None, "must be a JSON object"),
        (
            b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}]}',
            None,
            "NaN and Infinity are not JSON",
        ),
        (b"{}", None, "'inputs' must be a list"),
        (request(inputs={}), None, "must be a list of tensors"),
        (request(inputs=None), None, "must be a list of tensors"),
        (request(inputs=[3]), None, "must be an object"),
        (request(inputs=[{"shape": [1]}]), None, "needs a 'name'"),
        (request(inputs=[{"name": "x", "shape": [1], "data": [1]}]), None, "'datatype' is missing"),
        (request(inputs=[{"name": "x", "datatype": "FP32", "data": [1]}]), None, "'shape' must be a list"),
        (request(inputs=[{"name": "x", "datatype": "FP32", "shape": [-1], "data": []}]), None, "at least 0"),
        (request(inputs=[{"name": "x", "datatype": "FP32", "shape": [True], "data": [1]}]), None, "integers"),
        (request(inputs=[{"name": "x", "datatype": "FP32", "shape": [1] * 33, "data": [1]}]), None, "33 dimensions"),
        (request(inputs=[{"name": "x", "datatype": "FP32", "shape": [0, 1 << 40, 2], "data": []}]), None, "too large"),
        (request(inputs=[{"name": "x", "datatype": "FP32", "shape": [1]}]), None, "give either 'data' or"),
        (request(id=7), None, "'id' must be a string"),
        (request(parameters=[]), None, "'parameters' of the request must be an object"),
        (request(parameters={"a": {}}), None, "parameter 'a'"),
        (request(parameters={"binary_data_output": 1}), None, "'binary_data_output' must be true or false"),
        (request(outputs={}), None, "'outputs' must be a list"),
        (request(outputs=[{"name": "y"}, {"name": "y"}]), None, "asked for twice"),
        (request(outputs=[{"name": "y", "parameters": {"binary_data": 1}}]), None, "'binary_data' of output 'y'"),
        (request(outputs=[{"name": "y", "parameters": {"classification": 0}}]), None, "classification"),
        (request(parameters={"triton_x": 1}), None, "reserved"),
        (request(), 0, "Inference-Header-Content-Length is 0"),
        (request(), 10_000, "Inference-Header-Content-Length is 10000"),
        (request() + b"abc", len(request()), "3 bytes are left after the last"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(body: bytes, length: int | None, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        v2.decode_request(body, length)


@pytest.mark.parametrize("size", [-1, 5, True, "4"])
def test_a_binary_size_must_fit_the_body(size: object) -> None:
    tensor = {"name": "x", "shape": [1], "datatype": "INT32", "parameters": {"binary_data_size": size}}
    document = orjson.dumps({"inputs": [tensor]})
    with pytest.raises(InvalidArgument, match="binary_data_size"):
        v2.decode_request(document + b"\0\0\0\0", len(document))


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"outputs":[{"name":"y"}]}'])
def test_a_server_that_answers_nonsense_is_data_loss(body: bytes) -> None:
    """It is the server's fault, not the client's."""
    with pytest.raises(DataLoss, match="answer is not valid"):
        v2.decode_response(body, None)


def signature(datatype: str, shape: tuple[int, ...], inputs: int = 1) -> Signature:
    return Signature(tuple(TensorSpec(f"x{index}", datatype, shape) for index in range(inputs)), ())


@pytest.mark.parametrize(
    ("datatype", "declared", "body", "shape"),
    [
        ("FP32", (-1, 2), b"\0" * 8, (1, 2)),
        ("FP32", (2,), b"\0" * 8, (2,)),
        ("INT16", (-1, -1), b"\0" * 6, (1, 3)),
        ("FP16", (-1, 2, -1), b"\0" * 8, (1, 2, 2)),
        ("INT8", (-1, -1), b"", (1, 0)),
        ("INT8", (-1, 0, -1), b"", (1, 0, 0)),
        ("BYTES", (-1,), b"\xff text", (1,)),
        ("BYTES", (-1, 1), b"", (1, 1)),
        ("BYTES", (-1, -1), b"a", (1, 1)),
    ],
)
def test_a_raw_request_takes_its_shape_from_the_signature(
    datatype: str, declared: tuple[int, ...], body: bytes, shape: tuple[int, ...]
) -> None:
    """A batch of one, and one more dimension that may be free; a string has no length before it."""
    decoded = v2.decode_raw_request(body, signature(datatype, declared))
    (tensor,) = decoded.inputs
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x0", datatype, shape)
    assert tensor.data.tobytes() == body or tensor.data.ravel().tolist() == [body]
    assert decoded.form.binary("anything")


@pytest.mark.parametrize(
    ("declared", "body", "says"),
    [
        (signature("FP32", (-1, 2)), b"\0" * 7, "takes 8 bytes, got 7"),
        (signature("FP32", (-1, -1)), b"\0" * 7, "takes 4 bytes, got 7"),
        (signature("FP32", (-1, 0, -1)), b"\0" * 4, "takes 0 bytes, got 4"),
        (signature("FP32", (-1, -1, -1)), b"", "at most one free dimension"),
        (signature("FP32", (-1,), inputs=2), b"", "one input; this one has 2"),
        (signature("BYTES", (-1, 2)), b"", "one string"),
        (signature("UNKNOWN", (-1, -1)), b"", "unknown datatype"),
    ],
)
def test_a_raw_request_that_does_not_fit_is_told_why(declared: Signature, body: bytes, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        v2.decode_raw_request(body, declared)


def test_classes_take_the_form_asked_for() -> None:
    outputs = [{"name": "y", "parameters": {"classification": 2, "binary_data": True}}, {"name": "x"}]
    asked = v2.decode_request(request(outputs=outputs))
    pieces, length = v2.encode_response(ANSWER, form=asked.form)
    assert length is not None
    classes, values = v2.decode_response(b"".join(pieces), length)
    assert (classes.name, classes.datatype, classes.data.tolist()) == ("y", "BYTES", [[b"0.100000:0"]])
    assert values.data.tolist() == [[1, 2]]


@pytest.mark.parametrize(("given", "seconds"), [({}, None), ({"timeout": 0}, None), ({"timeout": 1500}, 0.0015)])
def test_a_timeout_is_in_microseconds_and_0_is_none(given: dict[str, Any], seconds: float | None) -> None:
    assert v2.timeout_seconds(given) == seconds


@pytest.mark.parametrize("value", [-1, True, 1.5, "1"])
def test_a_timeout_is_a_whole_number(value: Any) -> None:
    with pytest.raises(InvalidArgument, match="microseconds"):
        v2.timeout_seconds({"timeout": value})


def test_shared_memory_is_not_offered() -> None:
    tensor = {"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"shared_memory_region": "r"}}
    with pytest.raises(InvalidArgument, match="shared memory"):
        v2.decode_request(request(inputs=[tensor]))


def test_a_model_whose_first_dimensions_are_not_all_free_has_no_batch() -> None:
    """Then its configuration gives every dimension, and 0 as the largest batch (model_config.proto)."""
    described = ModelMetadata("m", "tensorflow", "tensorflow_savedmodel", {}, None)
    specs = (TensorSpec("a", "BYTES", (-1, 2)), TensorSpec("b", "ODD", (3,)))
    one = VersionMetadata(1, ready=True, signatures={"serving_default": Signature(specs, specs[:1])})
    config = v2_models.config(described, one)
    assert config["max_batch_size"] == 0
    assert config["input"] == [
        {"name": "a", "data_type": "TYPE_STRING", "dims": [-1, 2]},
        {"name": "b", "data_type": "TYPE_INVALID", "dims": [3]},
    ]
    assert v2_models.config(described, VersionMetadata(1, ready=False))["max_batch_size"] == 0
