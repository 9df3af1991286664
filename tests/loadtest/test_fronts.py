from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gateway.codecs import tfserving as tf_codec
from gateway.codecs import v2
from gateway.protos import v2_pb2
from gateway.types import Tensor
from loadtest.fronts import FRONTS, Answer, Signature, pinned
from loadtest.payloads import common_version, example_inputs, requests, rows, twin
from models.catalog import CATALOG
from tests.stack import ARTIFACTS

SPEC = CATALOG["convnet"]
SIGNATURE = Signature("convnet", 2, SPEC.outputs)


@pytest.mark.parametrize("front", FRONTS.values(), ids=FRONTS.keys())
@pytest.mark.parametrize("model", ["convnet", "lstm_text_generator", "text_classifier"])
def test_both_variants_get_the_same_bytes(front: object, model: str) -> None:
    """Only a header tells them apart."""
    signature = Signature(model, 2, CATALOG[model].outputs)
    call = front.encode(signature, example_inputs(model))  # type: ignore[attr-defined]
    one, other = pinned(call, "tensorflow"), pinned(call, "pytorch")
    assert one.body == other.body
    assert one.target == other.target
    assert {name for name in one.headers if one.headers[name] != other.headers.get(name)} == {"x-duet-variant"}


def test_the_version_is_pinned() -> None:
    """The highest of both, so that a new version does not change what is measured."""
    assert "/versions/2/" in FRONTS["v2_rest_json"].encode(SIGNATURE, example_inputs("convnet")).target
    assert common_version(twin(ARTIFACTS, "convnet")) == 2


def test_a_v2_answer_is_read_back() -> None:
    body = (
        b'{"model_name":"m","model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[1,2]}]}'
    )
    assert FRONTS["v2_rest_json"].decode(SIGNATURE, Answer(body))["y"].tolist() == [[1, 2]]


def test_a_binary_request_is_what_the_gateway_reads() -> None:
    call = FRONTS["v2_rest_binary"].encode(SIGNATURE, example_inputs("convnet", 3))
    body = v2.decode_request(call.body, int(call.headers[v2.HEADER_LENGTH]))
    assert body.inputs[0].data.shape == (3, 28, 28, 1)


def test_grpc_messages_carry_raw_bytes() -> None:
    image = Tensor("image", "FP32", np.arange(784, dtype=np.float32).reshape(1, 28, 28, 1))
    message = v2_pb2.ModelInferRequest.FromString(FRONTS["v2_grpc"].encode(SIGNATURE, [image]).body)
    assert message.raw_input_contents[0] == image.data.tobytes()
    request = tf_codec.pb.PredictRequest.FromString(FRONTS["tfserving_grpc"].encode(SIGNATURE, [image]).body)
    assert request.inputs["image"].tensor_content == image.data.tobytes()


def test_payloads_are_of_the_signature_and_the_same_for_the_same_seed() -> None:
    for name in ("convnet", "text_classifier", "rnn"):
        model = twin(ARTIFACTS, name)
        one, other = rows(model, 6, seed=3), rows(model, 6, seed=3)
        assert all((a == b).all() for a, b in zip(one, other, strict=True))
        made = requests(model.inputs, one, batch=2)
        assert len(made) == 3
        for tensor, spec in zip(made[0], model.inputs, strict=True):
            assert (tensor.name, tensor.shape[0], tensor.data.ndim) == (spec.name, 2, len(spec.shape))


def test_pinning_does_not_touch_the_call() -> None:
    call = FRONTS["v2_grpc"].encode(SIGNATURE, example_inputs("convnet"))
    pinned(call, "pytorch")
    assert call == replace(call, headers={})
