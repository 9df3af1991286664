"""The v2 front over gRPC of the real gateway process: Triton's public clients, unmodified, and bare messages."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from gateway.protos import health_pb2, v2_pb2
from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe, failure
from tests.gateway.conftest import RunningGateway, start_gateway

SERVICE = "/inference.GRPCInferenceService/"
VARIANTS = ("tensorflow", "pytorch")


@pytest.fixture(scope="module")
def tensorflow() -> Iterator[FakeTFServing]:
    fake = FakeTFServing({"double": [1, 3]})
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def pytorch() -> Iterator[FakeTorchServe]:
    fake = FakeTorchServe({"double": ["3", "1"]})
    yield fake
    fake.close()


def settings(tensorflow: FakeTFServing, pytorch: FakeTorchServe) -> dict[str, Any]:
    return {
        "servers": {
            "tensorflow": {"kind": "tfserving", "endpoint": tensorflow.endpoint},
            "pytorch": {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url},
        },
        "models": {"double": {}, "absent": {}},
        "default_deadline_seconds": 5,
        "drain_seconds": 10,
    }


@pytest.fixture(scope="module")
def gateway(
    tensorflow: FakeTFServing, pytorch: FakeTorchServe, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    running = start_gateway(settings(tensorflow, pytorch), tmp_path_factory.mktemp("gateway"))
    try:
        for variant in VARIANTS:
            running.wait_until(f"/v2/models/double@{variant}/ready", 200)
        yield running
    finally:
        assert running.stop() == 0
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def client(gateway: RunningGateway) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{gateway.grpc_port}") as client:
        yield client


@pytest.fixture(scope="module")
def channel(gateway: RunningGateway) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        yield channel


def tensor(*values: float) -> triton.InferInput:
    found = triton.InferInput("x", [len(values), 1], "FP32")
    return found.set_data_from_numpy(np.array(values, np.float32).reshape(-1, 1))


def message(*values: float, **members: Any) -> v2_pb2.ModelInferRequest:
    """A typed request."""
    contents = v2_pb2.InferTensorContents(fp32_contents=values)
    x = v2_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[len(values), 1], contents=contents)
    return v2_pb2.ModelInferRequest(**{"model_name": "double", "inputs": [x], **members})


def infer(channel: grpc.Channel, request: v2_pb2.ModelInferRequest, **options: Any) -> tuple[Any, dict[str, str]]:
    call = channel.unary_unary(
        SERVICE + "ModelInfer",
        v2_pb2.ModelInferRequest.SerializeToString,
        v2_pb2.ModelInferResponse.FromString,
    )
    answer, seen = call.with_call(request, timeout=10, **options)
    return answer, {key: value for key, value in seen.trailing_metadata() if isinstance(value, str)}


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
def test_grpcs_own_compression_is_understood(client: triton.InferenceServerClient, algorithm: str) -> None:
    values = [1.5] * 10_000
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
        with pytest.raises(InferenceServerException, match="cannot load or unload") as caught:
            call("double")
        assert caught.value.status() == "StatusCode.PERMISSION_DENIED"


Answers = "queue.Queue[tuple[triton.InferResult | None, InferenceServerException | None]]"


def test_a_stream_answers_in_order_and_goes_on_after_an_error(
    gateway: RunningGateway, tensorflow: FakeTFServing
) -> None:
    """The first is slow and the second fails at once: still theirs are the first and the second answer."""
    answers: Answers = queue.Queue()
    with triton.InferenceServerClient(f"127.0.0.1:{gateway.grpc_port}") as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        tensorflow.delay_seconds = 0.3
        try:
            client.async_stream_infer("double@tensorflow", [tensor(1)], request_id="a")
            client.async_stream_infer("nope", [tensor(2)], request_id="b")
            client.async_stream_infer("double@pytorch", [tensor(3)], request_id="c")
            found = [answers.get(timeout=10) for _ in range(3)]
        finally:
            tensorflow.delay_seconds = 0
        client.stop_stream()
    first, second, third = found
    assert first[0] is not None
    assert first[0].get_response().id == "a"
    assert first[0].as_numpy("y").tolist() == [[2]]
    assert "unknown model 'nope'" in str(second[1])
    assert third[0] is not None
    assert third[0].get_response().id == "c"
    assert third[0].get_response().parameters["variant"].string_param == "pytorch"
    assert "triton_final_response" not in third[0].get_response().parameters


def stream(channel: grpc.Channel, *requests: v2_pb2.ModelInferRequest) -> Iterator[v2_pb2.ModelStreamInferResponse]:
    call = channel.stream_stream(
        SERVICE + "ModelStreamInfer",
        v2_pb2.ModelInferRequest.SerializeToString,
        v2_pb2.ModelStreamInferResponse.FromString,
    )
    return iter(call(iter(requests), timeout=10))


def test_the_last_answer_is_marked_when_asked_for(channel: grpc.Channel) -> None:
    asked = {"triton_enable_empty_final_response": v2_pb2.InferParameter(bool_param=True)}
    good, bad = stream(
        channel, message(1, id="g", parameters=asked), message(1, id="b", model_name="nope", parameters=asked)
    )
    assert (good.error_message, good.infer_response.id) == ("", "g")
    assert (bad.infer_response.id, "nope" in bad.error_message) == ("b", True)
    for answer in (good, bad):
        assert answer.infer_response.parameters["triton_final_response"].bool_param


def test_a_stream_carries_more_than_it_works_on_at_a_time(channel: grpc.Channel) -> None:
    answers = stream(channel, *(message(number, id=str(number)) for number in range(200)))
    values = [
        (answer.infer_response.id, *answer.infer_response.outputs[0].contents.fp32_contents) for answer in answers
    ]
    assert values == [(str(number), 2 * number) for number in range(200)]


def test_a_client_that_leaves_its_stream_harms_nobody(channel: grpc.Channel, tensorflow: FakeTFServing) -> None:
    tensorflow.delay_seconds = 0.2
    try:
        call = channel.stream_stream(SERVICE + "ModelStreamInfer", v2_pb2.ModelInferRequest.SerializeToString)
        answers = call(iter([message(1)] * 5), timeout=10)
        next(answers)
        answers.cancel()
    finally:
        tensorflow.delay_seconds = 0
    assert infer(channel, message(1))[0].outputs


def test_tritons_asyncio_client(gateway: RunningGateway) -> None:
    async def calls() -> None:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{gateway.grpc_port}") as client:
            assert await client.is_model_ready("double")
            answer = await client.infer("double@pytorch", [tensor(4)], headers={"x-request-id": "q"})
            assert answer.as_numpy("y").tolist() == [[8]]

            async def requests() -> AsyncIterator[dict[str, Any]]:
                for value in (1, 2):
                    yield {"model_name": "double", "inputs": [tensor(value)], "request_id": str(value)}

            found = [pair async for pair in client.stream_infer(requests())]
            assert [(result.get_response().id, error) for result, error in found] == [("1", None), ("2", None)]

    asyncio.run(calls())


def check(channel: grpc.Channel, service: str) -> int:
    call = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    return int(call(health_pb2.HealthCheckRequest(service=service), timeout=10).status)


def watch(channel: grpc.Channel, service: str) -> Any:
    call = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    return call(health_pb2.HealthCheckRequest(service=service), timeout=20)


def test_grpcs_health_service(channel: grpc.Channel) -> None:
    serving = health_pb2.HealthCheckResponse.SERVING
    assert check(channel, "") == check(channel, "inference.GRPCInferenceService") == serving
    with pytest.raises(grpc.RpcError) as caught:
        check(channel, "nope")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    unknown = watch(channel, "nope")
    assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    unknown.cancel()


def test_open_streams_do_not_hold_up_the_end(
    tensorflow: FakeTFServing, pytorch: FakeTorchServe, gateway_with: Callable[[dict[str, Any]], RunningGateway]
) -> None:
    """A watcher is told, an idle stream is closed as UNAVAILABLE, and the process is gone long before its drain."""
    running = gateway_with(settings(tensorflow, pytorch))
    running.wait_until("/v2/models/double/ready", 200)
    waiting: queue.Queue[v2_pb2.ModelInferRequest | None] = queue.Queue()
    with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
        watching = watch(channel, "")
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
        call = channel.stream_stream(
            SERVICE + "ModelStreamInfer",
            v2_pb2.ModelInferRequest.SerializeToString,
            v2_pb2.ModelStreamInferResponse.FromString,
        )
        answers = call(iter(waiting.get, None), timeout=20)
        waiting.put(message(1))
        assert next(answers).infer_response.outputs
        start = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - start < 4
        for ended in (watching, answers):
            with pytest.raises(grpc.RpcError) as caught:
                list(ended)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        waiting.put(None)
    assert "Traceback" not in running.log.read_text()


def test_metrics_count_each_request_of_a_stream(gateway: RunningGateway, channel: grpc.Channel) -> None:
    labels = 'duet_requests_total{code="OK",front="v2_grpc",model="double",variant="pytorch",version="3"} '

    def counted() -> float:
        lines = gateway.admin.get("/metrics").text.splitlines()
        return sum(float(line.removeprefix(labels)) for line in lines if line.startswith(labels))

    before = counted()
    list(stream(channel, *[message(1, model_name="double@pytorch")] * 3))
    assert counted() - before == 3
    assert 'duet_requests_in_flight{front="v2_grpc"} 0.0' in gateway.admin.get("/metrics").text
