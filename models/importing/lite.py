"""A `.tflite` file, as TensorFlow Serving runs it with `--prefer_tflite_model`.

The server reads signatures from the file's metadata, where today's converter writes none: it then calls tensors by the
graph's names and takes a free first dimension for one row. So the import writes the signature that the file itself has
(`SignatureDef` of schema.fbs), or one of its tensors' names, into that metadata: names and free dimensions are told.
Sources: tensorflow_serving/servables/tensorflow/tflite_session.cc, lite/tools/signature/signature_def_util.cc.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from flatbuffers import flexbuffers
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.lite.python import schema_py_generated as schema

from models.frameworks.tensorflow import quiet_stderr, tf
from models.importing.candidate import Answer, Candidate
from models.importing.request import ImportRefusedError, Request
from models.importing.savedmodel import DATATYPES, SERVED_SIGNATURE, decoded
from models.spec import Array, TensorSpec

FILE = "model.tflite"
METADATA = b"signature_defs_metadata"
IDENTIFIER = b"TFL3"
PRIMARY = 0
"""The one subgraph that the server runs."""


def from_file(request: Request, _given: Mapping[str, Array], folder: Path) -> Candidate:
    """Raises ImportRefusedError."""
    content = request.path.read_bytes()
    interpreter = loaded(request, content)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    inputs, outputs = aliases(request, model, interpreter)
    saved = folder / "model"
    saved.mkdir()
    specs = tuple(spec(name, tensor) for name, tensor in sorted(inputs.items()))
    names = tuple(sorted(outputs))
    refuse_flags(request, specs, names)

    def predict(arrays: tuple[Array, ...]) -> list[Answer]:
        for one, array in zip(specs, arrays, strict=True):
            interpreter.resize_tensor_input(inputs[one.name]["index"], array.shape)
        interpreter.allocate_tensors()
        for one, array in zip(specs, arrays, strict=True):
            interpreter.set_tensor(inputs[one.name]["index"], array)
        interpreter.invoke()
        return [decoded(interpreter.get_tensor(outputs[name]["index"])) for name in names]

    def settle(shapes: Sequence[TensorSpec]) -> None:
        signature = definition(inputs, specs, outputs, shapes)
        (saved / FILE).write_bytes(with_signature(model, signature))

    settle(tuple(spec(name, outputs[name]) for name in names))
    return Candidate(
        framework="tensorflow",
        saved=saved,
        inputs=specs,
        outputs=names,
        predict=predict,
        notes=tuple(quantised(name, tensor) for name, tensor in (*inputs.items(), *outputs.items()) if scales(tensor)),
        settle=settle,
    )


def loaded(request: Request, content: bytes) -> Any:
    try:
        with quiet_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where it will live in a later release
            interpreter = tf.lite.Interpreter(model_content=content, num_threads=1)
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ImportRefusedError(f"TF Lite cannot load {request.source}: {reason}") from error
    return interpreter


def aliases(request: Request, model: Any, interpreter: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The served graph's inputs and outputs by the names that clients use. Raises ImportRefusedError."""
    by_index = {one["index"]: one for one in (*interpreter.get_input_details(), *interpreter.get_output_details())}
    stored = {one.signatureKey.decode(): one for one in model.signatureDefs or () if one.subgraphIndex == PRIMARY}
    if request.signature and request.signature not in stored:
        raise ImportRefusedError(
            f"the file has no signature {request.signature!r} of its first graph, which is the one that is served: "
            f"there are {', '.join(sorted(stored)) or 'none'}"
        )
    chosen = stored.get(request.signature or SERVED_SIGNATURE) or next(iter(stored.values()), None)
    if chosen is not None:
        found = [
            {one.name.decode(): by_index[one.tensorIndex] for one in tensors}
            for tensors in (chosen.inputs, chosen.outputs)
        ]
    else:
        details = (interpreter.get_input_details(), interpreter.get_output_details())
        found = [{one["name"].partition(":")[0]: one for one in tensors} for tensors in details]
        if any(len(named) != len(tensors) for named, tensors in zip(found, details, strict=True)):
            raise ImportRefusedError(
                f"two tensors of {request.source} have one name; convert it from a function whose inputs and outputs "
                "have names of their own"
            )
    return found[0], found[1]


def spec(name: str, tensor: Mapping[str, Any]) -> TensorSpec:
    dtype = tf.as_dtype(np.dtype(np.object_) if tensor["dtype"] is np.bytes_ else tensor["dtype"])
    if dtype not in DATATYPES:
        raise ImportRefusedError(f"{name} is of type {dtype.name}, which the wire does not know")
    sizes = tensor["shape_signature"] if len(tensor["shape_signature"]) else tensor["shape"]
    return TensorSpec(name, DATATYPES[dtype], tuple(int(size) for size in sizes))


def refuse_flags(request: Request, inputs: Sequence[TensorSpec], outputs: Sequence[str]) -> None:
    if request.inputs and set(request.inputs) != set(inputs):
        known = " ".join(f"{one.name}:{one.datatype}:{','.join(map(str, one.shape))}" for one in inputs)
        raise ImportRefusedError(f"the file tells its inputs itself; leave out --input, or give {known}")
    if request.outputs and sorted(request.outputs) != sorted(outputs):
        raise ImportRefusedError(f"the file's outputs are {', '.join(outputs)}, which cannot be renamed")


def definition(
    inputs: Mapping[str, Any], specs: Sequence[TensorSpec], outputs: Mapping[str, Any], shapes: Sequence[TensorSpec]
) -> Any:
    made = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
    for tensors, infos, known in ((inputs, made.inputs, specs), (outputs, made.outputs, shapes)):
        for one in known:
            info = infos[one.name]
            info.name = tensors[one.name]["name"]
            info.dtype = next(dtype for dtype, name in DATATYPES.items() if name == one.datatype).as_datatype_enum
            for size in one.shape:
                info.tensor_shape.dim.add(size=size)
    return made


def with_signature(model: Any, signature: Any) -> bytes:
    """The file with this as the one signature that TensorFlow Serving reads; written again it replaces what was."""
    packed = flexbuffers.Builder()
    with packed.Map():
        packed.Blob(SERVED_SIGNATURE, signature.SerializeToString(deterministic=True))
    data = np.frombuffer(bytes(packed.Finish()), np.uint8)
    kept = next((one for one in model.metadata or () if one.name == METADATA), None)
    if kept is None:
        kept = schema.MetadataT()
        kept.name, kept.buffer = METADATA, len(model.buffers)
        model.buffers.append(schema.BufferT())
        model.metadata = [*(model.metadata or ()), kept]
    model.buffers[kept.buffer].data = data
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def scales(tensor: Mapping[str, Any]) -> bool:
    return bool(tensor["quantization"][0])


def quantised(name: str, tensor: Mapping[str, Any]) -> str:
    scale, zero = tensor["quantization"]
    return f"{name} is quantised: a value v stands for {scale:.6g} * (v - {zero})"
