"""SavedModels whose signatures have more to them than dense inputs that must all be sent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from tests.serving.embedded.savedmodels import CLASSIFY, PREDICT, REGRESS, Signature, save, v1


class Biased(tf.Module):  # type: ignore[misc]
    """y = x + bias, as TensorFlow 2 saves a function whose argument has a default."""

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def shifted(self, x: tf.Tensor, bias: tf.Tensor = tf.constant([1.0])) -> Mapping[str, tf.Tensor]:  # noqa: B008
        return {"y": x + bias}


def scaled() -> Mapping[str, Signature]:
    """y = a + 2b + c, where b is a batch and c a number, both with a default, and the names are out of order."""
    a, b = (v1.placeholder(tf.float32, [None, 2], name=name) for name in ("zz_a", "b"))
    c = v1.placeholder(tf.float32, [], name="c")
    return {"serving_default": ({"zz_a": a, "b": b, "c": c}, {"y": a + 2 * b + c}, PREDICT)}


def every() -> Mapping[str, Signature]:
    """All inputs have defaults; one of them is a string."""
    n, word = v1.placeholder(tf.int64, [None], name="n"), v1.placeholder(tf.string, [], name="word")
    text = tf.strings.join([tf.strings.as_string(n), word])
    return {"serving_default": ({"n": n, "word": word}, {"text": text}, PREDICT)}


def nothing() -> Mapping[str, Signature]:
    """A signature without inputs, one of whose outputs has rows."""
    return {"serving_default": ({}, {"answer": tf.constant([[42.0]])}, PREDICT)}


def odd() -> Mapping[str, Signature]:
    """What the gateway cannot carry, beside what it can."""
    x = v1.placeholder(tf.float32, [None], name="x")
    free = v1.placeholder(tf.float32, name="free")
    z = v1.placeholder(tf.complex64, [None], name="z")
    q = v1.placeholder(tf.qint8, [None], name="q")
    sparse = v1.sparse_placeholder(tf.float32, [None, 3], name="s")
    ragged = v1.ragged.placeholder(tf.int64, 1, name="r")
    return {
        "serving_default": ({"x": x}, {"y": 2 * x}, PREDICT),
        "free": ({"free": free}, {"y": tf.identity(free)}, PREDICT),
        "complex": ({"z": z}, {"y": tf.math.real(z)}, PREDICT),
        "partly": ({"x": x}, {"y": 3 * x, "z": tf.complex(x, x)}, PREDICT),
        "spare": ({"x": x, "z": z}, {"y": x + tf.math.real(z)}, PREDICT),
        "quantised": ({"q": q}, {"q": tf.identity(q)}, PREDICT),
        "sparse": ({"s": sparse}, {"y": tf.sparse.reduce_sum(sparse, 1)}, PREDICT),
        "ragged": ({"r": ragged}, {"n": ragged.row_lengths()}, PREDICT),
    }


def tasks() -> Mapping[str, Signature]:
    """Classify and regress signatures over three input tensors; `both` needs two of them to be fed."""

    def parsed(name: str) -> tuple[tf.Tensor, tf.Tensor]:
        examples = v1.placeholder(tf.string, [None], name=name)
        features = v1.io.parse_example(examples, {"x": tf.io.FixedLenFeature([1], tf.float32)})
        return examples, features["x"]

    (one, x), (two, z), (three, w) = parsed("one"), parsed("two"), parsed("three")
    return {
        "doubled": ({"inputs": one}, {"outputs": 2 * x}, REGRESS),
        "tripled": ({"inputs": two}, {"outputs": 3 * z}, REGRESS),
        "squared": ({"inputs": three}, {"scores": w * w}, CLASSIFY),
    }


#: What inputs are if they are not sent, by model and signature.
DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "scaled": {"serving_default": {"b": [[10, 20]], "c": 3}},
    "every": {"serving_default": {"n": [7, 8], "word": b"!"}},
    "odd": {"spare": {"z": [1j]}},
}


def save_all(store: Path) -> dict[str, Path]:
    """The models by name, each in version 1."""
    for build in (scaled, every, nothing, odd, tasks):
        save(store / build.__name__ / "1", build, DEFAULTS.get(build.__name__, {}))
    module = Biased()
    tf.saved_model.save(module, str(store / "biased" / "1"), signatures=module.shifted)
    return {name: store / name for name in ("scaled", "every", "nothing", "odd", "tasks", "biased")}
