"""TensorFlow models for the tests of row independence: written to disk, tried, and drawn at random.

`draw(seed)` gives a module, the specs of its inputs and whether it keeps rows apart, `save(module, specs, folder)`
exports it. The label is the outcome of a trial in float64 that joins rows of every scale in every position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.frameworks.tensorflow import quiet_stderr, tf
from tests.models.independence import tf_blocks

Array = Any
Specs = Sequence[Any]
Forward = Callable[..., Any]

F64 = tf.float64
#: Apart from sums in another order: in parts of an output's largest value.
TOLERANCE = {tf.float64: 1e-7, tf.float32: 1e-4}


@dataclass(frozen=True)
class Drawn:
    """`independent` is the truth, as far as the trial sees; `blocks` what the model is made of."""

    module: Any
    specs: Specs
    independent: bool
    blocks: tuple[str, ...]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.module, self.specs, self.independent))


# -- models to disk ---------------------------------------------------------------------------------------------------


def named(answer: Any) -> dict[str, Any]:
    if isinstance(answer, dict):
        return answer
    answers = answer if isinstance(answer, (list, tuple)) else [answer]
    return {f"y{place}": tensor for place, tensor in enumerate(answers)}


def concrete(forward: Forward, specs: Specs) -> Any:
    return tf.function(lambda *inputs: named(forward(*inputs)), input_signature=list(specs)).get_concrete_function()


def write(forward: Forward, specs: Specs, folder: Path) -> Path:
    """A SavedModel of one graph without variables: quicker by far than `save`, and TensorFlow loads it as well."""
    from tensorflow.core.protobuf import saved_model_pb2

    function = concrete(forward, specs)
    proto = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta = proto.meta_graphs.add()
    meta.meta_info_def.tags.append("serve")
    meta.graph_def.CopyFrom(function.graph.as_graph_def())
    signature = meta.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    for spec, tensor in zip(specs, function.inputs, strict=False):  # captured constants come behind them
        _describe(signature.inputs[spec.name], tensor)
    for name, tensor in tf.nest.pack_sequence_as(function.structured_outputs, function.outputs).items():
        _describe(signature.outputs[name], tensor)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "saved_model.pb").write_bytes(proto.SerializeToString())
    return folder


def _describe(info: Any, tensor: Any) -> None:
    info.name = tensor.name
    info.dtype = tensor.dtype.as_datatype_enum
    info.tensor_shape.CopyFrom(tensor.shape.as_proto())


def save(module: Any, specs: Specs, folder: Path) -> Path:
    """As exporters do: with variables and tables, and a function that the signature calls."""
    module.serve = tf.function(lambda *inputs: named(module(*inputs)), input_signature=list(specs))
    with quiet_stderr():
        tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve.get_concrete_function()})
    return folder


# -- the trial --------------------------------------------------------------------------------------------------------


def keeps_rows_apart(forward: Forward, specs: Specs, rounds: int = 12, seed: int = 0) -> bool:
    """Whether no trial shows that the answer to a row depends on the rows beside it, or on how many there are.

    A joined call that fails shows nothing, since the gateway asks again row by row; a single one that fails where the
    joined one does not, does.
    """
    function = concrete(forward, specs)
    rng = np.random.default_rng(seed)
    return all(_round_agrees(function, list(_batch(specs, rng, turn))) for turn in range(rounds))


def _round_agrees(function: Any, batch: Sequence[Array]) -> bool:
    joined = _answer(function, batch)
    if joined is None:
        return True
    for row in range(len(batch[0])):
        alone = _answer(function, [array[row : row + 1] for array in batch])
        if alone is None or not all(_alike(joined[name], alone[name], row, len(batch[0])) for name in joined):
            return False
    return True


def _answer(function: Any, batch: Sequence[Array]) -> dict[str, Array] | None:
    try:
        answer = function(*(tf.constant(array) for array in batch))
    except (tf.errors.OpError, ValueError, TypeError):
        return None
    return {name: np.asarray(tensor) for name, tensor in answer.items()}


def _alike(joined: Array, alone: Array, row: int, rows: int) -> bool:
    if joined.ndim == 0 or alone.ndim == 0 or len(joined) != rows or len(alone) != 1:
        return False
    if joined.shape[1:] != alone.shape[1:]:
        return False
    if joined.dtype.kind not in "fc":
        return bool(np.array_equal(joined[row], alone[0]))
    scale = np.abs(alone[0][np.isfinite(alone[0])]).max(initial=0.0)
    tolerance = TOLERANCE[tf.as_dtype(joined.dtype)] if joined.dtype.kind == "f" else 1e-4
    return bool(np.allclose(joined[row], alone[0], rtol=0, atol=tolerance * scale + 1e-12, equal_nan=True))


def _batch(specs: Specs, rng: np.random.Generator, turn: int) -> Iterator[Array]:
    """Rows of very different scale and sign, some of them alike, a few of them zero; open inner sizes differ."""
    rows = (3, 2, 5, 1, 4, 7)[turn % 6]
    inner = (4, 3, 6, 5)[turn % 4]
    scales = 10.0 ** rng.uniform(-2, 1.5, rows) * rng.choice([-1, 1], rows)
    if turn % 4 == 1:
        scales = np.ones(rows)
    if turn % 4 == 2:
        scales[rng.integers(rows)] = 0
    for spec in specs:
        shape = (rows, *(inner if size is None else size for size in spec.shape[1:]))
        if spec.dtype == tf.string:
            yield rng.choice(np.array([b"a", b"bb", b"c d", b"a", b""], object), shape)
        elif spec.dtype.is_integer:
            yield rng.integers(0, 4, shape).astype(spec.dtype.as_numpy_dtype)
        else:
            values = rng.normal(size=shape) * scales.reshape(-1, *[1] * (len(shape) - 1))
            if turn % 6 == 5:
                values[:] = values[:1]
            yield values.astype(spec.dtype.as_numpy_dtype)


# -- models at random -------------------------------------------------------------------------------------------------


class Model(tf.Module):
    """Blocks one after another, each drawn with numbers of its own, so that every trace gives the same model."""

    def __init__(self, blocks: Sequence[Any], seed: int) -> None:
        super().__init__()
        self._blocks = list(blocks)
        self._seed = seed
        self._weights: dict[str, Any] = {}
        self.constants = False  # as a frozen graph has them, for `write`

    def __call__(self, *inputs: Any) -> Any:
        x = inputs[0]
        for place, block in enumerate(self._blocks):
            rng = np.random.default_rng((self._seed, place))
            x = block(tf_blocks.Draws(rng, inputs, lambda *shape, at=place: self._weight(at, shape)), x)
        return x

    def _weight(self, place: int, shape: Sequence[int]) -> Any:
        """A variable of the module, made in the first call, which is no trace."""
        name = f"{place}_{'x'.join(map(str, shape))}"
        values = np.random.default_rng((self._seed, place, 1)).normal(size=shape) / 2
        if self.constants:
            return tf.constant(values)
        if name not in self._weights:
            with tf.init_scope():
                self._weights[name] = tf.Variable(values, dtype=F64)
        return tf.convert_to_tensor(self._weights[name])


def write_drawn(drawn: Drawn, folder: Path) -> Path:
    drawn.module.constants = True
    try:
        return write(drawn.module, drawn.specs, folder)
    finally:
        drawn.module.constants = False


def draw(seed: int) -> Drawn:
    """A model that can be traced, saved and called. Half of them are made to keep rows apart."""
    for attempt in range(100):
        rng = np.random.default_rng((seed, attempt))
        specs, chosen = tf_blocks.choose(rng)
        model = Model(chosen, seed)
        try:
            model(*(tf.constant(array) for array in _batch(specs, np.random.default_rng(0), 0)))
            independent = keeps_rows_apart(model, specs, seed=seed)
        except (tf.errors.OpError, ValueError, TypeError, IndexError):
            continue  # blocks that do not go together
        return Drawn(model, specs, independent, tuple(block.__name__ for block in chosen))
    raise AssertionError(f"seed {seed} gives no model that can be called")


# -- models by hand ---------------------------------------------------------------------------------------------------


def spec(*shape: int | None, name: str = "x", dtype: Any = F64) -> Any:
    return tf.TensorSpec(shape, dtype, name)


def weights(*shape: int) -> Any:
    return tf.constant(np.random.default_rng(0).normal(size=shape))
