"""Which dimensions of a model's answers are fixed: shown by calling it with other sizes and other values."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from models.importing.request import ImportRefusedError
from models.spec import Array, TensorSpec

#: None stands for an input that is left out.
Arrays = tuple[Array | None, ...]
Shape = tuple[int, ...]
Place = tuple[int, int]
"""An input's number and an axis of it."""

ENOUGH_SIZES = 3
SECONDS = 20.0  # of processor time, which a busy machine does not stretch
ROWS = (2, 3, 5, 17)
#: Lengths that pass through the poolings and strides of the usual networks.
INNER_SIZES = (1, 8, 16, 32, 64, 128, 224, 256)
SMALL = 64
LARGE = (128, 1032, 4099)
CHEAP_SECONDS = 0.05


class Sized(NamedTuple):
    """The shape of one output of one call. `fixed_axes` are known by the model's weights, whatever the call's inputs.

    `by_values`: other values of the same inputs may give other sizes.
    """

    shape: Shape
    by_values: bool = True
    fixed_axes: frozenset[int] = frozenset()


Watched = Callable[[Arrays], Sequence[Sized]]


@dataclass(frozen=True, slots=True)
class Found:
    shapes: tuple[Shape, ...]
    notes: tuple[str, ...]


def find(inputs: Sequence[TensorSpec], outputs: Sequence[str], one: tuple[Array, ...], run: Watched) -> Found:
    """The outputs' shapes: -1 wherever a size is not proven to be the same for every request.

    Proven: no value decided a size, each free dimension of the inputs was answered in three sizes or more by itself
    (or with those that must be alike), and this size was always the same. Or the size is that of a weight.
    Raises ImportRefusedError where the number of dimensions is not always the same.
    """
    calls = [run(one)]
    for varied in (*without_optional(inputs, one), *other_values(one)):
        calls += tried(run, varied)
    answered, unanswered = 0, []
    until = time.process_time() + SECONDS
    places = free_places(inputs)
    for place in places:
        found = list(vary(inputs, one, place, run, until))
        calls += found
        answered += len(found) + 1 >= ENOUGH_SIZES
        if not found:
            unanswered.append(place)
    shapes = []
    notes = [only_size(inputs, one, place) for place in unanswered if place[1] > 0]
    for name, seen in zip(outputs, zip(*calls, strict=True), strict=True):
        shape, is_by_values = settled(name, seen, is_covered=answered == len(places))
        shapes.append(shape)
        if is_by_values and -1 in shape[1:]:
            notes.append(f"output {name}: sizes may depend on values, so all that are not proven are free (-1)")
    return Found(tuple(shapes), tuple(notes))


def settled(name: str, seen: Sequence[Sized], *, is_covered: bool) -> tuple[Shape, bool]:
    ranks = {len(one.shape) for one in seen}
    if len(ranks) > 1:
        raise ImportRefusedError(
            f"output {name} has {' or '.join(map(str, sorted(ranks)))} dimensions, by the request; clients are told "
            "one number: keep the dimensions, as x.squeeze(1) does where x.squeeze() does not"
        )
    is_by_values = any(one.by_values for one in seen)
    shape = []
    for axis, sizes in enumerate(zip(*(one.shape for one in seen), strict=True)):
        is_known = all(axis in one.fixed_axes for one in seen)
        is_fixed = len(set(sizes)) == 1 and (is_known or (is_covered and not is_by_values))
        shape.append(sizes[0] if is_fixed else -1)
    return tuple(shape), is_by_values


def only_size(inputs: Sequence[TensorSpec], one: tuple[Array, ...], place: Place) -> str:
    spec, axis = inputs[place[0]], place[1]
    size = one[place[0]].shape[axis]
    fixed = ",".join(str(size if number == axis else other) for number, other in enumerate(spec.shape))
    return (
        f"input {spec.name}: dimension {axis} is free and only size {size} was answered; if it has no other, "
        f"give --input {spec.name}:{spec.datatype}:{fixed}"
    )


def without_optional(inputs: Sequence[TensorSpec], one: tuple[Array, ...]) -> Iterator[Arrays]:
    """Each optional input left out, then all."""
    optional = [number for number, spec in enumerate(inputs) if spec.optional]
    for gone in ([number] for number in optional):
        yield left_out(one, gone)
    if len(optional) > 1:
        yield left_out(one, optional)


def left_out(one: Arrays, gone: Sequence[int]) -> Arrays:
    return tuple(None if number in gone else array for number, array in enumerate(one))


def other_values(one: tuple[Array, ...]) -> Iterator[Arrays]:
    """Other requests of the same shape. Whole numbers stay within what was given: they may be places in a table."""
    chance = np.random.default_rng(0)
    yield tuple(np.zeros_like(array) if array.dtype != object else np.full(array.shape, b"", object) for array in one)
    for scale in (1.0, -30.0):
        yield tuple(drawn(array, scale, chance) for array in one)


def drawn(array: Array, scale: float, chance: np.random.Generator) -> Array:
    if array.dtype == object:
        words = np.array([b"a", b"two words", b"", "ünï".encode(), b"x" * 40], object)
        return chance.choice(words, array.shape)
    if array.dtype.kind == "f":
        return np.asarray(scale * (chance.standard_normal(array.shape) + 1)).astype(array.dtype)
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    return chance.integers(min(low, 0), max(high, 1), array.shape, endpoint=True).astype(array.dtype)


def free_places(inputs: Sequence[TensorSpec]) -> list[Place]:
    return [(n, axis) for n, spec in enumerate(inputs) for axis, size in enumerate(spec.shape) if size == -1]


