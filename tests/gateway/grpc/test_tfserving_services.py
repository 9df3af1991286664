"""TensorFlow Serving's other calls over gRPC in front of the real gateway, before servers of both frameworks."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import grpc
import pytest

from gateway.protos import tfserving_pb2 as pb
from tests.gateway.conftest import RunningGateway
from tests.gateway.grpc.conftest import VARIANTS
from tests.gateway.grpc.tfserving_messages import GIVEN, call, refused, spec, task


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
    assert status == grpc.StatusCode.UNIMPLEMENTED


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
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
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
