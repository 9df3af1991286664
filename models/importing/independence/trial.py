"""Asks a model about rows alone and joined. It can refute that they are independent, and never prove it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from models.importing.candidate import Answer, last_line
from models.importing.independence.rows import Row, most, rows
from models.spec import Array, TensorSpec

Predict = Callable[[tuple[Array, ...]], Sequence[Answer]]

SEED = 0
WIDTH = 5
TRIAL_SECONDS = 15.0
"""No further call after that: what was not tried is not refuted."""
SLOW_SECONDS = 1.0
"""A row that takes so long is not tried in many batches."""

# As of twins, see `models.parity.between`: float32's error grows with the parts of a sum, not with what is left.
ABSOLUTE, RELATIVE, OF_ROW = 1e-5, 1e-4, 1e-5
COARSE = {"FP16": 4 * 2.0**-10, "BF16": 4 * 2.0**-7}
"""Relative, of outputs with fewer digits."""
ULPS, AMPLIFIED = 4 * 2.0**-23, 16.0
NOISE, MOST_NOISE = 4.0, 0.02


@dataclass(frozen=True, slots=True)
class Difference:
    """`sentence` says which row, beside which, and how far off."""

    sentence: str


def refute(predict: Predict, inputs: Sequence[TensorSpec], names: Sequence[str], one: Row) -> Difference | None:
    """The first row whose answer joined is another than alone; None where none was found.

    `one` is a request that the model answers, `names` are its outputs'. Every input must have a free first dimension.
    """
    random = np.random.default_rng(SEED)
    trial = _Trial(predict, tuple(inputs), tuple(names), time.monotonic() + TRIAL_SECONDS)
    try:
        one = trial.widened(one)
        trial.ask_alone(rows(inputs, one, random), most(one))
        for places in compositions(len(trial.rows), random):
            trial.compare(places)
    except _Refuted as found:
        return Difference(str(found))
    except _TimeIsUp:
        pass
    return None


def compositions(count: int, random: np.random.Generator) -> Iterator[list[int]]:
    """Which rows go together, the most telling first: all, each alone again, pairs, every place of four, any."""
    everything = list(range(count))
    yield everything
    yield everything[::-1]
    yield everything[:1]
    half = count // 2
    for place in range(half):
        pair = [place, place + half]
        yield pair if place % 2 else pair[::-1]
    for four in (everything[1:5], list(random.permutation(count)[:4])):
        for turn in range(len(four)):
            yield four[turn:] + four[:turn]
    for size in (3, 7, 16, 33):
        yield random.integers(count, size=size).tolist()
        yield [int(random.integers(count))] * size


class _Refuted(Exception):
    pass


class _TimeIsUp(Exception):
    pass


class _Trial:
    """The rows that the model takes, with their answers alone."""

    def __init__(self, predict: Predict, inputs: tuple[TensorSpec, ...], names: tuple[str, ...], end: float) -> None:
        self._predict, self._inputs, self._names, self._end = predict, inputs, names, end
        self.rows: list[Row] = []
        self._alone: list[list[Answer]] = []

    def widened(self, one: Row) -> Row:
        """The example, with `WIDTH` values where a free inner dimension has one; as it is where that is not taken."""
        wider = one
        for axis in range(1, max(len(spec.shape) for spec in self._inputs)):
            wider = tuple(
                np.repeat(array, WIDTH, axis)
                if spec.shape[axis : axis + 1] == (-1,) and array.shape[axis] == 1
                else array
                for spec, array in zip(self._inputs, wider, strict=True)
            )
        try:
            self._ask(wider)
        except _TimeIsUp:
            raise
        except Exception:
            return one
        return wider

    def ask_alone(self, candidates: Iterator[Row], count: int) -> None:
        for row in candidates:
            if len(self.rows) == count:
                return
            began = time.monotonic()
            try:
                answers = list(self._ask(row))
            except _TimeIsUp:
                raise
            except Exception:  # noqa: S112 - a row that the model does not take says nothing of the others
                continue
            self._check_rows(answers, 1)
            self.rows.append(row)
            self._alone.append(answers)
            if time.monotonic() - began > SLOW_SECONDS and len(self.rows) >= 3:
                return

    def compare(self, places: Sequence[int]) -> None:
        """Raises _Refuted."""
        if not places:
            return
        joined = tuple(np.concatenate(column) for column in zip(*(self.rows[place] for place in places), strict=True))
        try:
            answers = list(self._ask(joined))
        except _TimeIsUp:
            raise
        except Exception as error:
            text = f"rows that are answered alone fail as a batch of {len(places)}: {last_line(error)}"
            raise _Refuted(text) from error
        self._check_rows(answers, len(places))
        for position, place in enumerate(places):
            for output, answer in enumerate(answers):
                alone = self._alone[place][output].values
                beside = answer.values[position : position + 1]
                allowed = tolerance(alone, answer.datatype)
                if apart(alone, beside, allowed) > 1 and not self._excused(
                    (places, position), output, alone, beside, allowed
                ):
                    raise _Refuted(self._sentence(places, position, output, alone, beside))

    def _ask(self, row: Row) -> Sequence[Answer]:
        if time.monotonic() > self._end:
            raise _TimeIsUp
        return self._predict(row)

    def _check_rows(self, answers: Sequence[Answer], count: int) -> None:
        for name, answer in zip(self._names, answers, strict=True):
            shape = answer.values.shape
            if shape[:1] != (count,):
                raise _Refuted(f"output {name} of {count} row(s) has the shape {list(shape)}")

    def _excused(self, at: tuple[Sequence[int], int], output: int, alone: Array, beside: Array, allowed: Array) -> bool:
        """Whether the difference is no more than what rounding does to this row by itself.

        Two measures of that, neither of which another row can be part of: a change of the row by four units in the last
        place, and the row in a batch of its own copies, which other kernels may compute. The second is bounded: of a
        sum over the rows it would be as large as the answer.
        """
        places, position = at
        row = self.rows[places[position]]
        nearby = [self._of_one(tuple(moved(array, sign) for array in row), output) for sign in (1, -1)]
        copies = self._of_one(tuple(np.repeat(array, len(places), axis=0) for array in row), output, position)
        if alone.dtype.kind != "f":
            return any(not same(alone, one) for one in nearby if one is not None)
        more = allowed.copy()
        for one in nearby:
            if one is not None:
                more += AMPLIFIED * float(distance(alone, one).max(initial=0.0))
        if copies is not None:
            most_noise = MOST_NOISE * greatest(alone)
            more += np.minimum(NOISE * distance(alone, copies), most_noise)
        return apart(alone, beside, more) <= 1

    def _of_one(self, row: Row, output: int, position: int = 0) -> Array | None:
        """The answer to the row at this place; None where there is none."""
        try:
            values = self._ask(row)[output].values
        except _TimeIsUp:
            raise
        except Exception:
            return None
        return values[position : position + 1] if len(values) > position else None

    def _sentence(self, places: Sequence[int], position: int, output: int, alone: Array, beside: Array) -> str:
        if len(places) == 1:
            return f"output {self._names[output]} of one row is another at each call: {shown(alone)}, {shown(beside)}"
        others = [place for at, place in enumerate(places) if at != position]
        return (
            f"output {self._names[output]} of a row with {self._about([places[position]])} is {shown(alone)} alone and "
            f"{shown(beside)} as row {position + 1} of {len(places)}, beside {self._about(others)}"
        )

    def _about(self, places: Sequence[int]) -> str:
        """What stands in the first input."""
        arrays = [self.rows[place][0] for place in places]
        if arrays[0].dtype == object:
            return f"texts of up to {max(len(text) for array in arrays for text in array.ravel())} bytes"
        largest = max((float(np.abs(array.astype(np.float64)).max()) for array in arrays if array.size), default=0.0)
        return f"values up to {largest:.2g}"


def tolerance(alone: Array, datatype: str) -> Array:
    """Of each value of a row's answer; 0 where the values are no floats."""
    if alone.dtype.kind != "f":
        return np.zeros(alone.shape)
    size = np.where(np.isfinite(alone), np.abs(alone.astype(np.float64)), 0.0)
    coarse = COARSE.get(datatype, 0.0)
    allowed: Array = ABSOLUTE + (RELATIVE + coarse) * size + (OF_ROW + coarse) * greatest(alone)
    return allowed


