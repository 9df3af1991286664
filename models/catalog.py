"""The single list of models. Imports no framework: servers, gateway configuration, tests and load tests read it.

>>> CATALOG["convnet"].inputs
(TensorSpec(name='image', datatype='FP32', shape=(-1, 28, 28, 1)),)
"""

from __future__ import annotations

from collections.abc import Iterable

from models import (
    convnet,
    dense_classifier,
    gan,
    image_classifier,
    linear_regression,
    logistic_regression,
    lstm_text_generator,
    mlp,
    rnn,
    text_classifier,
)
from models.spec import FRAMEWORKS, ModelSpec, UnknownNameError

CATALOG: dict[str, ModelSpec] = {
    module.SPEC.name: module.SPEC
    for module in (
        linear_regression,
        logistic_regression,
        dense_classifier,
        mlp,
        convnet,
        image_classifier,
        rnn,
        lstm_text_generator,
        text_classifier,
        gan,
    )
}


def select(names: Iterable[str] = ()) -> list[ModelSpec]:
    """The named models in the catalog's order, all of them if none is named. Raises UnknownNameError."""
    wanted = set(names) or set(CATALOG)
    if unknown := sorted(wanted - set(CATALOG)):
        raise UnknownNameError(f"no model named {', '.join(unknown)}; there are {', '.join(CATALOG)}")
    return [spec for spec in CATALOG.values() if spec.name in wanted]


def select_frameworks(names: Iterable[str] = ()) -> list[str]:
    """The named frameworks, both if none is named. Raises UnknownNameError."""
    wanted = set(names) or set(FRAMEWORKS)
    if unknown := sorted(wanted - set(FRAMEWORKS)):
        raise UnknownNameError(f"no framework named {', '.join(unknown)}; there are {', '.join(FRAMEWORKS)}")
    return [name for name in FRAMEWORKS if name in wanted]
