"""TensorFlow Serving over gRPC in front of the real gateway process, before servers of both frameworks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from gateway.protos import tfserving_pb2 as pb
from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe, failure
from tests.gateway.conftest import RunningGateway, start_gateway

VARIANTS = ("tensorflow", "pytorch")
ANSWERS = {
    "PredictionService/Predict": pb.PredictResponse,
    "PredictionService/Classify": pb.ClassificationResponse,
    "PredictionService/Regress": pb.RegressionResponse,
    "PredictionService/MultiInference": pb.MultiInferenceResponse,
    "PredictionService/GetModelMetadata": pb.GetModelMetadataResponse,
    "ModelService/GetModelStatus": pb.GetModelStatusResponse,
    "ModelService/HandleReloadConfigRequest": pb.ReloadConfigRequest,
}


@pytest.fixture(scope="module")
def tensorflow() -> Iterator[FakeTFServing]:
    fake = FakeTFServing({"double": [1, 3]})
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def pytorch() -> Iterator[FakeTorchServe]:
    fake = FakeTorchServe({"double": ["3.0", "1.0"]})
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def gateway(
    tensorflow: FakeTFServing, pytorch: FakeTorchServe, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    settings = {
        "servers": {
            "tensorflow": {"kind": "tfserving", "endpoint": tensorflow.endpoint},
            "pytorch": {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url},
        },
        "models": {"double": {}, "absent": {}},
        "default_deadline_seconds": 5,
    }
    running = start_gateway(settings, tmp_path_factory.mktemp("gateway"))
    try:
        for variant in VARIANTS:
            running.wait_until(f"/v2/models/double@{variant}/ready", 200)
        yield running
    finally:
        assert running.stop() == 0


@pytest.fixture(scope="module")
def channel(gateway: RunningGateway) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        yield channel


def call(channel: grpc.Channel, method: str, message: Any, **arguments: Any) -> tuple[Any, dict[str, str]]:
    """The answer and the trailing metadata."""
    stub = channel.unary_unary(
        f"/tensorflow.serving.{method}",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=ANSWERS[method].FromString,
    )
    answer, seen = stub.with_call(message, timeout=arguments.pop("timeout", 10), **arguments)
    return answer, dict(seen.trailing_metadata())


def refused(channel: grpc.Channel, method: str, message: Any, **arguments: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, method, message, **arguments)
    return raised.value.code(), raised.value.details()


def spec(name: str = "double", version: int | None = None, signature_name: str = "", label: str = "") -> pb.ModelSpec:
    message = pb.ModelSpec(name=name, signature_name=signature_name)
    if version is not None:
        message.version.value = version
    if label:
        message.version_label = label
    return message


def tensor(shape: tuple[int, ...], *, content: bytes = b"", values: tuple[float, ...] = ()) -> pb.TensorProto:
    dims = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in shape])
    return pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=dims, tensor_content=content, float_val=values)


def predict(*values: float, of: pb.ModelSpec | None = None, **members: Any) -> pb.PredictRequest:
    x = tensor((len(values), 1), values=values)
    return pb.PredictRequest(model_spec=of or spec(), **{"inputs": {"x": x}, **members})


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_answer_travels_as_its_request_did(channel: grpc.Channel, variant: str) -> None:
    """Typed values for typed values, tensor_content for tensor_content; the model_spec tells what was resolved."""
    of = spec(f"double@{variant}")
    answer, metadata = call(channel, "PredictionService/Predict", predict(0.1, 2, of=of))
    y = answer.outputs["y"]
    assert (list(y.float_val), y.tensor_content) == ([np.float32(0.2), 4.0], b"")
    assert [dim.size for dim in y.tensor_shape.dim] == [2, 1]
    assert answer.model_spec == spec(f"double@{variant}", 3, "serving_default")
    assert (metadata["x-duet-variant"], metadata["x-duet-version"]) == (variant, "3")
    assert "decode" in metadata["server-timing"]
    assert metadata["x-request-id"]

    values = np.array([[0.1], [2]], np.float32)
    x = tensor((2, 1), content=values.tobytes())
    answer, _ = call(channel, "PredictionService/Predict", pb.PredictRequest(model_spec=of, inputs={"x": x}))
    assert answer.outputs["y"].tensor_content == (2 * values).tobytes()
    assert not answer.outputs["y"].float_val


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_shape_without_its_last_dimension_works_and_comes_back(channel: grpc.Channel, variant: str) -> None:
    x = tensor((3,), values=(1, 2, 5))
    request = pb.PredictRequest(model_spec=spec(f"double@{variant}"), inputs={"x": x})
    y = call(channel, "PredictionService/Predict", request)[0].outputs["y"]
    assert [dim.size for dim in y.tensor_shape.dim] == [3]
    assert list(y.float_val) == [2, 4, 10]


def test_the_last_value_fills_the_rest(channel: grpc.Channel) -> None:
    request = pb.PredictRequest(model_spec=spec(), inputs={"x": tensor((3, 1), values=(1, 2))})
    assert list(call(channel, "PredictionService/Predict", request)[0].outputs["y"].float_val) == [2, 4, 4]


@pytest.mark.parametrize("variant", VARIANTS)
def test_pins_versions_and_filters(channel: grpc.Channel, variant: str) -> None:
    request = predict(1, of=spec(version=1), output_filter=["y"])
    answer, metadata = call(
        channel, "PredictionService/Predict", request, metadata=(("x-duet-variant", variant), ("x-request-id", "r1"))
    )
    assert answer.model_spec.version.value == 1
    assert (metadata["x-duet-variant"], metadata["x-duet-version"], metadata["x-request-id"]) == (variant, "1", "r1")


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        (pb.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (predict(of=spec("")), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (predict(of=spec("nope")), "NOT_FOUND", "Servable not found for request: Latest(nope)"),
        (predict(of=spec(version=9)), "NOT_FOUND", "Servable not found for request: Specific(double, 9)"),
        (predict(of=spec("x", label="new")), "INVALID_ARGUMENT", "Unrecognized servable version label: new"),
        (
            predict(of=spec(signature_name="s")),
            "FAILED_PRECONDITION",
            'Serving signature key "s" not found.',
        ),
        (
            predict(inputs={}),
            "INVALID_ARGUMENT",
            "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}.",
        ),
        (
            predict(output_filter=["z"]),
            "INVALID_ARGUMENT",
            "output tensor alias not found in signature: z Outputs expected to be in the set {y}.",
        ),
        (predict(output_filter=["y", "y"]), "INVALID_ARGUMENT", "duplicate output tensor alias: y"),
        (predict(of=spec("absent")), "UNAVAILABLE", None),
        (
            predict(inputs={"x": tensor((2,), content=b"abc")}),
            "INVALID_ARGUMENT",
            "tensor 'x': shape [2] of FP32 takes 8 bytes, got 3",
        ),
        (
            predict(inputs={"x": tensor((1, 2), values=(1, 2))}),
            "INVALID_ARGUMENT",
            "input 'x': shape [1, 2]; the model takes [-1, 1]",
        ),
    ],
)
def test_errors_have_the_servers_codes_and_words(
    channel: grpc.Channel, message: pb.PredictRequest, code: str, text: str | None
) -> None:
    status, details = refused(channel, "PredictionService/Predict", message)
    assert status.name == code
    assert text is None or details == text


def test_long_texts_are_cut_so_that_clients_can_take_them(channel: grpc.Channel) -> None:
    status, details = refused(channel, "PredictionService/Predict", predict(1, of=spec(signature_name="s" * 20_000)))
    assert status == grpc.StatusCode.FAILED_PRECONDITION
    assert details.endswith("...TRUNCATED")
    assert len(details) < 1100


def test_overload_is_resource_exhausted_with_a_pushback(channel: grpc.Channel, pytorch: FakeTorchServe) -> None:
    pytorch.answer = lambda: failure(503, "ServiceUnavailableException", "full")
    try:
        with pytest.raises(grpc.RpcError) as raised:
            call(channel, "PredictionService/Predict", predict(1, of=spec("double@pytorch")))
    finally:
        pytorch.answer = None
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(raised.value.trailing_metadata())["retry-after"] == "1"


def test_the_calls_deadline_is_the_requests(channel: grpc.Channel, tensorflow: FakeTFServing) -> None:
    """Not the gateway's own of 5 seconds. (gRPC rounds time-outs up.)"""
    call(channel, "PredictionService/Predict", predict(1, of=spec("double@tensorflow")), timeout=2)
    (left,) = tensorflow.timeouts[-1:]
    assert left is not None
    assert left < 3


