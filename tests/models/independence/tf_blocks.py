"""What random models are made of: blocks that keep rows apart, blocks that do not, and operations on any axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.frameworks.tensorflow import tf

Tensor = Any
Block = Callable[["Draws", Tensor], Tensor]
F64 = tf.float64


@dataclass(frozen=True)
class Draws:
    """`rng` starts anew in each call of the model; `weight(*shape)` is a variable."""

    rng: np.random.Generator
    inputs: Sequence[Tensor]
    weight: Callable[..., Tensor]

    def axis(self, x: Tensor, first: int = 0) -> int:
        """Any axis from `first` on, counted from either end."""
        rank = len(x.shape)
        axis = int(self.rng.integers(first, rank)) if rank > first else rank - 1
        return axis - rank if self.rng.random() < 0.5 else axis

    def constant(self, *shape: int) -> Tensor:
        return tf.constant(self.rng.normal(size=shape))


def count(x: Tensor) -> Tensor:
    return tf.shape(x)[0]


# -- rows apart -------------------------------------------------------------------------------------------------------


def dense(d: Draws, x: Tensor) -> Tensor:
    return tf.tensordot(x, d.weight(x.shape[-1], int(d.rng.integers(1, 6))), 1)


def activation(d: Draws, x: Tensor) -> Tensor:
    functions = [tf.nn.relu, tf.tanh, tf.sigmoid, tf.nn.softplus, tf.abs, tf.nn.elu, tf.square, lambda v: -v]
    return functions[int(d.rng.integers(len(functions)))](x)


def softmax(d: Draws, x: Tensor) -> Tensor:
    return tf.nn.softmax(x, d.axis(x, 1))


def layer_norm(_d: Draws, x: Tensor) -> Tensor:
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + 1e-3)


def scaled(d: Draws, x: Tensor) -> Tensor:
    return x * d.constant(x.shape[-1]) + d.weight(1, x.shape[-1])


def columns(d: Draws, x: Tensor) -> Tensor:
    return tf.gather(x, d.rng.integers(0, x.shape[-1], 3), axis=-1)


def part(d: Draws, x: Tensor) -> Tensor:
    return x[..., int(d.rng.integers(x.shape[-1])) :: int(d.rng.choice([1, 2, -1]))]


def doubled(_d: Draws, x: Tensor) -> Tensor:
    return tf.concat([x, tf.tanh(x)], -1)


def halves(_d: Draws, x: Tensor) -> Tensor:
    first, second = tf.split(tf.concat([x, -2 * x], -1), 2, -1)
    return tf.maximum(first, second)


def places(d: Draws, x: Tensor) -> Tensor:
    return tf.one_hot(tf.argmax(x, -1), x.shape[-1], dtype=F64) + x


def summed_up(d: Draws, x: Tensor) -> Tensor:
    return tf.cumsum(x, d.axis(x, 1))


def in_order(d: Draws, x: Tensor) -> Tensor:
    return tf.sort(x, -1)


def folded(_d: Draws, x: Tensor) -> Tensor:
    pairs = tf.reshape(
        tf.concat([x, x], -1), [count(x), -1, x.shape[-1], 2] if len(x.shape) == 3 else [-1, x.shape[-1], 2]
    )
    return tf.reduce_sum(tf.tanh(pairs), -1)


def flat(_d: Draws, x: Tensor) -> Tensor:
    return x if len(x.shape) < 3 or x.shape[1] is None else tf.reshape(x, [-1, x.shape[1] * x.shape[2]])


def over_time(d: Draws, x: Tensor) -> Tensor:
    if len(x.shape) < 3:
        return tf.stack([x, x * d.constant(x.shape[-1])], 1)
    reduction = [tf.reduce_mean, tf.reduce_max, tf.reduce_sum, tf.math.reduce_std][int(d.rng.integers(4))]
    return reduction(x, 1)


def beside_constant(d: Draws, x: Tensor) -> Tensor:
    if len(x.shape) == 2:
        return tf.concat([x, tf.tile(d.constant(1, 2), [count(x), 1])], 1)
    return tf.concat([tf.broadcast_to(d.weight(1, 1, x.shape[-1]), [count(x), 1, x.shape[-1]]), x], 1)


def from_zeros(_d: Draws, x: Tensor) -> Tensor:
    return tf.zeros_like(x) + x - tf.zeros([count(x), *([1] * (len(x.shape) - 1))], F64)


def some_turns(d: Draws, x: Tensor) -> Tensor:
    weight = d.weight(x.shape[-1], x.shape[-1])
    turns = int(d.rng.integers(1, 4))
    return tf.while_loop(lambda i, _h: i < turns, lambda i, h: (i + 1, tf.tanh(tf.tensordot(h, weight, 1))), (0, x))[1]


def recurrence(d: Draws, x: Tensor) -> Tensor:
    if len(x.shape) < 3:
        return x
    steps = tf.TensorArray(F64, tf.shape(x)[1]).unstack(tf.transpose(x, [1, 0, 2]))
    weight = d.weight(x.shape[-1], x.shape[-1])

    def turn(i: Tensor, h: Tensor, kept: Any) -> Any:
        h = tf.tanh(steps.read(i) + h @ weight)
        return i + 1, h, kept.write(i, h)

    start = (0, tf.zeros([count(x), x.shape[-1]], F64), tf.TensorArray(F64, tf.shape(x)[1]))
    _, last, kept = tf.while_loop(lambda i, _h, _k: i < tf.shape(x)[1], turn, start)
    return last if d.rng.random() < 0.5 else tf.transpose(kept.stack(), [1, 0, 2])


def attention(d: Draws, x: Tensor) -> Tensor:
    if len(x.shape) < 3:
        return x[:, :, None] * x[:, None, :] @ d.weight(x.shape[-1], 2)
    return tf.nn.softmax(tf.matmul(x, x, transpose_b=True)) @ x


def by_einsum(d: Draws, x: Tensor) -> Tensor:
    weight = d.weight(x.shape[-1], 3)
    return tf.einsum("...k,kj->...j", x, weight)


def convolved(d: Draws, x: Tensor) -> Tensor:
    return x if len(x.shape) < 3 else tf.nn.conv1d(x, d.weight(3, x.shape[-1], 3), 1, "SAME")


def chosen_by_row(_d: Draws, x: Tensor) -> Tensor:
    return tf.where(tf.reduce_sum(x, list(range(1, len(x.shape))), keepdims=True) > 0, x, -x)


def chosen_by_size(_d: Draws, x: Tensor) -> Tensor:
    return tf.cond(tf.shape(x)[-1] > 3, lambda: x * 2, lambda: x - 1)


def both_at_once(d: Draws, x: Tensor) -> Tensor:
    first, second = tf.split(dense(d, tf.concat([x, -x], 0)), 2, 0)
    return first + 2 * second


def turned_and_back(d: Draws, x: Tensor) -> Tensor:
    order = d.rng.permutation(len(x.shape))
    return tf.transpose(tf.tanh(tf.transpose(x, order)), np.argsort(order))


def checked(_d: Draws, x: Tensor) -> Tensor:
    with tf.control_dependencies([tf.debugging.assert_less(x, tf.constant(1e300, F64))]):
        return tf.identity(x)


def with_other_input(d: Draws, x: Tensor) -> Tensor:
    other = d.inputs[-1]
    width = other.shape[-1]
    return tf.concat([x, other * d.weight(width)], -1) if len(x.shape) == len(other.shape) == 2 else x + 1


APART: list[Block] = [
    dense, activation, softmax, layer_norm, scaled, columns, part, doubled, halves, places, summed_up, in_order, folded,
    flat, over_time, beside_constant, from_zeros, some_turns, recurrence, attention, by_einsum, convolved,
    chosen_by_row, chosen_by_size, both_at_once, turned_and_back, checked, with_other_input,
]  # fmt: skip

# -- rows together ----------------------------------------------------------------------------------------------------


def mean_of_batch(d: Draws, x: Tensor) -> Tensor:
    reduction = [tf.reduce_mean, tf.reduce_max, tf.reduce_min, tf.math.reduce_std][int(d.rng.integers(4))]
    axes = [[0], [-len(x.shape)], None][int(d.rng.integers(3))]
    return x - reduction(x, axes)


def softmax_of_batch(_d: Draws, x: Tensor) -> Tensor:
    return tf.nn.softmax(x, 0)


def shifted(d: Draws, x: Tensor) -> Tensor:
    return [lambda v: tf.roll(v, 1, 0), lambda v: v[::-1], lambda v: tf.reverse(v, [0]), lambda v: tf.cumsum(v, 0)][
        int(d.rng.integers(4))
    ](x)


def first_row(d: Draws, x: Tensor) -> Tensor:
    taken = [
        lambda: x[0],
        lambda: x[:1],
        lambda: x[-1:],
        lambda: tf.gather(x, [0]),
        lambda: tf.slice(x, [0] * len(x.shape), [1, *[-1] * (len(x.shape) - 1)]),
    ]
    return x - taken[int(d.rng.integers(len(taken)))]()


def by_number_of_rows(d: Draws, x: Tensor) -> Tensor:
    number = tf.cast(count(x), F64)
    ways = [
        lambda: x * number,
        lambda: x + tf.cast(tf.size(x), F64),
        lambda: tf.cond(count(x) > 2, lambda: x, lambda: -x),
        lambda: tf.where(count(x) % 2 == 0, x, -x),
        lambda: x + tf.reduce_sum(d.constant(40)[: count(x)]),
        lambda: x + tf.reduce_sum(tf.ones_like(x)),
        lambda: x + d.constant(40)[count(x)],
        lambda: tf.while_loop(lambda i, _h: i < count(x), lambda i, h: (i + 1, h * 1.5), (0, x))[1],
    ]
    return ways[int(d.rng.integers(len(ways)))]()


def by_place(d: Draws, x: Tensor) -> Tensor:
    places = tf.cast(tf.range(count(x)), F64)
    other = d.constant(40)[: count(x)]
    return x + tf.reshape(places if d.rng.random() < 0.5 else other, [-1, *[1] * (len(x.shape) - 1)])


def gram(d: Draws, x: Tensor) -> Tensor:
    flattened = tf.reshape(x, [count(x), -1])
    scores = tf.matmul(flattened, flattened, transpose_b=True)
    return tf.tensordot(tf.nn.softmax(scores) if d.rng.random() < 0.5 else scores, x, 1)


def by_all(d: Draws, x: Tensor) -> Tensor:
    test = [tf.reduce_any, tf.reduce_all][int(d.rng.integers(2))](x > 0)
    return tf.cond(test, lambda: x * 2, lambda: x * 3) if d.rng.random() < 0.5 else tf.where(test, x, -x)


def until_small(_d: Draws, x: Tensor) -> Tensor:
    return tf.while_loop(lambda h: tf.reduce_max(tf.abs(h)) > 1, lambda h: (h / 2,), (x,))[0]


def scanned(_d: Draws, x: Tensor) -> Tensor:
    return tf.scan(lambda h, e: h * 0.5 + e, x)


def quantised(d: Draws, x: Tensor) -> Tensor:
    scale = tf.reduce_max(tf.abs(x)) + 1e-9
    if d.rng.random() < 0.5:
        return tf.round(x / scale * 127) * scale
    return tf.quantization.quantize_and_dequantize_v2(x, 0.0, 0.0, range_given=False)


def batch_norm(d: Draws, x: Tensor) -> Tensor:
    mean, variance = tf.nn.moments(x, list(range(len(x.shape) - 1)))
    return tf.nn.batch_normalization(x, mean, variance, None, None, 1e-3)


def laid_out_anew(d: Draws, x: Tensor) -> Tensor:
    ways = [
        lambda: tf.reshape(tf.transpose(x), tf.shape(x)),
        lambda: tf.reshape(tf.cumsum(tf.reshape(x, [-1])), tf.shape(x)),
        lambda: tf.reshape(tf.roll(tf.reshape(x, [-1, 1]), 1, 0), tf.shape(x)),
        lambda: tf.reshape(tf.transpose(tf.reshape(x, [x.shape[-1], -1])), tf.shape(x)),
        lambda: tf.reshape(tf.tile(x, [2, *[1] * (len(x.shape) - 1)]), [count(x), 2, *tf.unstack(tf.shape(x))[1:]]),
    ]
    return ways[int(d.rng.integers(len(ways)))]()


def over_the_rows(d: Draws, x: Tensor) -> Tensor:
    flattened = tf.reshape(x, [1, -1, x.shape[-1]])
    return tf.reshape(tf.nn.conv1d(flattened, d.weight(3, x.shape[-1], x.shape[-1]), 1, "SAME"), tf.shape(x))


def sorted_rows(_d: Draws, x: Tensor) -> Tensor:
    return tf.sort(x, 0)


def by_rank(_d: Draws, x: Tensor) -> Tensor:
    order = tf.argsort(tf.reduce_sum(x, list(range(1, len(x.shape)))))
    return tf.gather(x, order)


def segments(_d: Draws, x: Tensor) -> Tensor:
    key = tf.cast(tf.reduce_sum(x, list(range(1, len(x.shape)))) > 0, tf.int32)
    return tf.gather(tf.math.unsorted_segment_sum(x, key, 2), key)


TOGETHER: list[Block] = [
    mean_of_batch, softmax_of_batch, shifted, first_row, by_number_of_rows, by_place, gram, by_all, until_small,
    scanned, quantised, batch_norm, laid_out_anew, over_the_rows, sorted_rows, by_rank, segments,
]  # fmt: skip

# -- any axis: the trial says what comes of it ------------------------------------------------------------------------


def wild_reduction(d: Draws, x: Tensor) -> Tensor:
    reduction = [tf.reduce_sum, tf.reduce_max, tf.reduce_mean, tf.reduce_logsumexp][int(d.rng.integers(4))]
    return reduction(x, d.axis(x), keepdims=bool(d.rng.random() < 0.6))


def wild_transpose(d: Draws, x: Tensor) -> Tensor:
    return tf.transpose(x, d.rng.permutation(len(x.shape)))


def wild_reshape(d: Draws, x: Tensor) -> Tensor:
    sizes = tf.shape(x)
    parts = [sizes[axis] for axis in range(len(x.shape))]
    ways = [
        lambda: tf.reshape(x, [-1, parts[-1]]),
        lambda: tf.reshape(x, [parts[0], -1]),
        lambda: tf.reshape(x, [-1]),
        lambda: tf.reshape(x, [parts[-1], -1]),
        lambda: tf.reshape(x, [-1, 2]),
        lambda: tf.reshape(x, [*parts[:-1], parts[-1], 1]),
        lambda: tf.reshape(x, [1, *parts]),
        lambda: tf.reshape(x, [tf.reduce_prod(sizes[:-1]), parts[-1]]),
        lambda: tf.reshape(x, parts[::-1]),
        lambda: tf.reshape(x, tf.concat([[count(d.inputs[0])], [-1]], 0)),
        lambda: tf.reshape(x, tf.shape(d.inputs[0])),
    ]
    return ways[int(d.rng.integers(len(ways)))]()


def wild_along(d: Draws, x: Tensor) -> Tensor:
    axis = d.axis(x)
    ways = [
        lambda: tf.nn.softmax(x, axis),
        lambda: tf.cumsum(x, axis),
        lambda: tf.reverse(x, [axis]),
        lambda: tf.roll(x, 1, axis),
        lambda: tf.concat([x, x], axis),
        lambda: tf.stack([x, -x], axis),
        lambda: tf.expand_dims(x, axis),
        lambda: tf.gather(x, [0], axis=axis),
        lambda: tf.cast(tf.argmax(x, axis), F64),
        lambda: tf.repeat(x, 2, axis),
        lambda: sum(tf.split(x, 2, axis)),
        lambda: tf.unstack(x, axis=axis)[0],
        lambda: x[..., :1],
        lambda: x[:1],
        lambda: x[:, 0],
    ]
    return ways[int(d.rng.integers(len(ways)))]()


def wild_pair(d: Draws, x: Tensor) -> Tensor:
    turned = tf.transpose(x, d.rng.permutation(len(x.shape)))
    ways = [
        lambda: x + turned,
        lambda: x[None] * turned,
        lambda: x[..., None] - turned,
        lambda: tf.matmul(x, turned),
        lambda: tf.matmul(x, x, transpose_a=True),
        lambda: tf.matmul(x, x, transpose_b=True),
        lambda: tf.tensordot(x, turned, 1),
        lambda: x + tf.reduce_sum(x, d.axis(x), keepdims=True),
        lambda: x * tf.reduce_sum(x, d.axis(x)),
        lambda: x + tf.reshape(d.inputs[0], [-1, x.shape[-1]]),
        lambda: x + d.inputs[0],
    ]
    return ways[int(d.rng.integers(len(ways)))]()


def wild_einsum(d: Draws, x: Tensor) -> Tensor:
    letters = list("abcd"[: len(x.shape)])
    other = [str(d.rng.choice(list("abcde"))) for _ in letters]
    both = sorted(set(letters) | set(other))
    kept = [letter for letter in both if d.rng.random() < 0.6] or both[:1]
    return tf.einsum(f"{''.join(letters)},{''.join(other)}->{''.join(kept)}", x, x)


def wild_block(d: Draws, x: Tensor) -> Tensor:
    size = tf.shape(x)
    spread = tf.reshape(x, [size[0], -1, 1, 1])
    packed = tf.space_to_batch(spread, [2, 1], [[0, tf.shape(spread)[1] % 2], [0, 0]])
    if d.rng.random() < 0.5:
        packed = tf.tanh(packed) if d.rng.random() < 0.5 else tf.nn.softmax(packed, 0)
    return tf.batch_to_space(packed, [2, 1], [[0, tf.shape(spread)[1] % 2], [0, 0]])[:, :, 0, 0]


WILD: list[Block] = [
    wild_reduction, wild_transpose, wild_reshape, wild_along, wild_pair, wild_einsum, wild_block, wild_along,
    wild_transpose, wild_reshape,
]  # fmt: skip


def choose(rng: np.random.Generator) -> tuple[list[Any], list[Block]]:
    """The specs of the inputs, and blocks."""
    width = int(rng.integers(2, 6))
    inner: list[int | None] = [[width], [3, width], [None, width], [width, width]][int(rng.integers(4))]
    specs = [tf.TensorSpec([None, *inner], F64, "x")]
    if rng.random() < 0.3:
        specs.append(tf.TensorSpec([None, 2], F64, "z"))
    blocks = [APART[int(rng.integers(len(APART)))] for _ in range(int(rng.integers(1, 5)))]
    kind = rng.random()
    if kind < 0.3:
        blocks.insert(int(rng.integers(len(blocks) + 1)), TOGETHER[int(rng.integers(len(TOGETHER)))])
    elif kind < 0.6:
        for _ in range(int(rng.integers(1, 5))):
            blocks.insert(int(rng.integers(len(blocks) + 1)), WILD[int(rng.integers(len(WILD)))])
        blocks = blocks[: int(rng.integers(1, 7))]
    return specs, blocks
