"""TensorFlow models whose rows meet, in every way that we could think of."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.frameworks.tensorflow import tf
from tests.models.independence.tf_models import F64, spec, weights
from tests.models.independence.tf_together import IMG, OPEN, SEQ, Cases, X

CASES = Cases()
together = CASES.together


together("mean0", X, lambda x: x - tf.reduce_mean(x, 0))
together("mean0 neg", X, lambda x: x - tf.reduce_mean(x, -2))
together("mean all", X, lambda x: x - tf.reduce_mean(x))
together("mean dyn axis", [spec(None, 8)], lambda x: x - tf.reduce_mean(x, tf.range(tf.rank(x) - 1)))
together("axis var", X, lambda x: x - tf.reduce_mean(x, tf.cast(tf.round(tf.constant(0.1)), tf.int32)))
together("softmax0", X, lambda x: tf.nn.softmax(x, 0))
together("softmax vec", [spec(None)], lambda x: tf.nn.softmax(x))
together("cumsum0", X, lambda x: tf.cumsum(x, 0))
together("argmax0", X, lambda x: x * tf.cast(tf.argmax(x, 0), F64))
together("sort0", X, lambda x: tf.sort(x, 0))
together("topk0", X, lambda x: tf.transpose(tf.math.top_k(tf.transpose(x), tf.shape(x)[0]).values))
together("x+xT", [spec(None, None)], lambda x: x + tf.transpose(x))
together("gram", X, lambda x: tf.matmul(x, x, transpose_b=True) @ x)
together("gramT", X, lambda x: x @ tf.matmul(x, x, transpose_a=True))
together("einsum both", X, lambda x: tf.einsum("bi,bj->ij", x, x))
together("einsum bc", X, lambda x: tf.einsum("bi,ci->bc", x, x))
together("einsum bc sum", X, lambda x: tf.einsum("bi,cj->bj", x, x))
together(
    "bn train",
    IMG,
    lambda x: tf.compat.v1.nn.fused_batch_norm(tf.cast(x, tf.float32), tf.ones(3), tf.zeros(3), is_training=True)[0],
)
together(
    "bn train nchw hack",
    [spec(None, 8, dtype=tf.float32)],
    lambda x: tf.reshape(
        tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(x, [1, 8, -1, 1]),
            scale=tf.ones(8),
            offset=tf.zeros(8),
            mean=[],
            variance=[],
            is_training=True,
            data_format="NCHW",
        ).y,
        [-1, 8],
    ),
)
together("moments0", X, lambda x: x - tf.nn.moments(x, [0])[0])
together("quant max", X, lambda x: tf.round(x / tf.reduce_max(tf.abs(x)) * 127))
together("qdq", X, lambda x: tf.quantization.quantize_and_dequantize_v2(x, 0.0, 0.0, range_given=False))
together(
    "quantizev2",
    X,
    lambda x: tf.cast(
        tf.quantization.quantize(
            tf.cast(x, tf.float32),
            tf.cast(tf.reduce_min(x), tf.float32),
            tf.cast(tf.reduce_max(x), tf.float32),
            tf.qint8,
        ).output,
        tf.int32,
    ),
)
together("roll0", X, lambda x: tf.roll(x, 1, 0))
together("reverse0", X, lambda x: x[::-1])
together("reverse0b", X, lambda x: tf.reverse(x, [0]))
together("reverse -2", X, lambda x: tf.reverse(x, [-2]))
together("gather0", X, lambda x: x - tf.gather(x, [0]))
together("x[0]", X, lambda x: x - x[0])
together("x[-1]", X, lambda x: x - x[-1])
together("x[:1]", X, lambda x: x - x[:1])
together("x[1:]", X, lambda x: tf.concat([x[1:], x[:1]], 0))
together("x[::2]", X, lambda x: x[::2])
together("gathernd", X, lambda x: x - tf.gather_nd(x, [[0]]))
together("scatter", X, lambda x: tf.tensor_scatter_nd_add(x, [[0]], weights(1, 8)))
together("split0", X, lambda x: tf.concat(tf.split(x, [1, -1], 0)[::-1], 0))
together("concat0", X, lambda x: tf.concat([x, weights(1, 8)], 0)[:-1])
together("concat0 pre", X, lambda x: tf.concat([weights(1, 8), x], 0)[:-1])
together("expand0", X, lambda x: tf.nn.softmax(x[None], 1)[0])
together("tile0", X, lambda x: tf.tile(x, [2, 1]))
together("bcast", X, lambda x: tf.broadcast_to(x[0], tf.shape(x)))
together("pad0", X, lambda x: tf.pad(x, [[1, 0], [0, 0]])[:-1])
together("boolmask", X, lambda x: tf.boolean_mask(x, x[:, 0] > 0))
together("unique", [spec(None, dtype=tf.int32)], lambda x: tf.unique(x).idx)
together(
    "segment",
    X,
    lambda x: tf.gather(tf.math.segment_sum(x, tf.range(tf.shape(x)[0]) // 2), tf.range(tf.shape(x)[0]) // 2),
)
together("dynpart", X, lambda x: tf.concat(tf.dynamic_partition(x, tf.cast(x[:, 0] > 0, tf.int32), 2), 0))
together("s2b", IMG, lambda x: tf.reshape(tf.space_to_batch(x, [2, 2], [[0, 0], [0, 0]]), [-1, 8, 8, 3]))
together(
    "s2b mean",
    IMG,
    lambda x: tf.batch_to_space(
        tf.nn.softmax(tf.space_to_batch(x, [2, 2], [[0, 0], [0, 0]]), 0), [2, 2], [[0, 0], [0, 0]]
    ),
)
together(
    "b2s",
    [spec(None, 4, 4, 3)],
    lambda x: tf.batch_to_space(tf.tile(x, [4, 1, 1, 1]), [2, 2], [[0, 0], [0, 0]]) * tf.cast(tf.shape(x)[0], F64),
)
together("conv over rows", [spec(None, 8, 3)], lambda x: tf.nn.conv2d(x[None], weights(3, 3, 3, 3), 1, "SAME")[0])
together("conv1d over rows", X, lambda x: tf.nn.conv1d(x[None], weights(3, 8, 8), 1, "SAME")[0])
together("pool rows", X, lambda x: tf.nn.avg_pool1d(x[None], 3, 1, "SAME")[0])
together("scan0", X, lambda x: tf.scan(lambda h, e: h + e, x))
together("cond mean", X, lambda x: tf.cond(tf.reduce_mean(x) > 0, lambda: x * 2, lambda: x * 3))
together("cond any", X, lambda x: tf.cond(tf.reduce_any(x > 0), lambda: x * 2, lambda: x * 3))
together("cond all", X, lambda x: tf.cond(tf.reduce_all(x > 0), lambda: x * 2, lambda: x * 3))
together("cond B", X, lambda x: tf.cond(tf.shape(x)[0] > 2, lambda: x * 2, lambda: x * 3))
together(
    "cond const out",
    X,
    lambda x: x * tf.cond(tf.reduce_mean(x) > 0, lambda: tf.constant(2.0, F64), lambda: tf.constant(3.0, F64)),
)
together("while content", X, lambda x: tf.while_loop(lambda h: tf.reduce_max(h) > 1, lambda h: (h / 2,), (x,))[0])
together("while B", X, lambda x: tf.while_loop(lambda i, h: i < tf.shape(x)[0], lambda i, h: (i + 1, h * 2), (0, x))[1])
together("times B", X, lambda x: x * tf.cast(tf.shape(x)[0], F64))
together("times size", X, lambda x: x / tf.cast(tf.size(x), F64))
together("range B", X, lambda x: x + tf.cast(tf.range(tf.shape(x)[0]), F64)[:, None])
together("linspace B", X, lambda x: x + tf.linspace(tf.constant(0.0, F64), 1.0, tf.shape(x)[0])[:, None])
together("table[:B]", X, lambda x: x + weights(100, 8)[: tf.shape(x)[0]])
together("table slice", X, lambda x: x + tf.slice(weights(100, 8), [0, 0], [tf.shape(x)[0], 8]))
together("table slice at", X, lambda x: x + tf.slice(weights(100, 8), [tf.shape(x)[0], 0], [1, 8]))
together("table[B]", X, lambda x: x + weights(100, 8)[tf.shape(x)[0]])
together("table gather B", X, lambda x: x + tf.gather(weights(100, 8), tf.shape(x)[0]))
together("table split B", X, lambda x: x + tf.split(weights(100, 8), [tf.shape(x)[0], -1], 0)[0])
together("table split B2", X, lambda x: x + tf.split(weights(100, 8), [tf.shape(x)[0], 1, -1], 0)[1])
together(
    "pad cancel",
    X,
    lambda x: x + tf.reduce_sum(tf.pad(weights(5), [[tf.shape(x)[0], 9 - tf.shape(x)[0]]]) * weights(14)),
)
together("one_hot B", X, lambda x: x + tf.one_hot(tf.shape(x)[0], 8, dtype=F64))
together("one_hot depth", X, lambda x: x + tf.reduce_sum(tf.one_hot([1, 4], tf.shape(x)[0], dtype=F64)))
together("mod B", X, lambda x: x * tf.cast(tf.shape(x)[0] % 2, F64))
together("eq B", X, lambda x: tf.where(tf.shape(x)[0] == 1, x, -x))
together("reshape mix", X, lambda x: tf.reshape(tf.reshape(x, [8, -1]), [-1, 8]) + tf.transpose(tf.reshape(x, [8, -1])))
together(
    "reshape mix sum",
    X,
    lambda x: tf.transpose(tf.reduce_sum(tf.reshape(x, [2, -1, 8]), 0, keepdims=True), [1, 0, 2])[:, 0],
)
together("reshape open", OPEN, lambda x: tf.reduce_sum(tf.reshape(x, [-1, 4]), 1))
together("reshape open2", OPEN, lambda x: tf.reshape(x, [-1, 4]))
together(
    "reshape T first",
    SEQ,
    lambda x: tf.reshape(tf.nn.softmax(tf.reshape(tf.transpose(x, [1, 0, 2]), [5, -1])), [-1, 5, 4]),
)
together("transpose reshape wrong", SEQ, lambda x: tf.reshape(tf.transpose(x, [1, 0, 2]), [-1, 5, 4]))
together("B,1+B", [spec(None)], lambda x: tf.reduce_sum(x[:, None] - x, 1))
together("B+Bk", [spec(None, None), spec(None, name="z")], lambda x, z: x + z)
together("const rows", X, lambda x: x + weights(4, 8))
together("const rows1", [spec(None, 1)], lambda x: x[:, 0] + weights(4))
together("bias by row", X, lambda x: tf.transpose(tf.nn.bias_add(tf.transpose(x), weights(3))))
together("matmul W x", X, lambda x: weights(3, 3) @ x)
together("l2loss", X, lambda x: x / tf.nn.l2_loss(x))
together("l2norm all", X, lambda x: tf.math.l2_normalize(x))
together("clip global", X, lambda x: tf.clip_by_global_norm([x], 1.0)[0])
together("clip norm", X, lambda x: tf.clip_by_norm(x, 1.0))
together("standardize 3d", [spec(None, 8, 3)], lambda x: tf.image.per_image_standardization(x))
together("contrast 3d", [spec(None, 8, 3, dtype=tf.float32)], lambda x: tf.image.adjust_contrast(x, 2.0))
together("squeeze", [spec(None, 8)], lambda x: tf.squeeze(x))
together("random", X, lambda x: x + tf.random.stateless_normal([tf.shape(x)[0], 8], [1, 2], dtype=F64))
together("random var", X, lambda x: x + tf.random.stateless_uniform([tf.shape(x)[0], 8], [1, 2], dtype=F64))
together("dropout", X, lambda x: tf.nn.dropout(x, 0.5, seed=1))
together("shuffle", X, lambda x: tf.random.shuffle(x, seed=1))
together("select v1 vec", X, lambda x: tf.raw_ops.Select(condition=tf.constant([True, False, True]), x=x, y=-x))
together("assert any", X, lambda x: (tf.debugging.Assert(tf.reduce_any(x > 0), ["no"]), x * 2)[1])
together("assert mean", X, lambda x: (tf.debugging.Assert(tf.reduce_mean(x) > 0, ["no"]), x * 2)[1])
together("assert B", X, lambda x: (tf.debugging.Assert(tf.shape(x)[0] > 1, ["no"]), x * 2)[1])
together("assert not all", X, lambda x: (tf.debugging.Assert(tf.logical_not(tf.reduce_all(x > 0)), ["no"]), x * 2)[1])
together(
    "assert in cond",
    X,
    lambda x: (
        tf.cond(
            tf.reduce_all(x > 0),
            lambda: (tf.debugging.Assert(tf.reduce_all(x > 1), ["no"]), tf.constant(1))[1],
            lambda: tf.constant(1),
        ),
        x * 2,
    )[1],
)
together("pyfunc", X, lambda x: tf.ensure_shape(tf.py_function(lambda v: v - v.numpy().mean(0), [x], F64), [None, 8]))
together(
    "npfunc",
    X,
    lambda x: tf.ensure_shape(tf.numpy_function(lambda v: v - v.mean(0), [x], F64, stateful=False), [None, 8]),
)
together("mapfn", X, lambda x: tf.map_fn(lambda e: e * 2, x) * tf.cast(tf.shape(x)[0], F64))
together("foldl", X, lambda x: x + tf.foldl(lambda h, e: h + e, x))
together(
    "ta rows", X, lambda x: x + tf.TensorArray(F64, 0, dynamic_size=True, clear_after_read=False).unstack(x).read(0)
)
together("ta size B", X, lambda x: x * tf.cast(tf.TensorArray(F64, tf.shape(x)[0]).size(), F64))
together("fill B out", X, lambda x: tf.fill([tf.shape(x)[0], tf.shape(x)[0]], 1.0))
together("no rows out", X, lambda x: weights(8))
together("one row out", X, lambda x: weights(1, 8))
together("scalar out", X, lambda x: tf.reduce_sum(x))
together("T out", X, lambda x: tf.transpose(x))
together("2 outs one bad", X, lambda x: (x * 2, tf.reduce_max(x, 0)))
together("mean late", X, lambda x: (lambda h: h - tf.reduce_mean(h, 0))(tf.nn.relu(x @ weights(8, 4))))
together(
    "attention rows",
    SEQ,
    lambda x: (lambda s: tf.transpose(tf.nn.softmax(tf.matmul(s, s, transpose_b=True)) @ s, [1, 0, 2]))(
        tf.transpose(x, [1, 0, 2])
    ),
)
together("fft", X, lambda x: tf.math.real(tf.transpose(tf.signal.fft(tf.cast(tf.transpose(x), tf.complex128)))))
together(
    "matrix inv",
    [spec(None, 4)],
    lambda x: tf.linalg.inv(tf.matmul(x, x, transpose_a=True) + tf.eye(4, dtype=F64))[0] + x,
)
together("diag", [spec(None)], lambda x: tf.reduce_sum(tf.linalg.diag(x) @ tf.linalg.diag(x), 0) * tf.reduce_sum(x))
together("pairwise", X, lambda x: tf.reduce_sum(tf.abs(x[:, None] - x[None]), [1, 2]))
together("meshgrid", [spec(None)], lambda x: tf.reduce_sum(tf.meshgrid(x, x)[0], 1))
together("where idx", [spec(None)], lambda x: tf.reshape(tf.gather(x, tf.where(x < 1e300)[:, 0]), [-1])[::-1])
together("rank sort", [spec(None)], lambda x: tf.argsort(x))
together("searchsorted", [spec(None)], lambda x: tf.searchsorted(tf.sort(x), x))
together(
    "hist",
    [spec(None)],
    lambda x: x + tf.cast(tf.reduce_sum(tf.histogram_fixed_width(tf.cast(x, tf.float32), [-1.0, 1.0]))[None], F64),
)
together("in_top_k vec", [spec(None)], lambda x: tf.math.top_k(x, 1).values + x)
together(
    "nms",
    [spec(None, 4, dtype=tf.float32), spec(None, name="s", dtype=tf.float32)],
    lambda b, s: tf.gather(s, tf.image.non_max_suppression(b, s, 10)),
)
together(
    "ctx loop carry",
    X,
    lambda x: tf.while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, h + tf.reduce_mean(h, 0)), (0, x))[1],
)
together("loop roll", X, lambda x: tf.while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, tf.roll(h, 1, 0)), (0, x))[1])
together("loop idx rows", X, lambda x: tf.while_loop(lambda i, h: i < 1, lambda i, h: (i + 1, h + x[i]), (0, x))[1])
together(
    "loop transposed",
    [spec(None, None)],
    lambda x: tf.while_loop(
        lambda i, h: i < 2,
        lambda i, h: (i + 1, tf.transpose(h)),
        (0, x),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None])),
    )[1],
)
together("string join", [spec(None, dtype=tf.string)], lambda x: tf.strings.join([x, tf.strings.reduce_join(x)]))
together("string split", [spec(None, dtype=tf.string)], lambda x: tf.strings.split(x).to_tensor())
together(
    "ragged",
    [spec(None, dtype=tf.string)],
    lambda x: tf.strings.split(x).row_lengths() * tf.reduce_max(tf.strings.split(x).row_lengths()),
)
together("bincount", [spec(None, dtype=tf.int32)], lambda x: tf.gather(tf.math.bincount(x % 5, minlength=5), x % 5))
together(
    "equal shapes",
    [spec(None, None)],
    lambda x: tf.cast(tf.raw_ops.Equal(x=x, y=weights(4, 8), incompatible_shape_error=False), F64),
)
together("lookup default", X, lambda x: tf.raw_ops.Select(condition=tf.reduce_mean(x) > 0, x=x, y=-x))
together(
    "tridiag", X, lambda x: tf.nn.local_response_normalization(tf.cast(tf.transpose(x)[None, None], tf.float32))[0, 0]
)
together("space depth", [spec(None, 4, 3)], lambda x: tf.reshape(tf.nn.space_to_depth(x[None][:, :, :, :], 2), [-1]))
together(
    "reduce max seqmask",
    [spec(None, 5, 4), spec(None, name="l", dtype=tf.int32)],
    lambda x, n: x * tf.cast(tf.reduce_max(n), F64),
)
together("seq mask max", [spec(None, name="l", dtype=tf.int32)], lambda n: tf.sequence_mask(n))


@pytest.mark.parametrize("name", CASES.share)
def test_rows_that_meet_are_never_concluded_to_be_apart(name: str, tmp_path: Path) -> None:
    CASES.check(name, tmp_path)


@pytest.mark.full
def test_none_of_all_is_concluded_to_be_apart(tmp_path: Path) -> None:
    CASES.check_all(tmp_path)


@pytest.mark.parametrize("name", ["mean0", "softmax0", "gram", "qdq", "bn train", "einsum bc"])
def test_what_certainly_mixes_rows_is_said_to_be_dependent(name: str, tmp_path: Path) -> None:
    finding = CASES.concluded(name, tmp_path)
    assert finding.rows == "dependent" or name == "bn train"
    assert finding.reason.startswith("output y0: ")
