"""SavedModels as exporters write them: Keras, tf.Module, TensorFlow 1, tables, state, defaults, odd signatures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorflow.core.protobuf import saved_model_pb2

from models.artifacts import Store
from models.catalog import CATALOG
from models.frameworks.tensorflow import keras, quiet_stderr, tf
from models.importing.independence.tf_graph import analyse
from tests.models.independence.tf_models import F64, named, save, spec, weights, write

v1 = tf.compat.v1
layers = keras.layers
X = [spec(None, 4)]


@contextmanager
def edited(folder: Path) -> Iterator[Any]:
    file = folder / "saved_model.pb"
    proto = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    yield proto.meta_graphs[0]
    file.write_bytes(proto.SerializeToString())


def exported(model: Any, folder: Path) -> Path:
    with quiet_stderr():
        model.export(str(folder), verbose=False)
    return folder


def of_tensorflow_1(folder: Path, build: Callable[[Any], Any], shape: tuple[int | None, ...] = (None, 4)) -> Path:
    """A graph with references and old control flow, saved by a session."""
    with tf.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(1)
        v1.disable_control_flow_v2()
        try:
            x = v1.placeholder(tf.float32, shape, "x")
            y = build(x)
        finally:
            v1.enable_control_flow_v2()
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(folder))
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    return folder


def conclusion(folder: Path) -> str:
    return analyse(folder).rows


# -- nets of strangers ------------------------------------------------------------------------------------------------


def recurrent() -> Any:
    cells = layers.Bidirectional(layers.GRU(3, return_sequences=True))
    return keras.Sequential(
        [keras.Input((None,)), layers.Embedding(9, 4, mask_zero=True), cells, layers.LSTM(3), layers.Dense(2)]
    )


def transformer() -> Any:
    words = keras.Input((None,), dtype="int32")
    x = layers.Embedding(9, 8, mask_zero=True)(words)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True))
    return keras.Model(words, layers.Dense(3)(layers.GlobalAveragePooling1D()(x + layers.Dense(8, "gelu")(x))))


def convolutional() -> Any:
    image = keras.Input((None, None, 3))
    fine = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", activation="relu")(image))
    coarse = layers.SeparableConv2D(8, 3, padding="same", dilation_rate=2)(layers.MaxPooling2D()(fine))
    up = layers.Conv2DTranspose(4, 3, strides=2, padding="same")(coarse)
    both = layers.Concatenate()([fine, layers.UpSampling2D(interpolation="bilinear")(coarse), layers.Dropout(0.5)(up)])
    return keras.Model(image, [layers.Conv2D(1, 1)(both), layers.Dense(2)(layers.GlobalMaxPooling2D()(both))])


def of_words() -> Any:
    word = keras.Input((1,), dtype="string")
    found = layers.StringLookup(vocabulary=["a", "b"])(word)
    hashed = layers.Hashing(5)(word)
    return keras.Model(word, layers.Flatten()(layers.Embedding(5, 4)(found) + layers.Embedding(5, 4)(hashed)))


def pretrained() -> Any:
    return keras.applications.MobileNetV2((64, 64, 3), weights=None, classes=5, alpha=0.35)


def residual() -> Any:
    return keras.applications.ResNet50(input_shape=(None, None, 3), weights=None, include_top=False, pooling="avg")


def steps_of_images() -> Any:
    return keras.Sequential(
        [
            keras.Input((5, 8, 8, 1)),
            layers.TimeDistributed(layers.Conv2D(4, 3)),
            layers.ConvLSTM2D(2, 3),
            layers.GroupNormalization(2),
            layers.Flatten(),
        ]
    )


@pytest.mark.parametrize(
    "build",
    [
        of_words,
        pytest.param(transformer, marks=pytest.mark.full),
        pytest.param(recurrent, marks=pytest.mark.full),
        pytest.param(convolutional, marks=pytest.mark.full),
        pytest.param(steps_of_images, marks=pytest.mark.full),
        pytest.param(pretrained, marks=pytest.mark.full),
        pytest.param(residual, marks=pytest.mark.full),
    ],
)
def test_usual_nets_of_keras_are_independent(build: Callable[[], Any], tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    finding = analyse(exported(build(), tmp_path))
    assert finding.rows == "independent", finding.reason


def test_batch_normalisation_that_still_trains_is_not_independent(tmp_path: Path) -> None:
    normal = layers.BatchNormalization()
    normal.build((None, 4))
    module = tf.Module()
    module.normal = normal
    module.serve = tf.function(
        lambda x: {"y": normal(x, training=True)}, input_signature=[spec(None, 4, dtype=tf.float32)]
    )
    with quiet_stderr():
        tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.serve})
    assert conclusion(tmp_path) != "independent"


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_nine_of_the_ten_documented_models_are_independent(name: str, trained: Store) -> None:
    """Only the text classifier lays the bytes of all rows end to end, which no look at single operations resolves."""
    for version in trained.root.glob(f"tensorflow/{name}/*"):
        finding = analyse(version)
        assert finding.rows == ("unknown" if name == "text_classifier" else "independent"), finding.reason


# -- state ------------------------------------------------------------------------------------------------------------


class Counting(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen = tf.Variable(0.0, dtype=F64)

    def __call__(self, x: Any) -> Any:
        self.seen.assign_add(1.0)
        return x * 2


class Remembering(Counting):
    def __call__(self, x: Any) -> Any:
        self.seen.assign(tf.reduce_mean(x))
        return x - self.seen


class Noisy(Counting):
    def __init__(self) -> None:
        super().__init__()
        self.noise = tf.random.Generator.from_seed(1)

    def __call__(self, x: Any) -> Any:
        return x + self.noise.normal(tf.shape(x), dtype=F64)


class Learning(Counting):
    def __init__(self) -> None:
        super().__init__()
        self.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float64, 0.0)

    def __call__(self, x: Any) -> Any:
        self.table.insert(tf.cast(x[:, 0], tf.int64), x[:, 1])
        return self.table.lookup(tf.cast(x[:, 2], tf.int64))


class OfAnyShape(Counting):
    def __init__(self) -> None:
        super().__init__()
        self.bias = tf.Variable(np.ones((4,)), shape=tf.TensorShape(None))

    def __call__(self, x: Any) -> Any:
        return x + self.bias


class OfOpenRows(OfAnyShape):
    def __init__(self) -> None:
        super().__init__()
        self.bias = tf.Variable(np.ones((1, 4)), shape=tf.TensorShape([None, 4]))


@pytest.mark.parametrize("module", [Counting, Remembering, Noisy, Learning, OfAnyShape, OfOpenRows])
def test_state_and_variables_of_any_shape_are_unknown(module: type[Counting], tmp_path: Path) -> None:
    """The kind: what a call keeps, draws or finds may differ from call to call, or have as many rows as it likes."""
    assert conclusion(save(module(), X, tmp_path)) == "unknown"


def test_the_reason_names_the_operation_and_its_node(tmp_path: Path) -> None:
    finding = analyse(write(lambda x: tf.unique(x[:, 0], name="kinds").idx, X, tmp_path))
    assert "Unique (kinds)" in finding.reason


# -- TensorFlow 1 -----------------------------------------------------------------------------------------------------


def plain(x: Any) -> Any:
    return tf.nn.relu(x @ v1.get_variable("w", (4, 3), use_resource=False))


def switched_off(x: Any) -> Any:
    training = v1.placeholder_with_default(False, ())
    return v1.cond(training, lambda: x - tf.reduce_mean(x, 0), lambda: x * 2)


def switched_on(x: Any) -> Any:
    training = v1.placeholder_with_default(True, ())
    return v1.cond(training, lambda: x - tf.reduce_mean(x, 0), lambda: x * 2)


def by_contents(x: Any) -> Any:
    return v1.cond(tf.reduce_mean(x) > 0, lambda: x * 2, lambda: x)


def constants_by_contents(x: Any) -> Any:
    return x * v1.cond(tf.reduce_mean(x) > 0, lambda: tf.constant(2.0), lambda: tf.constant(3.0))


def counted(x: Any) -> Any:
    return x + v1.assign_add(v1.get_variable("n", (), use_resource=False), 1.0)


def written_beside(x: Any) -> Any:
    kept = v1.get_variable("n", (4,), use_resource=False)
    with tf.control_dependencies([v1.assign(kept, tf.reduce_mean(x, 0))]):
        return x + tf.identity(kept)


def old_loop(x: Any) -> Any:
    return v1.while_loop(lambda i, _h: i < 3, lambda i, h: (i + 1, h - tf.reduce_mean(h, 0)), (0, x))[1]


def unfed(x: Any) -> Any:
    return x + v1.placeholder(tf.float32, (None, 4), "other")


@pytest.mark.parametrize("build", [plain, switched_off])
def test_graphs_of_tensorflow_1_can_be_independent(build: Callable[[Any], Any], tmp_path: Path) -> None:
    finding = analyse(of_tensorflow_1(tmp_path / "saved", build))
    assert finding.rows == "independent", finding.reason


@pytest.mark.parametrize(
    "build", [switched_on, by_contents, constants_by_contents, counted, written_beside, old_loop, unfed]
)
def test_graphs_of_tensorflow_1_whose_rows_meet_are_not(build: Callable[[Any], Any], tmp_path: Path) -> None:
    """The kind: references that are written to, branches and loops of single operations, inputs that nobody feeds."""
    assert conclusion(of_tensorflow_1(tmp_path / "saved", build)) != "independent"


# -- signatures -------------------------------------------------------------------------------------------------------


def test_left_out_attributes_have_their_defaults(tmp_path: Path) -> None:
    """FusedBatchNormV3 trains unless it is told not to, and exporters leave out what is the default."""

    def normalised(x: Any) -> Any:
        return tf.raw_ops.FusedBatchNormV3(
            x=x, scale=tf.ones(3), offset=tf.zeros(3), mean=[], variance=[], is_training=True
        ).y

    folder = write(normalised, [spec(None, 4, 4, 3, dtype=tf.float32)], tmp_path)
    with edited(folder) as meta:
        for node in meta.graph_def.node:
            if node.op == "FusedBatchNormV3":
                del node.attr["is_training"]
    assert conclusion(folder) == "dependent"


@pytest.mark.parametrize(
    ("specs", "forward"),
    [
        ([spec(2, 4)], lambda x: x * 2),
        ([spec()], lambda x: x * 2),
        ([spec(None, 4), spec(1, 4, name="bias")], lambda x, bias: x + bias),
        ([spec(None, 4), spec(name="training", dtype=tf.bool)], lambda x, training: tf.where(training, x, -x)),
        ([tf.TensorSpec(None, F64, "x")], lambda x: x * 2),
        ([], lambda: weights(1, 4)),
        (
            [spec(None, 8, name="query"), spec(None, 8, name="candidates")],
            lambda q, c: tf.matmul(q, c, transpose_b=True),
        ),
        ([spec(None, 8, name="query"), spec(None, 8, name="candidates")], lambda q, c: (q * 2, q @ tf.transpose(c))),
    ],
)
def test_signatures_without_a_row_in_each_input_and_output(specs: Any, forward: Any, tmp_path: Path) -> None:
    """The kind: an input or output that does not hold one entry for each row along its first axis."""
    assert conclusion(write(forward, specs, tmp_path)) != "independent"


def test_an_input_that_has_a_default_is_unknown(tmp_path: Path) -> None:
    folder = write(lambda x, bias: x + bias, [spec(None, 4), spec(None, 4, name="bias")], tmp_path)
    assert conclusion(folder) == "independent"
    with edited(folder) as meta:
        meta.signature_def["serving_default"].defaults["bias"].CopyFrom(tf.make_tensor_proto(np.zeros((1, 4))))
    finding = analyse(folder)
    assert (finding.rows, "bias" in finding.reason) == ("unknown", True)


def test_shapes_are_those_that_the_signature_promises(tmp_path: Path) -> None:
    """The gateway checks requests against the signature: what a placeholder says beyond it is not to be relied on."""
    folder = write(lambda x: tf.reshape(x, [-1, 4]) * 2, [spec(None, 2, 2)], tmp_path)
    assert conclusion(folder) == "independent"
    with edited(folder) as meta:
        meta.signature_def["serving_default"].inputs["x"].tensor_shape.dim[1].size = -1
    assert conclusion(folder) == "unknown"


def test_other_signatures_are_looked_at_by_name(tmp_path: Path) -> None:
    folder = write(lambda x: x - tf.reduce_mean(x, 0), X, tmp_path)
    assert analyse(folder, "serving_default").rows == "dependent"
    assert analyse(folder, "other").rows == "unknown"


def test_what_is_no_savedmodel_is_unknown(tmp_path: Path) -> None:
    assert conclusion(tmp_path) == "unknown"
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff\xff")
    assert conclusion(tmp_path) == "unknown"
    folder = write(lambda x: x * 2, X, tmp_path / "tags")
    with edited(folder) as meta:
        meta.meta_info_def.tags.append("tpu")  # the server loads the graph that has the tag `serve` and no other
    assert conclusion(folder) == "unknown"


def test_operations_that_tensorflow_does_not_know_are_unknown(tmp_path: Path) -> None:
    folder = write(lambda x: tf.tanh(x) * 2, X, tmp_path)
    with edited(folder) as meta:
        for node in meta.graph_def.node:
            node.op = "OfSomebodyElse" if node.op == "Tanh" else node.op
    assert analyse(folder).rows == "unknown"
    assert "OfSomebodyElse" in analyse(folder).reason


def test_functions_that_call_themselves_come_to_an_end(tmp_path: Path) -> None:
    inner = tf.function(lambda v: v * 2)
    folder = write(lambda x: inner(x), X, tmp_path)
    with edited(folder) as meta:
        (function,) = meta.graph_def.library.function
        call = next(node for node in meta.graph_def.node if "PartitionedCall" in node.op)
        again = function.node_def.add()
        again.CopyFrom(call)
        again.name, again.input[:] = "again", [function.signature.input_arg[0].name]
        function.ret[function.signature.output_arg[0].name] = "again:output:0"
    assert conclusion(folder) == "unknown"


def test_the_signature_that_tf_module_exports_is_followed_into_its_functions(tmp_path: Path) -> None:
    module = tf.Module()
    module.w = tf.Variable(np.ones((4, 2)))
    module.inner = tf.function(lambda x: tf.nn.relu(x @ module.w))
    module.serve = tf.function(lambda x: named(module.inner(x) - module.inner(x * 2)), input_signature=X)
    with quiet_stderr():
        tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.serve})
    assert conclusion(tmp_path) == "independent"
