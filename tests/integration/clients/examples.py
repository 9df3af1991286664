"""What the third-party clients ask: the catalog's example of a model as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.catalog import CATALOG

VARIANTS = ("tensorflow", "pytorch")


def examples(model: str) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays by input name; of strings several, as a client may have them."""
    if model == "text_classifier":
        return {"text": np.array([text.encode() for text in ("not bad at all", "Ünïcode 你好", "")], object)}
    spec = CATALOG[model]
    values = spec.example().inputs
    return {
        one.name: np.array(values[one.name], {"FP32": np.float32, "INT64": np.int64}[one.datatype])
        for one in spec.inputs
    }