def example(value: float) -> bytes:
    feature = pb.Feature(float_list=pb.FloatList(value=[value]))
    return pb.Example(features=pb.Features(feature={"x": feature})).SerializeToString()


GIVEN = pb.Input(example_list_with_context=pb.ExampleListWithContext(examples=[example(1), b""], context=example(0.25)))


def test_classify_and_regress(channel: grpc.Channel) -> None:
    classified, _ = call(
        channel,
        "PredictionService/Classify",
        pb.ClassificationRequest(model_spec=spec(signature_name="classify"), input=GIVEN),
    )
    rows = [[(c.label, c.score) for c in row.classes] for row in classified.result.classifications]
    assert rows == [[("yes", 1), ("no", 0)], [("yes", 0.25), ("no", 0.75)]]
    assert classified.model_spec == spec(version=3, signature_name="classify")
    regressed, metadata = call(
        channel,
        "PredictionService/Regress",
        pb.RegressionRequest(model_spec=spec(version=1, signature_name="regress"), input=GIVEN),
    )
    assert [entry.value for entry in regressed.result.regressions] == [2, 0.5]
    assert metadata["x-duet-version"] == "1"


def task(signature_name: str, method: str, name: str = "double") -> pb.InferenceTask:
    return pb.InferenceTask(
        model_spec=spec(name, signature_name=signature_name), method_name=f"tensorflow/serving/{method}"
    )


