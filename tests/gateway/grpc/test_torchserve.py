"""TorchServe's gRPC in front of the real gateway process, before servers of both frameworks."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import orjson
import pytest

from gateway.protos import torchserve_pb2 as pb
from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe, failure
from tests.gateway.conftest import RunningGateway
from tests.gateway.transports import GRPC, serving_grpc

SERVICE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
VARIANTS = ("tensorflow", "pytorch")


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


@pytest.fixture(scope="module", params=GRPC)
def gateway(
    request: pytest.FixtureRequest,
    tensorflow: FakeTFServing,
    pytorch: FakeTorchServe,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningGateway]:
    settings = {
        "servers": {
            "tensorflow": {"kind": "tfserving", "endpoint": tensorflow.endpoint},
            "pytorch": {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url},
        },
        "models": {"double": {}, "absent": {}},
    }
    ready = [f"double@{variant}" for variant in VARIANTS]
    with serving_grpc(request.param, settings, tmp_path_factory.mktemp("gateway"), *ready) as running:
        yield running


class Stub:
    """As TorchServe's generated stub is: the same paths, kinds of call and messages."""

    def __init__(self, channel: grpc.Channel) -> None:
        def call(kind: Callable[..., Any], name: str, request: Any, answer: Any) -> Any:
            return kind(
                SERVICE + name, request_serializer=request.SerializeToString, response_deserializer=answer.FromString
            )

        request, answer = pb.PredictionsRequest, pb.PredictionResponse
        self.ping = call(channel.unary_unary, "Ping", pb.Empty, pb.TorchServeHealthResponse)
        self.predictions = call(channel.unary_unary, "Predictions", request, answer)
        self.stream_predictions = call(channel.unary_stream, "StreamPredictions", request, answer)
        self.stream_predictions2 = call(channel.stream_stream, "StreamPredictions2", request, answer)


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Stub:
    return Stub(channel)


def request(model: str = "double", version: str = "", **inputs: bytes) -> pb.PredictionsRequest:
    return pb.PredictionsRequest(model_name=model, model_version=version, input=inputs or {"data": b"[[4]]"})


def refused(stub: Stub, message: pb.PredictionsRequest) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        stub.predictions(message, timeout=10)
    return caught.value.code(), caught.value.details()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_ping_answers_json_text(stub: Stub) -> None:
    assert orjson.loads(stub.ping(pb.Empty(), timeout=10).health) == {"status": "Healthy"}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["x", "data", "body"])
@pytest.mark.parametrize(
    "value", [b"[[4]]", np.float32([[4]]).tobytes(), npy(np.float32([[4]]))], ids=["JSON", "raw", "npy"]
)
def test_an_input_is_json_raw_bytes_or_npy(stub: Stub, variant: str, name: str, value: bytes) -> None:
    answer = stub.predictions(request(f"double@{variant}", **{name: value}), timeout=10)
    assert orjson.loads(answer.prediction) == [[8.0]]
    assert not answer.HasField("status")


def test_an_envelope_is_answered_in_kind(stub: Stub) -> None:
    answer = stub.predictions(request(body=b'{"instances":[1,2.5]}'), timeout=10)
    assert orjson.loads(answer.prediction) == {"predictions": [2.0, 5.0]}


@pytest.mark.parametrize("variant", VARIANTS)
def test_versions_are_texts_and_pins_and_traces_travel_as_metadata(stub: Stub, variant: str) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = [
        ("x-duet-variant", variant),
        ("x-request-id", "abc-1"),
        ("traceparent", f"00-{trace}-b7ad6b7169203331-01"),
    ]
    for version, served in (("", "3"), ("1", "1"), ("1.0", "1")):
        _, call = stub.predictions.with_call(request(version=version), metadata=metadata, timeout=10)
        trailing = dict(call.trailing_metadata())
        assert (trailing["x-duet-variant"], trailing["x-duet-version"]) == (variant, served)
        assert trailing["x-request-id"] == "abc-1"
        assert trace in trailing["traceparent"]
        assert "decode;dur=" in trailing["server-timing"]


