"""Streams, health and asyncio over gRPC of the real gateway process, and how it ends them."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

from gateway.protos import health_pb2, v2_pb2
from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe
from tests.gateway.conftest import RunningGateway
from tests.gateway.grpc.conftest import settings
from tests.gateway.grpc.v2_messages import SERVICE, infer, message, tensor

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
    for result, _ in (first, third):
        assert result.get_response().parameters["triton_final_response"].bool_param


def stream(channel: grpc.Channel, *requests: v2_pb2.ModelInferRequest) -> Iterator[v2_pb2.ModelStreamInferResponse]:
    call = channel.stream_stream(
        SERVICE + "ModelStreamInfer",
        v2_pb2.ModelInferRequest.SerializeToString,
        v2_pb2.ModelStreamInferResponse.FromString,
    )
    return iter(call(iter(requests), timeout=10))


ASKED = {
    "not asked": {},
    "asked": {"triton_enable_empty_final_response": v2_pb2.InferParameter(bool_param=True)},
    "asked not to": {"triton_enable_empty_final_response": v2_pb2.InferParameter(bool_param=False)},
}


@pytest.mark.parametrize("asked", ASKED)
def test_the_last_answer_of_each_request_is_marked(channel: grpc.Channel, asked: str) -> None:
    """Every answer is the last of its request, an error too, and one to bytes that are no request; asked for or not."""
    parameters = ASKED[asked]
    requests = [
        message(1, id="g", parameters=parameters),
        message(1, id="b", model_name="nope", parameters=parameters),
        message(1, id="s", parameters={**parameters, "timeout": v2_pb2.InferParameter(string_param="soon")}),
        message(2, id="h", parameters=parameters),
    ]
    good, unknown, bad, again = stream(channel, *requests)
    assert (good.error_message, good.infer_response.id) == ("", "g")
    assert (unknown.infer_response.id, "nope" in unknown.error_message) == ("b", True)
    assert (bad.infer_response.id, "timeout" in bad.error_message) == ("s", True)
    assert list(again.infer_response.outputs[0].contents.fp32_contents) == [4]
    for answer in (good, unknown, bad, again):
        assert answer.infer_response.parameters["triton_final_response"].bool_param


def test_bytes_that_are_no_request_have_a_last_answer_too(channel: grpc.Channel) -> None:
    call = channel.stream_stream(SERVICE + "ModelStreamInfer", bytes, v2_pb2.ModelStreamInferResponse.FromString)
    (answer,) = call(iter([b"\xff\xff"]), timeout=10)
    assert answer.error_message
    assert answer.infer_response.parameters["triton_final_response"].bool_param


def test_an_answer_that_is_no_stream_s_is_not_marked(channel: grpc.Channel) -> None:
    assert "triton_final_response" not in infer(channel, message(1))[0].parameters


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
