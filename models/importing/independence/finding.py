"""What an analysis of a graph, or a trial, has found about a model's rows."""

from __future__ import annotations

from dataclasses import dataclass

from models.spec import Rows

__all__ = ["Finding", "Rows"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`reason` is for people: which operation, or which rows of a trial, led to it.

    Only a whole analysis concludes `independent`; a trial can only refute it, with `dependent`.
    """

    rows: Rows
    reason: str
