"""TensorFlow models whose rows meet in loops, lists, branches, layouts and known architectures."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.frameworks.tensorflow import tf
from tests.models.independence.tf_models import F64, spec, weights
from tests.models.independence.tf_together import IMG, SEQ, SQ, Cases, X

CASES = Cases()
together = CASES.together


@tf.function
def inner(a, b):
    return a - b


def swap(x):
    return tf.while_loop(lambda i, a, b: i < 4, lambda i, a, b: (i + 1, b, tf.roll(a, 1, 0)), (0, x, x))[1]


together("swap", X, swap)
together(
    "late",
    X,
    lambda x: tf.while_loop(
        lambda i, a, b, c: i < 5, lambda i, a, b, c: (i + 1, b, c, c - tf.reduce_mean(a, 0)), (0, x, x, x)
    )[1],
)
together(
    "late const",
    X,
    lambda x: tf.while_loop(
        lambda i, a, b: i < 5,
        lambda i, a, b: (i + 1, a + b, b + tf.cast(tf.shape(x)[0], F64)),
        (0, x, tf.constant(0.0, F64)),
    )[1],
)
together(
    "loop int B",
    X,
    lambda x: x * tf.cast(tf.while_loop(lambda i, n: i < 3, lambda i, n: (i + 1, n + tf.shape(x)[0]), (0, 0))[1], F64),
)
together(
    "loop grows",
    X,
    lambda x: tf.while_loop(
        lambda i, h: i < 2,
        lambda i, h: (i + 1, tf.concat([h[1:], h[:1]], 0)),
        (0, x),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, 8])),
    )[1],
)
together(
    "loop reshape",
    X,
    lambda x: tf.while_loop(
        lambda i, h: i < 2,
        lambda i, h: (i + 1, tf.reshape(tf.transpose(h), [-1, 8])),
        (0, x),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, 8])),
    )[1],
)


def ta_idx(x):
    ta = tf.TensorArray(F64, 8, clear_after_read=False)
    for i in range(8):
        ta = ta.write(i, x[:, i])
    return ta.read(tf.minimum(tf.shape(x)[0], 7))


together("ta read B", X, ta_idx)


def ta_idx2(x):
    ta = tf.TensorArray(F64, 8, clear_after_read=False)
    for i in range(8):
        ta = ta.write(i, x[:, i])
    return ta.read(tf.cast(tf.reduce_max(tf.argmax(x, 1)), tf.int32))


together("ta read max", X, ta_idx2)


def ta_mixed(x):
    ta = tf.TensorArray(F64, 2, clear_after_read=False, infer_shape=False)
    ta = ta.write(0, x)
    ta = ta.write(1, tf.reduce_mean(x, 0, keepdims=True))
    return x + ta.read(1)


together("ta mixed", X, ta_mixed)


def ta_gather(x):
    ta = tf.TensorArray(F64, 8).unstack(tf.transpose(x))
    return ta.gather([tf.shape(x)[0] - 1])[0]


together("ta gather B", X, ta_gather)


def unwritten2(x):
    h = tf.raw_ops.TensorListReserve(element_shape=tf.constant([-1, 8]), num_elements=3, element_dtype=F64)
    h = tf.raw_ops.TensorListSetItem(input_handle=h, index=0, item=x)
    return tf.raw_ops.TensorListGetItem(input_handle=h, index=1, element_shape=tf.constant([1, 8]), element_dtype=F64)


together("unwritten other shape", X, unwritten2)
together("call twice", X, lambda x: inner(inner(x, x * 2), tf.reduce_max(x, 0)))
together("switch case", X, lambda x: tf.switch_case(tf.shape(x)[0] % 3, [lambda: x, lambda: x * 2, lambda: x * 3]))
together(
    "switch case content",
    X,
    lambda x: tf.switch_case(tf.cast(tf.reduce_max(x), tf.int32), [lambda: x, lambda: x * 2, lambda: x * 3]),
)
together("row+col", [spec(None, 1)], lambda x: tf.reduce_sum(x + tf.reshape(x, [1, -1]), 1))
together("x[:, :B]", X, lambda x: tf.reduce_sum(x[:, : tf.shape(x)[0]], 1))
together("x[:, B:]", X, lambda x: tf.reduce_sum(x[:, tf.shape(x)[0] :], 1))
together("x[:, B]", X, lambda x: x[:, tf.minimum(tf.shape(x)[0], 7)])
together("x[..., -B]", X, lambda x: x[..., -tf.minimum(tf.shape(x)[0], 7)])
together("x[:, ::B]", X, lambda x: tf.reduce_sum(x[:, :: tf.shape(x)[0]], 1))
together("gather range", X, lambda x: tf.gather(x, tf.range(tf.shape(x)[0] - 1, -1, -1)))
together("ones@x", X, lambda x: tf.ones([tf.shape(x)[0], tf.shape(x)[0]], F64) @ x)
together("ones1@x", X, lambda x: x + tf.ones([1, tf.shape(x)[0]], F64) @ x)
together("onesB,8 @ xT", X, lambda x: tf.ones_like(x) @ tf.transpose(x))
together("einsum bb", [spec(None, None)], lambda x: tf.einsum("bb->b", x))
together("einsum bb2", [spec(None, None)], lambda x: tf.einsum("bb,bk->bk", x, x))
together("tile cols", X, lambda x: tf.reduce_sum(tf.tile(x, [1, tf.shape(x)[0]]), 1))
together("repeat B", X, lambda x: tf.reshape(tf.repeat(x, tf.shape(x)[0], 0), [tf.shape(x)[0], -1]))
together("repeat data", [spec(None, dtype=tf.int32)], lambda x: tf.repeat(x, x))
together("repeat wrong", X, lambda x: tf.repeat(x, 2, 0)[: tf.shape(x)[0]])
together("tile2 wrong", X, lambda x: tf.reshape(tf.tile(x, [2, 1]), [-1, 2, 8])[:, 1])
together("split wrong", X, lambda x: tf.reshape(tf.concat([x, -x], 0), [-1, 2, 8])[:, 0])
together(
    "conv filter rows",
    [spec(None, 4, 4, 3), spec(None, 3, 3, 1, name="w")],
    lambda x, w: tf.nn.conv2d(x, tf.transpose(w, [1, 2, 0, 3])[:, :, :3], 1, "SAME"),
)
together("convT const batch", IMG, lambda x: tf.nn.conv2d_transpose(x, weights(3, 3, 4, 3), [2, 16, 16, 4], 2))
together(
    "bn stats rows",
    [spec(None, 8)],
    lambda x: tf.transpose(
        tf.raw_ops.FusedBatchNormV3(
            x=tf.cast(tf.transpose(x)[None, None], tf.float32),
            scale=tf.cast(x[:, 0], tf.float32) * 0 + tf.cast(tf.reduce_max(x), tf.float32),
            offset=tf.cast(x[:, 1], tf.float32),
            mean=tf.cast(x[:, 2], tf.float32),
            variance=tf.cast(x[:, 3], tf.float32) ** 2,
            is_training=False,
            epsilon=0.1,
        ).y[0, 0]
    ),
)
together(
    "old layernorm stats",
    X,
    lambda x: (
        tf.raw_ops.FusedBatchNormV3(
            x=tf.cast(tf.reshape(x, [1, 8, tf.shape(x)[0], 1]), tf.float32),
            scale=tf.ones([8]),
            offset=tf.zeros([8]),
            mean=[],
            variance=[],
            is_training=True,
            data_format="NCHW",
            epsilon=1e-3,
        ).batch_mean
        + tf.cast(x, tf.float32)
    ),
)
together(
    "revseq batch1", [spec(None, 5), spec(5, name="l", dtype=tf.int32)], lambda x, n: tf.reverse_sequence(x, n, 0, 1)
)
together(
    "revseq by B",
    [spec(None, 5)],
    lambda x: tf.transpose(tf.reverse_sequence(tf.transpose(x), tf.cast(tf.fill([5], tf.shape(x)[0]), tf.int32), 1, 0)),
)
together("gathernd rows", [spec(None, 4), spec(None, 1, name="i", dtype=tf.int32)], lambda x, i: tf.gather_nd(x, i))
together(
    "fq vars",
    X,
    lambda x: tf.quantization.fake_quant_with_min_max_vars(
        tf.cast(x, tf.float32), tf.cast(tf.reduce_min(x), tf.float32), tf.cast(tf.reduce_max(x), tf.float32)
    ),
)
together("sparse", X, lambda x: tf.sparse.to_dense(tf.sparse.from_dense(x))[::-1])
together("and all", X, lambda x: x * tf.cast(tf.logical_and(tf.reduce_all(x > 0), True), F64))
together("where all", X, lambda x: tf.where(tf.reduce_all(x > 0), x, -x))
together("all rows out", X, lambda x: x * tf.cast(tf.identity(tf.reduce_all(x > 0, 0)), F64))
together("all vector", X, lambda x: tf.cast(tf.reduce_all(x > 0, 0), F64)[None] + x)
together("jit mean", X, lambda x: tf.function(lambda v: v - tf.reduce_mean(v, 0), jit_compile=True)(x))
together(
    "while with assert",
    X,
    lambda x: (
        tf.while_loop(
            lambda i: tf.cast(i, F64) < tf.reduce_mean(x),
            lambda i: ((tf.debugging.Assert(tf.reduce_all(x > 0), ["no"]), i + 1)[1],),
            (0,),
        ),
        x * 2,
    )[1],
)
together("frac pool", IMG, lambda x: tf.nn.fractional_max_pool(tf.cast(x, tf.float32), [1, 1.4, 1.4, 1], seed=1)[0])
together("eq flag", [spec(None, None), spec(None, None, name="z")], lambda x, z: tf.cast(x == z, F64))
together("neq flag", [spec(None, None), spec(None, None, name="z")], lambda x, z: tf.cast(x != z, F64))
together("argsort scatter", X, lambda x: tf.scatter_nd(tf.argsort(x[:, 0])[:, None], x, tf.shape(x)))
together(
    "unsorted seg", X, lambda x: tf.math.unsorted_segment_sum(x, tf.zeros([tf.shape(x)[0]], tf.int32), tf.shape(x)[0])
)
together(
    "confusion", [spec(None, dtype=tf.int32)], lambda x: tf.gather(tf.math.confusion_matrix(x % 4, x % 4, 4), x % 4)
)
together("cumlogsum", X, lambda x: tf.math.cumulative_logsumexp(x, 0))
together("cumprod -2", X, lambda x: tf.math.cumprod(x, -2))
together("reduce euclid", X, lambda x: x / tf.math.reduce_euclidean_norm(x, 0))
together("zero frac", X, lambda x: x * tf.cast(tf.math.zero_fraction(x), F64))
together("count nonzero", X, lambda x: x * tf.cast(tf.math.count_nonzero(x), F64))
together("percentile", X, lambda x: x - tf.sort(tf.reshape(x, [-1]))[tf.size(x) // 2])
together("norm ord", X, lambda x: x / tf.norm(x))
together("trace", [spec(None, 4)], lambda x: x * tf.linalg.trace(tf.matmul(x, x, transpose_b=True)))
together("diag part", [spec(None, 4)], lambda x: tf.linalg.diag_part(x)[:1] + x)
together(
    "set_diag",
    [
        spec(
            None,
            4,
        )
    ],
    lambda x: tf.linalg.set_diag(tf.concat([x, x], 1)[:, :4], tf.zeros([tf.minimum(tf.shape(x)[0], 4)], F64)),
)
together("band part rows", [spec(None, 4)], lambda x: tf.linalg.band_part(x, 0, -1))
together("tri mask", SEQ, lambda x: tf.linalg.band_part(tf.transpose(x, [1, 0, 2]), -1, 0)[0])
together("svd", X, lambda x: x @ tf.linalg.svd(x)[2])
together("qr", X, lambda x: tf.linalg.qr(x)[0])
together(
    "cov",
    X,
    lambda x: (
        x
        @ (
            tf.matmul(x - tf.reduce_mean(x, 0), x - tf.reduce_mean(x, 0), transpose_a=True)
            / tf.cast(tf.shape(x)[0], F64)
        )
    ),
)
together(
    "kmeans",
    X,
    lambda x: tf.cast(
        tf.argmin(
            tf.reduce_sum((x[:, None] - x[None]) ** 2 + 1e9 * tf.eye(tf.shape(x)[0], dtype=F64)[:, :, None], -1), 1
        ),
        F64,
    ),
)
together("instance norm wrong axes", IMG, lambda x: x - tf.reduce_mean(x, [0, 1, 2]))
together(
    "minibatch std",
    IMG,
    lambda x: tf.concat(
        [x, tf.tile(tf.reshape(tf.reduce_mean(tf.math.reduce_std(x, 0)), [1, 1, 1, 1]), [tf.shape(x)[0], 8, 8, 1])], 3
    ),
)
together(
    "minibatch disc",
    X,
    lambda x: tf.concat(
        [x, tf.reduce_sum(tf.exp(-tf.reduce_sum(tf.abs(x[:, :, None] - tf.transpose(x)[None]), 1)), 1, keepdims=True)],
        1,
    ),
)
together(
    "contrastive",
    X,
    lambda x: tf.nn.log_softmax(tf.matmul(tf.nn.l2_normalize(x, 1), tf.nn.l2_normalize(x, 1), transpose_b=True)),
)
together("moe capacity", X, lambda x: x * tf.cast(tf.cumsum(tf.one_hot(tf.argmax(x, 1), 8, dtype=F64), 0) < 2, F64))
together(
    "ghost bn",
    X,
    lambda x: (lambda g: tf.reshape(g - tf.reduce_mean(g, 1, keepdims=True), [-1, 8]))(tf.reshape(x, [1, -1, 8])),
)
together("time shift rows", SEQ, lambda x: tf.reshape(tf.roll(tf.reshape(x, [-1, 4]), 1, 0), [-1, 5, 4]))
together(
    "temporal shift module",
    IMG,
    lambda x: (lambda v: tf.reshape(tf.concat([v[:, 1:], v[:, :1]], 1), tf.shape(x)))(tf.reshape(x, [1, -1, 8, 8, 3])),
)
together(
    "windows",
    [spec(None, 4, 4, 3)],
    lambda x: (lambda w: tf.reshape(tf.matmul(w, w, transpose_b=True) @ w, [-1, 4, 4, 3]))(tf.reshape(x, [1, -1, 3])),
)
together(
    "swin wrong",
    IMG,
    lambda x: (lambda w: tf.reshape(tf.nn.softmax(tf.matmul(w, w, transpose_b=True)) @ w, [-1, 8, 8, 3]))(
        tf.reshape(tf.transpose(tf.reshape(x, [-1, 2, 4, 2, 4, 3]), [1, 3, 0, 2, 4, 5]), [4, -1, 3])
    ),
)
together(
    "swin wrong2",
    IMG,
    lambda x: (lambda w: tf.reshape(w * 2, [-1, 8, 8, 3]))(
        tf.reshape(tf.transpose(tf.reshape(x, [-1, 2, 4, 2, 4, 3]), [1, 3, 0, 2, 4, 5]), [-1, 16, 3])
    ),
)
together(
    "heads time major wrong",
    SQ,
    lambda x: (lambda y: tf.reshape(tf.tanh(y), [tf.shape(x)[0], tf.shape(x)[1], 4]))(
        tf.reshape(tf.transpose(x, [1, 0, 2]), [-1, 4])
    ),
)
together("addn vec", [spec(None), spec(None, 1, name="z")], lambda x, z: x + z)
together("stack0", X, lambda x: tf.reduce_max(tf.stack([x, x * 2], 0), 1) + x)
together("concat const 1 row", [spec(None, 8)], lambda x: tf.reduce_sum(tf.concat([x, weights(1, 8)], 0), 0) + x)
together("int overflow", X, lambda x: tf.reshape(x, [tf.shape(x)[0] * (2**30) * 4 + 8, -1]))
together(
    "scatter add one",
    [spec(None, dtype=tf.int32)],
    lambda x: tf.tensor_scatter_nd_add(tf.zeros_like(x), x[:, None] * 0, tf.ones_like(x)),
)
together(
    "string format",
    [spec(None, dtype=tf.string)],
    lambda x: tf.strings.join([x, tf.strings.format("{}", tf.shape(x)[0])]),
)
together(
    "as string B", [spec(None, dtype=tf.string)], lambda x: tf.strings.join([x, tf.strings.as_string(tf.shape(x)[0])])
)
together("regex by row", [spec(None, dtype=tf.string)], lambda x: tf.strings.regex_replace(x, x[0], "z"))
together(
    "decode raw",
    [spec(None, dtype=tf.string)],
    lambda x: (
        tf.reduce_sum(tf.cast(tf.strings.unicode_decode(x, "UTF-8").to_tensor(), tf.int32), 0)[None]
        + tf.zeros([tf.shape(x)[0], 1], tf.int32)
    ),
)
together(
    "hash of joined",
    [spec(None, dtype=tf.string)],
    lambda x: tf.strings.to_hash_bucket_fast(tf.strings.reduce_join(x), 100) + tf.zeros([tf.shape(x)[0]], tf.int64),
)
together(
    "edit dist",
    [spec(None, dtype=tf.string)],
    lambda x: tf.cast(tf.strings.length(x), F64) - tf.reduce_mean(tf.cast(tf.strings.length(x), F64)),
)
together("cond in function", X, lambda x: tf.function(lambda v: tf.cond(tf.size(v) > 20, lambda: v, lambda: -v))(x))
together("logical xor B", X, lambda x: tf.where(tf.math.logical_xor(tf.shape(x)[0] > 2, tf.shape(x)[0] > 4), x, -x))
together("T==B", [spec(None, None)], lambda x: tf.cond(tf.shape(x)[0] == tf.shape(x)[1], lambda: x, lambda: -x))
together("max(B,T)", [spec(None, None)], lambda x: x * tf.cast(tf.maximum(tf.shape(x)[0], tf.shape(x)[1]), F64))
together("resize by B", IMG, lambda x: tf.image.resize(x, [tf.shape(x)[0], 8]))
together(
    "convT by B",
    IMG,
    lambda x: tf.nn.conv2d_transpose(
        x, weights(3, 3, 4, 3), [tf.shape(x)[0], 14 + tf.minimum(2, tf.shape(x)[0]), 16, 4], 2
    ),
)
together("bucket means", X, lambda x: x - tf.reduce_mean(tf.reshape(x, [-1, 2, 4]), 0)[0, 0])
together("sum then bcast", SEQ, lambda x: x - tf.reduce_sum(x, axis=[0, 1], keepdims=True))
together("neg axis -3", SEQ, lambda x: x - tf.reduce_sum(x, axis=-3, keepdims=True))
together("softmax -3", SEQ, lambda x: tf.nn.softmax(x, axis=-3))
together("roll multi", SEQ, lambda x: tf.roll(x, [1, 1], [1, 0]))
together("l2norm axes", SEQ, lambda x: tf.math.l2_normalize(x, [0, 2]))
together(
    "matmul 3d rows as m",
    SEQ,
    lambda x: (
        tf.transpose(tf.matmul(weights(5, 4, 4), tf.transpose(x, [1, 2, 0])), [2, 0, 1])
        * tf.reduce_max(tf.transpose(x, [1, 2, 0]), 2)[None]
    ),
)


@pytest.mark.parametrize("name", CASES.share)
def test_rows_that_meet_are_never_concluded_to_be_apart(name: str, tmp_path: Path) -> None:
    CASES.check(name, tmp_path)


@pytest.mark.full
def test_none_of_all_is_concluded_to_be_apart(tmp_path: Path) -> None:
    CASES.check_all(tmp_path)
