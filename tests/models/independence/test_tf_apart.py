"""TensorFlow models whose rows stay apart, and that the analysis must see through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.frameworks.tensorflow import tf
from models.importing.independence.tf_graph import analyse
from tests.models.independence.tf_models import F64, Specs, keeps_rows_apart, spec, weights, write

#: The quick run takes one of so many; `full` takes all.
SHARE = 10

CASES: dict[str, tuple[Specs, Callable[..., Any]]] = {}
X = [spec(None, 8)]
SEQ = [spec(None, 5, 4)]
OPEN = [spec(None, None)]
IMG = [spec(None, 8, 8, 3)]
SQ = [spec(None, None, 4)]


def apart(name: str, specs: Specs, forward: Callable[..., Any]) -> None:
    CASES[name] = (specs, forward)


apart("dense", X, lambda x: tf.nn.relu(x @ weights(8, 3) + weights(3)))
apart("softmax", X, lambda x: tf.nn.softmax(x))
apart("softmax axis1 of 3", SEQ, lambda x: tf.nn.softmax(x, 1))
apart("layernorm", X, lambda x: (x - tf.reduce_mean(x, -1, True)) / tf.math.reduce_std(x, -1, True))
apart("flatten dynamic", SEQ, lambda x: tf.reshape(x, [tf.shape(x)[0], -1]))
apart("flatten -1", SEQ, lambda x: tf.reshape(x, [-1, 20]))
apart("tensordot", SEQ, lambda x: tf.tensordot(x, weights(4, 3), 1))
apart("tensordot open", SQ, lambda x: tf.tensordot(x, weights(4, 3), 1))
apart("attention", SEQ, lambda x: tf.nn.softmax(tf.matmul(x, x, transpose_b=True)) @ x)
apart(
    "attention heads",
    SQ,
    lambda x: (
        lambda s: tf.reshape(
            tf.transpose(tf.nn.softmax(tf.matmul(s, s, transpose_b=True)) @ s, [0, 2, 1, 3]),
            [tf.shape(x)[0], tf.shape(x)[1], 4],
        )
    )(tf.transpose(tf.reshape(x, [tf.shape(x)[0], tf.shape(x)[1], 2, 2]), [0, 2, 1, 3])),
)
apart(
    "heads merged",
    SQ,
    lambda x: (lambda s: tf.reshape(tf.nn.softmax(tf.matmul(s, s, transpose_b=True)) @ s, [-1, 2, tf.shape(x)[1] * 2]))(
        tf.reshape(tf.transpose(tf.reshape(x, [-1, tf.shape(x)[1], 2, 2]), [0, 2, 1, 3]), [-1, tf.shape(x)[1], 2])
    ),
)
apart("einsum", SEQ, lambda x: tf.einsum("btk,kj->btj", x, weights(4, 2)))
apart("einsum ell", SEQ, lambda x: tf.einsum("...k,kj->...j", x, weights(4, 2)))
apart("column", X, lambda x: x[:, 0])
apart("columns", X, lambda x: x[:, 1:5:2])
apart("newaxis", X, lambda x: x[:, None, :] + weights(3, 8))
apart("reverse cols", X, lambda x: x[:, ::-1])
apart("argmax", X, lambda x: tf.argmax(x, 1))
apart("topk", X, lambda x: tf.math.top_k(x, 3).values)
apart("sort", X, lambda x: tf.sort(x))
apart("cumsum", X, lambda x: tf.cumsum(x, 1))
apart("one hot", [spec(None, dtype=tf.int32)], lambda x: tf.one_hot(x, 5))
apart("embedding", [spec(None, None, dtype=tf.int32)], lambda x: tf.reduce_mean(tf.gather(weights(10, 3), x), 1))
apart(
    "gather batch", [spec(None, 8), spec(None, 2, name="i", dtype=tf.int32)], lambda x, i: tf.gather(x, i, batch_dims=1)
)
apart("cls token", SEQ, lambda x: tf.concat([tf.tile(weights(1, 1, 4), [tf.shape(x)[0], 1, 1]), x], 1))
apart("cls token bc", SEQ, lambda x: tf.concat([tf.broadcast_to(weights(1, 1, 4), [tf.shape(x)[0], 1, 4]), x], 1))
apart("positions", SQ, lambda x: x + tf.gather(weights(100, 4), tf.range(tf.shape(x)[1])))
apart("zeros state", X, lambda x: tf.zeros([tf.shape(x)[0], 8], F64) + x)
apart("unstack", SEQ, lambda x: tf.add_n(tf.unstack(x, axis=1)))
apart("conv", IMG, lambda x: tf.nn.conv2d(x, weights(3, 3, 3, 4), 1, "SAME"))
apart("convT", IMG, lambda x: tf.nn.conv2d_transpose(x, weights(3, 3, 4, 3), [tf.shape(x)[0], 16, 16, 4], 2))
apart("pool", IMG, lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID"))
apart(
    "dilated dw", IMG, lambda x: tf.nn.depthwise_conv2d(x, weights(3, 3, 3, 2), [1, 1, 1, 1], "SAME", dilations=[2, 2])
)
apart(
    "bn inference",
    IMG,
    lambda x: tf.compat.v1.nn.fused_batch_norm(
        tf.cast(x, tf.float32), tf.ones(3), tf.zeros(3), tf.zeros(3), tf.ones(3), is_training=False
    )[0],
)
apart("resize", IMG, lambda x: tf.image.resize(x, [16, 16]))
apart("s2d", IMG, lambda x: tf.nn.space_to_depth(x, 2))
apart("select", X, lambda x: tf.where(x > 0, x, 0.1 * x))
apart("where rows", X, lambda x: tf.where(x[:, :1] > 0, x, -x))
apart("clip", X, lambda x: tf.clip_by_value(x, -1, 1))
apart("reduce all axes but 0", SEQ, lambda x: tf.reduce_sum(x, [1, 2]))
apart("var", SEQ, lambda x: tf.concat(tf.nn.moments(x, [1]), 1))
apart("two inputs", [spec(None, 8), spec(None, 8, name="z")], lambda x, z: tf.reduce_sum(x * z, 1))
apart(
    "cfg concat split",
    X,
    lambda x: (lambda h: h[0] + 2 * h[1])(tf.split(tf.tanh(tf.concat([x, -x], 0) @ weights(8, 8)), 2)),
)
apart("fake quant", X, lambda x: tf.quantization.fake_quant_with_min_max_args(tf.cast(x, tf.float32)))
apart("string", [spec(None, dtype=tf.string)], lambda x: tf.strings.to_hash_bucket_fast(tf.strings.lower(x), 10))


def loop_rnn(x):
    ta = tf.TensorArray(F64, tf.shape(x)[1])
    xs = tf.TensorArray(F64, tf.shape(x)[1]).unstack(tf.transpose(x, [1, 0, 2]))

    def body(i, h, ta):
        h = tf.tanh(h + xs.read(i))
        return i + 1, h, ta.write(i, h)

    _, h, ta = tf.while_loop(lambda i, h, ta: i < tf.shape(x)[1], body, (0, tf.zeros([tf.shape(x)[0], 4], F64), ta))
    return tf.transpose(ta.stack(), [1, 0, 2]), h


apart("loop rnn", SQ, loop_rnn)
apart(
    "fixed loop",
    X,
    lambda x: tf.while_loop(lambda i, h: i < 5, lambda i, h: (i + 1, tf.tanh(h @ weights(8, 8))), (0, x))[1],
)
apart("scan time", SEQ, lambda x: tf.transpose(tf.scan(lambda h, e: h + e, tf.transpose(x, [1, 0, 2])), [1, 0, 2]))
apart(
    "assert",
    X,
    lambda x: (tf.debugging.assert_all_finite(x, "bad"), tf.debugging.assert_greater(x, tf.constant(-1e9, F64)), x * 2)[
        2
    ],
)
apart("matrix band", [spec(None, 5, 5)], lambda x: tf.linalg.band_part(x, -1, 0))
apart("roll cols", X, lambda x: tf.roll(x, 1, 1))
apart(
    "causal mask",
    SQ,
    lambda x: (
        lambda size, s: tf.nn.softmax(tf.where(tf.linalg.band_part(tf.ones([size, size]), -1, 0) > 0, s, -1e9)) @ x
    )(tf.shape(x)[1], tf.matmul(x, x, transpose_b=True)),
)
apart("pad", X, lambda x: tf.pad(x, [[0, 0], [1, 2]]))
apart("stack", X, lambda x: tf.stack([x, x * 2], 1))
apart("split", X, lambda x: tf.split(x, 2, 1)[0])
apart(
    "seq mask",
    [spec(None, 5, 4), spec(None, name="l", dtype=tf.int32)],
    lambda x, n: x * tf.cast(tf.sequence_mask(n, 5), F64)[:, :, None],
)
apart(
    "seq mask dyn",
    [spec(None, None, 4), spec(None, name="l", dtype=tf.int32)],
    lambda x, n: x * tf.cast(tf.sequence_mask(n, tf.shape(x)[1]), F64)[:, :, None],
)
apart("cond const shape", SQ, lambda x: tf.cond(tf.shape(x)[1] > 3, lambda: x * 2, lambda: x * 3))
apart("eq", X, lambda x: tf.cast(x == 0.0, F64))
apart("softmax via vec", X, lambda x: tf.exp(x - tf.reduce_logsumexp(x, 1, True)))
apart("norm", X, lambda x: tf.math.l2_normalize(x, 1))
apart("rank2 vec", [spec(None)], lambda x: x * 2 + 1)
apart("vec expand", [spec(None)], lambda x: x[:, None] * weights(1, 4))
apart("rev seq", [spec(None, 5, 4), spec(None, name="l", dtype=tf.int32)], lambda x, n: tf.reverse_sequence(x, n, 1, 0))
apart("matmul square", [spec(None, 5, 5)], lambda x: tf.linalg.matmul(x, x, transpose_a=True))
apart("outer per row", X, lambda x: x[:, :, None] * x[:, None, :])
apart("eye batch", X, lambda x: tf.linalg.diag(x))
apart("upsample", IMG, lambda x: tf.repeat(tf.repeat(x, 2, 1), 2, 2))
apart(
    "grouped norm",
    IMG,
    lambda x: (lambda g: tf.reshape(g - tf.reduce_mean(g, [1, 2, 4], True), tf.shape(x)))(
        tf.reshape(x, [-1, 8, 8, 3, 1])
    ),
)
apart("merge T into rows", SEQ, lambda x: tf.reshape(tf.nn.relu(tf.reshape(x, [-1, 4]) @ weights(4, 4)), [-1, 5, 4]))
apart("max shape", SQ, lambda x: x / tf.cast(tf.maximum(tf.shape(x)[1], 1), F64))


@tf.function
def inner(a, b):
    return a - b


def ta_ok(x):
    ta = tf.TensorArray(F64, 8).unstack(tf.transpose(x))
    return ta.gather([1, 2])[0]


apart("ta gather", X, ta_ok)
apart("call twice ok", X, lambda x: inner(inner(x, x * 2), x))
apart("switch case T", SQ, lambda x: tf.switch_case(tf.shape(x)[1] % 3, [lambda: x, lambda: x * 2, lambda: x * 3]))
apart("size//8", X, lambda x: tf.reshape(x, [tf.size(x) // 8, 8]))
apart("x[:B]", X, lambda x: x[: tf.shape(x)[0]] * 2)
apart("repeat 2", X, lambda x: tf.reshape(tf.repeat(x, 2, 0), [-1, 2, 8])[:, 0])
apart("tile2 right", X, lambda x: tf.reshape(tf.tile(x, [2, 1]), [2, -1, 8])[1])
apart(
    "old layernorm",
    X,
    lambda x: tf.reshape(
        tf.raw_ops.FusedBatchNormV3(
            x=tf.cast(tf.reshape(x, [1, tf.shape(x)[0], 8, 1]), tf.float32),
            scale=tf.ones([tf.shape(x)[0]]),
            offset=tf.zeros([tf.shape(x)[0]]),
            mean=[],
            variance=[],
            is_training=True,
            data_format="NCHW",
            epsilon=1e-3,
        ).y,
        [-1, 8],
    ),
)
apart("fq vars const", X, lambda x: tf.quantization.fake_quant_with_min_max_vars(tf.cast(x, tf.float32), -1.0, 1.0))
apart("tf.print", X, lambda x: (tf.print("a"), x * 2)[1])
apart("jit", X, lambda x: tf.function(lambda v: v * 2, jit_compile=True)(x))
apart(
    "swin windows",
    IMG,
    lambda x: (
        lambda w: tf.reshape(
            tf.transpose(
                tf.reshape(tf.nn.softmax(tf.matmul(w, w, transpose_b=True)) @ w, [-1, 2, 2, 4, 4, 3]),
                [0, 1, 3, 2, 4, 5],
            ),
            [-1, 8, 8, 3],
        )
    )(tf.reshape(tf.transpose(tf.reshape(x, [-1, 2, 4, 2, 4, 3]), [0, 1, 3, 2, 4, 5]), [-1, 16, 3])),
)
apart("pixel shuffle", [spec(None, 4, 4, 12)], lambda x: tf.nn.depth_to_space(x, 2))
apart(
    "heads time major",
    SQ,
    lambda x: (lambda y: tf.transpose(tf.reshape(tf.tanh(y), [tf.shape(x)[1], tf.shape(x)[0], 4]), [1, 0, 2]))(
        tf.reshape(tf.transpose(x, [1, 0, 2]), [-1, 4])
    ),
)
apart(
    "matmul 3d rows as m ok",
    SEQ,
    lambda x: tf.transpose(tf.matmul(weights(5, 4, 4), tf.transpose(x, [1, 2, 0])), [2, 0, 1]),
)


def dyn2(x):
    ta = tf.TensorArray(F64, 0, dynamic_size=True)
    for i in range(3):
        ta = ta.write(i, x * i)
    return tf.transpose(ta.stack(), [1, 0, 2])


apart("dyn stack", X, dyn2)


def nestedok(x):
    def outer(i, h):
        _, h = tf.while_loop(lambda j, h: j < i, lambda j, h: (j + 1, tf.tanh(h @ weights(8, 8))), (0, h))
        return i + 1, h

    return tf.while_loop(lambda i, h: i < 2, outer, (0, x))[1]


apart("nested loop ok", X, nestedok)
apart(
    "grow",
    X,
    lambda x: tf.reduce_sum(
        tf.while_loop(
            lambda i, h: i < 2,
            lambda i, h: (i + 1, tf.concat([h, h], 1)),
            (0, x),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None])),
        )[1],
        1,
    ),
)
apart("B*2//2", X, lambda x: x[: tf.shape(x)[0] * 2 // 2])
apart("same rows", [spec(None, 8), spec(None, 8, name="z")], lambda x, z: tf.reshape(x, [tf.shape(z)[0], 8]) + z)
apart(
    "einsum 3 ok", [spec(None, 8), spec(None, 8, name="z")], lambda x, z: tf.einsum("bi,bj,ij->b", x, z, weights(8, 8))
)
apart("batch matmul shared 1", [spec(None, 5, 5)], lambda x: tf.matmul(x, weights(1, 5, 5)))
apart(
    "sparse softmax xent",
    [spec(None, 8), spec(None, name="l", dtype=tf.int32)],
    lambda x, n: tf.nn.sparse_softmax_cross_entropy_with_logits(n, x),
)


@pytest.mark.parametrize("name", list(CASES)[::SHARE])
def test_rows_that_stay_apart_are_concluded_to_be(name: str, tmp_path: Path) -> None:
    """The kind: every operation between input and output treats each row by itself, however often rows are moved."""
    specs, forward = CASES[name]
    finding = analyse(write(forward, specs, tmp_path))
    assert finding.rows == "independent", finding.reason


@pytest.mark.full
def test_all_that_are_concluded_to_be_apart_are_so_in_truth(tmp_path: Path) -> None:
    for place, (name, (specs, forward)) in enumerate(CASES.items()):
        finding = analyse(write(forward, specs, tmp_path / str(place)))
        assert finding.rows == "independent", (name, finding.reason)
        assert keeps_rows_apart(forward, specs), name
