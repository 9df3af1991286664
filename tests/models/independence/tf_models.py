"""TensorFlow models for the tests of row independence: written to disk, tried, and drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from models.frameworks.tensorflow import quiet_stderr, tf

Specs = Sequence[Any]
Forward = Callable[..., Any]


# -- models to disk ---------------------------------------------------------------------------------------------------


def named(answer: Any) -> dict[str, Any]:
    if isinstance(answer, dict):
        return answer
    answers = answer if isinstance(answer, (list, tuple)) else [answer]
    return {f"y{place}": tensor for place, tensor in enumerate(answers)}


def concrete(forward: Forward, specs: Specs) -> Any:
    return tf.function(lambda *inputs: named(forward(*inputs)), input_signature=list(specs)).get_concrete_function()


def write(forward: Forward, specs: Specs, folder: Path) -> Path:
    """A SavedModel of one graph without variables: quicker by far than `tf.saved_model.save`, and loads as well."""
    function = concrete(forward, specs)
    proto = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta = proto.meta_graphs.add()
    meta.meta_info_def.tags.append("serve")
    meta.graph_def.CopyFrom(function.graph.as_graph_def())
    signature = meta.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    for spec, tensor in zip(specs, function.inputs, strict=False):
        describe(signature.inputs[spec.name], tensor)
    outputs = tf.nest.pack_sequence_as(function.structured_outputs, function.outputs)
    for name, tensor in outputs.items():
        describe(signature.outputs[name], tensor)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "saved_model.pb").write_bytes(proto.SerializeToString())
    return folder


def describe(info: meta_graph_pb2.TensorInfo, tensor: Any) -> None:
    info.name = tensor.name
    info.dtype = tensor.dtype.as_datatype_enum
    info.tensor_shape.CopyFrom(tensor.shape.as_proto())


def save(module: Any, specs: Specs, folder: Path) -> Path:
    """As an exporter does: with variables, tables and a function that the signature calls."""
    module.serve = tf.function(lambda *inputs: named(module(*inputs)), input_signature=list(specs))
    with quiet_stderr():
        tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve.get_concrete_function()})
    return folder
