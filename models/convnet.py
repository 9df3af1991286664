"""A handwritten digit from a 28x28 image: convolution 32 of 3x3 relu -> flatten -> dense 128 relu -> 10 logits.

Both twins take the image as [n, 28, 28, 1] (rows, columns, channels), TensorFlow's order. PyTorch convolves channels
first, so its twin permutes on the way in, and permutes back before it flattens: both then number the 26 * 26 * 32
features alike, and the dense layer's weights fit either twin with no reordering. A permute moves no data here: the
image is already what PyTorch calls channels-last, and its convolution keeps that order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from models import datasets
from models.spec import Hyperparameters, ModelSpec, TensorSpec, layer

if TYPE_CHECKING:
    import keras
    from torch import Tensor, nn

FEATURES = 26 * 26 * 32


def pytorch() -> nn.Module:
    import torch
    from torch import nn

    class Convnet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(1, 32, kernel_size=3)
            self.hidden = nn.Linear(FEATURES, 128)
            self.digit = nn.Linear(128, 10)

        def forward(self, image: Tensor) -> Tensor:
            maps = torch.relu(self.convolution(image.permute(0, 3, 1, 2)))
            features = maps.permute(0, 2, 3, 1).flatten(1)
            logits: Tensor = self.digit(torch.relu(self.hidden(features)))
            return logits

    return Convnet()


def tensorflow() -> keras.Model:
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu", name="convolution"),
            layers.Flatten(),
            layers.Dense(128, activation="relu", name="hidden"),
            layers.Dense(10, name="digit"),
        ]
    )


SPEC = ModelSpec(
    name="convnet",
    description="handwritten digit from a 28x28 image in 0..1 (rows, columns, channel): a logit for each of 0..9",
    inputs=(TensorSpec("image", "FP32", (-1, 28, 28, 1)),),
    outputs=(TensorSpec("logits", "FP32", (-1, 10)),),
    weights=(*layer("convolution", 32, 1, 3, 3), *layer("hidden", 128, FEATURES), *layer("digit", 10, 128)),
    datasets={"digits": datasets.digits_as_images, "mnist": datasets.mnist},
    hyperparameters=Hyperparameters(
        loss="cross_entropy_of_logits", optimizer="adam", learning_rate=2e-3, batch_size=64, epochs=12
    ),
    bar=0.96,
    rows="independent",
    pytorch=pytorch,
    tensorflow=tensorflow,
)
