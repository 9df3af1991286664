"""TensorFlow Serving's Predict over gRPC in front of the real gateway process, before servers of both frameworks."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from gateway.protos import tfserving_pb2 as pb
from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe, failure
from tests.gateway.grpc.conftest import VARIANTS
from tests.gateway.grpc.tfserving_messages import call, predict, refused, spec, tensor


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
