"""The stubs of the tensorflow-serving-api package, unmodified, with TensorFlow's own tensors, to both frameworks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from models.catalog import CATALOG
from tests.fronts import Arrays, v2_rest_binary
from tests.integration.clients.examples import VARIANTS, examples
from tests.stack import Stack

LINEAR, STRINGS, STATEFUL = "linear_regression", "text_classifier", "lstm_text_generator"
BOTH = pytest.mark.parametrize("variant", VARIANTS)
DTYPES = {"FP32": tf.float32, "INT64": tf.int64, "BYTES": tf.string}
SECONDS = 30


@pytest.fixture
def channel(stack: Stack) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{stack.grpc_port}") as opened:
        yield opened


@pytest.fixture
def prediction(channel: grpc.Channel) -> Any:
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture
def model_service(channel: grpc.Channel) -> Any:
    return model_service_pb2_grpc.ModelServiceStub(channel)


def request(model: str, arrays: Arrays, *, version: int | None = None, signature: str = "") -> Any:
    made = predict_pb2.PredictRequest()
    made.model_spec.name, made.model_spec.signature_name = model, signature
    if version is not None:
        made.model_spec.version.value = version
    for name, array in arrays.items():
        made.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    return made


def arrays_of(response: Any) -> Arrays:
    return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}


def same(found: Arrays, stack: Stack, model: str, variant: str, version: int | None = None) -> None:
    """The answer is the canonical one, bit for bit."""
    expected = v2_rest_binary(stack, model, variant, examples(model), version=version, seconds=None)
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert (found[name].dtype, found[name].shape) == (wanted.dtype, wanted.shape)
        assert found[name].tobytes() == wanted.tobytes()


@BOTH
@pytest.mark.parametrize("model", [LINEAR, STRINGS, STATEFUL])
def test_an_answer_is_the_canonical_one(prediction: Any, stack: Stack, model: str, variant: str) -> None:
    """One float, strings, several inputs and outputs."""
    response = prediction.Predict(request(f"{model}@{variant}", examples(model)), SECONDS)
    same(arrays_of(response), stack, model, variant)
    assert response.model_spec.version.value == max(CATALOG[model].versions)
    assert response.model_spec.signature_name == "serving_default"


@BOTH
def test_numbers_in_typed_fields_are_tensors_too(prediction: Any, stack: Stack, variant: str) -> None:
    """As clients without TensorFlow write them: ``float_val``, and a short list filled with its last value."""
    typed = request(f"{LINEAR}@{variant}", {})
    typed.inputs["x"].dtype = tf.float32.as_datatype_enum
    for size in (3, 1):
        typed.inputs["x"].tensor_shape.dim.add(size=size)
    typed.inputs["x"].float_val.extend([1, 5])
    found = arrays_of(prediction.Predict(typed, SECONDS))["y"]
    assert found.shape == (3, 1)
    assert found[1] == found[2] != found[0]


@BOTH
@pytest.mark.parametrize("version", [1, 2])
def test_a_version_of_its_own(prediction: Any, stack: Stack, variant: str, version: int) -> None:
    response = prediction.Predict(request(f"{LINEAR}@{variant}", examples(LINEAR), version=version), SECONDS)
    assert response.model_spec.version.value == version
    same(arrays_of(response), stack, LINEAR, variant, version)


@BOTH
def test_metadata_pins_the_framework_and_tells_who_answered(prediction: Any, stack: Stack, variant: str) -> None:
    asked = request(STRINGS, examples(STRINGS), version=1)
    response, call = prediction.Predict.with_call(asked, SECONDS, metadata=[("x-duet-variant", variant)])
    told = dict(call.trailing_metadata())
    assert (told["x-duet-variant"], told["x-duet-version"]) == (variant, "1")
    same(arrays_of(response), stack, STRINGS, variant, version=1)


@BOTH
def test_only_the_outputs_of_the_filter(prediction: Any, variant: str) -> None:
    asked = request(f"{STATEFUL}@{variant}", examples(STATEFUL))
    asked.output_filter.append("new_cell")
    assert list(prediction.Predict(asked, SECONDS).outputs) == ["new_cell"]


@BOTH
@pytest.mark.parametrize("model", [LINEAR, STRINGS, STATEFUL])
def test_metadata_is_a_signature_in_both_frameworks(prediction: Any, model: str, variant: str) -> None:
    """Of a PyTorch model it is synthesised."""
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = f"{model}@{variant}"
    response = prediction.GetModelMetadata(asked, SECONDS)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    found = signatures.signature_def["serving_default"]
    for kind in ("inputs", "outputs"):
        declared = {
            name: (tf.dtypes.as_dtype(one.dtype), [dim.size for dim in one.tensor_shape.dim])
            for name, one in getattr(found, kind).items()
        }
        assert declared == {one.name: (DTYPES[one.datatype], list(one.shape)) for one in getattr(CATALOG[model], kind)}


@BOTH
def test_status_lists_the_versions_newest_first(model_service: Any, variant: str) -> None:
    asked = get_model_status_pb2.GetModelStatusRequest()
    asked.model_spec.name = f"{LINEAR}@{variant}"
    found = model_service.GetModelStatus(asked, SECONDS).model_version_status
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert [(one.version, one.state, one.status.error_code) for one in found] == [(2, available, 0), (1, available, 0)]


@BOTH
def test_refusals_have_tensorflow_servings_codes_and_texts(prediction: Any, variant: str) -> None:
    name, right = f"{LINEAR}@{variant}", examples(LINEAR)
    code = grpc.StatusCode
    for asked, expected, says in (
        (request(f"nobody@{variant}", right), code.NOT_FOUND, "Servable not found for request: Latest(nobody"),
        (request(name, right, version=9), code.NOT_FOUND, f"Servable not found for request: Specific({name}, 9)"),
        (request(name, right, signature="other"), code.FAILED_PRECONDITION, 'signature key "other" not found'),
        (request(name, {}), code.INVALID_ARGUMENT, "Missing but required: {x}"),
        (request(name, {"x": np.ones((1, 1), np.float64)}), code.INVALID_ARGUMENT, "the model takes FP32"),
        (request(name, {"x": np.ones((1, 2), np.float32)}), code.INVALID_ARGUMENT, "[-1, 1]"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            prediction.Predict(asked, SECONDS)
        assert caught.value.code() is expected, caught.value.details()
        assert says in caught.value.details()


@BOTH
def test_a_signature_for_predictions_only_neither_classifies_nor_regresses(prediction: Any, variant: str) -> None:
    for call, asked, kind in (
        (prediction.Classify, classification_pb2.ClassificationRequest(), "classification"),
        (prediction.Regress, regression_pb2.RegressionRequest(), "regression"),
    ):
        asked.model_spec.name = f"{LINEAR}@{variant}"
        asked.input.example_list.examples.add().features.feature["x"].float_list.value.append(5)
        with pytest.raises(grpc.RpcError) as caught:
            call(asked, SECONDS)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert f"No {kind} inputs found in SignatureDef" in caught.value.details()


def test_models_are_not_the_clients_to_load(model_service: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        model_service.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest(), SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@BOTH
def test_the_stubs_over_asyncio(stack: Stack, variant: str) -> None:
    async def eight() -> list[Any]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.grpc_port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            asked = request(f"{LINEAR}@{variant}", examples(LINEAR))
            return list(await asyncio.gather(*(stub.Predict(asked, timeout=SECONDS) for _ in range(8))))

    for response in asyncio.run(eight()):
        same(arrays_of(response), stack, LINEAR, variant)