def vary(
    inputs: Sequence[TensorSpec], one: tuple[Array, ...], place: Place, run: Watched, until: float
) -> Iterator[Sequence[Sized]]:
    """The answers with other sizes in this place: three near ones, and large ones."""
    own = one[place[0]].shape[place[1]]
    together = groups(inputs, one, place)
    answered = 0
    for size in sizes_to_try(own, is_rows=place[1] == 0):
        if answered == ENOUGH_SIZES or time.process_time() > until:
            break
        for group in together:
            if found := tried(run, resized(one, dict.fromkeys(group, size))):
                yield from found
                answered += 1
                together = [group]  # what has worked is what must be alike
                break
    if answered and place[1] > 0 and own <= SMALL:
        yield from far(one, together[0], run)


def far(one: tuple[Array, ...], group: Sequence[Place], run: Watched) -> Iterator[Sequence[Sized]]:
    """Large sizes for as long as they cost little: what is padded to a least length looks fixed to small ones."""
    for size in LARGE:
        began = time.process_time()
        yield from tried(run, resized(one, dict.fromkeys(group, size)))
        if time.process_time() - began > CHEAP_SECONDS:
            return


def sizes_to_try(own: int, *, is_rows: bool) -> list[int]:
    if is_rows:
        sizes = list(ROWS)
    elif own <= SMALL:
        sizes = [2 * own, own + 1, 3 * own, own + 2, 1, 2, 3, 5, 8, 16, 32]
    else:
        sizes = [own + 32, own - 32, own + 1, own // 2, 2 * own]
    return [size for size in dict.fromkeys(sizes) if size not in (0, own)]


def groups(inputs: Sequence[TensorSpec], one: tuple[Array, ...], place: Place) -> list[list[Place]]:
    """The place by itself, then with more and more of those that may have to be of one size with it."""
    size = one[place[0]].shape[place[1]]
    alike = [p for p in free_places(inputs) if one[p[0]].shape[p[1]] == size and (p[1] == 0) == (place[1] == 0)]
    of_axis = [p for p in alike if p[1] == place[1]]
    of_input = [p for p in alike if p[0] == place[0]]
    found: list[list[Place]] = []
    for group in ([place], of_axis, of_input, alike, [p for p in free_places(inputs) if one[p[0]].shape[p[1]] == size]):
        if group not in found:
            found.append(group)
    return found


def stretches(
    inputs: Sequence[TensorSpec], one: tuple[Array, ...], predict: Callable[[tuple[Array, ...]], object]
) -> bool:
    """Whether each free first dimension has another size that is answered, perhaps with others that must be alike."""
    return all(
        any(
            answers(predict, resized(one, dict.fromkeys(group, size)))
            for group in groups(inputs, one, place)
            for size in ROWS
        )
        for place in free_places(inputs)
        if place[1] == 0
    )


def resized(one: tuple[Array, ...], sizes: Mapping[Place, int]) -> tuple[Array, ...]:
    """Longer by repetition, or cut."""
    arrays = list(one)
    for (number, axis), size in sizes.items():
        array = arrays[number]
        if array.shape[axis]:
            arrays[number] = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
    return tuple(arrays)


def tried(run: Watched, arrays: Arrays) -> list[Sequence[Sized]]:
    """One call, or none where the model does not take this. A refusal of ours stands."""
    try:
        return [run(arrays)]
    except ImportRefusedError:
        raise
    except Exception:  # the model's own code
        return []


def answerable(
    inputs: Sequence[TensorSpec], one: tuple[Array, ...], predict: Callable[[tuple[Array, ...]], object]
) -> tuple[Array, ...]:
    """`one` with its free inner dimensions at the first size that the model answers; as it was where there is none."""
    places = [place for place in free_places(inputs) if place[1] > 0]
    if not places:
        return one
    tries = (resized(one, dict.fromkeys(places, size)) for size in INNER_SIZES)
    return next((changed for changed in (one, *tries) if answers(predict, changed)), one)


def loosened(
    inputs: Sequence[TensorSpec], one: tuple[Array, ...], predict: Callable[[tuple[Array, ...]], object]
) -> tuple[TensorSpec, ...]:
    """`inputs` that are an example's, with each inner dimension free in which the model answers another size too."""
    free = {place for place in all_places(inputs) if place[1] > 0}
    open_all = [TensorSpec(s.name, s.datatype, (-1,) * len(s.shape), s.optional) for s in inputs]
    found: set[Place] = set()
    for place in sorted(free):
        if place in found:
            continue
        own = one[place[0]].shape[place[1]]
        for group in groups(open_all, one, place):
            sizes = [own + 1, 2 * own, own + 8, own + 32, own - 1, own // 2]
            if any(answers(predict, resized(one, dict.fromkeys(group, size))) for size in sizes if size > 0):
                found.update(group)
                break
    return tuple(
        TensorSpec(s.name, s.datatype, tuple(-1 if (n, a) in found else d for a, d in enumerate(s.shape)), s.optional)
        for n, s in enumerate(inputs)
    )


def all_places(inputs: Iterable[TensorSpec]) -> Iterator[Place]:
    for number, spec in enumerate(inputs):
        yield from ((number, axis) for axis in range(len(spec.shape)))


def answers(predict: Callable[[tuple[Array, ...]], object], arrays: tuple[Array, ...]) -> bool:
    try:
        predict(arrays)
    except ImportRefusedError:
        raise
    except Exception:  # as above
        return False
    return True
