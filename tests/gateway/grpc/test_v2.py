"""The v2 front over gRPC of the real gateway process: Triton's public client, unmodified, and bare messages."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from gateway.protos import v2_pb2
from tests.fakes.torchserve import FakeTorchServe, failure
from tests.gateway.conftest import RunningGateway
from tests.gateway.grpc.v2_messages import SERVICE, infer, message, tensor

VARIANTS = ("tensorflow", "pytorch")


def refused(channel: grpc.Channel, request: v2_pb2.ModelInferRequest, **options: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, request, **options)
    return caught.value.code(), caught.value.details()


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    described = client.get_server_metadata()
    assert described.name == "duet"
    assert list(described.extensions) == ["binary_tensor_data", "classification", "model_configuration", "statistics"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_is_described_as_over_rest(
    gateway: RunningGateway, client: triton.InferenceServerClient, variant: str
) -> None:
    described = client.get_model_metadata(f"double@{variant}", as_json=True)
    rest = gateway.client.get(f"/v2/models/double@{variant}").json()
    for spec in (*rest["inputs"], *rest["outputs"]):
        spec["shape"] = [str(size) for size in spec["shape"]]
    assert described == rest


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [
        ("double", "", True),
        ("double@pytorch", "1", True),
        ("double", "2", False),
        ("double", "x", False),
        ("absent", "", False),
        ("nobody-knows", "", False),
        ("double@", "", False),
    ],
)
def test_what_is_unknown_is_not_ready_and_no_error(
    client: triton.InferenceServerClient, name: str, version: str, ready: bool
) -> None:
    assert client.is_model_ready(name, version) is ready


@pytest.mark.parametrize("variant", VARIANTS)
def test_tritons_client_gets_its_answer(client: triton.InferenceServerClient, variant: str) -> None:
    answer = client.infer(f"double@{variant}", [tensor(0.1, -2)], model_version="1", request_id="ü7")
    assert np.array_equal(answer.as_numpy("y"), np.array([[0.2], [-4]], np.float32))
    response = answer.get_response()
    assert (response.id, response.model_name, response.model_version) == ("ü7", "double", "1")
    assert len(response.raw_output_contents) == 1


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_grpcs_own_compression_is_understood(
    request: pytest.FixtureRequest, client: triton.InferenceServerClient, algorithm: str
) -> None:
    """The native transport knows gzip alone, and says so of the other."""
    values = [1.5] * 10_000
    if algorithm == "deflate" and "native" in request.node.callspec.id:
        with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
            client.infer("double", [tensor(*values)], compression_algorithm=algorithm)
        return
    answer = client.infer("double", [tensor(*values)], compression_algorithm=algorithm)
    assert (answer.as_numpy("y") == 3).all()


def test_the_answer_takes_the_form_of_the_request(channel: grpc.Channel) -> None:
    typed, _ = infer(channel, message(0.1))
    assert list(typed.outputs[0].contents.fp32_contents) == [float(np.float32(0.2))]
    assert not typed.raw_output_contents
    request = message(0.1)
    request.raw_input_contents.append(np.float32(0.1).tobytes())
    request.inputs[0].contents.Clear()  # present and empty, as MLServer's client sends it
    raw, _ = infer(channel, request)
    assert list(raw.raw_output_contents) == [np.float32(0.2).tobytes()]
    assert not raw.outputs[0].HasField("contents")


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_way_to_pin_reaches_the_variant(channel: grpc.Channel, variant: str) -> None:
    parameters = {"variant": v2_pb2.InferParameter(string_param=variant)}
    for request, metadata in (
        (message(4, model_name=f"double@{variant}"), ()),
        (message(4), (("x-duet-variant", variant),)),
        (message(4, parameters=parameters), ()),
    ):
        answer, trailing = infer(channel, request, metadata=metadata)
        assert list(answer.outputs[0].contents.fp32_contents) == [8]
        assert (trailing["x-duet-variant"], trailing["x-duet-version"]) == (variant, "3")


def test_an_answer_tells_its_id_its_trace_and_its_times(channel: grpc.Channel) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = (("x-request-id", "abc-1"), ("traceparent", f"00-{trace}-b7ad6b7169203331-01"))
    _, trailing = infer(channel, message(1), metadata=metadata)
    assert trailing["x-request-id"] == "abc-1"
    assert trailing["traceparent"].split("-")[1] == trace
    assert [part.split(";")[0] for part in trailing["server-timing"].split(", ")] == [
        "decode",
        "backend",
        "encode",
        "total",
    ]


@pytest.mark.parametrize(
    ("members", "code", "says"),
    [
        ({"model_name": "nope"}, "NOT_FOUND", "unknown model 'nope'"),
        ({"model_name": "double@jax"}, "NOT_FOUND", "no variant 'jax'"),
        ({"model_version": "2"}, "NOT_FOUND", "no version 2"),
        ({"model_version": "x"}, "NOT_FOUND", "versions are whole numbers"),
        ({"model_name": "absent"}, "UNAVAILABLE", "not ready"),
        ({"inputs": []}, "INVALID_ARGUMENT", "at least one tensor"),
        ({"raw_input_contents": [b"1234"]}, "INVALID_ARGUMENT", "either 'contents' or"),
        ({"parameters": {"a": v2_pb2.InferParameter()}}, "INVALID_ARGUMENT", "parameter 'a'"),
        ({"parameters": {"timeout": v2_pb2.InferParameter(string_param="1s")}}, "INVALID_ARGUMENT", "microseconds"),
        ({"parameters": {"triton_x": v2_pb2.InferParameter(int64_param=1)}}, "INVALID_ARGUMENT", "reserved"),
        ({"outputs": [v2_pb2.ModelInferRequest.InferRequestedOutputTensor(name="z")]}, "INVALID_ARGUMENT", "'z'"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(
    channel: grpc.Channel, members: dict[str, Any], code: str, says: str
) -> None:
    found, text = refused(channel, message(1, **members))
    assert found.name == code
    assert says in text


def test_bytes_that_are_no_message_are_the_clients_fault(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(SERVICE + "ModelInfer")(b"\xff\xff", timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_sooner_of_both_deadlines_holds(channel: grpc.Channel, pytorch: FakeTorchServe) -> None:
    """``timeout`` is in microseconds, as Triton has it; the call's own deadline is gRPC's."""
    pytorch.delay_seconds = 1
    pinned = partial(message, 1, model_name="double@pytorch")
    start = time.monotonic()
    try:
        by_parameter = refused(channel, pinned(parameters={"timeout": v2_pb2.InferParameter(int64_param=50_000)}))
        with pytest.raises(grpc.RpcError) as by_call:
            channel.unary_unary(SERVICE + "ModelInfer", v2_pb2.ModelInferRequest.SerializeToString)(
                pinned(parameters={"timeout": v2_pb2.InferParameter(int64_param=9_000_000)}), timeout=0.1
            )
    finally:
        pytorch.delay_seconds = 0
    assert by_parameter[0] is by_call.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "double did not answer" in by_parameter[1]
    assert time.monotonic() - start < 0.9


def test_overload_is_resource_exhausted_with_a_time_to_come_back(
    channel: grpc.Channel, pytorch: FakeTorchServe
) -> None:
    pytorch.answer = lambda: failure(503, "ServiceUnavailableException", 'Model "double" has no worker to serve')
    try:
        with pytest.raises(grpc.RpcError) as caught:
            infer(channel, message(1, model_name="double@pytorch"))
    finally:
        pytorch.answer = None
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailing = dict(caught.value.trailing_metadata())
    assert (trailing["retry-after"], trailing["x-duet-variant"]) == ("1", "pytorch")


def test_the_best_classes_of_an_output(client: triton.InferenceServerClient) -> None:
    outputs = [triton.InferRequestedOutput("y", class_count=5)]
    answer = client.infer("double", [tensor(0.5, 2)], outputs=outputs)
    assert answer.as_numpy("y").tolist() == [[b"1.000000:0"], [b"4.000000:0"]]


def test_the_index_lists_each_version(client: triton.InferenceServerClient) -> None:
    models = client.get_model_repository_index(as_json=True)["models"]
    assert (models[0]["name"], models[0]["state"]) == ("absent", "UNAVAILABLE")
    assert "Could not find" in models[0]["reason"]
    assert models[1:] == [{"name": "double", "version": version, "state": "READY"} for version in ("1", "3")]


def test_the_configuration_tells_the_batch_apart(client: triton.InferenceServerClient) -> None:
    config = client.get_model_config("double@pytorch").config
    assert (config.name, config.platform, config.backend) == ("double", "pytorch_torchscript", "pytorch")
    assert config.max_batch_size > 1
    assert [(spec.name, list(spec.dims)) for spec in (*config.input, *config.output)] == [("x", [1]), ("y", [1])]


def test_statistics_count_requests_and_rows_of_both_transports(
    gateway: RunningGateway, client: triton.InferenceServerClient
) -> None:
    before = client.get_inference_statistics("double@pytorch", "1").model_stats[0]
    client.infer("double@pytorch", [tensor(1, 2, 3)], model_version="1")
    gateway.infer("double@pytorch/versions/1", [1, 2])
    with pytest.raises(InferenceServerException):
        client.infer("double@pytorch", [triton.InferInput("x", [1], "INT32")], model_version="1")
    with pytest.raises(InferenceServerException):
        client.infer("double@pytorch", [tensor(1)], model_version="1", outputs=[triton.InferRequestedOutput("nothing")])
    after = client.get_inference_statistics("double@pytorch", "1").model_stats[0]
    assert (after.name, after.version) == ("double", "1")
    assert after.inference_count - before.inference_count == 5
    assert after.execution_count - before.execution_count == 2
    assert after.inference_stats.success.count - before.inference_stats.success.count == 2
    assert after.inference_stats.fail.count - before.inference_stats.fail.count == 1
    assert {2, 3} <= {batch.batch_size for batch in after.batch_stats}
    assert after.inference_stats.compute_infer.ns < after.inference_stats.success.ns
    assert abs(after.last_inference / 1e3 - time.time()) < 60
    of_all = client.get_inference_statistics().model_stats
    assert {("double", "1"), ("double", "3"), ("double@pytorch", "1")} <= {(one.name, one.version) for one in of_all}


def test_loading_models_is_no_clients_business(client: triton.InferenceServerClient) -> None:
    for call in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException) as caught:
            call("double")
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
