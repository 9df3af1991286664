"""Whether a tumour is benign, from 30 measures of it: sigmoid(w x + b), binary cross-entropy.

A client sends the features as they were measured: their scaling to mean 0 and deviation 1 is part of the model, and its
two vectors, taken from the rows to train on, are weights that no gradient changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from models import datasets
from models.measures import ACCURACY_OF_TWO
from models.spec import Array, Hyperparameters, ModelSpec, Split, TensorSpec, Weight, layer

if TYPE_CHECKING:
    import keras
    from torch import Tensor, nn

FEATURES = 30


def pytorch() -> nn.Module:
    import torch
    from torch import nn

    class Scaling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(FEATURES))
            self.register_buffer("deviation", torch.ones(FEATURES))

        def forward(self, features: Tensor) -> Tensor:
            scaled: Tensor = (features - self.mean) / self.deviation
            return scaled

    class LogisticRegression(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scaling = Scaling()
            self.dense = nn.Linear(FEATURES, 1)

        def forward(self, features: Tensor) -> Tensor:
            return torch.sigmoid(self.dense(self.scaling(features)))

    return LogisticRegression()


def tensorflow() -> keras.Model:
    from keras import Input, Layer, Sequential, layers

    class Scaling(Layer):
        def build(self, shape: tuple[int, ...]) -> None:
            self.mean = self.add_weight(name="mean", shape=shape[1:], trainable=False)
            self.deviation = self.add_weight(name="deviation", shape=shape[1:], initializer="ones", trainable=False)

        def call(self, features: Tensor) -> Tensor:
            return (features - self.mean) / self.deviation

    return Sequential(
        [Input((FEATURES,)), Scaling(name="scaling"), layers.Dense(1, activation="sigmoid", name="dense")]
    )


def scaling(data: Split) -> dict[str, Array]:
    (features,) = data.inputs
    return {"scaling.mean": features.mean(axis=0), "scaling.deviation": features.std(axis=0)}


SPEC = ModelSpec(
    name="logistic_regression",
    description="probability that a tumour is benign, from 30 features as measured (Wisconsin breast cancer data)",
    inputs=(TensorSpec("features", "FP32", (-1, FEATURES)),),
    outputs=(TensorSpec("probability", "FP32", (-1, 1)),),
    weights=(
        Weight("scaling.mean", (FEATURES,), "zeros"),
        Weight("scaling.deviation", (FEATURES,), "ones"),
        *layer("dense", 1, FEATURES),
    ),
    datasets={"breast_cancer": datasets.breast_cancer},
    hyperparameters=Hyperparameters(
        loss="binary_cross_entropy", optimizer="adam", learning_rate=3e-2, batch_size=32, epochs=50
    ),
    bar=0.95,
    rows="independent",
    measure=ACCURACY_OF_TWO,
    from_data=scaling,
    pytorch=pytorch,
    tensorflow=tensorflow,
)
