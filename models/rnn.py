"""A handwritten digit read row by row, as text is read letter by letter: Elman's recurrence over the 28 rows.

    h_t = tanh(W_h h_{t-1} + W_x x_t + b_h), h_0 = 0        (Elman 1990)
    y = W_y h_T + b_y

Both twins write the recurrence out: PyTorch's `nn.RNN` has a second bias beside b_h, Keras's `SimpleRNN` has not. What
does not depend on the past, W_x x_t + b_h, is one product for all rows. The loop has as many turns as the image rows,
so the exported graphs hold it unrolled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from models import datasets
from models.spec import Hyperparameters, ModelSpec, TensorSpec, Weight, layer

if TYPE_CHECKING:
    import keras
    from torch import Tensor, nn

ROWS, COLUMNS, HIDDEN = 28, 28, 64


def pytorch() -> nn.Module:
    import torch
    from torch import nn

    class RNN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.row = nn.Linear(COLUMNS, HIDDEN)
            self.memory = nn.Linear(HIDDEN, HIDDEN, bias=False)
            self.digit = nn.Linear(HIDDEN, 10)

        def forward(self, image: Tensor) -> Tensor:
            seen = self.row(image.squeeze(3)).unbind(1)
            hidden = torch.tanh(seen[0])
            for row in seen[1:]:
                hidden = torch.tanh(self.memory(hidden) + row)
            logits: Tensor = self.digit(hidden)
            return logits

    return RNN()


def tensorflow() -> keras.Model:
    import tensorflow as tf
    from keras import Input, Model, layers

    class Elman(layers.Layer):
        def build(self, shape: tuple[int, ...]) -> None:
            self.row = layers.Dense(HIDDEN, name="row")
            self.row.build((None, ROWS, COLUMNS))
            self.memory = layers.Dense(HIDDEN, use_bias=False, name="memory")
            self.memory.build((None, HIDDEN))

        def call(self, image: Tensor) -> Tensor:
            seen = tf.unstack(self.row(tf.squeeze(image, 3)), axis=1)
            hidden = tf.tanh(seen[0])
            for row in seen[1:]:
                hidden = tf.tanh(self.memory(hidden) + row)
            return hidden

    image = Input((ROWS, COLUMNS, 1))
    return Model(image, layers.Dense(10, name="digit")(Elman()(image)))


SPEC = ModelSpec(
    name="rnn",
    description="handwritten digit from a 28x28 image in 0..1, read row by row: a logit for each of 0..9",
    inputs=(TensorSpec("image", "FP32", (-1, ROWS, COLUMNS, 1)),),
    outputs=(TensorSpec("logits", "FP32", (-1, 10)),),
    weights=(
        *layer("row", HIDDEN, COLUMNS),
        Weight("memory.weight", (HIDDEN, HIDDEN), "glorot_uniform"),
        *layer("digit", 10, HIDDEN),
    ),
    datasets={"digits": datasets.digits_as_images, "mnist": datasets.mnist},
    hyperparameters=Hyperparameters(
        loss="cross_entropy_of_logits", optimizer="adam", learning_rate=2e-3, batch_size=64, epochs=25
    ),
    bar=0.90,
    rows="independent",
    pytorch=pytorch,
    tensorflow=tensorflow,
)
