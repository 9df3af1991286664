"""What a model is, before any framework is imported: names, tensors, weights, data and hyperparameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.measures import ACCURACY, Measure

if TYPE_CHECKING:
    import keras
    from torch import nn

Array = NDArray[Any]
Loss = Literal[
    "mean_squared_error",
    "binary_cross_entropy",
    "cross_entropy_of_logits",
    "cross_entropy_of_probabilities",
    "adversarial",
]

Rows = Literal["independent", "dependent", "unknown"]
"""Whether a row gets the same answer alone as beside other rows. What is unknown is never joined."""

FRAMEWORKS = ("tensorflow", "pytorch")
FILE = "file:"
"""Begins the name of a dataset that is a file of the user's own."""
NATIVE, TRANSPLANTED = 1, 2
"""Version 1 is trained natively in each framework; version 2 is PyTorch's version 1 in both: the same function."""


class UnknownNameError(LookupError):
    """A model, framework or dataset that does not exist; the text names those that do."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor on the wire. `datatype` is the Open Inference Protocol's name; a first dimension of -1 the batch.

    An `optional` input can be left out of a request.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = field(default=False, repr=False)

    def as_json(self) -> dict[str, object]:
        one: dict[str, object] = {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}
        return {**one, "optional": True} if self.optional else one


@dataclass(frozen=True, slots=True)
class Weight:
    """An array of the canonical weights: name and layout as in PyTorch's `state_dict`: [out, in], [out, in, h, w]."""

    name: str
    shape: tuple[int, ...]
    initial: Literal["glorot_uniform", "zeros", "ones"]


def layer(name: str, *shape: int) -> tuple[Weight, Weight]:
    """Kernel and bias of a dense ([out, in]) or convolution ([out, in, h, w]) layer."""
    return Weight(f"{name}.weight", shape, "glorot_uniform"), Weight(f"{name}.bias", shape[:1], "zeros")


def normalisation(name: str, channels: int) -> tuple[Weight, ...]:
    """Batch normalisation: scale and shift are trained; the running mean and variance are weights like any other."""
    ones = (Weight(f"{name}.{part}", (channels,), "ones") for part in ("weight", "running_var"))
    zeros = (Weight(f"{name}.{part}", (channels,), "zeros") for part in ("bias", "running_mean"))
    return (*ones, *zeros)


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    loss: Loss
    optimizer: Literal["sgd", "adam"]
    learning_rate: float
    batch_size: int
    epochs: int
    beta_1: float = 0.9
    beta_2: float = 0.999
    # Adam's, by Keras's definition and default: added before the bias correction ("epsilon hat" in Kingma and Ba 2015,
    # end of section 2). PyTorch adds its own after it, which for small gradients is another optimizer.
    epsilon: float = 1e-7


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of examples: `inputs` in the signature's order, all with the same first dimension as `targets`."""

    inputs: tuple[Array, ...]
    targets: Array

    def __len__(self) -> int:
        return len(self.targets)

    def rows(self, index: Array | slice) -> Split:
        return Split(tuple(array[index] for array in self.inputs), self.targets[index])


@dataclass(frozen=True, slots=True)
class Dataset:
    name: str
    train: Split
    held_out: Split


@dataclass(frozen=True, slots=True)
class Example:
    """A request with a batch of 1, `inputs` as name -> nested lists (JSON-able), and the true answer.

    Of a classifier the answer is the place of the right class in the first output. NaN where there is no true answer.
    """

    inputs: dict[str, list[Any]]
    answer: float


