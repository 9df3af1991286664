"""Whatever is sent, the answer is a clear refusal or a result: never a 500, never the end of the process."""

from __future__ import annotations

import json

import grpc
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.embedded.process import Server
from tests.serving.embedded.savedmodels import TYPES
from tests.serving.embedded.test_tensors import any_proto

TIMEOUT = 20
CODES = (
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
)
MODELS = st.sampled_from(["half", "sums", "text", "types", "nope", "half/versions/1", "half/labels/lost"])
VERBS = st.sampled_from(["predict", "predict", "predict", "classify", "regress"])
SIGNATURES = st.sampled_from([*TYPES, "serving_default", "plain", "bytes", "total", "regress_x_to_y", "classify_named"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just({"b64": "YQ=="})
NAMES = st.sampled_from(["x", "a", "b", "b64"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.integers(1, 80).map(lambda depth: nested(depth))
        | st.dictionaries(st.sampled_from(["x", "a", "b", "b64"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def nested(depth: int) -> object:
    value: object = 1.0
    for _ in range(depth):
        value = [value]
    return value


KEYS = st.sampled_from(["instances", "inputs", "examples", "context", "signature_name", "other"])


@st.composite
def body(draw: st.DrawFn) -> bytes:
    """Mostly JSON with the right keys; cut or garbled one time in five."""
    document = draw(st.dictionaries(KEYS, VALUES, max_size=3))
    if draw(st.booleans()):
        document["signature_name"] = draw(SIGNATURES)
    encoded = json.dumps(document).encode()
    if draw(st.integers(0, 4)):
        return encoded
    cut = draw(st.integers(0, len(encoded)))
    return encoded[:cut] + draw(st.binary(max_size=3)) + encoded[cut + 1 :]


def settled(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def fuzz_json(server: Server, examples: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.rest_port}", timeout=TIMEOUT) as client:

        @settled(examples)
        @given(MODELS, VERBS, body())
        def send(model: str, verb: str, content: bytes) -> None:
            answer = client.post(f"/v1/models/{model}:{verb}", content=content)
            assert answer.status_code in (200, 400, 404, 501), answer.text
            assert answer.status_code == 200 or b'"error"' in answer.content

        send()


def fuzz_tensors(server: Server, examples: int) -> None:
    from tensorflow_serving.apis import predict_pb2

    @settled(examples)
    @given(MODELS, SIGNATURES, st.dictionaries(st.sampled_from(["x", "a", "b", "s"]), any_proto(), max_size=2))
    def send(model: str, signature: str, inputs: dict[str, object]) -> None:
        request = predict_pb2.PredictRequest(inputs=inputs)
        request.model_spec.name, request.model_spec.signature_name = model.partition("/")[0], signature
        # A call is its own outcome: asked for its code, it does not raise.
        call = server.prediction.Predict.future(request, TIMEOUT)
        assert call.code() in CODES, call.details()

    send()


FEATURES = st.one_of(
    st.builds(lambda values: {"float_list": {"value": values}}, st.lists(st.floats(width=32), max_size=3)),
    st.builds(lambda values: {"int64_list": {"value": values}}, st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)),
    st.builds(lambda values: {"bytes_list": {"value": values}}, st.lists(st.binary(max_size=4), max_size=3)),
)
EXAMPLES = st.builds(
    lambda features: {"features": {"feature": features}}, st.dictionaries(st.sampled_from(["x", "y"]), FEATURES)
)


@st.composite
def source(draw: st.DrawFn) -> dict[str, object]:
    examples = draw(st.lists(EXAMPLES, max_size=3))
    if draw(st.booleans()):
        return {"example_list": {"examples": examples}}
    return {"example_list_with_context": {"examples": examples, "context": draw(EXAMPLES)}}


def fuzz_examples(server: Server, examples: int) -> None:
    """Classify and Regress over gRPC."""
    from tensorflow_serving.apis import classification_pb2, regression_pb2

    calls = {
        "classify": (server.prediction.Classify, classification_pb2.ClassificationRequest),
        "regress": (server.prediction.Regress, regression_pb2.RegressionRequest),
    }

    @settled(examples)
    @given(MODELS, SIGNATURES, st.sampled_from(sorted(calls)), source())
    def send(model: str, signature: str, verb: str, given_source: dict[str, object]) -> None:
        stub, kind = calls[verb]
        request = kind(input=given_source)
        request.model_spec.name, request.model_spec.signature_name = model.partition("/")[0], signature
        call = stub.future(request, TIMEOUT)
        assert call.code() in CODES, call.details()

    send()


FUZZES = [fuzz_json, fuzz_tensors, fuzz_examples]


@pytest.mark.parametrize("fuzz", FUZZES)
def test_random_requests_break_nothing(server: Server, fuzz: object) -> None:
    fuzz(server, 300)  # type: ignore[operator]
    assert server.process.poll() is None


@pytest.mark.full
@pytest.mark.parametrize("fuzz", FUZZES)
def test_thousands_of_random_requests_break_nothing(server: Server, fuzz: object) -> None:
    fuzz(server, 5000)  # type: ignore[operator]
    assert server.process.poll() is None