def greatest(row: Array) -> float:
    finite = np.abs(row[np.isfinite(row)].astype(np.float64))
    return float(finite.max()) if finite.size else 0.0


def distance(one: Array, other: Array) -> Array:
    """Of each pair; 0 for the same value, NaN and infinities too, and infinity beside one of those."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return np.full(one.shape, np.inf)
    a, b = one.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return np.where(np.isnan(apart), np.inf, apart)


def apart(one: Array, other: Array, allowed: Array) -> float:
    """The greatest distance, in parts of what is allowed; infinite where shapes, texts or whole numbers differ.

    What allows infinity excuses everything.
    """
    if one.shape != other.shape or one.dtype != other.dtype:
        return float("inf")
    if one.dtype.kind != "f":
        return 0.0 if same(one, other) else float("inf")
    with np.errstate(invalid="ignore", divide="ignore"):
        parts = np.where(np.isinf(allowed), 0.0, distance(one, other) / allowed)
    return float(parts.max()) if parts.size else 0.0


def same(one: Array, other: Array) -> bool:
    return bool(np.array_equal(one, other))


def moved(array: Array, sign: int) -> Array:
    """Floats a few units in the last place of the greatest away, up and down in turn; all else as it is."""
    if array.dtype.kind != "f":
        return array
    turns = np.where(np.arange(array.size).reshape(array.shape) % 2 == 0, sign, -sign)
    unit = max(ULPS, 4 * float(np.finfo(array.dtype).eps) if array.dtype == np.float16 else 0.0)
    with np.errstate(over="ignore"):
        nearby: Array = (array + unit * turns * (np.abs(array) + greatest(array))).astype(array.dtype)
    return nearby


def shown(values: Array) -> str:
    flat = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values.ravel()[:3].tolist()]
    return f"[{', '.join(flat)}{', ...' if values.size > 3 else ''}]"
