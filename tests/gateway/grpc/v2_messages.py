"""Requests of the v2 front over gRPC, as Triton's client and as bare messages make them."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton

from gateway.protos import v2_pb2

SERVICE = "/inference.GRPCInferenceService/"


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
