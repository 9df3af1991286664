"""Nothing is decoded at length for somebody who may not have the answer, and counts are checked before loops."""

from __future__ import annotations

import grpc
import orjson
import pytest

from gateway.protos import tfserving_pb2 as tf
from gateway.protos import torchserve_pb2 as torch
from gateway.protos import v2_pb2 as v2
from tests.security.door import MODEL, Door, request, statuses

#: Large, and no body of any of these calls: whoever decodes it says 400.
BROKEN = b"[" + b"1.5," * 100_000


@pytest.mark.parametrize(
    "target",
    [
        "/v2/models/{}/infer",
        "/v2/models/{}/versions/1/infer",
        "/v1/models/{}:predict",
        "/v1/models/{}:classify",
        "/v1/models/{}:regress",
        "/v1/models/{}/versions/1:classify",
        "/predictions/{}",
    ],
)
@pytest.mark.parametrize("name", ["none", f"{MODEL}@none", "none@pytorch"])
def test_a_large_body_for_a_model_that_is_not_there_is_not_decoded(door: Door, target: str, name: str) -> None:
    assert statuses(door.talk(request(target.format(name), BROKEN))) == [404]
    assert statuses(door.talk(request(target.format(MODEL), BROKEN))) == [400]


def spec(name: str = MODEL, signature: str = "") -> tf.ModelSpec:
    return tf.ModelSpec(name=name, signature_name=signature)


def tasks(count: int) -> tf.MultiInferenceRequest:
    made = [
        tf.InferenceTask(model_spec=spec(signature=f"s{n}"), method_name="tensorflow/serving/regress")
        for n in range(count)
    ]
    return tf.MultiInferenceRequest(tasks=made, input=tf.Input(example_list=tf.ExampleList(examples=[b""])))


def of_context(count: int) -> tf.Input:
    shared = tf.ExampleListWithContext(examples=[b""] * count, context=bytes(64 << 10))
    return tf.Input(example_list_with_context=shared)


PREDICTION = "/tensorflow.serving.PredictionService"
INFER = "/inference.GRPCInferenceService/ModelInfer"


def of_tensor(datatype: str, *shape: int, raw: bytes = b"") -> v2.ModelInferRequest:
    entry = v2.ModelInferRequest.InferInputTensor(name="x", datatype=datatype, shape=shape)
    return v2.ModelInferRequest(model_name=MODEL, inputs=[entry], raw_input_contents=[raw])


def integers() -> v2.ModelInferRequest:
    message = of_tensor("INT64", 3 << 20)
    message.inputs[0].contents.int64_contents.extend(bytes(3 << 20))
    return message


def pb_shape(*sizes: int) -> tf.TensorShapeProto:
    return tf.TensorShapeProto(dim=[tf.TensorShapeProto.Dim(size=size) for size in sizes])


def of_value(shape: tf.TensorShapeProto) -> tf.PredictRequest:
    x = tf.TensorProto(dtype=tf.DT_FLOAT, tensor_shape=shape, float_val=[1])
    return tf.PredictRequest(model_spec=spec(), inputs={"x": x})


#: Name -> method, message, and what the refusal says.
REFUSED = {
    "65 tasks": (f"{PREDICTION}/MultiInference", tasks(65), "65 'tasks'; at most 64"),
    "20,000 tasks": (f"{PREDICTION}/MultiInference", tasks(20_000), "4096 messages inside"),
    "context x examples to classify": (
        f"{PREDICTION}/Classify",
        tf.ClassificationRequest(model_spec=spec(), input=of_context(8000)),
        "'context': 8000 copies of its 65536 bytes",
    ),
    "context x examples to regress": (
        f"{PREDICTION}/Regress",
        tf.RegressionRequest(model_spec=spec(), input=of_context(8000)),
        "'context': 8000 copies of its 65536 bytes",
    ),
    "context x examples x tasks": (
        f"{PREDICTION}/MultiInference",
        tf.MultiInferenceRequest(tasks=tasks(64).tasks, input=of_context(8000)),
        "'context': 8000 copies of its 65536 bytes",
    ),
    "metadata fields": (
        f"{PREDICTION}/GetModelMetadata",
        tf.GetModelMetadataRequest(model_spec=spec(), metadata_field=["signature_def"] * 65),
        "65 'metadata_field' entries; at most 64",
    ),
    "empty inputs": (
        "/inference.GRPCInferenceService/ModelInfer",
        v2.ModelInferRequest(model_name=MODEL, inputs=[v2.ModelInferRequest.InferInputTensor()] * 500_000),
        "4096 messages inside",
    ),
    "300 inputs": (
        "/inference.GRPCInferenceService/ModelInfer",
        v2.ModelInferRequest(model_name=MODEL, inputs=[v2.ModelInferRequest.InferInputTensor()] * 300),
        "300 'inputs'; at most 256",
    ),
    "strings": (INFER, of_tensor("BYTES", 40_000, raw=bytes(160_000)), "40000 strings; at most 32768"),
    "rows without elements": (INFER, of_tensor("FP32", 1 << 30, 0), "without elements"),
    "integers": (INFER, integers(), "2097152 integers"),
    "a value x a shape": (f"{PREDICTION}/Predict", of_value(pb_shape(1 << 21, 1)), "the last value of tensor 'x'"),
    "inputs of TorchServe": (
        "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions",
        torch.PredictionsRequest(model_name=MODEL, input={str(n): b"" for n in range(300)}),
        "300 inputs; at most 256",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_too_many_of_anything_over_grpc_is_refused_and_reaches_no_server(door: Door, name: str) -> None:
    method, message, says = REFUSED[name]
    before = door.predictions
    with grpc.insecure_channel(f"127.0.0.1:{door.gateway.grpc_port}") as channel:
        call = channel.unary_unary(method)
        with pytest.raises(grpc.RpcError) as raised:
            call(message.SerializeToString(), timeout=20)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert says in raised.value.details()
    assert door.predictions == before


def test_inputs_over_grpc_that_are_large_json_are_decoded_aside_to_the_same_answer(door: Door) -> None:
    """And so is what is wrong with them."""
    values = [[n / 7] for n in range(30_000)]
    with grpc.insecure_channel(f"127.0.0.1:{door.gateway.grpc_port}") as channel:
        call = channel.unary_unary("/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions")
        message = torch.PredictionsRequest(model_name=MODEL, input={"x": b" " * 64 + orjson.dumps(values)})
        answer = torch.PredictionResponse.FromString(call(message.SerializeToString(), timeout=20))
        assert len(orjson.loads(answer.prediction)) == 30_000
        message.input["x"] = BROKEN
        with pytest.raises(grpc.RpcError) as raised:
            call(message.SerializeToString(), timeout=20)
        assert "not valid JSON" in raised.value.details()
