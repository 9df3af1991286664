"""What a random TensorFlow model is made of: blocks from [n, WIDTH] to [n, WIDTH]."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from models.frameworks.tensorflow import tf
from tests.rows.torch_blocks import WIDTH

Block = Callable[[Any], Any]


def dense(random_: np.random.Generator) -> Block:
    kernel = tf.Variable(random_.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 3)
    bias = tf.Variable(random_.standard_normal(WIDTH).astype(np.float32))
    return lambda x: tf.matmul(x, kernel) + bias


def convolved(random_: np.random.Generator) -> Block:
    filters = tf.constant(random_.standard_normal((3, 1, 1)).astype(np.float32))
    return lambda x: tf.nn.conv1d(x[:, :, tf.newaxis], filters, 1, "SAME")[:, :, 0]


def attended(x: Any) -> Any:
    parts = tf.reshape(x, [-1, 3, 4])
    return tf.reshape(tf.matmul(tf.nn.softmax(tf.matmul(parts, parts, transpose_b=True) / 2), parts), [-1, WIDTH])


def standardised(x: Any, axes: Any) -> Any:
    mean, variance = tf.nn.moments(x, axes, keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + 1e-3)


def quantised(x: Any) -> Any:
    scale = tf.reduce_max(tf.abs(x)) / 127 + 1e-9
    return tf.round(x / scale) * scale


APART: tuple[Callable[[np.random.Generator], Block], ...] = (
    dense,
    lambda _: tf.nn.relu,
    lambda _: tf.tanh,
    lambda _: tf.nn.softmax,
    convolved,
    lambda _: attended,
    lambda _: lambda x: standardised(x, [1]),
    lambda _: lambda x: tf.cumsum(x, 1) * 0.2,
    lambda _: lambda x: tf.reverse(x, [1]),
    lambda _: lambda x: tf.concat([x[:, 6:], x[:, :6]], 1),
    lambda _: lambda x: x * tf.sigmoid(x),
    lambda _: lambda x: tf.where(x > 0, x, 0.1 * x),
)
TOGETHER: tuple[tuple[str, Block], ...] = (
    ("less the mean", lambda x: x - tf.reduce_mean(x, 0)),
    ("of all rows", lambda x: standardised(x, [0])),
    ("shares", lambda x: tf.nn.softmax(x, 0)),
    ("scaled", lambda x: x / (tf.reduce_max(tf.abs(x)) + 1e-3)),
    ("quantised", quantised),
    ("between rows", lambda x: tf.matmul(tf.nn.softmax(tf.matmul(x, x, transpose_b=True)), x)),
    ("rolled", lambda x: tf.roll(x, 1, 0) + x),
    ("running", lambda x: tf.cumsum(x, 0)),
    ("first added", lambda x: x + x[:1]),
    ("counted", lambda x: x / tf.cast(tf.shape(x)[0], tf.float32)),
    ("reversed", lambda x: tf.reverse(x, [0]) * 0.5 + x),
)


class Model(tf.Module):
    """``blocks`` are kept, so that their variables are saved."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.blocks = blocks
        self.held = [cell.cell_contents for block in blocks for cell in getattr(block, "__closure__", None) or ()]

    @tf.function(input_signature=[tf.TensorSpec([None, WIDTH], tf.float32, "x")])
    def serve(self, x: Any) -> dict[str, Any]:
        for block in self.blocks:
            x = block(x)
        return {"y": x}


def draw(seed: int, *, independent: bool) -> tuple[str, Model]:
    """A description and a model. A dependent one has one such block at a random place."""
    chance, weights = random.Random(seed), np.random.default_rng(seed)
    chosen = [chance.randrange(len(APART)) for _ in range(chance.randint(1, 5))]
    blocks = [APART[place](weights) for place in chosen]
    said = "blocks " + ",".join(map(str, chosen))
    if not independent:
        name, block = TOGETHER[seed % len(TOGETHER)]
        blocks.insert(chance.randint(0, len(blocks)), block)
        said += f" and {name}"
    return said, Model(blocks)
