from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from gateway.core.modelref import ModelRef
from gateway.types import (
    Criticality,
    InferRequest,
    Payload,
    Signature,
    Target,
    Tensor,
    TensorSpec,
    VersionMetadata,
)
from tests.fakes.doubling import Doubling

TARGET = Target(ModelRef("m", signature="other"), "v", VersionMetadata(7, ready=True), None, Doubling())


async def reread(target: Target) -> InferRequest:
    return target.request(())


FULL = InferRequest(
    "m",
    (Tensor("x", "FP32", np.ones(1, np.float32)),),
    ("y",),
    7,
    "v",
    {"a": 1},
    "id",
    3.0,
    "other",
    Payload(b"", None),
    next(iter(set(Criticality) - {Criticality.DEFAULT})),
    "127.0.0.1",
    2,
    TARGET,
    reread,
)


def test_the_example_leaves_no_field_at_its_default() -> None:
    plain = InferRequest("", ())
    assert all(getattr(FULL, field.name) != getattr(plain, field.name) for field in fields(InferRequest))


def test_a_request_that_is_due_keeps_all_else() -> None:
    assert FULL.due(5.0) == replace(FULL, deadline=5.0)


def test_a_target_makes_requests_that_bear_its_names() -> None:
    made = TARGET.request(FULL.inputs, ("y",), {"a": 1}, "id", 3.0, FULL.payload, reread)
    assert made == replace(FULL, criticality=Criticality.DEFAULT, avoid=None, callers=1)


FREE, FIXED, SCALAR = (-1, 2), (2,), ()


@pytest.mark.parametrize(
    ("declared", "shapes", "rows"),
    [
        ({"x": FREE}, {"x": (3, 2)}, 3),
        ({"x": SCALAR}, {"x": ()}, 1),
        ({"a": FREE, "x": FREE}, {"a": (3, 2), "x": (3, 2)}, 3),
        ({"a": FREE, "x": FREE}, {"a": (0, 2), "x": (0, 2)}, 0),
        # One that broadcasts against the others is no batch of its own.
        ({"a": FREE, "x": FREE}, {"a": (1, 2), "x": (5, 2)}, 5),
        ({"a": FREE, "x": FREE, "y": FREE}, {"a": (4, 2), "x": (1, 2), "y": (1, 2)}, 4),
        # A setting has no rows, whatever its size.
        ({"a": FIXED, "x": FREE}, {"a": (2,), "x": (5, 2)}, 5),
        ({"a": (9,), "x": FREE}, {"a": (9,), "x": (5, 2)}, 5),
        ({"a": SCALAR, "x": FREE}, {"a": (), "x": (5, 2)}, 5),
        ({"a": FIXED, "x": FREE}, {"a": (2,), "x": (0, 2)}, 0),
        # An optional input does not count beside required ones, and counts where no other has rows.
        ({"a?": FREE, "x": FREE}, {"a": (9, 2), "x": (5, 2)}, 5),
        ({"a?": FREE, "b?": FREE, "x": FREE}, {"b": (1, 2), "x": (5, 2)}, 5),
        ({"a?": FREE, "x": FIXED}, {"a": (9, 2), "x": (2,)}, 9),
        # A free rank may be a batch; a model of fixed sizes has at least one that counts.
        ({"a": FIXED, "x": None}, {"a": (2,), "x": (7, 4)}, 7),
        ({"a": FIXED, "x": (8, 2)}, {"a": (2,), "x": (8, 2)}, 8),
    ],
    ids=str,
)
def test_rows_are_the_batch_in_whatever_order_inputs_come(
    declared: dict[str, tuple[int, ...] | None], shapes: dict[str, tuple[int, ...]], rows: int
) -> None:
    """The kind: whatever stands beside the batch, be it optional, fixed, scalar or broadcast, is not taken for it."""
    signature = Signature(
        tuple(
            TensorSpec(name.rstrip("?"), "FP32", shape or (), unknown_rank=shape is None, optional="?" in name)
            for name, shape in declared.items()
        ),
        (),
    )
    inputs = [Tensor(name, "FP32", np.ones(shape, np.float32)) for name, shape in shapes.items()]
    assert signature.rows_of(inputs) == rows
    assert signature.rows_of(inputs[::-1]) == rows
