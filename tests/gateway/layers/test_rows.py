from __future__ import annotations

import numpy as np
import pytest

from gateway.layers import rows
from gateway.types import DATATYPES, InferRequest, InferResponse, Signature, Tensor, TensorSpec

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


def test_answers_agree_but_for_the_last_digits() -> None:
    def outputs(*values: float, datatype: str = "FP32") -> tuple[Tensor, ...]:
        return (Tensor("p", datatype, np.array(values, DATATYPES[datatype])),)

    assert rows.agree(outputs(1.0, 0.0, np.nan), outputs(1.000001, 1e-7, np.nan))
    assert not rows.agree(outputs(1.0, 0.0), outputs(1.01, 0.0))
    assert not rows.agree(outputs(1.0), outputs(np.nan))
    assert not rows.agree(outputs(1.0), outputs(1.0, 1.0))
    assert not rows.agree(outputs(1, datatype="INT64"), outputs(2, datatype="INT64"))
    assert rows.agree(outputs(0x3F80, datatype="BF16"), outputs(0x3F81, datatype="BF16"))  # 1.0 and its neighbour
    assert not rows.agree(outputs(0x3F80, datatype="BF16"), outputs(0x4000, datatype="BF16"))


def test_another_request_has_the_form_and_not_the_values() -> None:
    for given in (request(2, 3), rows.another(request(2, 3))):
        other = rows.another(given)
        assert rows.group(other, SIGNATURE) == rows.group(given, SIGNATURE)
        assert not rows.same_inputs(other, given)
        assert all((a.data != b.data).all() for a, b in zip(other.inputs, given.inputs, strict=True))


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
