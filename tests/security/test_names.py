"""Hostile names in every front: looked up and not found, or refused; never part of a path, a file or a label."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from urllib.parse import quote

import grpc
import pytest

from gateway.protos import tfserving_pb2 as tf_pb
from gateway.protos import torchserve_pb2 as ts_pb
from gateway.protos import v2_pb2
from tests.security.door import BODY, LEAK, MODEL, Door, request, statuses
from tests.security.hostile import NAMES

PATHS = {
    "v2": "/v2/models/{}/infer",
    "v2, a version": "/v2/models/" + MODEL + "/versions/{}/infer",
    "TF Serving": "/v1/models/{}:predict",
    "TorchServe": "/predictions/{}",
    "TorchServe, a version": "/predictions/" + MODEL + "/{}",
}


#: What is the model all the same: TorchServe's paths go on behind the name for handlers, and a query is no name.
STILL_THE_MODEL = {
    "TorchServe": re.compile(r"double( |/+|/+1(/.*)?|\?.*)"),
    "TorchServe, a version": re.compile(r"(/.*|\?.*)?"),
}


def calls(name: str) -> list[tuple[str, bytes]]:
    infer = v2_pb2.ModelInferRequest(model_name=name)
    infer.inputs.add(name="x", datatype="FP32", shape=[1, 1]).contents.fp32_contents.append(1)
    predict = tf_pb.PredictRequest()
    predict.model_spec.name = name
    predict.inputs["x"].CopyFrom(tf_pb.TensorProto(dtype=tf_pb.DT_FLOAT, float_val=[1.0]))
    torch = ts_pb.PredictionsRequest(model_name=name, input={"x": b"[[1]]"})
    return [
        ("/inference.GRPCInferenceService/ModelInfer", infer.SerializeToString()),
        ("/inference.GRPCInferenceService/ModelMetadata", v2_pb2.ModelMetadataRequest(name=name).SerializeToString()),
        ("/tensorflow.serving.PredictionService/Predict", predict.SerializeToString()),
        ("/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions", torch.SerializeToString()),
    ]


def test_there_are_200_names() -> None:
    assert len(NAMES) >= 200


@pytest.mark.parametrize("front", PATHS)
@pytest.mark.parametrize("encoded", [False, True], ids=["as it is", "encoded"])
def test_no_name_reaches_a_server_over_rest(
    door: Door, front: str, encoded: bool, record_property: Callable[[str, object], None]
) -> None:
    before, asked = door.predictions, door.others_asked()
    allowed = STILL_THE_MODEL.get(front)
    names = [name for name in NAMES if encoded or not (allowed and allowed.fullmatch(name))]
    for name in names:
        target = PATHS[front].format(quote(name, safe="") if encoded else name)
        raw = request(target.encode().decode("latin-1"), BODY, "Connection: close", method="POST")
        answer = door.talk(raw)
        found = statuses(answer)
        assert found, name
        assert found[0] in (400, 404, 405, 414, 505), (name, answer[:200])
        assert not LEAK.search(answer.partition(b"\r\n\r\n")[2].replace(name.encode(), b"")), (name, answer)
        assert door.predictions == before, name
    assert door.others_asked() == asked
    record_property("cases", len(names))


def test_no_name_reaches_a_server_over_grpc(door: Door, record_property: Callable[[str, object], None]) -> None:
    before, asked, count = door.predictions, door.others_asked(), 0
    with grpc.insecure_channel(f"127.0.0.1:{door.gateway.grpc_port}") as channel:
        for name in NAMES:
            for method, message in calls(name):
                with pytest.raises(grpc.RpcError) as refused:
                    channel.unary_unary(method)(message, timeout=10)
                code = refused.value.code()
                assert code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT), (name, method, code)
                assert not LEAK.search(refused.value.details().replace(name, "").encode()), name
                count += 1
    assert door.predictions == before
    assert door.others_asked() == asked
    record_property("cases", count)


def test_a_name_of_megabytes_comes_back_in_no_error(door: Door) -> None:
    """Neither as a body of megabytes nor as a trailer that no client takes."""
    for call, message, code in (
        ("ModelMetadata", v2_pb2.ModelMetadataRequest(name="é" * 1_000_000), grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("ModelMetadata", v2_pb2.ModelMetadataRequest(name="é" * 8_000), grpc.StatusCode.NOT_FOUND),
        ("ModelInfer", v2_pb2.ModelInferRequest(model_name="é" * 1_000_000), grpc.StatusCode.INVALID_ARGUMENT),
        ("ModelInfer", v2_pb2.ModelInferRequest(model_name="é" * 8_000), grpc.StatusCode.NOT_FOUND),
    ):
        with (
            grpc.insecure_channel(f"127.0.0.1:{door.gateway.grpc_port}") as channel,
            pytest.raises(grpc.RpcError) as refused,
        ):
            channel.unary_unary(f"/inference.GRPCInferenceService/{call}")(message.SerializeToString(), timeout=10)
        assert refused.value.code() is code, refused.value.details()
        assert len(refused.value.details()) < 1100
    body = json.dumps({"inputs": [{"name": "x" * 1_000_000, "shape": [1], "datatype": "FP32", "data": [1]}]}).encode()
    assert len(door.talk(request(body=body))) < 8192


def test_names_make_no_series_of_metrics(door: Door) -> None:
    """After hundreds of names, each family has a few series and none of the names."""
    text = door.gateway.admin.get("/metrics").text
    assert "etc/passwd" not in text
    families: dict[str, int] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            family = line.partition("{")[0].partition(" ")[0]
            families[family] = families.get(family, 0) + 1
    assert max(count for family, count in families.items() if not family.endswith("_bucket")) <= 200
