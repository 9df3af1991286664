"""The two frameworks behind one interface. Importing this package imports neither; `load` imports one."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from models.spec import Array, ModelSpec, Split
from models.weights import Weights


class NotInstalledError(RuntimeError):
    """A framework's package is not there; the text says how to get it."""


class Twin(Protocol):
    """One model in one framework. Weights go in and come out in the canonical names and layout."""

    def weights(self) -> Weights: ...

    def step(self, batch: Split) -> float:
        """One update of the optimizer; the mean loss of the batch before it."""

    def predict(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        """Outputs in the signature's order."""

    def save(self, path: Path) -> None:
        """Write the framework's own artifact, a SavedModel folder or a TorchScript file. Raises OSError."""


class Framework(Protocol):
    def twin(self, spec: ModelSpec, weights: Weights) -> Twin:
        """Raises WeightsMismatchError where the twin's parameters are not the spec's weights."""

    def load_weights(self, path: Path) -> Weights:
        """The canonical weights of a saved artifact."""

    def load_predictor(self, path: Path, spec: ModelSpec) -> Predictor:
        """A saved artifact as its server would call it, by its signature. Raises OSError."""

    def libraries(self) -> dict[str, str]:
        """Name -> version of what computes here."""


class Predictor(Protocol):
    def __call__(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]: ...


def load(name: str) -> Framework:
    """Import a framework: seconds and hundreds of MB, the first time. Raises NotInstalledError."""
    try:
        return cast(Framework, import_module(f"{__name__}.{name}"))
    except ModuleNotFoundError as error:
        raise NotInstalledError(f"{error}; install it with: pip install 'duet-serving[local]'") from error
