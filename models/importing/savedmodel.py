"""A SavedModel folder or a Keras file, as TensorFlow Serving will run it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models.frameworks.tensorflow import keras, quiet_stderr, tf
from models.importing.candidate import Answer, Candidate, last_line
from models.importing.request import ImportRefusedError, Request
from models.spec import Array, TensorSpec

SERVED_TAG, SERVED_SIGNATURE = "serve", "serving_default"
OWN_SIGNATURE = "assets.extra/duet.json"
DTYPES = {
    "BOOL": tf.bool,
    "UINT8": tf.uint8,
    "UINT16": tf.uint16,
    "UINT32": tf.uint32,
    "UINT64": tf.uint64,
    "INT8": tf.int8,
    "INT16": tf.int16,
    "INT32": tf.int32,
    "INT64": tf.int64,
    "FP16": tf.float16,
    "BF16": tf.bfloat16,
    "FP32": tf.float32,
    "FP64": tf.float64,
    "BYTES": tf.string,
}
DATATYPES = {dtype: name for name, dtype in DTYPES.items()}


def from_folder(request: Request, _given: Mapping[str, Array], folder: Path) -> Candidate:
    """Raises ImportRefusedError."""
    if not (request.path / "saved_model.pb").is_file():
        raise ImportRefusedError(f"{request.source} holds no saved_model.pb{nearby(request.path)}")
    saved = folder / "model.pt"
    shutil.copytree(request.path, saved)
    (saved / OWN_SIGNATURE).unlink(missing_ok=True)
    choose_signature(saved, request.signature or SERVED_SIGNATURE)
    return candidate(request, saved)


def from_keras(request: Request, _given: Mapping[str, Array], folder: Path) -> Candidate:
    """Raises ImportRefusedError."""
    try:
        with quiet_stderr():
            model = keras.saving.load_model(request.path, compile=False)
    except Exception as error:  # Keras raises ValueError, TypeError and others, for layers it does not know too
        raise ImportRefusedError(
            f"Keras cannot load {request.source} ({first_line(error)}); of a model with classes of its own import the "
            "SavedModel that model.export(FOLDER) writes"
        ) from error
    inputs = keras_inputs(request, model)
    saved = folder / "model.pt"
    export(model, inputs, request.outputs, saved)
    return candidate(replace(request, inputs=(), outputs=()), saved)


def nearby(path: Path) -> str:
    versions = sorted(found.parent.name for found in path.glob("*/saved_model.pb"))
    return f"; did you mean {path / versions[-1]}?" if versions else ": give a SavedModel's folder"


def choose_signature(saved: Path, name: str) -> None:
    """Make `name` the signature that is served. Raises ImportRefusedError."""
    from tensorflow.core.protobuf import saved_model_pb2

    file = saved / "saved_model.pb"
    proto = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    graphs = [graph for graph in proto.meta_graphs if SERVED_TAG in graph.meta_info_def.tags]
    if not graphs:
        raise ImportRefusedError(f"the SavedModel has no graph with the tag {SERVED_TAG!r}, which the server loads")
    signatures = graphs[0].signature_def
    known = sorted(key for key in signatures if not key.startswith("__"))
    if name not in known:
        flag = "" if not known else "; give one with --signature NAME"
        raise ImportRefusedError(
            f"the SavedModel has no signature {name!r}: there are {', '.join(known) or 'none'}{flag}"
        )
    if name != SERVED_SIGNATURE:
        signatures[SERVED_SIGNATURE].CopyFrom(signatures[name])
        file.write_bytes(proto.SerializeToString(deterministic=True))


def candidate(request: Request, saved: Path) -> Candidate:
    try:
        with quiet_stderr():
            loaded = tf.saved_model.load(str(saved))
            serve = loaded.signatures[SERVED_SIGNATURE]
    except Exception as error:  # OSError, OpError and others, for damaged files and for ops that are not there
        raise ImportRefusedError(f"TensorFlow cannot load {request.source}: {first_line(error)}") from error
    inputs = input_specs(request, serve.structured_input_signature[1])
    outputs = tuple(sorted(serve.structured_outputs))

    def predict(arrays: tuple[Array, ...]) -> list[Answer]:
        named = {spec.name: as_tensor(spec, array) for spec, array in zip(inputs, arrays, strict=True)}
        answers = serve(**named)
        return [decoded(answers[name]) for name in outputs]

    predict.loaded = loaded  # type: ignore[attr-defined]  # the signature alone does not keep its variables alive
    if request.outputs and tuple(sorted(request.outputs)) != outputs:
        raise ImportRefusedError(f"the SavedModel's outputs are {', '.join(outputs)}, which cannot be renamed")
    return Candidate(framework="tensorflow", saved=saved, inputs=inputs, outputs=outputs, predict=predict)


def input_specs(request: Request, wanted: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    """As the signature says; --input tells what it leaves open. Raises ImportRefusedError."""
    asked = {spec.name: spec for spec in request.inputs}
    if extra := sorted(set(asked) - set(wanted)):
        raise ImportRefusedError(f"no input {', '.join(extra)}; the SavedModel's are {', '.join(sorted(wanted))}")
    found = []
    for name, spec in sorted(wanted.items()):
        datatype = DATATYPES.get(spec.dtype)
        if datatype is None:
            raise ImportRefusedError(f"input {name} is of type {spec.dtype.name}, which the wire does not know")
        if name not in asked and spec.shape.rank is None:
            raise ImportRefusedError(
                f"input {name} has no known shape; give --input {name}:{datatype}:SHAPE (as in -1,3,224,224)"
            )
        found.append(refined(asked[name], datatype, spec.shape) if name in asked else known(name, datatype, spec.shape))
    return tuple(found)


def known(name: str, datatype: str, shape: Any) -> TensorSpec:
    return TensorSpec(name, datatype, tuple(-1 if size is None else size for size in shape))


def refined(asked: TensorSpec, datatype: str, shape: Any) -> TensorSpec:
    if asked.datatype != datatype or not shape.is_compatible_with([None if s == -1 else s for s in asked.shape]):
        raise ImportRefusedError(f"--input {asked.name}: the SavedModel says {datatype} {shape}")
    return asked


def keras_inputs(request: Request, model: Any) -> tuple[TensorSpec, ...]:
    tensors = model.inputs if getattr(model, "inputs", None) else []
    if request.inputs:
        if tensors and len(tensors) != len(request.inputs):
            raise ImportRefusedError(
                f"the model takes {len(tensors)} inputs, --input is given {len(request.inputs)} times"
            )
        return request.inputs
    if not tensors:
        raise ImportRefusedError(
            f"{request.source} does not tell its inputs; give --input NAME:DATATYPE:SHAPE "
            "(as in --input image:FP32:-1,224,224,3) for each, in their order"
        )
    return tuple(known(t.name.split(":")[0], DATATYPES[tf.as_dtype(t.dtype)], t.shape) for t in tensors)


def export(model: Any, inputs: Sequence[TensorSpec], output_names: Sequence[str], saved: Path) -> None:
    """The model's forward pass alone, with named inputs and outputs."""

    def serve(*tensors: Any) -> dict[str, Any]:
        answers = model(tensors[0] if len(tensors) == 1 else list(tensors), training=False)
        if isinstance(answers, dict):
            return dict(answers)
        answers = list(answers) if isinstance(answers, (list, tuple)) else [answers]
        default = ["output"] if len(answers) == 1 else [f"output_{place}" for place in range(len(answers))]
        if output_names and len(output_names) != len(answers):
            raise ImportRefusedError(f"the model has {len(answers)} outputs: give --output NAME that many times")
        return dict(zip(output_names or default, answers, strict=True))

    specs = [
        tf.TensorSpec([None if size == -1 else size for size in spec.shape], DTYPES[spec.datatype], spec.name)
        for spec in inputs
    ]
    module = tf.Module()
    module.model = model  # so that its variables and tables are saved with it
    module.serve = tf.function(serve, input_signature=specs)
    try:
        with quiet_stderr():
            signatures = {SERVED_SIGNATURE: module.serve.get_concrete_function()}
            tf.saved_model.save(module, str(saved), signatures=signatures)
    except ImportRefusedError:
        raise
    except OSError:
        raise
    except Exception as error:  # the model's own code, traced
        raise ImportRefusedError(f"it cannot be exported: {last_line(error)}; are --input's shapes right?") from error


def as_tensor(spec: TensorSpec, array: Array) -> Any:
    return tf.cast(array, tf.bfloat16) if spec.datatype == "BF16" else tf.constant(array, DTYPES[spec.datatype])


def decoded(tensor: Any) -> Answer:
    datatype = DATATYPES.get(tensor.dtype)
    if datatype is None:
        raise ImportRefusedError(f"an output is of type {tensor.dtype.name}, which the wire does not know")
    values = tf.cast(tensor, tf.float32) if datatype == "BF16" else tensor
    return Answer(datatype, np.asarray(values.numpy()))


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
