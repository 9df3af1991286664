"""Is an answer right? The values of its only output, whatever the wire."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

Values = NDArray[np.float32]


def v2_json(body: bytes, _: int) -> Values:
    return _flat(orjson.loads(body)["outputs"][0]["data"])


def v2_binary(body: bytes, count: int) -> Values:
    """The blob is what the body ends with."""
    return np.frombuffer(body[-4 * count :], "<f4")


def v2_grpc(body: bytes, _: int) -> Values:
    from gateway.protos import v2_pb2

    answer = v2_pb2.ModelInferResponse.FromString(body)
    if answer.raw_output_contents:
        return np.frombuffer(answer.raw_output_contents[0], "<f4")
    return _flat(answer.outputs[0].contents.fp32_contents)


def predict(body: bytes, _: int) -> Values:
    from gateway.protos import tfserving_pb2

    (tensor,) = tfserving_pb2.PredictResponse.FromString(body).outputs.values()
    return np.frombuffer(tensor.tensor_content, "<f4") if tensor.tensor_content else _flat(tensor.float_val)


def plain_json(body: bytes, _: int) -> Values:
    return _flat(orjson.loads(body))


def _flat(values: Any) -> Values:
    return np.asarray(values, np.float32).ravel()


READERS: dict[str, Callable[[bytes, int], Values]] = {
    read.__name__: read for read in (v2_json, v2_binary, v2_grpc, predict, plain_json)
}


def is_right(body: bytes, *, answer: str, expected: bytes, tolerance: float) -> bool:
    wanted = np.frombuffer(expected, "<f4")
    try:
        found = READERS[answer](body, len(wanted))
    except Exception:
        return False  # a body that cannot be read is a wrong answer, however it fails to be read
    return found.shape == wanted.shape and bool(np.allclose(found, wanted, rtol=0, atol=tolerance))


def checker(*, answer: str, expected: bytes, tolerance: float) -> Callable[[bytes], bool]:
    return partial(is_right, answer=answer, expected=expected, tolerance=tolerance)
