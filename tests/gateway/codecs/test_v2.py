from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from gateway.codecs import v2
from gateway.errors import DataLoss, InvalidArgument
from gateway.types import InferRequest, InferResponse, Tensor

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
        (request(inputs=[]), None, "at least one tensor"),
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
