"""TensorFlow models whose rows meet where sizes, lists and loops hide it."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.frameworks.tensorflow import tf
from tests.models.independence.tf_models import F64, spec, weights
from tests.models.independence.tf_together import IMG, SEQ, Cases, X

CASES = Cases()
together = CASES.together


def dyn(x):
    ta = tf.TensorArray(F64, 0, dynamic_size=True)
    for i in range(3):
        ta = ta.write(i, x * i)
    return tf.reshape(ta.stack(), [tf.shape(x)[0], -1])


together("dyn stack reshape", X, dyn)


def push(x):
    h = tf.raw_ops.EmptyTensorList(element_shape=tf.constant([-1, 8]), max_num_elements=-1, element_dtype=F64)
    h = tf.raw_ops.TensorListPushBack(input_handle=h, tensor=x)
    h = tf.raw_ops.TensorListPushBack(input_handle=h, tensor=x * 2)
    return tf.reshape(
        tf.raw_ops.TensorListStack(
            input_handle=h, element_shape=tf.constant([-1, 8]), element_dtype=F64, num_elements=-1
        ),
        [-1, 2, 8],
    )[:, 0]


together("push stack wrong", X, push)


def pushr(x):
    h = tf.raw_ops.EmptyTensorList(element_shape=tf.constant([-1, 8]), max_num_elements=-1, element_dtype=F64)
    h = tf.raw_ops.TensorListPushBack(input_handle=h, tensor=x)
    h = tf.raw_ops.TensorListPushBack(input_handle=h, tensor=x[::-1])
    h, _ = tf.raw_ops.TensorListPopBack(input_handle=h, element_shape=tf.constant([-1, 8]), element_dtype=F64)
    return tf.raw_ops.TensorListPopBack(input_handle=h, element_shape=tf.constant([-1, 8]), element_dtype=F64)[1]


together("push mixed (truth apart)", X, pushr)


def concat_list(x):
    h = tf.raw_ops.TensorListFromTensor(tensor=tf.transpose(x), element_shape=tf.constant([-1]))
    return tf.reshape(
        tf.raw_ops.TensorListConcatV2(
            input_handle=h, element_shape=tf.constant([-1]), leading_dims=tf.constant([], tf.int64), element_dtype=F64
        ).tensor,
        [-1, 8],
    )


together("list concat", X, concat_list)


def nested(x):
    def outer(i, h):
        _, h = tf.while_loop(
            lambda j, h: j < 2, lambda j, h: (j + 1, h - tf.reduce_mean(h, 0) * tf.cast(j, F64)), (0, h)
        )
        return i + 1, h

    return tf.while_loop(lambda i, h: i < 2, outer, (0, x))[1]


together("nested loop", X, nested)


def grow(x):
    _, h = tf.while_loop(
        lambda i, h: i < 2,
        lambda i, h: (i + 1, tf.concat([h, h], 1)),
        (0, x),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None])),
    )
    return tf.reshape(h, [-1, 8])


together("grow reshape", X, grow)


def grow2(x):
    def body(i, h, n):
        h2 = tf.concat([h, h], 1)
        return i + 1, h2, tf.shape(h)[1]

    _, h, n = tf.while_loop(
        lambda i, h, n: i < 2,
        body,
        (0, x, 8),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None]), tf.TensorShape([])),
    )
    return tf.reshape(h, [-1, n])


together("grow size late", X, grow2)


def grow3(x):
    def body(i, h, n):
        h2 = tf.concat([h, h], 1)
        return i + 1, h2, tf.shape(h2)[1]

    _, h, n = tf.while_loop(
        lambda i, h, n: i < 2,
        body,
        (0, x, 8),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None]), tf.TensorShape([])),
    )
    return tf.reshape(h, [-1, n // 2])


together("grow size half", X, grow3)


def listgrow(x):
    h = tf.raw_ops.TensorListReserve(element_shape=tf.constant([-1, -1]), num_elements=3, element_dtype=F64)

    def body(i, h, v):
        v2 = tf.concat([v, v], 1)
        h = tf.raw_ops.TensorListSetItem(input_handle=h, index=i, item=v2)
        return i + 1, h, v2

    h = tf.raw_ops.TensorListSetItem(input_handle=h, index=0, item=x)
    _, h, _ = tf.while_loop(
        lambda i, h, v: i < 3,
        body,
        (1, h, x),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape(None), tf.TensorShape([None, None])),
    )
    first = tf.raw_ops.TensorListGetItem(
        input_handle=h, index=0, element_shape=tf.constant([-1, -1]), element_dtype=F64
    )
    last = tf.raw_ops.TensorListGetItem(input_handle=h, index=2, element_shape=tf.constant([-1, -1]), element_dtype=F64)
    return tf.reshape(last, [-1, tf.shape(first)[1]])


together("list of growing", X, listgrow)


def two_frames(x):
    @tf.function
    def g(v, n):
        return tf.while_loop(
            lambda i, h: i < n,
            lambda i, h: (i + 1, tf.concat([h, h], 1)),
            (0, v),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None])),
        )[1]

    p, q = g(x, 1), g(x, 2)
    return tf.reshape(q, [-1, tf.shape(p)[1]])


together("two calls of one loop", X, two_frames)


def uniq(x):
    k = tf.unique(tf.constant([1, 2, 2, 3])).y
    return tf.reshape(tf.gather(x, k, axis=1), [-1, 4])


together("shared unique reshape", [spec(None, 8)], uniq)


def cond_shape(x):
    h = tf.cond(tf.shape(x)[1] > 4, lambda: tf.concat([x, x], 1), lambda: x)
    return tf.reshape(h, [-1, tf.shape(x)[1]])


together("branch sizes", [spec(None, None)], cond_shape)
together("maximum B", X, lambda x: tf.reshape(x, [tf.maximum(tf.shape(x)[0], 2), -1]))
together("min B", X, lambda x: tf.reduce_sum(x) * 0 + x[: tf.minimum(tf.shape(x)[0], 2)][0] + x)
together("B-1", X, lambda x: tf.pad(x[: tf.shape(x)[0] - 1], [[1, 0], [0, 0]]))
together("B//2", X, lambda x: tf.concat([x[tf.shape(x)[0] // 2 :], x[: tf.shape(x)[0] // 2]], 0))
together("where shape", X, lambda x: tf.reshape(x, tf.where(tf.shape(x) > 3, tf.shape(x), -tf.ones_like(tf.shape(x)))))
together("prod shape", SEQ, lambda x: tf.reshape(x, [tf.reduce_prod(tf.shape(x)[:2]), -1]))
together("rev shape", [spec(None, None)], lambda x: tf.reshape(x, tf.reverse(tf.shape(x), [0])))
together("rev shape tr", [spec(None, None)], lambda x: tf.transpose(tf.reshape(x, tf.reverse(tf.shape(x), [0]))))
together("sort shape", [spec(None, None)], lambda x: tf.reshape(x, tf.sort(tf.shape(x))))
together("cumsum shape", [spec(None, None)], lambda x: x * tf.cast(tf.cumsum(tf.shape(x)), F64)[1])
together("shape diff", [spec(None, None)], lambda x: x * tf.cast(tf.shape(x)[0] - tf.shape(x)[1], F64))
together("other input B", [spec(None, 8), spec(None, 8, name="z")], lambda x, z: x * tf.cast(tf.shape(z)[0], F64))
together("T of other", [spec(None, None), spec(None, None, name="z")], lambda x, z: tf.reshape(x, [-1, tf.shape(z)[1]]))
together(
    "bcast T", [spec(None, None), spec(None, None, name="z")], lambda x, z: tf.reshape(x * z, [-1, tf.shape(x)[1]])
)
together("bcast 1", [spec(None, None, 4), spec(None, 4, name="z")], lambda x, z: x + z)
together(
    "bcast leading", [spec(None, None, 4), spec(None, None, name="z")], lambda x, z: tf.reduce_sum(x, -1)[None] + z
)
together("rank0 reduce", [spec(None)], lambda x: tf.reduce_sum(x) + x)
together(
    "matvec",
    [spec(None, 8), spec(None, name="z")],
    lambda x, z: x * tf.reduce_sum(tf.linalg.matvec(x, z, transpose_a=True)),
)
together("einsum 3", [spec(None, 8), spec(None, 8, name="z")], lambda x, z: tf.einsum("bi,bj,ci->bj", x, z, x))
together("einsum ell rows", [spec(None, 5, 8)], lambda x: tf.einsum("...ij,kij->...i", x, x))
together("einsum ell rows2", [spec(None, 5, 5)], lambda x: tf.einsum("...ij,j...k->...ik", x, x))
together(
    "batch matmul bc",
    [spec(None, 5, 5)],
    lambda x: tf.matmul(x, tf.reshape(tf.transpose(x, [1, 0, 2]), [1, 5, -1]))[:, :, :5],
)
together("batch matmul shared n", [spec(None, 5, 5)], lambda x: tf.matmul(x, weights(3, 5, 5)))
together("bmm rank", [spec(None, 5)], lambda x: tf.matmul(weights(3, 5, 5), x, transpose_b=True)[0] * tf.reduce_sum(x))
together(
    "transposed norm",
    [spec(None, 4, 4)],
    lambda x: tf.nn.softmax(tf.transpose(x, [1, 2, 0]))[0] + tf.transpose(x, [1, 2, 0])[0],
)
together(
    "conv nchw as rows",
    [spec(None, 4, 4, 3)],
    lambda x: tf.transpose(tf.nn.conv2d(tf.transpose(x, [1, 2, 0, 3]), weights(1, 2, 3, 3), 1, "SAME"), [2, 0, 1, 3]),
)
together(
    "depthwise rows as channel",
    [spec(None, 4)],
    lambda x: tf.nn.depthwise_conv2d(tf.transpose(x)[None, None], weights(1, 3, 3, 1), [1, 1, 1, 1], "SAME")[0, 0],
)
together(
    "lrn channel rows",
    [spec(None, 4, 4)],
    lambda x: tf.transpose(
        tf.nn.local_response_normalization(tf.cast(tf.transpose(x, [1, 2, 0])[None], tf.float32))[0], [2, 0, 1]
    ),
)
together("maxpool rows w", [spec(None, 4, 4)], lambda x: tf.nn.max_pool2d(x[None], 2, 1, "SAME")[0])
together("d2s rows", [spec(None, 2, 8)], lambda x: tf.nn.depth_to_space(x[None], 2)[0])
together("pool batch ksize", IMG, lambda x: tf.nn.max_pool2d(tf.transpose(x, [3, 0, 1, 2]), [1, 2, 1, 1], 1, "SAME")[0])
together(
    "gather batch dims mix",
    [spec(None, 5, 4), spec(None, 2, name="i", dtype=tf.int32)],
    lambda x, i: tf.gather(tf.transpose(x, [1, 0, 2])[:4], tf.minimum(tf.transpose(i), 0), batch_dims=0, axis=1)[0, 0],
)
together(
    "sparse softmax xent mean",
    [spec(None, 8), spec(None, name="l", dtype=tf.int32)],
    lambda x, n: x * tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(n, x)),
)
together(
    "lookup reduce", [spec(None, dtype=tf.string)], lambda x: tf.strings.length(x) + tf.reduce_max(tf.strings.length(x))
)
together("vectorized_map", X, lambda x: tf.vectorized_map(lambda e: e - tf.reduce_mean(x, 0), x))
together(
    "gradient of sum sq",
    X,
    lambda x: tf.gradients(tf.reduce_sum(tf.square(x - tf.reduce_mean(x, 0, keepdims=True)) ** 2), x)[0],
)
together("hessian", X, lambda x: tf.gradients(tf.reduce_sum(x @ tf.transpose(x)), x)[0])
together("stft", [spec(None)], lambda x: tf.abs(tf.signal.stft(tf.cast(x, tf.float32), 4, 2))[:, 0])
together("frame", [spec(None)], lambda x: tf.signal.frame(x, 2, 1, pad_end=True)[:, 1])
together(
    "sliding", SEQ, lambda x: tf.image.extract_patches(x[None], [1, 3, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], "SAME")[0]
)
together(
    "crop",
    IMG,
    lambda x: tf.image.crop_and_resize(
        tf.cast(x, tf.float32), tf.constant([[0.0, 0.0, 1.0, 1.0]]), tf.constant([0]), [8, 8]
    ),
)
together("random crop", IMG, lambda x: tf.image.stateless_random_crop(x, [tf.shape(x)[0], 4, 4, 3], [1, 2]))
together("flip 3d", [spec(None, 4, 3)], lambda x: tf.image.flip_up_down(x))
together("rot 3d", [spec(None, 4, 3)], lambda x: tf.image.rot90(tf.concat([x, x], 1)[:, :4]))
together("hist eq", X, lambda x: x - tf.nn.moments(tf.reshape(x, [-1]), 0)[0])
together("total variation", IMG, lambda x: x * tf.reduce_sum(tf.image.total_variation(x)))
together("psnr", IMG, lambda x: x * tf.cast(tf.reduce_mean(tf.image.psnr(x, x * 2, 1.0)), F64))


@pytest.mark.parametrize("name", CASES.share)
def test_rows_that_meet_are_never_concluded_to_be_apart(name: str, tmp_path: Path) -> None:
    CASES.check(name, tmp_path)


@pytest.mark.full
def test_none_of_all_is_concluded_to_be_apart(tmp_path: Path) -> None:
    CASES.check_all(tmp_path)
