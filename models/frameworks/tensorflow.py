"""TensorFlow: trains the Keras twin, exports it as a SavedModel."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.spec import Adversary, Array, Hyperparameters, Loss, ModelSpec, Split
from models.weights import Weights, check, check_all, draw_all


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what native code writes to file descriptor 2, and show it if the block fails.

    TensorFlow's first lines (oneDNN, missing CUDA) are written before TF_CPP_MIN_LOG_LEVEL is looked at.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held_back:
        kept = os.dup(2)
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            held_back.seek(0)
            os.write(kept, held_back.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"  # wins over a backend chosen in ~/.keras/keras.json
with quiet_stderr():
    import keras
    import tensorflow as tf

if TYPE_CHECKING:
    from tensorflow import Tensor, Variable

# Also chosen in ~/.keras/keras.json, and the artifacts must not depend on it.
keras.config.set_floatx("float32")
keras.config.set_image_data_format("channels_last")
tf.get_logger().setLevel("ERROR")
tf.config.set_visible_devices([], "GPU")
tf.config.experimental.enable_op_determinism()

DTYPES = {"FP32": tf.float32, "FP64": tf.float64, "INT32": tf.int32, "INT64": tf.int64, "BYTES": tf.string}
# The same of the kernels in the cell of a recurrent layer; PyTorch numbers its layers, and these have one.
CELL_PARTS = {"kernel": "weight_ih_l0", "recurrent_kernel": "weight_hh_l0"}
# Keras names a layer's variables by their part in it; the canonical names are PyTorch's. Others are alike in both.
PARTS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "embeddings": "weight",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# From Keras's [in, out] and [h, w, in, out] to [out, in] and [out, in, h, w], by rank; `argsort` of one is its inverse.
TO_CANONICAL = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
SMALLEST_PROBABILITY = 1e-7


def twin(spec: ModelSpec, weights: Weights) -> TensorFlowTwin:
    return TensorFlowTwin(spec, weights)


def libraries() -> dict[str, str]:
    return {"tensorflow": tf.__version__, "keras": keras.__version__}


class TensorFlowTwin:
    def __init__(self, spec: ModelSpec, weights: Weights) -> None:
        self._spec = spec
        self._model = spec.tensorflow()
        check(spec, weights)
        check(spec, canonical(self._model.weights))
        assign(self._model, weights)
        learner = Learner(self._model, spec.hyperparameters)
        objective = Contest(learner, spec.adversary) if spec.adversary else Imitation(learner)
        self._train = tf.function(objective.step, reduce_retracing=True)
        self._infer = tf.function(self._forward, reduce_retracing=True)

    def weights(self) -> Weights:
        return canonical(self._model.weights)

    def step(self, batch: Split) -> float:
        return float(self._train(tuple(map(tf.constant, batch.inputs)), tf.constant(batch.targets)))

    def predict(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(output.numpy() for output in self._infer(*map(tf.constant, inputs)))

    def save(self, path: Path) -> None:
        # A module of its own, not the Keras model: the artifact then holds the weights and one function, and neither
        # the training configuration nor the optimizer's state.
        module = tf.Module()
        module.canonical = {canonical_name(variable.path): variable.value for variable in self._model.weights}
        module.serve = tf.function(self._named_forward, input_signature=input_signature(self._spec))
        signatures = {"serving_default": module.serve.get_concrete_function()}
        try:
            with quiet_stderr():
                tf.saved_model.save(module, str(path), signatures=signatures)
        except tf.errors.OpError as error:
            raise OSError(error.message.splitlines()[0]) from error

    def _forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return call(self._model, inputs, training=False)

    def _named_forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        return dict(zip((output.name for output in self._spec.outputs), self._forward(*inputs), strict=True))


class Learner:
    """A model and its own optimizer."""

    def __init__(self, model: keras.Model, settings: Hyperparameters) -> None:
        self.model = model
        self.settings = settings
        self._optimizer = optimizer(settings)
        self._optimizer.build(model.trainable_variables)

    def update(self, loss_of: Callable[[], Tensor]) -> Tensor:
        """One step against the gradient of what `loss_of` computes; its value."""
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            loss = loss_of()
        # Dense also for embeddings: Keras would leave the moments of the rows that a batch lacks alone, PyTorch not.
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]
        self._optimizer.apply(gradients, variables)
        return loss


class Imitation:
    """The first output is to be the target."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._loss = LOSSES[learner.settings.loss]

    def step(self, inputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        return self._learner.update(lambda: self._loss(call(self._learner.model, inputs, training=True)[0], targets))


class Contest:
    """The first output is to be taken for a target by the adversary, which learns first."""

    def __init__(self, learner: Learner, adversary: Adversary) -> None:
        self._learner = learner
        self._trust = adversary.trust
        model = adversary.tensorflow()
        check_all("the adversary", adversary.weights, canonical(model.weights))
        assign(model, draw_all(adversary.weights, adversary.seed))
        self._judge = Learner(model, learner.settings)

    def step(self, inputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        judge = self._judge.model
        made = call(self._learner.model, inputs, training=True)[0]
        self._judge.update(lambda: taken_for(judge(targets), self._trust) + taken_for(judge(made), 0.0))
        return self._learner.update(lambda: taken_for(judge(call(self._learner.model, inputs, training=True)[0]), 1.0))


def taken_for(logits: Tensor, truth: float) -> Tensor:
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), truth), logits))