def test_multi_inference_answers_each_task_in_order(channel: grpc.Channel) -> None:
    tasks = [task("regress", "regress"), task("classify", "classify")]
    answer, _ = call(channel, "PredictionService/MultiInference", pb.MultiInferenceRequest(tasks=tasks, input=GIVEN))
    regressed, classified = answer.results
    assert [entry.value for entry in regressed.regression_result.regressions] == [2, 0.5]
    assert len(classified.classification_result.classifications) == 2
    assert classified.model_spec == spec(version=3, signature_name="classify")


@pytest.mark.parametrize(
    ("method", "message", "code", "text"),
    [
        ("Classify", pb.ClassificationRequest(model_spec=spec()), "INVALID_ARGUMENT", "Input is empty."),
        (
            "Classify",
            pb.ClassificationRequest(model_spec=spec(signature_name="s"), input=GIVEN),
            "INVALID_ARGUMENT",
            "No signature was found with the name: s",
        ),
        (
            "Regress",
            pb.RegressionRequest(model_spec=spec("double@pytorch"), input=GIVEN),
            "FAILED_PRECONDITION",
            "No regression inputs found in SignatureDef: inputs {x: FP32 [-1, 1]} outputs {y: FP32 [-1, 1]} "
            "method_name tensorflow/serving/predict",
        ),
        (
            "MultiInference",
            pb.MultiInferenceRequest(tasks=[task("regress", "regress")] * 2, input=GIVEN),
            "INVALID_ARGUMENT",
            "Duplicate evaluation of signature: regress",
        ),
        (
            "MultiInference",
            pb.MultiInferenceRequest(tasks=[task("a", "regress"), task("b", "regress", "other")], input=GIVEN),
            "INVALID_ARGUMENT",
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        (
            "MultiInference",
            pb.MultiInferenceRequest(tasks=[task("a", "predict")], input=GIVEN),
            "UNIMPLEMENTED",
            "Unsupported signature method_name: tensorflow/serving/predict",
        ),
        (
            "GetModelMetadata",
            pb.GetModelMetadataRequest(model_spec=spec()),
            "INVALID_ARGUMENT",
            "GetModelMetadataRequest must specify at least one metadata_field",
        ),
        (
            "GetModelMetadata",
            pb.GetModelMetadataRequest(model_spec=spec(), metadata_field=["x"]),
            "INVALID_ARGUMENT",
            "Metadata field x is not supported",
        ),
    ],
)
def test_other_calls_are_refused_in_the_servers_words(
    channel: grpc.Channel, method: str, message: Any, code: str, text: str
) -> None:
    status, details = refused(channel, f"PredictionService/{method}", message)
    assert (status.name, details) == (code, text)


@pytest.mark.parametrize("variant", VARIANTS)
def test_metadata_describes_the_signatures_of_both_frameworks(channel: grpc.Channel, variant: str) -> None:
    request = pb.GetModelMetadataRequest(model_spec=spec(f"double@{variant}"), metadata_field=["signature_def"])
    answer, _ = call(channel, "PredictionService/GetModelMetadata", request)
    assert answer.model_spec == spec(f"double@{variant}", 3)
    packed = answer.metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    definition = pb.SignatureDefMap.FromString(packed.value).signature_def["serving_default"]
    assert definition.method_name == "tensorflow/serving/predict"
    x = definition.inputs["x"]
    assert (x.dtype, [dim.size for dim in x.tensor_shape.dim]) == (pb.DT_FLOAT, [-1, 1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_status_lists_versions_newest_first(channel: grpc.Channel, variant: str) -> None:
    request = pb.GetModelStatusRequest(model_spec=spec(f"double@{variant}", label="ignored"))
    entries = call(channel, "ModelService/GetModelStatus", request)[0].model_version_status
    assert [(entry.version, entry.state, entry.status.error_code) for entry in entries] == [(3, 30, 0), (1, 30, 0)]


def test_unknown_models_and_versions_have_no_status(channel: grpc.Channel) -> None:
    unknown = pb.GetModelStatusRequest(model_spec=spec("nope"))
    assert refused(channel, "ModelService/GetModelStatus", unknown) == (
        grpc.StatusCode.NOT_FOUND,
        "Could not find any versions of model nope",
    )
    version = pb.GetModelStatusRequest(model_spec=spec(version=9))
    assert refused(channel, "ModelService/GetModelStatus", version) == (
        grpc.StatusCode.NOT_FOUND,
        "Could not find version 9 of model double",
    )


def test_administration_is_not_a_clients_business(channel: grpc.Channel) -> None:
    status, _ = refused(channel, "ModelService/HandleReloadConfigRequest", pb.ReloadConfigRequest())
    assert status == grpc.StatusCode.PERMISSION_DENIED


_CLIENT = """
import sys, grpc, numpy as np, tensorflow as tf
from tensorflow_serving.apis import (classification_pb2, get_model_metadata_pb2, get_model_status_pb2, inference_pb2,
    input_pb2, model_management_pb2, model_service_pb2_grpc, predict_pb2, prediction_service_pb2_grpc, regression_pb2)

channel = grpc.insecure_channel(sys.argv[1])
prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
service = model_service_pb2_grpc.ModelServiceStub(channel)
for variant in ("tensorflow", "pytorch"):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "double@" + variant
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([[1.0], [2.5]]))
    answer = prediction.Predict(request, 10)
    assert tf.make_ndarray(answer.outputs["y"]).tolist() == [[2.0], [5.0]], answer
    assert answer.model_spec.version.value == 3
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "double@" + variant
    definitions = get_model_metadata_pb2.SignatureDefMap()
    assert prediction.GetModelMetadata(request, 10).metadata["signature_def"].Unpack(definitions)
    assert definitions.signature_def["serving_default"].inputs["x"].dtype == tf.float32.as_datatype_enum
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "double@" + variant
    assert [entry.version for entry in service.GetModelStatus(request, 10).model_version_status] == [3, 1]

request = classification_pb2.ClassificationRequest()
request.model_spec.name, request.model_spec.signature_name = "double", "classify"
feature = {"x": tf.train.Feature(float_list=tf.train.FloatList(value=[0.25]))}
request.input.example_list.examples.append(tf.train.Example(features=tf.train.Features(feature=feature)))
(row,) = prediction.Classify(request, 10).result.classifications
assert [(entry.label, entry.score) for entry in row.classes] == [("yes", 0.25), ("no", 0.75)]
try:
    service.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest(), 10)
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED
print("done")
"""


def test_the_public_stubs_work_unmodified(gateway: RunningGateway) -> None:
    """tensorflow-serving-api, in a process of its own: it imports TensorFlow."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _CLIENT, f"127.0.0.1:{gateway.grpc_port}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.stdout == "done\n", result.stderr
