"""One message without a fault for each target: what a client of that front would send, and how it has to end.

A target whose faultless message does not get that far measures nothing, however long it is climbed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from grpc_reflection.v1alpha import reflection_pb2

from gateway.protos import health_pb2
from gateway.protos import tfserving_pb2 as tf
from gateway.protos import torchserve_pb2 as torch
from gateway.protos import v2_pb2 as v2
from tests.security.fuzzing.bodies import BOUNDARY
from tests.security.fuzzing.fronts import MODEL, Answer

#: Of a body that is decoded aside: some more than 128 KiB of JSON.
_ROWS = 50_000
_EXAMPLES = 5_000


def _spec(signature: str = "") -> tf.ModelSpec:
    return tf.ModelSpec(name=MODEL, signature_name=signature)


_INFER = v2.ModelInferRequest(
    model_name=MODEL,
    inputs=[v2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 1])],
    raw_input_contents=[bytes(4)],
)
_INPUT = tf.Input(example_list=tf.ExampleList(examples=[b""]))
_TENSOR = tf.TensorProto(dtype=tf.DT_FLOAT, tensor_shape={"dim": [{"size": 1}, {"size": 1}]}, float_val=[1])
_TASK = tf.InferenceTask(model_spec=_spec("examples"), method_name="tensorflow/serving/regress")
_PREDICTIONS = torch.PredictionsRequest(model_name=MODEL, input={"x": b"[[1]]"})
_ASKED = reflection_pb2.ServerReflectionRequest(list_services="")

CALLS: Mapping[str, Any] = {
    "GRPCInferenceService/ModelInfer": _INFER,
    "GRPCInferenceService/ModelStreamInfer": _INFER,
    "GRPCInferenceService/ModelReady": v2.ModelReadyRequest(name=MODEL),
    "GRPCInferenceService/ModelMetadata": v2.ModelMetadataRequest(name=MODEL),
    "GRPCInferenceService/ModelConfig": v2.ModelConfigRequest(name=MODEL),
    "GRPCInferenceService/ModelStatistics": v2.ModelStatisticsRequest(name=MODEL),
    "GRPCInferenceService/RepositoryIndex": v2.RepositoryIndexRequest(),
    "GRPCInferenceService/ServerMetadata": v2.ServerMetadataRequest(),
    "PredictionService/Predict": tf.PredictRequest(model_spec=_spec(), inputs={"x": _TENSOR}),
    "PredictionService/Classify": tf.ClassificationRequest(model_spec=_spec("classes"), input=_INPUT),
    "PredictionService/Regress": tf.RegressionRequest(model_spec=_spec("examples"), input=_INPUT),
    "PredictionService/MultiInference": tf.MultiInferenceRequest(tasks=[_TASK], input=_INPUT),
    "PredictionService/GetModelMetadata": tf.GetModelMetadataRequest(
        model_spec=_spec(), metadata_field=["signature_def"]
    ),
    "ModelService/GetModelStatus": tf.GetModelStatusRequest(model_spec=_spec()),
    "InferenceAPIsService/Predictions": _PREDICTIONS,
    "InferenceAPIsService/StreamPredictions": _PREDICTIONS,
    "InferenceAPIsService/StreamPredictions2": _PREDICTIONS,
    "Health/Check": health_pb2.HealthCheckRequest(),
    "ServerReflection/ServerReflectionInfo": _ASKED,
}
#: Calls that no server is asked for, and what their answers hold.
ANSWERED: Mapping[str, bytes] = {
    "GRPCInferenceService/ModelReady": b"\x08\x01",
    "GRPCInferenceService/ModelMetadata": b"FP32",
    "GRPCInferenceService/ModelConfig": MODEL.encode(),
    "GRPCInferenceService/ModelStatistics": MODEL.encode(),
    "GRPCInferenceService/RepositoryIndex": MODEL.encode(),
    "GRPCInferenceService/ServerMetadata": b"duet",
    "PredictionService/GetModelMetadata": b"SignatureDefMap",
    "ModelService/GetModelStatus": b"\x0a",
    "Health/Check": b"\x08\x01",
    "ServerReflection/ServerReflectionInfo": b"tensorflow.serving.PredictionService",
    "repository index": MODEL.encode(),
}


#: Large bodies that are no JSON by what they say, so that they are not decoded aside.
_NOT_ASIDE = ("TorchServe text, large",)


def fault(name: str, answer: Answer, aside_seconds: float) -> str:
    """What is wrong with how the message of that target ended; empty where it is well."""
    is_answered = answer.code in ("OK", "200") and ANSWERED.get(name, b"") in answer.data
    if not (is_answered if name in ANSWERED else answer.is_away):
        return f"its message without a fault ended in {answer.code}: {answer.data[:1000]!r}"
    if name.endswith(", large") and name not in _NOT_ASIDE and not aside_seconds:
        return "its large body was not decoded aside"
    return ""


def bodies(name: str) -> tuple[dict[str, str], bytes]:
    """Headers, and the body."""
    kind, separator, _ = name.partition(", large")
    rows = _ROWS if separator else 1
    many = _document([[1]] * rows)
    match kind:
        case "v2 JSON":
            return {}, _document(_v2(rows, data=[1] * rows))
        case "predict":
            return {}, _document({"instances": [[1]] * rows})
        case "classify" | "regress":
            signature = "classes" if kind == "classify" else "examples"
            examples = [{"x": [1.5, 2.5], "name": "a"}] * (_EXAMPLES if rows > 1 else 1)
            return {}, _document({"signature_name": signature, "examples": examples})
        case "TorchServe multipart":
            mark = f"--{BOUNDARY}".encode()
            return {}, b'%b\r\nContent-Disposition: form-data; name="x"\r\n\r\n%b\r\n%b--' % (mark, many, mark)
        case "TorchServe form":
            return {}, b"x=" + many
        case "TorchServe text":
            return {"x-duet-signature": "BYTES"}, many
        case "v2 binary" | "TorchServe binary":
            document = _document(_v2(1, parameters={"binary_data_size": 4}))
            return {"inference-header-content-length": str(len(document))}, document + bytes(4)
        case "v2 raw":
            return {"inference-header-content-length": "0", "x-duet-signature": "FP32"}, bytes(4)
        case "TorchServe raw":
            return {"x-duet-signature": "FP32"}, bytes(8)
        case "TorchServe npy":
            file = io.BytesIO()
            np.save(file, np.ones((2, 2), np.float32))
            return {}, file.getvalue()
        case "repository index":
            return {}, b"{}"
        case _:
            return {}, many


def _v2(rows: int, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [rows, 1], **more}]}


def _document(value: Any) -> bytes:
    return json.dumps(value).encode()
