"""A handwritten digit from 64 pixels: 64 -> dense 64 relu -> dense 10 softmax, trained with Adam."""

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

    class DenseClassifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Linear(64, 64)
            self.digit = nn.Linear(64, 10)

        def forward(self, pixels: Tensor) -> Tensor:
            return torch.softmax(self.digit(torch.relu(self.hidden(pixels))), dim=1)

    return DenseClassifier()


def tensorflow() -> keras.Model:
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input((64,)),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    )


SPEC = ModelSpec(
    name="dense_classifier",
    description="handwritten digit from 8x8 pixels in 0..1, row by row: probability of each of 0..9",
    inputs=(TensorSpec("pixels", "FP32", (-1, 64)),),
    outputs=(TensorSpec("probabilities", "FP32", (-1, 10)),),
    weights=(*layer("hidden", 64, 64), *layer("digit", 10, 64)),
    datasets={"digits": datasets.digits_as_pixels},
    hyperparameters=Hyperparameters(
        loss="cross_entropy_of_probabilities", optimizer="adam", learning_rate=2e-3, batch_size=32, epochs=30
    ),
    bar=0.95,
    rows="independent",
    pytorch=pytorch,
    tensorflow=tensorflow,
)