@pytest.mark.parametrize(
    ("message", "code", "says"),
    [
        (request("nope"), grpc.StatusCode.NOT_FOUND, "Model not found: nope"),
        (request("double@jax"), grpc.StatusCode.NOT_FOUND, "no variant 'jax'"),
        (request(version="2"), grpc.StatusCode.NOT_FOUND, "Model version: 2 does not exist for model: double"),
        (request(version="x"), grpc.StatusCode.NOT_FOUND, "Model version: x"),
        (request("absent"), grpc.StatusCode.UNAVAILABLE, "not ready"),
        (request(data=b"{"), grpc.StatusCode.INVALID_ARGUMENT, "not valid JSON"),
        (request(data=b""), grpc.StatusCode.INVALID_ARGUMENT, "empty"),
        (request(z=b"[[1]]"), grpc.StatusCode.INVALID_ARGUMENT, "the model's inputs are 'x'"),
        (request(x=b"[[1,2]]"), grpc.StatusCode.INVALID_ARGUMENT, "[-1, 1]"),
    ],
)
def test_codes_say_what_is_wrong(stub: Stub, message: pb.PredictionsRequest, code: grpc.StatusCode, says: str) -> None:
    """gRPC's own codes, where TorchServe answers INTERNAL to each of these."""
    found, text = refused(stub, message)
    assert found is code
    assert says in text


def test_overload_is_resource_exhausted(stub: Stub, pytorch: FakeTorchServe) -> None:
    busy = failure(503, "ServiceUnavailableException", 'Model "double" has no worker to serve inference request.')
    pytorch.answer = lambda: busy
    try:
        assert refused(stub, request("double@pytorch"))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    finally:
        pytorch.answer = None


def test_the_calls_deadline_holds(stub: Stub, pytorch: FakeTorchServe) -> None:
    pytorch.delay_seconds = 1
    try:
        with pytest.raises(grpc.RpcError) as caught:
            stub.predictions(request("double@pytorch"), timeout=0.1)
    finally:
        pytorch.delay_seconds = 0
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stream_of_one_answer(stub: Stub, pytorch: FakeTorchServe, variant: str) -> None:
    """Never forwarded as a stream: a handler that does not stream dies of it."""
    answers = list(stub.stream_predictions(request(f"double@{variant}"), timeout=10))
    assert [orjson.loads(answer.prediction) for answer in answers] == [[[8.0]]]
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.stream_predictions(request("nope"), timeout=10))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_two_way_stream_answers_each_request_and_tells_errors_inside(stub: Stub) -> None:
    messages = [
        pb.PredictionsRequest(model_name=name, input={"data": b"[[4]]"}, sequence_id=str(place))
        for place, name in enumerate(["double@tensorflow", "nope", "double@pytorch"])
    ]
    first, second, third = stub.stream_predictions2(iter(messages), timeout=10)
    assert [answer.sequence_id for answer in (first, second, third)] == ["0", "1", "2"]
    assert orjson.loads(first.prediction) == orjson.loads(third.prediction) == [[8.0]]
    assert (second.status.code, second.status.message) == (5, "Model not found: nope")
    assert not second.prediction


def test_requests_count_under_their_front(gateway: RunningGateway, stub: Stub) -> None:
    stub.predictions(request("double@pytorch"), timeout=10)
    labels = 'front="torchserve_grpc",model="double",variant="pytorch",version="3"'
    assert f'duet_requests_total{{code="OK",{labels}}}' in gateway.admin.get("/metrics").text


def test_reflection_is_off_unless_it_is_set(channel: grpc.Channel) -> None:
    for version in ("v1", "v1alpha"):
        call = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError) as caught:
            list(call(iter([b""]), timeout=10))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
