"""How well a model does on rows that no training has seen: one number of its first output and the true answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Measure:
    """`of` takes the model's first output and the targets of the same rows. `name` is the key in training records."""

    name: str
    of: Callable[[Array, Array], float]
    smaller_is_better: bool = False

    def meets(self, value: float, bar: float) -> bool:
        return value <= bar if self.smaller_is_better else value >= bar


def share_of_right_classes(scores: Array, targets: Array) -> float:
    """`scores` [n, classes]: the greatest is the answer."""
    return float(np.mean(scores.argmax(axis=1) == targets))


def share_on_the_right_side(probabilities: Array, targets: Array) -> float:
    """`probabilities` [n, 1] of the class 1, from 0.5 on taken for it; `targets` [n, 1] of 0 and 1."""
    return float(np.mean((probabilities >= 0.5) == (targets >= 0.5)))


def greatest_error(outputs: Array, targets: Array) -> float:
    return float(np.abs(outputs - targets).max())


def perplexity(logits: Array, targets: Array) -> float:
    """exp of the mean cross-entropy: `logits` [n, time, classes], `targets` [n, time].

    >>> round(perplexity(np.zeros((2, 3, 7)), np.zeros((2, 3), int)), 6)  # knows nothing: any of the seven
    7.0
    """
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    of_targets = np.take_along_axis(shifted, targets[..., np.newaxis], axis=-1)[..., 0]
    return float(np.exp(np.mean(np.log(np.exp(shifted).sum(axis=-1)) - of_targets)))


ACCURACY = Measure("accuracy", share_of_right_classes)
ACCURACY_OF_TWO = Measure("accuracy", share_on_the_right_side)
GREATEST_ERROR = Measure("greatest_error", greatest_error, smaller_is_better=True)
PERPLEXITY = Measure("perplexity", perplexity, smaller_is_better=True)