@dataclass(frozen=True, slots=True)
class Adversary:
    """A network that the model is trained against and that is not served: it tells the model's outputs from targets.

    It gives a logit, [n, 1], of an output being a target; targets count as such by `trust`. Its hyperparameters are the
    model's, and its first weights always the same.
    """

    weights: tuple[Weight, ...]
    pytorch: Callable[[], nn.Module] = field(repr=False)
    tensorflow: Callable[[], keras.Model] = field(repr=False)
    trust: float = 0.9
    seed: int = 1


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model with both twins.

    `datasets` maps a name to its loader, the default first. `pytorch` and `tensorflow` import their framework when
    called and build the twin with weights yet to be set. `bar` is what each native training must reach of `measure` on
    the held-out rows. Servers and the gateway join requests only where `rows` says that a row's answer does not depend
    on the rows beside it. `file_reader` reads a file of the user's own as data. `from_data` gives the weights that come
    from the rows to train on and not from chance. `labels` are what the places of the last axis of the first output
    stand for, where that is not their number. `show` puts one row of the first output into words where neither its
    first number nor the place of its greatest is the answer, and `request` makes an example that is no row of the data.
    """

    name: str
    description: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[Weight, ...]
    datasets: Mapping[str, Callable[[], Dataset]]
    hyperparameters: Hyperparameters
    bar: float
    rows: Rows
    pytorch: Callable[[], nn.Module] = field(repr=False)
    tensorflow: Callable[[], keras.Model] = field(repr=False)
    measure: Measure = ACCURACY
    show: Callable[[Sequence[float]], str] | None = field(default=None, repr=False)
    file_reader: Callable[[Path], Dataset] | None = field(default=None, repr=False)
    request: Callable[[], Example] | None = field(default=None, repr=False)
    from_data: Callable[[Split], dict[str, Array]] | None = field(default=None, repr=False)
    labels: tuple[str, ...] = field(default=(), repr=False)
    adversary: Adversary | None = None
    versions: tuple[int, ...] = (NATIVE, TRANSPLANTED)

    @property
    def classifies(self) -> bool:
        """Whether the answer is the place of the greatest number of the first output."""
        return self.measure is ACCURACY

    @property
    def default_dataset(self) -> str:
        return next(iter(self.datasets))

    def data(self, dataset: str) -> Dataset:
        """`dataset` is a name in `datasets`, or `file:PATH` where the model reads files.

        Raises DatasetUnavailableError.
        """
        if self.file_reader and self.reads_file(dataset):
            return self.file_reader(Path(dataset.removeprefix(FILE)))
        return self.datasets[dataset]()

    def reads_file(self, dataset: str) -> bool:
        return self.file_reader is not None and dataset.startswith(FILE)

    def shown(self, output: Sequence[float]) -> str:
        """For people: what the numbers of the first output for one row say.

        >>> from models.catalog import CATALOG
        >>> CATALOG["text_classifier"].shown([0.02, 0.98])
        'positive'
        """
        if self.show:
            return self.show(output)
        return self.label(max(range(len(output)), key=output.__getitem__)) if self.classifies else f"{output[0]:.4g}"

    def shown_answer(self) -> str:
        """The true answer to `example()`, in the form of `shown`; a dash where there is none."""
        answer = self.example().answer
        if math.isnan(answer):
            return "-"
        return self.label(int(answer)) if self.classifies else f"{answer:.4g}"

    def label(self, place: int) -> str:
        return self.labels[place] if self.labels else str(place)

    def example(self) -> Example:
        """The first held-out row of the default data, which no training has seen, or the model's own `request`.

        >>> from models.catalog import CATALOG
        >>> CATALOG["linear_regression"].example()
        Example(inputs={'x': [[5.0]]}, answer=4.0)
        """
        if self.request:
            return self.request()
        row = self.datasets[self.default_dataset]().held_out.rows(slice(0, 1))
        inputs = {spec.name: array.tolist() for spec, array in zip(self.inputs, row.inputs, strict=True)}
        return Example(inputs=inputs, answer=float(np.ravel(row.targets)[0]))

    def signature(self, version: int, fingerprint: str) -> dict[str, Any]:
        """The object of `signature.json`, which both artifacts carry."""
        return {
            "name": self.name,
            "version": version,
            "description": self.description,
            "inputs": [tensor.as_json() for tensor in self.inputs],
            "outputs": [tensor.as_json() for tensor in self.outputs],
            "rows": self.rows,
            "fingerprint": fingerprint,
        }
