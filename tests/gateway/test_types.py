from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from gateway.types import Criticality, InferRequest, Payload, Tensor

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
)


def test_the_example_leaves_no_field_at_its_default() -> None:
    plain = InferRequest("", ())
    assert all(getattr(FULL, field.name) != getattr(plain, field.name) for field in fields(InferRequest))


def test_a_request_that_is_due_or_routed_keeps_all_else() -> None:
    assert FULL.due(5.0) == replace(FULL, deadline=5.0)
    assert FULL.routed("w", 2) == replace(FULL, variant="w", version=2)
