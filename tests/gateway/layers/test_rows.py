from __future__ import annotations

import numpy as np
import pytest

from gateway.layers import rows
from gateway.types import DATATYPES, InferRequest, InferResponse, Signature, Tensor, TensorSpec, in_step

SIGNATURE = Signature(
    (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("s", "BYTES", (-1,))),
    (TensorSpec("p", "FP32", (-1, 2)), TensorSpec("q", "INT64", (-1,))),
)


def request(count: int, start: int = 0, *, outputs: tuple[str, ...] = (), deadline: float | None = 9.0) -> InferRequest:
    numbers = np.arange(start, start + 2 * count, dtype=np.float32).reshape(count, 2)
    strings = np.array([str(start + index).encode() for index in range(count)], object)
    inputs = (Tensor("a", "FP32", numbers), Tensor("s", "BYTES", strings))
    return InferRequest("m", inputs, outputs, 1, "v", deadline=deadline)


def joined(*requests: InferRequest) -> InferRequest:
    return rows.join(requests, bytearray(rows.buffer_bytes(requests)))


def test_joined_requests_have_all_rows_in_order() -> None:
    both = joined(request(2), request(1, 10))
    numbers, strings = (tensor.data for tensor in both.inputs)
    assert numbers.tolist() == [[0, 1], [2, 3], [10, 11]]
    assert strings.tolist() == [b"0", b"1", b"10"]
    assert (both.model, both.version, both.variant, both.rows) == ("m", 1, "v", 3)


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_every_datatype_is_joined_bit_for_bit(datatype: str) -> None:
    if datatype == "BYTES":
        halves = [np.array([b"", b"\xff\x00"], object), np.array([b"abc"], object)]
    else:
        dtype = DATATYPES[datatype]
        bits = np.random.default_rng(1).integers(0, 2 if datatype == "BOOL" else 256, 5 * dtype.itemsize, np.uint8)
        halves = [half.copy() for half in np.split(bits.view(dtype), [2])]
    parts = [InferRequest("m", (Tensor("a", datatype, half),)) for half in halves]
    (tensor,) = joined(*parts).inputs
    assert tensor.data.dtype == halves[0].dtype
    assert tensor.data.tolist() == np.concatenate(halves).tolist() or (
        tensor.data.tobytes() == np.concatenate(halves).tobytes()
    )


def test_a_joined_request_has_the_latest_deadline_for_each_caller_holds_to_its_own() -> None:
    assert joined(request(1, deadline=3.0), request(1, deadline=5.0)).deadline == 5.0
    assert joined(request(1, deadline=3.0), request(1, deadline=None)).deadline is None


def test_cut_parts_are_the_rows_that_went_in_without_a_copy() -> None:
    whole = np.arange(6, dtype=np.float32).reshape(3, 2)
    response = InferResponse("m", "v", 1, (Tensor("p", "FP32", whole),))
    (part,) = rows.cut(response.outputs, 1, 2)
    assert part.data.tolist() == [[2, 3], [4, 5]]
    assert np.shares_memory(part.data, whole)


def test_inner_shapes_and_outputs_part_groups() -> None:
    wide = InferRequest("m", (Tensor("a", "FP32", np.ones((1, 3), np.float32)), request(1).inputs[1]))
    assert rows.group(request(1), SIGNATURE) == rows.group(request(5), SIGNATURE)
    assert rows.group(wide, SIGNATURE) != rows.group(request(1), SIGNATURE)
    assert rows.group(request(1, outputs=("q",)), SIGNATURE) != rows.group(request(1), SIGNATURE)


def test_to_ask_for_all_outputs_in_order_is_to_ask_for_none() -> None:
    assert rows.group(request(1, outputs=("p", "q")), SIGNATURE) == rows.group(request(1), SIGNATURE)
    assert rows.group(request(1, outputs=("q", "p")), SIGNATURE) != rows.group(request(1), SIGNATURE)


@pytest.mark.parametrize(
    ("inputs", "outputs", "can"),
    [
        ([(-1, 2)], [(-1,)], True),
        ([(-1, -1)], [(-1, -1, 7)], True),
        ([(1, 2)], [(-1,)], False),
        ([(-1, 2), (4,)], [(-1,)], False),
        ([(-1, 2)], [(3,)], False),
        ([(-1, 2)], [()], False),
        ([], [(-1,)], False),
        ([(-1, 2)], [], False),
    ],
)
def test_a_free_first_dimension_of_all_tensors_is_needed(
    inputs: list[tuple[int, ...]], outputs: list[tuple[int, ...]], can: bool
) -> None:
    def specs(shapes: list[tuple[int, ...]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(str(index), "FP32", shape) for index, shape in enumerate(shapes))

    assert rows.can_join(Signature(specs(inputs), specs(outputs))) is can


def test_an_optional_input_that_is_left_out_parts_groups() -> None:
    """A joined call has an optional input for all rows or for none."""
    whole = request(1)
    for left in (0, 1):
        partly = InferRequest("m", (whole.inputs[left],))
        assert rows.group(partly, SIGNATURE) != rows.group(whole, SIGNATURE)
    alike = (Tensor("s", "FP32", np.ones((1, 2), np.float32)),)
    assert rows.group(InferRequest("m", alike), SIGNATURE) != rows.group(
        InferRequest("m", (whole.inputs[0],)), SIGNATURE
    )


def test_inputs_in_step_have_one_number_of_rows() -> None:
    def sized(*sizes: int) -> InferRequest:
        return InferRequest("m", tuple(Tensor(str(size), "FP32", np.ones((size, 2), np.float32)) for size in sizes))

    assert [in_step(sized(*sizes).inputs) for sizes in ((3,), (3, 3), (1, 5), (0, 1), (2, 2, 1))] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_a_buffer_is_used_again_where_it_is_large_enough() -> None:
    buffers = rows.Buffers()
    first = buffers.take(100)
    buffers.give_back(first)
    assert buffers.take(200) is not first
    assert buffers.take(50) is first
    assert buffers.take(50) is not first


OPTIONAL = Signature(
    (TensorSpec("a", "FP32", (-1, 2)), *(TensorSpec(name, "FP32", (-1, 2), optional=True) for name in "bc")),
    (TensorSpec("p", "FP32", (-1, 2)),),
)


@pytest.mark.parametrize(("one", "other"), [("ab", "ac"), ("ab", "ab"), ("a", "a"), ("abc", "ab")])
def test_requests_that_leave_out_an_input_are_joined_with_none(one: str, other: str) -> None:
    """The kind: inputs that are not the signature's own, whatever their shapes; by position they look alike.

    Not even with their like: a default of two rows answers two rows to one, so that joined requests of one row each
    would come out even, and wrong.
    """
    data = np.zeros((1, 2), np.float32)
    first, second = (InferRequest("m", tuple(Tensor(name, "FP32", data) for name in names)) for names in (one, other))
    assert rows.group(first, OPTIONAL) != rows.group(second, OPTIONAL)


def test_requests_with_all_inputs_are_joined_where_some_could_be_left_out() -> None:
    data = np.zeros((1, 2), np.float32)
    whole = InferRequest("m", tuple(Tensor(name, "FP32", data) for name in "abc"))
    assert rows.group(whole, OPTIONAL) == rows.group(whole, OPTIONAL)
