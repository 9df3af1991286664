"""Small SavedModels with known answers, made as TensorFlow Serving's test data are: TF1 graphs, named signatures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

v1 = tf.compat.v1
#: Inputs, outputs, the method's name.
Signature = tuple[Mapping[str, tf.Tensor], Mapping[str, tf.Tensor], str]
#: What inputs are if they are not sent, by the signature's name; the builder has no argument for it.
DEFAULTS = {"defaulted": {"b": [[7, 7]]}}
PREDICT, CLASSIFY, REGRESS = (f"tensorflow/serving/{name}" for name in ("predict", "classify", "regress"))
#: Types that every server must take in and give back, as the signatures of `types` are named.
TYPES = ("float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64")
TYPES += ("uint8", "uint16", "uint32", "uint64", "bool", "complex64", "complex128")


def save(
    folder: Path,
    build: Callable[[], Mapping[str, Signature]],
    defaults: Mapping[str, Mapping[str, Any]] = DEFAULTS,
) -> Path:
    """Beside its place first, then renamed: a server that looks on never sees half of it."""
    beside = folder.parent.parent / f".{folder.parent.name}-{folder.name}"
    with tf.Graph().as_default(), v1.Session() as session:
        signatures = {
            name: v1.saved_model.build_signature_def(
                {key: v1.saved_model.build_tensor_info(tensor) for key, tensor in inputs.items()},
                {key: v1.saved_model.build_tensor_info(tensor) for key, tensor in outputs.items()},
                method,
            )
            for name, (inputs, outputs, method) in build().items()
        }
        for name, values in defaults.items():
            for key, value in values.items() if name in signatures else ():
                signatures[name].defaults[key].CopyFrom(tf.make_tensor_proto(value, signatures[name].inputs[key].dtype))
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(beside))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures, strip_default_attrs=True)
        builder.save()
    folder.parent.mkdir(parents=True, exist_ok=True)
    return beside.rename(folder)


def half_plus(offset: float) -> Callable[[], Mapping[str, Signature]]:
    """y = x / 2 + offset, y2 = x / 2 + offset + 1; with classify and regress signatures over tf.Examples."""

    def build() -> Mapping[str, Signature]:
        examples = v1.placeholder(tf.string, name="tf_example")
        parsed = v1.io.parse_example(examples, {"x": tf.io.FixedLenFeature([1], tf.float32)})
        x = tf.ensure_shape(parsed["x"], [None, 1], name="x")
        half = v1.get_variable("a", initializer=0.5)
        y = tf.add(tf.multiply(half, x), offset, name="y")
        y2 = tf.add(tf.multiply(half, x), offset + 1, name="y2")
        names = tf.fill(tf.shape(y), "label")
        return {
            "serving_default": ({"x": x}, {"y": y}, PREDICT),
            "regress_x_to_y": ({"inputs": examples}, {"outputs": y}, REGRESS),
            "regress_x_to_y2": ({"inputs": examples}, {"outputs": y2}, REGRESS),
            "classify_x_to_y": ({"inputs": examples}, {"scores": y}, CLASSIFY),
            "classify_named": ({"inputs": examples}, {"scores": y, "classes": names}, CLASSIFY),
        }

    return build


def sums() -> Mapping[str, Signature]:
    """Two inputs of two types, two outputs; and a total without a batch dimension."""
    a = v1.placeholder(tf.float32, [None, 2], name="a")
    b = v1.placeholder(tf.int64, [None, 2], name="b")
    outputs = {"sum": a + tf.cast(b, tf.float32), "difference": tf.cast(a, tf.int64) - b}
    return {
        "serving_default": ({"a": a, "b": b}, outputs, PREDICT),
        "defaulted": ({"a": a, "b": b}, {"sum": outputs["sum"]}, PREDICT),
        "total": ({"a": a, "b": b}, {"total": tf.reduce_sum(a)}, PREDICT),
        "uneven": ({"a": a, "b": b}, {"a": tf.identity(a), "first": a[:1]}, PREDICT),
    }


def text() -> Mapping[str, Signature]:
    """Strings as they came, once as text and once as bytes."""
    s = v1.placeholder(tf.string, name="s")
    return {
        "serving_default": ({"s": s}, {"s": tf.identity(s), "s_bytes": tf.identity(s)}, PREDICT),
        "plain": ({"s": s}, {"s": tf.identity(s)}, PREDICT),
        "bytes": ({"s": s}, {"s_bytes": tf.identity(s)}, PREDICT),
    }


def types() -> Mapping[str, Signature]:
    """Every type's identity, and reciprocals, which are not always finite."""
    signatures = {}
    for name in TYPES:
        tensor = v1.placeholder(tf.as_dtype(name), name=name)
        signatures[name] = ({"x": tensor}, {"y": tf.identity(tensor)}, PREDICT)
    z = v1.placeholder(tf.float32, name="z")
    return {**signatures, "reciprocal": ({"z": z}, {"r": 1 / z}, PREDICT)}


def slow() -> Mapping[str, Signature]:
    """As many products of matrices as asked for, one after the other."""
    n = v1.placeholder(tf.int32, [], name="n")
    ones = tf.ones([128, 128])
    _, product = tf.while_loop(lambda i, a: i < n, lambda i, a: (i + 1, a @ ones / 128), [0, ones])
    return {"serving_default": ({"n": n}, {"mean": tf.reduce_mean(product)}, PREDICT)}


def lite(folder: Path) -> bytes:
    """Of a SavedModel. The converter warns of what it will not be any more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tf.lite.TFLiteConverter.from_saved_model(str(folder)).convert()
