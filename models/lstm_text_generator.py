"""Text, character by character: embedding 32 -> LSTM 128 -> a logit for each character that may come next.

The state goes over the wire, so a server keeps nothing between calls: a client sends characters with hidden and cell,
zeros at first, and sends the new hidden and cell back with the next ones.

    token [n, t], hidden [n, 128], cell [n, 128]  ->  logits [n, t, 78], new_hidden [n, 128], new_cell [n, 128]

One call may carry one character (t = 1, to generate) or many (to read a prompt); the logits after the last one choose
the next. `models.prose.VOCABULARY` numbers the characters; begin with a line break, the start of a paragraph.

    i, f, o = sigmoid(W x + U h), g = tanh(W x + U h), c' = f c + i g, h' = o tanh(c')     (Hochreiter and Schmidhuber)

Both frameworks stack the gates' weights in the order i, f, g, o. The LSTM has no bias: PyTorch would have two and Keras
one, and the embedding in front of it can give each character a bias of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from models import prose
from models.measures import PERPLEXITY
from models.prose import VOCABULARY
from models.spec import Example, Hyperparameters, ModelSpec, TensorSpec, Weight, layer

if TYPE_CHECKING:
    import keras
    from torch import Tensor, nn

CHARACTERS, SIZE, HIDDEN = len(VOCABULARY), 32, 128


def pytorch() -> nn.Module:
    from torch import nn

    class TextGenerator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(CHARACTERS, SIZE)
            self.lstm = nn.LSTM(SIZE, HIDDEN, bias=False, batch_first=True)
            self.character = nn.Linear(HIDDEN, CHARACTERS)

        def forward(self, token: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            state = (hidden.unsqueeze(0), cell.unsqueeze(0))  # nn.LSTM has its layers first
            outputs, (new_hidden, new_cell) = self.lstm(self.embedding(token), state)
            return self.character(outputs), new_hidden.squeeze(0), new_cell.squeeze(0)

    return TextGenerator()


def tensorflow() -> keras.Model:
    from keras import Input, Model, layers

    token = Input((None,), dtype="int64")
    hidden, cell = Input((HIDDEN,)), Input((HIDDEN,))
    lstm = layers.LSTM(HIDDEN, use_bias=False, return_sequences=True, return_state=True, name="lstm")
    embedded = layers.Embedding(CHARACTERS, SIZE, name="embedding")(token)
    outputs, new_hidden, new_cell = lstm(embedded, initial_state=[hidden, cell])
    logits = layers.Dense(CHARACTERS, name="character")(outputs)
    return Model([token, hidden, cell], [logits, new_hidden, new_cell])


def most_likely_next(logits: Sequence[float]) -> str:
    last = logits[-CHARACTERS:]
    return repr(VOCABULARY[max(range(CHARACTERS), key=last.__getitem__)])


def beginning() -> Example:
    """The start of a paragraph, and a state that has seen nothing."""
    zeros = [[0.0] * HIDDEN]
    return Example({"token": [prose.encode("\n")], "hidden": zeros, "cell": zeros}, float("nan"))


SPEC = ModelSpec(
    name="lstm_text_generator",
    description="English prose, character by character: a logit for each character that may be next, and the new state",
    inputs=(
        TensorSpec("token", "INT64", (-1, -1)),
        TensorSpec("hidden", "FP32", (-1, HIDDEN)),
        TensorSpec("cell", "FP32", (-1, HIDDEN)),
    ),
    outputs=(
        TensorSpec("logits", "FP32", (-1, -1, CHARACTERS)),
        TensorSpec("new_hidden", "FP32", (-1, HIDDEN)),
        TensorSpec("new_cell", "FP32", (-1, HIDDEN)),
    ),
    weights=(
        Weight("embedding.weight", (CHARACTERS, SIZE), "glorot_uniform"),
        Weight("lstm.weight_ih_l0", (4 * HIDDEN, SIZE), "glorot_uniform"),
        Weight("lstm.weight_hh_l0", (4 * HIDDEN, HIDDEN), "glorot_uniform"),
        *layer("character", CHARACTERS, HIDDEN),
    ),
    datasets={"python_topics": partial(prose.python_topics, HIDDEN)},
    hyperparameters=Hyperparameters(
        loss="cross_entropy_of_logits", optimizer="adam", learning_rate=5e-3, batch_size=32, epochs=24
    ),
    bar=6,
    rows="independent",
    measure=PERPLEXITY,
    labels=tuple(VOCABULARY),
    show=most_likely_next,
    request=beginning,
    pytorch=pytorch,
    tensorflow=tensorflow,
)
