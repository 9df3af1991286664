"""A model that may be imported: saved as its server would load it, and tried before anything is published."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.importing import examples, sizes
from models.importing.request import ImportRefusedError
from models.importing.sizes import Arrays, Shape, Watched
from models.spec import Array, TensorSpec


class Answer(NamedTuple):
    """One output of one call."""

    datatype: str
    values: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """`saved` is a SavedModel folder or a TorchScript file in the staging folder, and `predict` calls it from there.

    `predict` raises whatever the framework raises; None is an optional input that is left out. `settle` writes into
    `saved` what only the trial has shown. `declared` are the outputs' shapes where the model tells them itself, None
    for one of unknown rank; otherwise `watched` finds them. `extra` goes into signature.json.
    """

    framework: str
    saved: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    predict: Callable[[Arrays], Sequence[Answer]]
    watched: Watched | None = None
    declared: tuple[Shape | None, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    settle: Callable[[Sequence[TensorSpec]], None] = lambda outputs: None


@dataclass(frozen=True, slots=True)
class Trial:
    """What calling the model has shown. `milliseconds` of one call after the first."""

    outputs: tuple[TensorSpec, ...]
    milliseconds: float
    notes: tuple[str, ...]


ROWS_TRIED = (1, 2, 3)


def attempt(candidate: Candidate, one: tuple[Array, ...], *, is_blank: bool) -> Trial:
    """Call it with one, two and three rows. Raises ImportRefusedError where it does not answer."""
    batched = any(spec.shape[:1] == (-1,) for spec in candidate.inputs)
    asked = ROWS_TRIED if batched else ROWS_TRIED[:1]
    answers, doubt = rows_answered(candidate, one, asked, is_blank)
    began = time.perf_counter()
    candidate.predict(one)
    milliseconds = (time.perf_counter() - began) * 1e3
    outputs = tuple(
        infer(name, column) for name, column in zip(candidate.outputs, zip(*answers, strict=True), strict=True)
    )
    shapes, notes = known_shapes(candidate, one, outputs)
    outputs = tuple(replace(spec, shape=shape) for spec, shape in zip(outputs, shapes, strict=True))
    return Trial(outputs, milliseconds, (*candidate.notes, *notes, *(doubt or doubts(outputs, answers, batched))))


def rows_answered(
    candidate: Candidate, one: tuple[Array, ...], asked: Sequence[int], is_blank: bool
) -> tuple[list[Sequence[Answer]], list[str]]:
    """The answers to so many rows each. A first dimension may also be free and no batch, as of a graph's nodes."""
    answers = [answer(candidate, one, 1, is_blank)]
    for rows in asked[1:]:
        try:
            answers.append(answer(candidate, examples.repeated(candidate.inputs, one, rows), rows, is_blank))
        except ImportRefusedError:
            if len(answers) > 1 or not sizes.stretches(candidate.inputs, one, candidate.predict):
                raise
            return answers, ["the first dimension is no batch: requests are answered one at a time"]
    return answers, []


def known_shapes(
    candidate: Candidate, one: tuple[Array, ...], seen: Sequence[TensorSpec]
) -> tuple[Sequence[Shape], Sequence[str]]:
    if candidate.watched is not None:
        found = sizes.find(candidate.inputs, candidate.outputs, one, candidate.watched)
        return found.shapes, found.notes
    declared = candidate.declared or [None] * len(seen)
    # Of an unknown rank the model has told no size at all.
    return [(-1,) * len(s.shape) if shape is None else shape for s, shape in zip(seen, declared, strict=True)], ()


def answer(candidate: Candidate, inputs: tuple[Array, ...], rows: int, is_blank: bool) -> Sequence[Answer]:
    try:
        outputs = candidate.predict(inputs)
    except ImportRefusedError:
        raise
    except Exception as error:  # the model's own code, or the framework's
        what = "zeros" if is_blank else "the example"
        remedy = (
            "; if zeros are no valid input, give --example FILE with rows that are"
            if is_blank
            else "; are --input and --example what it takes?"
        )
        if rows > 1:
            remedy = "; if its first dimension is no batch, give --input with a fixed first dimension"
        raise ImportRefusedError(f"it does not answer {rows} row(s) of {what}: {last_line(error)}{remedy}") from error
    if len(outputs) != len(candidate.outputs):
        names = ", ".join(candidate.outputs)
        raise ImportRefusedError(
            f"it gives {len(outputs)} outputs, and {len(candidate.outputs)} are named ({names}): "
            f"give --output NAME {len(outputs)} times"
        )
    return outputs


def infer(name: str, column: Sequence[Answer]) -> TensorSpec:
    """What varied with the number of rows is free."""
    shapes = [one.values.shape for one in column]
    if len({len(shape) for shape in shapes}) > 1:
        raise ImportRefusedError(f"output {name} has {sorted(map(len, shapes))} dimensions, by the number of rows")
    free = [len(set(sizes)) > 1 for sizes in zip(*shapes, strict=True)]
    return TensorSpec(name, column[0].datatype, tuple(-1 if f else s for f, s in zip(free, shapes[0], strict=True)))


def doubts(outputs: Sequence[TensorSpec], answers: Sequence[Sequence[Answer]], batched: bool) -> list[str]:
    """What is allowed and probably not meant."""
    if not batched:
        return ["no input has a free first dimension: requests are answered one at a time"]
    notes = []
    for place, spec in enumerate(outputs):
        first, last = answers[0][place].values, answers[-1][place].values
        if spec.shape[:1] != (-1,):
            notes.append(f"output {spec.name} has no row per row of input: requests are answered one at a time")
        elif len(first) and last.dtype.kind == "f" and not close(first[0], last[0]):
            notes.append(
                f"output {spec.name} of a row depends on the rows beside it, or on chance: is it in evaluation mode?"
            )
    return notes


def close(one: Array, other: Array) -> bool:
    return one.shape != other.shape or bool(np.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True))


def last_line(error: BaseException) -> str:
    """TorchScript's and TensorFlow's errors are a page; what happened stands in the last line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" ~<-.^\t")]
    lines = [line for line in lines if not line.startswith("[[")]  # the node in the graph
    return (lines[-1] if lines else type(error).__name__)[:300]
