"""New handwritten digits from chance: a generator, trained against a discriminator that tells them from real ones.

    generator       64 normal numbers -> dense 128 relu -> dense 128 relu -> dense 64 sigmoid -> 8x8, enlarged
    discriminator   image -> dense 128 leaky relu -> dense 128 leaky relu -> logit of being real

The real images are scans of 8x8 pixels, enlarged; the generator draws as finely and enlarges in the same way. Served
is the generator alone.

Each batch first makes the discriminator a better judge of real images and the generator's, then the generator a better
forger for this judge (Goodfellow et al. 2014, with the loss that does not vanish where the forger is bad). Real images
count as real by 0.9, so that the discriminator is never wholly sure (Salimans et al. 2016, 3.4), and Adam forgets
faster than usual (beta_1 = 0.5, Radford et al. 2016). Two such trainings part early, though every update is the same
in both frameworks: each network magnifies what rounding changes in the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from models import datasets
from models.judge import ACCEPTED
from models.spec import Adversary, Dataset, Hyperparameters, ModelSpec, Split, TensorSpec, layer

if TYPE_CHECKING:
    import keras
    from torch import Tensor, nn

LATENT, HIDDEN, SIDE, PIXELS = 64, 128, 8, 784
SLOPE = 0.2
PASSES_PER_EPOCH = 15
"""Each real image meets so many latents in an epoch, all different."""
HELD_OUT_SAMPLES = 1_000


def pytorch() -> nn.Module:
    import torch
    from torch import nn
    from torch.nn import functional

    class Generator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.side = SIDE
            self.sketch = nn.Linear(LATENT, HIDDEN)
            self.strokes = nn.Linear(HIDDEN, HIDDEN)
            self.pixels = nn.Linear(HIDDEN, SIDE * SIDE)

        def forward(self, latent: Tensor) -> Tensor:
            strokes = torch.relu(self.strokes(torch.relu(self.sketch(latent))))
            drawn = torch.sigmoid(self.pixels(strokes)).view(-1, 1, self.side, self.side)
            return functional.interpolate(drawn, [28, 28], mode="bilinear").permute(0, 2, 3, 1)

    return Generator()


def tensorflow() -> keras.Model:
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input((LATENT,)),
            layers.Dense(HIDDEN, activation="relu", name="sketch"),
            layers.Dense(HIDDEN, activation="relu", name="strokes"),
            layers.Dense(SIDE * SIDE, activation="sigmoid", name="pixels"),
            layers.Reshape((SIDE, SIDE, 1)),
            layers.Resizing(28, 28, interpolation="bilinear"),
        ]
    )


def pytorch_discriminator() -> nn.Module:
    from torch import nn
    from torch.nn import functional

    class Discriminator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.look = nn.Linear(PIXELS, HIDDEN)
            self.compare = nn.Linear(HIDDEN, HIDDEN)
            self.real = nn.Linear(HIDDEN, 1)

        def forward(self, image: Tensor) -> Tensor:
            seen = functional.leaky_relu(self.look(image.flatten(1)), SLOPE)
            logit: Tensor = self.real(functional.leaky_relu(self.compare(seen), SLOPE))
            return logit

    return Discriminator()


def tensorflow_discriminator() -> keras.Model:
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(HIDDEN, name="look"),
            layers.LeakyReLU(SLOPE),
            layers.Dense(HIDDEN, name="compare"),
            layers.LeakyReLU(SLOPE),
            layers.Dense(1, name="real"),
        ]
    )


@cache
def latents_and_digits() -> Dataset:
    """Latents float32 [n, 64], each with a real image as its target; held out: latents alone, with no true answer."""
    images = datasets.digits_as_images().train.inputs[0]
    random = np.random.default_rng(datasets.SPLIT_SEED)
    real = np.tile(images, (PASSES_PER_EPOCH, 1, 1, 1))
    train, held_out = (random.standard_normal((rows, LATENT), np.float32) for rows in (len(real), HELD_OUT_SAMPLES))
    return Dataset("digits", Split((train,), real), Split((held_out,), np.full(HELD_OUT_SAMPLES, np.nan)))


def seen_by_the_judge(image: Sequence[float]) -> str:
    from models.judge import opinions

    digits, confidence = opinions(np.reshape(image, (1, 28, 28, 1)))
    return f"a {digits[0]} ({confidence[0]:.0%})"


SPEC = ModelSpec(
    name="gan",
    description="a new handwritten digit, 28x28 in 0..1 (rows, columns, channel), from 64 normal numbers",
    inputs=(TensorSpec("latent", "FP32", (-1, LATENT)),),
    outputs=(TensorSpec("image", "FP32", (-1, 28, 28, 1)),),
    weights=(
        *layer("sketch", HIDDEN, LATENT),
        *layer("strokes", HIDDEN, HIDDEN),
        *layer("pixels", SIDE * SIDE, HIDDEN),
    ),
    datasets={"digits": latents_and_digits},
    hyperparameters=Hyperparameters(
        loss="adversarial", optimizer="adam", learning_rate=2e-3, batch_size=64, epochs=10, beta_1=0.5
    ),
    bar=0.70,
    rows="independent",
    measure=ACCEPTED,
    show=seen_by_the_judge,
    adversary=Adversary(
        weights=(*layer("look", HIDDEN, PIXELS), *layer("compare", HIDDEN, HIDDEN), *layer("real", 1, HIDDEN)),
        pytorch=pytorch_discriminator,
        tensorflow=tensorflow_discriminator,
    ),
    pytorch=pytorch,
    tensorflow=tensorflow,
)