def call(model: keras.Model, inputs: tuple[Tensor, ...], *, training: bool) -> tuple[Tensor, ...]:
    outputs = model(inputs[0] if len(inputs) == 1 else list(inputs), training=training)
    return tuple(outputs) if isinstance(outputs, (list, tuple)) else (outputs,)


def assign(model: keras.Model, weights: Weights) -> None:
    for variable in model.weights:
        name = canonical_name(variable.path)
        variable.assign(weights[name].transpose(np.argsort(order(name, weights[name].ndim))))


def load_weights(path: Path) -> Weights:
    with quiet_stderr():
        saved = tf.saved_model.load(str(path))
    return {name: to_canonical(name, variable) for name, variable in saved.canonical.items()}


def load_predictor(path: Path, spec: ModelSpec) -> Callable[[tuple[Array, ...]], tuple[Array, ...]]:
    with quiet_stderr():
        saved = tf.saved_model.load(str(path))
    signature = saved.signatures["serving_default"]

    def predict(inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        named = {tensor.name: tf.constant(array) for tensor, array in zip(spec.inputs, inputs, strict=True)}
        outputs = signature(**named)
        return tuple(outputs[tensor.name].numpy() for tensor in spec.outputs)

    predict.saved = saved  # type: ignore[attr-defined]  # the signature alone does not keep its variables alive
    return predict


def canonical(variables: list[Variable]) -> Weights:
    names = {canonical_name(variable.path): variable for variable in variables}
    return {name: to_canonical(name, variable) for name, variable in names.items()}


def canonical_name(path: str) -> str:
    """`sequential/hidden/kernel` is PyTorch's `hidden.weight`, `lstm/lstm_cell/kernel` its `lstm.weight_ih_l0`."""
    *above, layer, part = path.split("/")
    if layer.endswith("_cell"):
        return f"{above[-1]}.{CELL_PARTS[part]}"
    return f"{layer}.{PARTS.get(part, part)}"


def to_canonical(name: str, variable: Variable) -> Array:
    array: Array = variable.numpy()
    return np.ascontiguousarray(array.transpose(order(name, array.ndim)))


def order(name: str, rank: int) -> tuple[int, ...]:
    """Of axes, from Keras's to PyTorch's: an embedding is a row for each entry in both."""
    return (0, 1) if name.startswith("embedding.") else TO_CANONICAL[rank]


def input_signature(spec: ModelSpec) -> list[Any]:
    return [
        tf.TensorSpec([None if size == -1 else size for size in tensor.shape], DTYPES[tensor.datatype], tensor.name)
        for tensor in spec.inputs
    ]


def optimizer(settings: Hyperparameters) -> keras.optimizers.Optimizer:
    if settings.optimizer == "sgd":
        return keras.optimizers.SGD(settings.learning_rate)
    return keras.optimizers.Adam(
        settings.learning_rate, beta_1=settings.beta_1, beta_2=settings.beta_2, epsilon=settings.epsilon
    )


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return tf.reduce_mean(tf.square(outputs - targets))


def binary_cross_entropy(probabilities: Tensor, targets: Tensor) -> Tensor:
    kept = tf.clip_by_value(probabilities, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return -tf.reduce_mean(targets * tf.math.log(kept) + (1 - targets) * tf.math.log(1 - kept))


def cross_entropy_of_logits(logits: Tensor, targets: Tensor) -> Tensor:
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))


def cross_entropy_of_probabilities(probabilities: Tensor, targets: Tensor) -> Tensor:
    of_target = tf.gather(probabilities, targets, batch_dims=1)
    return -tf.reduce_mean(tf.math.log(tf.maximum(of_target, SMALLEST_PROBABILITY)))


LOSSES: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "mean_squared_error": mean_squared_error,
    "binary_cross_entropy": binary_cross_entropy,
    "cross_entropy_of_logits": cross_entropy_of_logits,
    "cross_entropy_of_probabilities": cross_entropy_of_probabilities,
}
