"""Server reflection: a client without stubs learns what is served, under the names that are on the wire.

The kind: whatever such a client asks (services, a symbol of any depth, a file, what is not there), in v1 and v1alpha;
and it must be able to call every service by what it has learnt alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2 as pb
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from gateway.grpc import descriptors
from gateway.grpc.reflection import SERVICES as OWN
from tests.fakes.tfserving import FakeTFServing
from tests.gateway.conftest import RunningGateway, start_gateway
from tests.security.doors import KeyFolder

V1, V1ALPHA = OWN


class Learned:
    """A client that knows nothing but what reflection has told it."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = DescriptorPool(self.database)

    def message(self, name: str) -> Any:
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))

    def call(self, service: str, method: str, *requests: dict[str, Any]) -> list[Any]:
        found = self.pool.FindServiceByName(service).FindMethodByName(method)
        made = [message_factory.GetMessageClass(found.input_type)(**request) for request in requests]
        answer = message_factory.GetMessageClass(found.output_type)
        given: Any = iter(made) if found.client_streaming else made[0]
        kinds = ("stream" if found.client_streaming else "unary", "stream" if found.server_streaming else "unary")
        opened = getattr(self._channel, "_".join(kinds))(
            f"/{service}/{method}", lambda m: m.SerializeToString(), answer.FromString
        )
        answers = opened(given, timeout=10)
        return list(answers) if found.server_streaming else [answers]


@pytest.fixture
def learned(channel: grpc.Channel) -> Learned:
    return Learned(channel)


def test_what_is_listed_is_what_is_served(gateway: RunningGateway, learned: Learned) -> None:
    """Each service with its methods, and each of them is there: none is UNIMPLEMENTED."""
    assert set(learned.database.get_services()) == {*descriptors.SERVICES, *OWN}
    with grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        for service, methods in descriptors.SERVICES.items():
            declared = learned.pool.FindServiceByName(service)
            assert {method.name for method in declared.methods} == set(methods)
            for method in set(methods) - {"Watch"}:
                answers = channel.stream_stream(f"/{service}/{method}")(iter([b""]), timeout=10)
                try:
                    list(answers)
                except grpc.RpcError as error:
                    assert error.code() is not grpc.StatusCode.UNIMPLEMENTED, (service, method)  # noqa: PT017


def test_every_method_that_is_served_is_declared() -> None:
    """A service that comes to be served must be told of too."""
    from prometheus_client import CollectorRegistry

    from gateway.backends.base import Backend
    from gateway.grpc import health, tfserving, torchserve, v2
    from gateway.grpc.calls import Calls
    from gateway.logging import NoAccessLog
    from gateway.metrics import Metrics
    from gateway.observation import Observer

    class Nobody(Backend):
        async def infer(self, request: Any) -> Any: ...

        async def metadata(self, model: str) -> Any: ...

        async def aclose(self) -> None: ...

    observer = Observer(metrics=Metrics(CollectorRegistry()), access_log=NoAccessLog())
    calls, nobody = Calls(observer, unread=None), Nobody()  # type: ignore[arg-type]

    def ready() -> bool:
        return True

    served = {
        **v2.services(nobody, calls, ready=ready),
        **tfserving.services(nobody, calls),
        **torchserve.services(nobody, calls, ready=ready),
        **health.services(calls, ready=ready, names=()),
    }
    assert {name: set(methods) for name, methods in served.items()} == {
        name: set(methods) for name, methods in descriptors.SERVICES.items()
    }
    for service, methods in served.items():
        for name, handler in methods.items():
            declared = descriptors.SERVICES[service][name]
            assert handler.request_streaming == declared.streams_requests, name
            assert handler.response_streaming == declared.streams_answers, name


def v2_call(learned: Learned) -> Any:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "contents": {"fp32_contents": [4]}}
    (answer,) = learned.call(
        "inference.GRPCInferenceService", "ModelInfer", {"model_name": "double", "inputs": [tensor]}
    )
    return answer.outputs[0].contents.fp32_contents[0]


def v2_stream(learned: Learned) -> Any:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "contents": {"fp32_contents": [4]}}
    request = {"model_name": "double", "inputs": [tensor]}
    _, answer = learned.call("inference.GRPCInferenceService", "ModelStreamInfer", request, request)
    return answer.infer_response.outputs[0].contents.fp32_contents[0]


def tfserving_call(learned: Learned) -> Any:
    shape = {"dim": [{"size": 1}, {"size": 1}]}
    tensor = learned.message("tensorflow.TensorProto")(dtype=1, tensor_shape=shape, float_val=[4])
    (answer,) = learned.call(
        "tensorflow.serving.PredictionService", "Predict", {"model_spec": {"name": "double"}, "inputs": {"x": tensor}}
    )
    return answer.outputs["y"].float_val[0]


