"""y = w x + b, the smallest model there is: mean squared error, gradient descent, four points on the line y = x - 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models import datasets
from models.measures import GREATEST_ERROR
from models.spec import Hyperparameters, ModelSpec, TensorSpec, layer

if TYPE_CHECKING:
    import keras
    from torch import Tensor, nn


def pytorch() -> nn.Module:
    from torch import nn

    class LinearRegression(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.dense(x)
            return y

    return LinearRegression()


def tensorflow() -> keras.Model:
    from keras import Input, Sequential, layers

    return Sequential([Input((1,)), layers.Dense(1, name="dense")])


SPEC = ModelSpec(
    name="linear_regression",
    description="y = wx + b, fitted to x = 1..4, y = x - 1",
    inputs=(TensorSpec("x", "FP32", (-1, 1)),),
    outputs=(TensorSpec("y", "FP32", (-1, 1)),),
    weights=layer("dense", 1, 1),
    datasets={"line": datasets.line},
    hyperparameters=Hyperparameters(
        loss="mean_squared_error", optimizer="sgd", learning_rate=0.05, batch_size=4, epochs=800
    ),
    bar=0.01,
    rows="independent",
    measure=GREATEST_ERROR,
    pytorch=pytorch,
    tensorflow=tensorflow,
)
