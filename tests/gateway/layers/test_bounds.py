"""What one request may hold."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.errors import InvalidArgument
from gateway.layers.bounds import Bounded, Bounds, check
from gateway.types import InferRequest, Tensor
from tests.fakes.doubling import Doubling

BOUNDS = Bounds(rank=3, elements=100, string_bytes=10, tensors=2)


def request(*arrays: np.ndarray, datatype: str = "FP32") -> InferRequest:
    return InferRequest("m", tuple(Tensor(f"x{index}", datatype, array) for index, array in enumerate(arrays)))


def texts(*items: bytes) -> np.ndarray:
    array = np.empty(len(items), np.object_)
    array[:] = items
    return array


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (request(np.zeros((1, 1, 1, 1), np.float32)), "4 dimensions; at most 3 .*bounds.rank"),
        (request(np.zeros(101, np.float32)), "101 elements; at most 100 .*bounds.elements"),
        (request(np.zeros(401, np.uint8), datatype="UINT8"), "401 elements"),
        (request(texts(*[b""] * 101), datatype="BYTES"), "101 elements"),
        (request(texts(b"", b"x" * 11), datatype="BYTES"), "10 bytes .*bounds.string_bytes"),
        (request(*[np.zeros(1, np.float32)] * 3), "3 inputs; at most 2"),
        (InferRequest("m", (), ("a", "b", "c")), "3 outputs"),
        (InferRequest("m", (), parameters={"a": 1, "b": 2, "c": 3}), "3 parameters"),
    ],
)
@pytest.mark.anyio
async def test_what_is_too_large_never_reaches_a_server(asked: InferRequest, says: str) -> None:
    server = Doubling(seconds=0)
    with pytest.raises(InvalidArgument, match=says):
        await Bounded(server, bounds=BOUNDS).infer(asked)
    assert server.asked == []


@pytest.mark.parametrize(
    "asked",
    [
        request(np.zeros((5, 5, 4), np.float32), np.zeros((), np.float32)),
        request(np.zeros(400, np.uint8), datatype="UINT8"),
        request(texts(b"x" * 10, b""), datatype="BYTES"),
    ],
)
def test_what_just_fits_passes(asked: InferRequest) -> None:
    check(asked, BOUNDS)
    check(asked, Bounds())


def test_a_body_of_16_mb_passes_by_default_in_any_datatype() -> None:
    check(request(np.zeros(4 << 20, np.float32)), Bounds())
    check(request(np.zeros(16 << 20, np.uint8), datatype="UINT8"), Bounds())
