"""What TorchServe's gRPC stubs get of the gateway: test_torchserve.py generates them, runs this and judges.

The arguments are the stubs' folder and the gateway's address. A process of its own, since the stubs register the names
of TorchServe's messages. Reads one JSON document, writes one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import grpc

Told = dict[str, Any]
SECONDS = 30


def tell(address: str, asked: Told) -> Told:
    from google.protobuf import empty_pb2
    from inference_pb2 import PredictionsRequest  # type: ignore[import-not-found]  # generated
    from inference_pb2_grpc import InferenceAPIsServiceStub  # type: ignore[import-not-found]

    def request(model: str, inputs: dict[str, str], **more: str) -> Any:
        return PredictionsRequest(
            model_name=model, input={name: text.encode() for name, text in inputs.items()}, **more
        )

    told: Told = {}
    with grpc.insecure_channel(address) as channel:
        stub = InferenceAPIsServiceStub(channel)
        told["ping"] = json.loads(stub.Ping(empty_pb2.Empty(), SECONDS).health)
        for name, inputs in asked["calls"].items():
            told[name] = json.loads(stub.Predictions(request(name, inputs), SECONDS).prediction)
            told[f"stream {name}"] = [
                json.loads(one.prediction) for one in stub.StreamPredictions(request(name, inputs), SECONDS)
            ]
        inputs = asked["linear"]
        for variant in asked["variants"]:
            answer, call = stub.Predictions.with_call(
                request("linear_regression", inputs, model_version="1.0"),
                SECONDS,
                metadata=[("x-duet-variant", variant)],
            )
            trailing = dict(call.trailing_metadata())
            served = [trailing["x-duet-variant"], trailing["x-duet-version"]]
            told[f"pin {variant}"] = [*served, json.loads(answer.prediction)]
        told["unknown model"] = refusal(lambda: stub.Predictions(request("nobody", inputs), SECONDS))
        told["unknown version"] = refusal(
            lambda: stub.Predictions(request("linear_regression", inputs, model_version="9"), SECONDS)
        )
        told["no JSON"] = refusal(lambda: stub.Predictions(request("linear_regression", {"data": "{"}), SECONDS))
        names = ["linear_regression@tensorflow", "nobody", "linear_regression@pytorch"]
        both = (request(name, inputs, sequence_id=str(place)) for place, name in enumerate(names))
        told["two-way"] = [
            [one.sequence_id, one.status.code, one.prediction.decode()] for one in stub.StreamPredictions2(both)
        ]
    return told


def refusal(call: Callable[[], Any]) -> list[str]:
    try:
        call()
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return ["none", ""]


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    json.dump(tell(sys.argv[2], json.load(sys.stdin)), sys.stdout)
