"""Native training, the same for both frameworks: same initial weights, same batches, in the same order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from models.frameworks import Twin
from models.spec import Array, Dataset, ModelSpec, Split

ROWS_PER_PREDICTION = 500


@dataclass(frozen=True, slots=True)
class Settings:
    """What a training run depends on besides the code."""

    dataset: str
    epochs: int
    seed: int


@dataclass(frozen=True, slots=True)
class Course:
    """How a training went: the mean loss of each epoch, and the seconds of all of them."""

    loss: list[float]
    seconds: float


def fit(twin: Twin, spec: ModelSpec, data: Split, settings: Settings, on_epoch: Callable[[float], None]) -> Course:
    """Trains `twin` in place; `on_epoch` is told the mean loss after each epoch."""
    losses: list[float] = []
    began = time.perf_counter()
    for epoch in range(settings.epochs):
        summed = sum(
            twin.step(batch) * len(batch)
            for batch in batches(data, spec.hyperparameters.batch_size, (settings.seed, epoch))
        )
        losses.append(summed / len(data))
        on_epoch(losses[-1])
    return Course(losses, time.perf_counter() - began)


def batches(data: Split, size: int, seed: tuple[int, int]) -> Iterator[Split]:
    """All rows once, in an order that depends on the seed alone; the last batch may be smaller."""
    order = np.random.default_rng(seed).permutation(len(data))
    for start in range(0, len(data), size):
        yield data.rows(order[start : start + size])


def measure(predict: Callable[[tuple[Array, ...]], tuple[Array, ...]], spec: ModelSpec, data: Dataset) -> float:
    """The model's own measure on the held-out rows."""
    held_out = data.held_out
    parts = [
        predict(held_out.rows(slice(start, start + ROWS_PER_PREDICTION)).inputs)[0]
        for start in range(0, len(held_out), ROWS_PER_PREDICTION)
    ]
    return spec.measure.of(np.concatenate(parts), held_out.targets)
