"""The gRPC contract, by the public stubs. Runs as well against the real server (``--server-cmd``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from tests.serving.embedded.process import Server
from tests.serving.embedded.savedmodels import CLASSIFY, REGRESS, TYPES

TIMEOUT = 20


def spec(name: str = "half", **fields: Any) -> model_pb2.ModelSpec:
    version = fields.pop("version", None)
    made = model_pb2.ModelSpec(name=name, **fields)
    if version is not None:
        made.version.value = version
    return made


def request(model: model_pb2.ModelSpec, inputs: Mapping[str, Any], outputs: tuple[str, ...] = ()) -> Any:
    tensors = {name: tf.make_tensor_proto(value) for name, value in inputs.items()}
    return predict_pb2.PredictRequest(model_spec=model, inputs=tensors, output_filter=outputs)


X = {"x": np.float32([[1], [2], [5]])}
AB = {"a": np.float32([[1, 2]]), "b": np.int64([[3, 4]])}


def test_predict_answers_in_typed_fields_with_the_version_that_served(server: Server) -> None:
    answer = server.prediction.Predict(request(spec(), X), TIMEOUT)
    assert list(answer.outputs) == ["y"]
    assert list(answer.outputs["y"].float_val) == [3.5, 4.0, 5.5]
    assert not answer.outputs["y"].tensor_content
    assert [dim.size for dim in answer.outputs["y"].tensor_shape.dim] == [3, 1]
    assert answer.model_spec == spec(version=2, signature_name="serving_default")


def test_a_version_or_a_label_names_the_version(server: Server) -> None:
    for asked in (spec(version=1), spec(version_label="stable")):
        answer = server.prediction.Predict(request(asked, X), TIMEOUT)
        assert list(answer.outputs["y"].float_val) == [2.5, 3.0, 4.5]
        assert answer.model_spec.version.value == 1


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("shape", [(), (3,), (0, 2), (2, 1)])
def test_every_type_and_rank_comes_back(server: Server, name: str, shape: tuple[int, ...]) -> None:
    """Scalars and empty batches among them."""
    array = np.arange(np.prod(shape)).reshape(shape).astype(tf.as_dtype(name).as_numpy_dtype)
    answer = server.prediction.Predict(request(spec("types", signature_name=name), {"x": array}), TIMEOUT)
    back = tf.make_ndarray(answer.outputs["y"])
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


def test_strings_come_back_as_bytes(server: Server) -> None:
    values = np.array([b"", b"\xff\x00", "ä".encode()], np.object_)
    answer = server.prediction.Predict(request(spec("text"), {"s": values}), TIMEOUT)
    assert list(answer.outputs["s"].string_val) == values.tolist()
    answer = server.prediction.Predict(request(spec("text"), {"s": np.array(b"a\0", np.object_)}), TIMEOUT)
    assert list(answer.outputs["s"].string_val) == [b"a\0"]


def test_the_last_value_fills_the_tensor(server: Server) -> None:
    asked = request(spec(), {"x": np.float32([[0], [0], [0]])})
    asked.inputs["x"].ClearField("tensor_content")
    asked.inputs["x"].float_val[:] = [2, 4]
    assert list(server.prediction.Predict(asked, TIMEOUT).outputs["y"].float_val) == [4, 5, 5]


def test_shapes_are_not_checked_against_the_signature(server: Server) -> None:
    answer = server.prediction.Predict(request(spec(), {"x": np.float32([1, 2])}), TIMEOUT)
    assert list(answer.outputs["y"].float_val) == [3.5, 4.0]


def test_an_input_with_a_default_may_be_left_out(server: Server) -> None:
    """SignatureDef.defaults; what is sent counts before it."""
    model = spec("sums", signature_name="defaulted")
    for inputs, total in (({"a": AB["a"]}, [8, 9]), ({**AB}, [4, 6])):
        answer = server.prediction.Predict(request(model, inputs), TIMEOUT)
        assert list(answer.outputs["sum"].float_val) == total


def test_output_filter_chooses(server: Server) -> None:
    answer = server.prediction.Predict(request(spec("sums"), AB, ("difference",)), TIMEOUT)
    assert {name: list(tensor.int64_val) for name, tensor in answer.outputs.items()} == {"difference": [-2, -2]}


def content(asked: Any, **fields: Any) -> Any:
    tensor = asked.inputs["x"]
    tensor.ClearField("float_val")
    for name, value in fields.items():
        setattr(tensor, name, value)
    return asked


def dims(asked: Any, *sizes: int) -> Any:
    del asked.inputs["x"].tensor_shape.dim[:]
    for size in sizes:
        asked.inputs["x"].tensor_shape.dim.add(size=size)
    return asked


REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "no model_spec": (lambda: predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
    "no name": (lambda: request(spec(""), X), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    "unknown model": (lambda: request(spec("nope"), X), "NOT_FOUND", "Servable not found for request: Latest(nope)"),
    "unknown version": (
        lambda: request(spec(version=7), X),
        "NOT_FOUND",
        "Servable not found for request: Specific(half, 7)",
    ),
    "unknown label": (
        lambda: request(spec(version_label="nope"), X),
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: nope",
    ),
    "label of no version": (
        lambda: request(spec(version_label="lost"), X),
        "NOT_FOUND",
        "Servable not found for request: Specific(half, 9)",
    ),
    "unknown signature": (
        lambda: request(spec(signature_name="nope"), X),
        "FAILED_PRECONDITION",
        'Serving signature key "nope" not found.',
    ),
    "missing input": (
        lambda: request(spec("sums"), {"a": AB["a"]}),
        "INVALID_ARGUMENT",
        "input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. Missing but required: {b}.",
    ),
    "extra input": (
        lambda: request(spec(), {**X, "z": 1}),
        "INVALID_ARGUMENT",
        "input size does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: {z}. Missing but required: {}.",
    ),
    "wrong input": (
        lambda: request(spec(), {"z": 1}),
        "INVALID_ARGUMENT",
        "Signature input alias: x(feed name: x:0) not found in request and no default value provided. "
        "Inputs expected to be in the request {z}, or default input alias set: ",
    ),
    "surplus beside a default": (
        lambda: request(spec("sums", signature_name="defaulted"), {"a": AB["a"], "z": 1}),
        "INVALID_ARGUMENT",
        "Inputs contains invalid name. Used request inputs: a, request input: a,z",
    ),
    "missing without default": (
        lambda: request(spec("sums", signature_name="defaulted"), {"b": AB["b"]}),
        "INVALID_ARGUMENT",
        "Signature input alias: a(feed name: a:0) not found in request and no default value provided. "
        "Inputs expected to be in the request {b}, or default input alias set: b",
    ),
    "unknown output": (
        lambda: request(spec(), X, ("z",)),
        "INVALID_ARGUMENT",
        "output tensor alias not found in signature: z Outputs expected to be in the set {y}.",
    ),
    "output twice": (
        lambda: request(spec(), X, ("y", "y")),
        "INVALID_ARGUMENT",
        "duplicate output tensor alias: y",
    ),
    "wrong dtype": (lambda: request(spec(), {"x": np.int32([[1]])}), "INVALID_ARGUMENT", "float"),
    "content too short": (
        lambda: content(request(spec(), X), tensor_content=b"12345"),
        "INVALID_ARGUMENT",
        "tensor parsing error: x",
    ),
    "shape overflows": (
        lambda: dims(request(spec(), X), 1 << 40, 1 << 40),
        "INVALID_ARGUMENT",
        "tensor parsing error: x",
    ),
    "negative dimension": (lambda: dims(request(spec(), X), -1), "INVALID_ARGUMENT", "tensor parsing error: x"),
    "dtype that is none": (
        lambda: content(request(spec(), X), dtype=0),
        "INVALID_ARGUMENT",
        "tensor parsing error: x",
    ),
    "shapes that do not broadcast": (
        lambda: request(spec("sums"), {"a": np.zeros((1, 2), np.float32), "b": np.zeros((1, 3), np.int64)}),
        "INVALID_ARGUMENT",
        "",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_has_its_code_and_its_text(server: Server, case: str) -> None:
    make, code, text = REFUSED[case]
    with pytest.raises(grpc.RpcError) as caught:
        server.prediction.Predict(make(), TIMEOUT)
    assert (caught.value.code().name, text in caught.value.details()) == (code, True), caught.value.details()


def test_a_long_text_is_cut(server: Server) -> None:
    """It travels in a header; util/grpc_status_util.cc cuts it at 1,024 characters."""
    with pytest.raises(grpc.RpcError) as caught:
        server.prediction.Predict(request(spec("n" * 3000), X), TIMEOUT)
    assert caught.value.details().endswith("...TRUNCATED")
    assert len(caught.value.details()) == 1024 + len("...TRUNCATED")


@pytest.mark.parametrize(("version", "offset"), [(None, 2), (1, 1)])
def test_metadata_is_the_signatures(server: Server, version: int | None, offset: int) -> None:
    del offset
    asked = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec(version=version))
    asked.metadata_field.append("signature_def")
    answer = server.prediction.GetModelMetadata(asked, TIMEOUT)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    default = signatures.signature_def["serving_default"]
    assert default.inputs["x"].name == "x:0"
    assert default.method_name == "tensorflow/serving/predict"
    assert {"regress_x_to_y", "classify_x_to_y"} <= set(signatures.signature_def)
    assert answer.model_spec.version.value == (version or 2)


@pytest.mark.parametrize(
    ("fields", "model", "code", "text"),
    [
        ([], "half", "INVALID_ARGUMENT", "GetModelMetadataRequest must specify at least one metadata_field"),
        (["x"], "half", "INVALID_ARGUMENT", "Metadata field x is not supported"),
        (["signature_def"], "nope", "NOT_FOUND", "Servable not found for request: Latest(nope)"),
    ],
)
def test_metadata_of_what_is_not_there(server: Server, fields: list[str], model: str, code: str, text: str) -> None:
    asked = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec(model), metadata_field=fields)
    with pytest.raises(grpc.RpcError) as caught:
        server.prediction.GetModelMetadata(asked, TIMEOUT)
    assert (caught.value.code().name, caught.value.details()) == (code, text)


def states(server: Server, model: model_pb2.ModelSpec) -> list[tuple[int, int]]:
    answer = server.model.GetModelStatus(get_model_status_pb2.GetModelStatusRequest(model_spec=model), TIMEOUT)
    return [(entry.version, entry.state) for entry in answer.model_version_status]


def test_status_has_the_newest_version_first_and_ignores_labels(server: Server) -> None:
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert states(server, spec()) == [(2, available), (1, available)]
    assert states(server, spec(version_label="nope")) == [(2, available), (1, available)]
    assert states(server, spec(version=1)) == [(1, available)]


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (spec("nope"), "Could not find any versions of model nope"),
        (spec(""), "Could not find any versions of model "),
        (spec(version=9), "Could not find version 9 of model half"),
    ],
)
def test_status_of_what_is_not_there(server: Server, model: model_pb2.ModelSpec, text: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        states(server, model)
    assert (caught.value.code().name, caught.value.details()) == ("NOT_FOUND", text)


def examples(*values: float, context: bool = False) -> input_pb2.Input:
    made = [tf.train.Example(features={"feature": {"x": {"float_list": {"value": [value]}}}}) for value in values]
    serialized = [type(made[0]).FromString(example.SerializeToString()) for example in made]
    source = input_pb2.Input()
    if context:
        source.example_list_with_context.context.CopyFrom(serialized[0])
        source.example_list_with_context.examples.extend(tf.train.Example() for _ in values)
    else:
        source.example_list.examples.extend(serialized)
    return source


def test_classify_gives_scores_with_and_without_labels(server: Server) -> None:
    for name, label in (("classify_x_to_y", ""), ("classify_named", "label")):
        asked = classification_pb2.ClassificationRequest(model_spec=spec(signature_name=name), input=examples(1, 2))
        answer = server.prediction.Classify(asked, TIMEOUT)
        found = [[(entry.label, entry.score) for entry in row.classes] for row in answer.result.classifications]
        assert found == [[(label, 3.5)], [(label, 4.0)]]
        assert answer.model_spec == spec(version=2, signature_name=name)


@pytest.mark.parametrize("context", [False, True])
def test_regress_gives_values(server: Server, context: bool) -> None:
    """A context is part of every example."""
    asked = regression_pb2.RegressionRequest(
        model_spec=spec(signature_name="regress_x_to_y", version=1), input=examples(2, 2, context=context)
    )
    answer = server.prediction.Regress(asked, TIMEOUT)
    assert [entry.value for entry in answer.result.regressions] == [3.0, 3.0]


def task(name: str, method: str, model: str = "half") -> inference_pb2.InferenceTask:
    return inference_pb2.InferenceTask(model_spec=spec(model, signature_name=name), method_name=method)


def test_multi_inference_answers_every_task(server: Server) -> None:
    tasks = [task("regress_x_to_y", REGRESS), task("classify_x_to_y", CLASSIFY), task("regress_x_to_y2", REGRESS)]
    asked = inference_pb2.MultiInferenceRequest(tasks=tasks, input=examples(2))
    first, second, third = server.prediction.MultiInference(asked, TIMEOUT).results
    assert first.regression_result.regressions[0].value == 4.0
    assert second.classification_result.classifications[0].classes[0].score == 4.0
    assert third.regression_result.regressions[0].value == 5.0
    assert third.model_spec == spec(version=2, signature_name="regress_x_to_y2")


@pytest.mark.parametrize(
    ("tasks", "code", "text"),
    [
        ([], "INVALID_ARGUMENT", ""),
        ([task("regress_x_to_y", "other")], "UNIMPLEMENTED", "Unsupported signature method_name: other"),
        (
            [task("regress_x_to_y", REGRESS)] * 2,
            "INVALID_ARGUMENT",
            "Duplicate evaluation of signature: regress_x_to_y",
        ),
        ([task("regress_x_to_y", REGRESS), task("s", REGRESS, "text")], "INVALID_ARGUMENT", "must access the same"),
        ([task("nope", REGRESS)], "INVALID_ARGUMENT", "Requested signature not found in model graph: nope"),
    ],
)
def test_multi_inference_refuses(server: Server, tasks: list[Any], code: str, text: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.prediction.MultiInference(inference_pb2.MultiInferenceRequest(tasks=tasks, input=examples(2)), TIMEOUT)
    assert (caught.value.code().name, text in caught.value.details()) == (code, True)


@pytest.mark.parametrize(
    ("name", "source", "code", "text"),
    [
        ("nope", examples(1), "INVALID_ARGUMENT", "No signature was found with the name: nope"),
        ("", examples(1), "FAILED_PRECONDITION", "No regression inputs found in SignatureDef: "),
        ("regress_x_to_y", input_pb2.Input(), "INVALID_ARGUMENT", "Input is empty."),
        ("classify_named", examples(1), "INVALID_ARGUMENT", "Expected one output Tensor."),
    ],
)
def test_regress_refuses(server: Server, name: str, source: input_pb2.Input, code: str, text: str) -> None:
    asked = regression_pb2.RegressionRequest(model_spec=spec(signature_name=name), input=source)
    with pytest.raises(grpc.RpcError) as caught:
        server.prediction.Regress(asked, TIMEOUT)
    assert (caught.value.code().name, text in caught.value.details()) == (code, True)


def test_an_unknown_method_is_unimplemented(server: Server) -> None:
    call = server.channel.unary_unary("/tensorflow.serving.PredictionService/Nope")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
