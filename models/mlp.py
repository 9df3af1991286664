"""A handwritten digit from a 28x28 image with dense layers alone: flatten -> dense 128 relu -> dense 10 softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models import datasets
from models.spec import Hyperparameters, ModelSpec, TensorSpec, layer

if TYPE_CHECKING:
    import keras
    from torch import Tensor, nn


def pytorch() -> nn.Module:
    import torch
    from torch import nn

    class MLP(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Linear(784, 128)
            self.digit = nn.Linear(128, 10)

        def forward(self, image: Tensor) -> Tensor:
            return torch.softmax(self.digit(torch.relu(self.hidden(image.flatten(1)))), dim=1)

    return MLP()


def tensorflow() -> keras.Model:
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(128, activation="relu", name="hidden"),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    )


SPEC = ModelSpec(
    name="mlp",
    description="handwritten digit from a 28x28 image in 0..1 (rows, columns, channel): probability of each of 0..9",
    inputs=(TensorSpec("image", "FP32", (-1, 28, 28, 1)),),
    outputs=(TensorSpec("probabilities", "FP32", (-1, 10)),),
    weights=(*layer("hidden", 128, 784), *layer("digit", 10, 128)),
    datasets={"digits": datasets.digits_as_images, "mnist": datasets.mnist},
    # The articles' five epochs are of MNIST's 60,000 rows; the digits are 1,437.
    hyperparameters=Hyperparameters(
        loss="cross_entropy_of_probabilities", optimizer="adam", learning_rate=1e-3, batch_size=32, epochs=20
    ),
    bar=0.95,
    rows="independent",
    pytorch=pytorch,
    tensorflow=tensorflow,
)
