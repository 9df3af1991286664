"""A client without stubs, as grpcurl is, calls both frameworks' models by what the gateway of `make up` tells."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.fronts import v2_rest_binary
from tests.integration.clients.examples import VARIANTS, examples
from tests.stack import Stack

LINEAR = "linear_regression"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_is_called_by_what_reflection_tells(stack: Stack, variant: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{stack.grpc_port}") as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        predict = pool.FindServiceByName("tensorflow.serving.PredictionService").FindMethodByName("Predict")
        request, answer = (message_factory.GetMessageClass(kind) for kind in (predict.input_type, predict.output_type))
        tensor = message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.TensorProto"))
        x = examples(LINEAR)["x"]
        shape = {"dim": [{"size": size} for size in x.shape]}
        asked = request(
            model_spec={"name": f"{LINEAR}@{variant}"},
            inputs={"x": tensor(dtype=1, tensor_shape=shape, tensor_content=x.tobytes())},
        )
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict", request.SerializeToString)
        found = answer.FromString(call(asked, timeout=30))
    (wanted,) = v2_rest_binary(stack, LINEAR, variant, {"x": x}, version=None, seconds=None).values()
    assert found.outputs[next(iter(found.outputs))].tensor_content == wanted.tobytes()
