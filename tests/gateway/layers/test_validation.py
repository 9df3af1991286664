from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from gateway.backends.base import Layer
from gateway.errors import DataLoss, FailedPrecondition
from gateway.layers.validation import Validation
from gateway.types import (
    DEFAULT_SIGNATURE,
    InferRequest,
    InferResponse,
    ModelMetadata,
    Payload,
    Signature,
    Tensor,
    TensorSpec,
    VersionMetadata,
)

pytestmark = pytest.mark.anyio

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("n", "INT64", (-1,)))
)
Y = Tensor("y", "FP32", np.ones((3, 2), np.float32))
N = Tensor("n", "INT64", np.ones(3, np.int64))
REQUEST = InferRequest("m", (Tensor("x", "FP32", np.ones((3, 2), np.float32)),), version=1)


class Answering(Layer):
    def __init__(self, outputs: Sequence[Tensor], version: int = 1) -> None:
        self.outputs = tuple(outputs)
        self.version = version

    async def metadata(self, model: str) -> ModelMetadata:
        versions = {1: VersionMetadata(1, True, {DEFAULT_SIGNATURE: SIGNATURE})}
        return ModelMetadata(model, "v", "p", versions, 1)

    async def infer(self, request: InferRequest) -> InferResponse:
        return InferResponse(request.model, "v", self.version, self.outputs, payload=request.payload)


async def answer(outputs: Sequence[Tensor], *, version: int = 1, request: InferRequest = REQUEST) -> InferResponse:
    layer = Validation(Answering(outputs, version), finite=frozenset({"strict"}), by_row=frozenset({"by_row"}))
    await layer.metadata(request.model)
    return await layer.infer(request)


@pytest.mark.parametrize("outputs", [(Y, N), (N, Y)], ids=["in order", "in another"])
async def test_what_the_signature_promises_passes(outputs: Sequence[Tensor]) -> None:
    assert (await answer(outputs)).outputs == tuple(outputs)


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ((), "0 outputs"),
        ((Y,), "1 outputs"),
        ((Y, Y), "twice"),
        ((Y, N, N), "3 outputs"),
        ((Y, Tensor("z", "INT64", N.data)), "does not have"),
    ],
)
async def test_anything_else_is_no_answer_and_counts_against_the_server(outputs: Sequence[Tensor], text: str) -> None:
    with pytest.raises(DataLoss, match=text) as caught:
        await answer(outputs)
    assert caught.value.fault is not None
    assert caught.value.fault.counts


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ((Y, Tensor("n", "INT32", np.ones(3, np.int32))), r"'n': the model declares INT64 \[-1\] and gave INT32 \[3\]"),
        ((Y, Tensor("n", "INT64", np.ones((3, 1), np.int64))), r"INT64 \[-1\] and gave INT64 \[3, 1\]"),
        ((Y, Tensor("n", "INT64", np.array(1))), r"INT64 \[-1\] and gave INT64 \[\]"),
        ((Tensor("y", "FP32", np.ones((3, 9), np.float32)), N), r"'y': .* FP32 \[-1, 2\] and gave FP32 \[3, 9\]"),
    ],
    ids=["datatype", "rank", "scalar", "size"],
)
async def test_a_model_that_declares_another_answer_fails_its_request_and_nobody_else(
    outputs: Sequence[Tensor], text: str
) -> None:
    """Each endpoint would answer so, and others' requests may well be answered as declared."""
    with pytest.raises(FailedPrecondition, match=text) as caught:
        await answer(outputs)
    assert caught.value.fault is not None
    assert (caught.value.fault.counts, caught.value.fault.retry_safe) == (False, False)
    assert "import or export" in caught.value.message


async def test_the_outputs_are_those_that_were_asked_for() -> None:
    request = InferRequest("m", REQUEST.inputs, ("n",), version=1)
    assert (await answer([N], request=request)).outputs == (N,)
    with pytest.raises(DataLoss, match="asked for"):
        await answer([Y], request=request)


async def test_another_version_is_never_passed_on() -> None:
    with pytest.raises(DataLoss, match="version 2 answered for version 1"):
        await answer([Y, N], version=2)


async def test_nan_is_no_answer_of_a_model_that_says_so() -> None:
    outputs = [Tensor("y", "FP32", np.full((3, 2), np.nan, np.float32)), N]
    assert len((await answer(outputs)).outputs) == 2
    with pytest.raises(DataLoss, match="NaN") as caught:
        await answer(outputs, request=InferRequest("strict", REQUEST.inputs, version=1))
    assert caught.value.fault is None


async def test_a_body_of_a_users_own_handler_is_not_looked_into() -> None:
    request = InferRequest("m", (), version=1, payload=Payload(b"abc", None))
    assert (await answer([], request=request)).payload == request.payload


async def test_rows_are_counted_where_the_model_is_said_to_keep_them() -> None:
    """The signature leaves the first dimension free: one row more may be an answer, unless somebody says that not."""
    more = (Tensor("y", "FP32", np.ones((4, 2), np.float32)), N)
    assert (await answer(more)).outputs == more
    request = replace(REQUEST, model="by_row")
    assert (await answer((Y, N), request=request)).outputs == (Y, N)
    with pytest.raises(DataLoss, match="for 3 rows"):
        await answer(more, request=request)
