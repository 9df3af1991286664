"""A handwritten digit as image networks do it: twice convolution -> batch normalisation -> relu -> pooling, then dense.

Both twins take the image as [n, 28, 28, 1] (rows, columns, channels), TensorFlow's order. PyTorch convolves, normalises
and pools channels first, so its twin permutes on the way in, and back before it flattens the 7 * 7 * 32 features: see
`models/convnet.py`.

Batch normalisation uses the batch's mean and variance in training and the running ones in serving, which are canonical
weights for that reason. Keras's `momentum` is the share that stays, PyTorch's the share that is new. The running
variance differs by n / (n - 1), n = rows * height * width of a batch: PyTorch keeps the unbiased estimate. The
convolutions have no bias: the batch's mean takes it out again, and its gradient, all rounding, would send Adam astray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from models import datasets
from models.spec import Hyperparameters, ModelSpec, TensorSpec, Weight, layer, normalisation

if TYPE_CHECKING:
    import keras
    from torch import Tensor, nn

FEATURES = 7 * 7 * 32
KEPT = 0.9
EPSILON = 1e-3


def pytorch() -> nn.Module:
    import torch
    from torch import nn

    class ImageClassifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.edges = nn.Conv2d(1, 16, kernel_size=3, padding=1, bias=False)
            self.normal_edges = nn.BatchNorm2d(16, eps=EPSILON, momentum=1 - KEPT)
            self.shapes = nn.Conv2d(16, 32, kernel_size=3, padding=1, bias=False)
            self.normal_shapes = nn.BatchNorm2d(32, eps=EPSILON, momentum=1 - KEPT)
            self.hidden = nn.Linear(FEATURES, 64)
            self.digit = nn.Linear(64, 10)
            self.pool = nn.MaxPool2d(2)

        def forward(self, image: Tensor) -> Tensor:
            maps = image.permute(0, 3, 1, 2)
            maps = self.pool(torch.relu(self.normal_edges(self.edges(maps))))
            maps = self.pool(torch.relu(self.normal_shapes(self.shapes(maps))))
            features = maps.permute(0, 2, 3, 1).flatten(1)
            logits: Tensor = self.digit(torch.relu(self.hidden(features)))
            return logits

    return ImageClassifier()


def tensorflow() -> keras.Model:
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input((28, 28, 1)),
            layers.Conv2D(16, 3, padding="same", use_bias=False, name="edges"),
            layers.BatchNormalization(momentum=KEPT, epsilon=EPSILON, name="normal_edges"),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", use_bias=False, name="shapes"),
            layers.BatchNormalization(momentum=KEPT, epsilon=EPSILON, name="normal_shapes"),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(10, name="digit"),
        ]
    )


SPEC = ModelSpec(
    name="image_classifier",
    description="handwritten digit from a 28x28 image in 0..1 (rows, columns, channel): a logit for each of 0..9",
    inputs=(TensorSpec("image", "FP32", (-1, 28, 28, 1)),),
    outputs=(TensorSpec("logits", "FP32", (-1, 10)),),
    weights=(
        Weight("edges.weight", (16, 1, 3, 3), "glorot_uniform"),
        *normalisation("normal_edges", 16),
        Weight("shapes.weight", (32, 16, 3, 3), "glorot_uniform"),
        *normalisation("normal_shapes", 32),
        *layer("hidden", 64, FEATURES),
        *layer("digit", 10, 64),
    ),
    datasets={"digits": datasets.digits_as_images, "mnist": datasets.mnist},
    hyperparameters=Hyperparameters(
        loss="cross_entropy_of_logits", optimizer="adam", learning_rate=2e-3, batch_size=64, epochs=8
    ),
    bar=0.97,
    rows="independent",
    pytorch=pytorch,
    tensorflow=tensorflow,
)
