"""Whether two answers to the same rows are the same, and by how much they differ if not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from gateway.types import Array, Tensor

#: How far two runs of one row may be apart, in parts of the row's own greatest value, before it takes more than another
#: order of the same sums to explain it at first sight. Never in parts of another row's value: a small row beside a huge
#: one would be called the same whatever it holds.
_ROUNDING = {"FP16": 2e-3, "BF16": 1.6e-2, "FP32": 1e-5, "FP64": 1e-5}
#: Above this part of a row's greatest value no other order of sums explains a difference.
_GROSS = 0.05


@dataclass(frozen=True, slots=True)
class Difference:
    """The greatest difference between two answers.

    ``size`` is in parts of the greatest value of its row; 1 for datatypes that have no nearly. ``gross_rows`` counts
    the rows that differ by more than rounding ever explains. ``form`` is true where the answers are not of one form.
    """

    output: str
    size: float
    gross_rows: int
    form: bool = False

    def __str__(self) -> str:
        if self.form:
            return f"output {self.output!r} has another form"
        if self.size == inf:
            return f"output {self.output!r} differs from a row without a number other than 0"
        return f"output {self.output!r} differs by {self.size:.2g} of its row's greatest value"


def difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> Difference | None:
    """None where the answers agree, in whatever order their outputs come."""
    others = {tensor.name: tensor for tensor in other}
    if {tensor.name for tensor in one} != others.keys():
        odd = sorted({tensor.name for tensor in one} ^ others.keys())
        return Difference(", ".join(odd), inf, 0, form=True)
    found = [of for tensor in one if (of := _of_output(tensor, others[tensor.name])) is not None]
    if not found:
        return None
    worst = max(found, key=lambda each: (each.form, each.size))
    return Difference(worst.output, worst.size, max(each.gross_rows for each in found), worst.form)


def _of_output(one: Tensor, other: Tensor) -> Difference | None:
    if one.datatype != other.datatype or one.shape != other.shape:
        return Difference(one.name, inf, 0, form=True)
    if not one.data.size:
        return None
    rounding = _ROUNDING.get(one.datatype)
    a, b = _by_row(one), _by_row(other)
    if rounding is None:
        rows = int((a != b).any(axis=1).sum())
        return Difference(one.name, 1.0, rows) if rows else None
    sizes = _sizes(a, b)
    worst = float(sizes.max())
    return Difference(one.name, worst, int((sizes > _GROSS).sum())) if worst > rounding else None


def _sizes(a: Array, b: Array) -> Array:
    """For each row the greatest difference, in parts of its greatest value in ``a``; infinite where only one is NaN."""
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        apart = np.abs(a - b)
        apart[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
        apart[np.isnan(apart)] = inf
        greatest = np.where(np.isfinite(a), np.abs(a), 0.0).max(axis=1)
        apart_most = apart.max(axis=1)
        return np.where(apart_most == 0.0, 0.0, apart_most / greatest)


def _by_row(tensor: Tensor) -> Array:
    data = tensor.data
    if tensor.datatype == "BF16":  # the upper half of a float32's bits
        data = (data.astype(np.uint32) << 16).view(np.float32)
    if tensor.datatype in _ROUNDING:
        data = data.astype(np.float64)
    return data.reshape(len(data) if data.ndim else 1, -1)