def torchserve_call(learned: Learned) -> Any:
    request = {"model_name": "double", "input": {"x": b"[[4]]"}}
    (answer,) = learned.call("org.pytorch.serve.grpc.inference.InferenceAPIsService", "Predictions", request)
    return float(answer.prediction.strip(b"[]"))


@pytest.mark.parametrize("call", [v2_call, v2_stream, tfserving_call, torchserve_call])
def test_a_client_can_call_by_what_it_has_learnt(learned: Learned, call: Callable[[Learned], Any]) -> None:
    assert call(learned) == np.float32(8)


def test_metadata_in_an_any_has_a_name_that_can_be_looked_up(learned: Learned) -> None:
    """As who prints an answer needs it: the message in an Any is found by its own name."""
    (answer,) = learned.call(
        "tensorflow.serving.PredictionService",
        "GetModelMetadata",
        {"model_spec": {"name": "double"}, "metadata_field": ["signature_def"]},
    )
    packed = answer.metadata["signature_def"]
    assert packed.DESCRIPTOR.full_name == "google.protobuf.Any"
    found = learned.message(packed.type_url.rpartition("/")[2]).FromString(packed.value)
    assert found.DESCRIPTOR.full_name == "tensorflow.serving.SignatureDefMap"
    assert found.signature_def["serving_default"].inputs["x"].dtype == 1


def ask(channel: grpc.Channel, service: str, *requests: pb.ServerReflectionRequest | bytes) -> list[Any]:
    call = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        lambda request: request if isinstance(request, bytes) else request.SerializeToString(),
        pb.ServerReflectionResponse.FromString,
    )
    return list(call(iter(requests), timeout=10))


@pytest.mark.parametrize("service", OWN)
def test_both_versions_answer_everything_that_is_asked(channel: grpc.Channel, service: str) -> None:
    """In order, and what is not there is an answer too, after which the stream goes on."""
    symbols = [
        "tensorflow.TensorProto",
        "tensorflow.serving.PredictRequest",
        "tensorflow.serving.PredictionService.Predict",
        "inference.ModelInferRequest.InferInputTensor",
        "google.protobuf.Any",
        "grpc.health.v1.HealthCheckResponse.ServingStatus",
        f"{V1}Request",
        V1ALPHA,
        f"{V1}.ServerReflectionInfo",
    ]
    request = pb.ServerReflectionRequest
    answers = ask(
        channel,
        service,
        *(request(file_containing_symbol=symbol) for symbol in symbols),
        request(file_containing_symbol="duet.protos.v2.ModelInferRequest"),
        request(file_by_filename="nothing.proto"),
        request(),
        b"\xff",
        request(list_services="", host="h"),
    )
    for symbol, answer in zip(symbols, answers, strict=False):
        found = answer.file_descriptor_response.file_descriptor_proto
        files = [descriptor_pb2.FileDescriptorProto.FromString(data) for data in found]
        assert files, (symbol, answer)
        assert symbol.startswith(files[0].package), symbol
        assert not any(file.package.startswith("duet") for file in files)
    *_, ours, missing, empty, broken, listed = answers
    assert [answer.error_response.error_code for answer in (ours, missing, empty, broken)] == [5, 5, 3, 3]
    assert len(listed.list_services_response.service) == len(descriptors.SERVICES) + 2
    assert answers[2].original_request.file_containing_symbol == symbols[2]
    assert listed.original_request.host == "h"


def test_with_keys_on_it_takes_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any that is valid: it tells of no model. Without one nothing is said, as of every call that describes."""
    folder = KeyFolder(tmp_path_factory.mktemp("keys"))
    key = folder.make("caller")
    server = FakeTFServing({"double": [1]})
    settings = {
        "servers": {"tensorflow": {"kind": "tfserving", "endpoint": server.endpoint}},
        "auth": folder.settings,
        "grpc": {"reflection": True},
    }
    running = start_gateway(settings, tmp_path_factory.mktemp("gateway"))
    try:
        with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
            call = channel.stream_stream(
                f"/{V1}/ServerReflectionInfo",
                pb.ServerReflectionRequest.SerializeToString,
                pb.ServerReflectionResponse.FromString,
            )
            request = pb.ServerReflectionRequest(list_services="")
            with pytest.raises(grpc.RpcError) as caught:
                list(call(iter([request]), timeout=10))
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            (answer,) = call(iter([request]), timeout=10, metadata=[("authorization", f"Bearer {key}")])
            assert len(answer.list_services_response.service) == len(descriptors.SERVICES) + 2
    finally:
        assert running.stop() == 0
        server.close()
