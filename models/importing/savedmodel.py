"""A SavedModel folder or a Keras file, as TensorFlow Serving will run it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras  # quiet, as `frameworks.load` has imported it before
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from models.frameworks.tensorflow import quiet_stderr
from models.importing.candidate import Answer, Candidate, last_line
from models.importing.request import ImportRefusedError, Request
from models.importing.sizes import Arrays
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
    with edited(saved) as signatures:
        known = sorted(key for key in signatures if not key.startswith("__"))
        if name not in known:
            flag = "" if not known else "; give one with --signature NAME"
            raise ImportRefusedError(
                f"the SavedModel has no signature {name!r}: there are {', '.join(known) or 'none'}{flag}"
            )
        if name != SERVED_SIGNATURE:
            signatures[SERVED_SIGNATURE].CopyFrom(signatures[name])


def write_unknown_shapes(saved: Path, inputs: Sequence[TensorSpec]) -> None:
    """What the user has said of inputs that the signature leaves open; clients are told and held to it.

    Outputs stay open: some calls that have been seen prove no shape.
    """
    with edited(saved) as signatures:
        served = signatures[SERVED_SIGNATURE]
        for spec in inputs:
            if served.inputs[spec.name].tensor_shape.unknown_rank:
                served.inputs[spec.name].tensor_shape.CopyFrom(static_shape(spec).as_proto())


def declared_shape(info: Any) -> tuple[int, ...] | None:
    shape = tf.TensorShape(info.tensor_shape)
    return None if shape.rank is None else tuple(-1 if size is None else size for size in shape)


@contextmanager
def edited(saved: Path) -> Iterator[Any]:
    """The signatures of the graph that is served; written back where they were changed. Raises ImportRefusedError."""
    from tensorflow.core.protobuf import saved_model_pb2  # type: ignore[import-untyped]

    file = saved / "saved_model.pb"
    before = file.read_bytes()
    try:
        proto = saved_model_pb2.SavedModel.FromString(before)
    except DecodeError as error:
        raise ImportRefusedError(f"its saved_model.pb is none: {error}") from error
    graphs = [graph for graph in proto.meta_graphs if SERVED_TAG in graph.meta_info_def.tags]
    if not graphs:
        raise ImportRefusedError(f"the SavedModel has no graph with the tag {SERVED_TAG!r}, which the server loads")
    unchanged = saved_model_pb2.SavedModel.FromString(before)
    yield graphs[0].signature_def
    if proto != unchanged:
        file.write_bytes(proto.SerializeToString(deterministic=True))


def candidate(request: Request, saved: Path) -> Candidate:
    """Loaded as TensorFlow Serving does, by tag and signature: `tf.saved_model.load` reads neither."""
    session = tf.compat.v1.Session(graph=tf.Graph(), config=tf.compat.v1.ConfigProto(device_count={"GPU": 0}))
    try:
        with quiet_stderr(), session.graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(session, [SERVED_TAG], str(saved))
    except Exception as error:  # OSError, OpError and others, for damaged files and for ops that are not there
        raise ImportRefusedError(f"TensorFlow cannot load {request.source}: {first_line(error)}") from error
    signature = meta_graph.signature_def[SERVED_SIGNATURE]
    inputs = input_specs(request, {name: dense_tensor(name, info) for name, info in signature.inputs.items()})
    fetches = {name: dense_tensor(name, info).name for name, info in sorted(signature.outputs.items())}
    outputs = tuple(fetches)

    def predict(arrays: Arrays) -> list[Answer]:
        named = {
            signature.inputs[spec.name].name: array.astype(DTYPES[spec.datatype].as_numpy_dtype)
            for spec, array in zip(inputs, arrays, strict=True)
            if array is not None
        }
        return [decoded(answer) for answer in session.run(list(fetches.values()), named)]

    if request.outputs and tuple(sorted(request.outputs)) != outputs:
        raise ImportRefusedError(f"the SavedModel's outputs are {', '.join(outputs)}, which cannot be renamed")
    return Candidate(
        framework="tensorflow",
        saved=saved,
        inputs=inputs,
        outputs=outputs,
        predict=predict,
        declared=tuple(declared_shape(info) for _, info in sorted(signature.outputs.items())),
        settle=lambda _: write_unknown_shapes(saved, inputs),
    )


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """What a signature says of a tensor; `name` is the one in the graph."""

    name: str
    dtype: Any
    shape: Any


def dense_tensor(name: str, info: Any) -> GraphTensor:
    if not info.name:
        raise ImportRefusedError(f"{name} is a sparse or composite tensor, which the wire does not know")
    return GraphTensor(info.name, tf.as_dtype(info.dtype), tf.TensorShape(info.tensor_shape))


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
    if asked.datatype != datatype or not shape.is_compatible_with(static_shape(asked)):
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

    specs = [tf.TensorSpec(static_shape(spec), DTYPES[spec.datatype], spec.name) for spec in inputs]
    # Keras's own archive tracks what a TF1 session restores: variables and lookup tables, where a tf.Module that holds
    # the model leaves them uninitialised.
    archive = keras.export.ExportArchive()
    archive.track(model)
    try:
        with quiet_stderr():
            archive.add_endpoint(SERVED_SIGNATURE, serve, input_signature=specs)
            archive.write_out(str(saved), verbose=False)
    except (ImportRefusedError, OSError):
        raise
    except Exception as error:  # the model's own code, traced
        raise ImportRefusedError(f"it cannot be exported: {last_line(error)}; are --input's shapes right?") from error


def static_shape(spec: TensorSpec) -> Any:
    return tf.TensorShape([None if size == -1 else size for size in spec.shape])


def decoded(values: Any) -> Answer:
    array = np.asarray(values)
    dtype = tf.as_dtype(array.dtype)
    if dtype not in DATATYPES:
        raise ImportRefusedError(f"an output is of type {dtype.name}, which the wire does not know")
    return Answer(DATATYPES[dtype], array.astype(np.float32) if dtype == tf.bfloat16 else array)


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
