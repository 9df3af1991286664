"""Request bodies, encoded once: the catalog's example of a model."""

from __future__ import annotations

import orjson

from models.catalog import CATALOG


def json_body(model: str, rows: int = 1) -> bytes:
    """The Open Inference Protocol's JSON request with ``rows`` copies of the model's example in one batch."""
    spec = CATALOG[model]
    values = spec.example().inputs
    inputs = []
    for tensor in spec.inputs:
        data = values[tensor.name] * rows
        inputs.append({"name": tensor.name, "datatype": tensor.datatype, "shape": _shape(data), "data": data})
    return orjson.dumps({"inputs": inputs})


def _shape(data: object) -> list[int]:
    shape = []
    while isinstance(data, list):
        shape.append(len(data))
        data = data[0] if data else None
    return shape
