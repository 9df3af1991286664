"""A TF Lite model in a version's folder, with --prefer_tflite_model (servables/tensorflow/tflite_session.cc).

Its signatures are those in its metadata under TensorFlow Serving's own key. A model from today's converter has none
there: then there is one, ``serving_default``, whose names are the tensors' without what follows the colon. So of two
outputs ``f:0`` and ``f:1`` the last is what clients see, under the name ``f``; the real server does the same.
"""

from __future__ import annotations

import queue
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from flatbuffers import flexbuffers
from tensorflow.core.framework import types_pb2
from tensorflow.lite.python import schema_py_generated

from serving.embedded.errors import ServingError, invalid_argument
from serving.embedded.model import SignatureDef, timed_out
from serving.embedded.predict import DEFAULT_SIGNATURE
from serving.embedded.tensors import Array

_METADATA = b"signature_defs_metadata"
_PREDICT = "tensorflow/serving/predict"
#: The types that TfLiteTypeToTfType knows.
_TYPES = {
    np.float32: types_pb2.DT_FLOAT,
    np.int32: types_pb2.DT_INT32,
    np.uint8: types_pb2.DT_UINT8,
    np.int64: types_pb2.DT_INT64,
    np.bytes_: types_pb2.DT_STRING,
    np.bool_: types_pb2.DT_BOOL,
    np.int16: types_pb2.DT_INT16,
    np.complex64: types_pb2.DT_COMPLEX64,
    np.int8: types_pb2.DT_INT8,
}
Details = dict[str, Any]


class LiteModel:
    """``pool`` interpreters, each for one run at a time. Raises ServingError where the file cannot be used."""

    def __init__(self, path: Path, *, pool: int, threads: int) -> None:
        content = path.read_bytes()
        first = _interpreter(content, threads)
        self._inputs = _by_name("Input", first.get_input_details())
        self._outputs = _by_name("Output", first.get_output_details())
        self.signatures: Mapping[str, SignatureDef] = self._signatures(content)
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        self._idle.put(first)
        for _ in range(pool - 1):
            self._idle.put(_interpreter(content, threads))

    def quick(self, feeds: Sequence[str], fetches: Sequence[str]) -> bool:
        return False

    def run(
        self, feeds: Sequence[str], values: Sequence[Array], fetches: Sequence[str], *, deadline: float | None = None
    ) -> list[Array]:
        """The deadline bounds the wait for an interpreter; a run that began is not stopped, as in the real server."""
        inputs = [_known(self._inputs, name, "Missing input TFLite tensor: ") for name in feeds]
        outputs = [_known(self._outputs, name, "Missing output TFLite tensor: ") for name in fetches]
        for detail, value in zip(inputs, values, strict=True):
            _check(detail, value)
        try:
            interpreter = self._idle.get(timeout=None if deadline is None else max(deadline - time.monotonic(), 0))
        except queue.Empty:
            raise timed_out() from None
        try:
            _invoke(interpreter, inputs, values)
            return [np.array(interpreter.get_tensor(detail["index"])) for detail in outputs]
        finally:
            self._idle.put(interpreter)

    def close(self) -> None:
        while not self._idle.empty():
            self._idle.get_nowait()

    def _signatures(self, content: bytes) -> Mapping[str, SignatureDef]:
        stored = _stored_signatures(content)
        for signature in stored.values():
            for kind, infos, tensors in (
                ("input", signature.inputs, self._inputs),
                ("output", signature.outputs, self._outputs),
            ):
                for alias, info in infos.items():
                    refers = f"Signature {kind} {alias} references an unknown tensor: "
                    info.name = _known(tensors, info.name, refers)["name"]
        return stored or {DEFAULT_SIGNATURE: self._made_up()}

    def _made_up(self) -> SignatureDef:
        signature = SignatureDef(method_name=_PREDICT)
        for tensors, infos in ((self._inputs, signature.inputs), (self._outputs, signature.outputs)):
            for name, detail in sorted(tensors.items()):
                info = infos[_legacy(name)]
                info.Clear()
                info.name, info.dtype = name, _TYPES[detail["dtype"]]
                for size in detail["shape"].tolist():
                    info.tensor_shape.dim.add(size=size)
        return signature


def _interpreter(content: bytes, threads: int) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where it will live in a later release
            return tf.lite.Interpreter(model_content=content, num_threads=threads or None)
    except ValueError as error:
        raise invalid_argument("Cannot build FlatBufferModel from buffer.") from error
    except RuntimeError as error:
        raise _internal("Cannot build Interpreter from buffer.") from error


def _stored_signatures(content: bytes) -> dict[str, SignatureDef]:
    """A flexbuffer map, from names to serialized SignatureDefs (lite/tools/signature/signature_def_util.cc)."""
    model = schema_py_generated.Model.GetRootAs(content, 0)
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if entry.Name() == _METADATA:
            data = bytes(model.Buffers(entry.Buffer()).DataAsNumpy())
            try:
                stored = flexbuffers.GetRoot(data).AsMap
                return {key.AsKey: SignatureDef.FromString(_as_bytes(stored[key.AsKey])) for key in stored.Keys}
            except Exception as error:  # whatever a broken buffer leads to
                raise invalid_argument(f"Invalid SignatureDefs found in TfLite model: {error}") from error
    return {}


def _as_bytes(value: flexbuffers.Ref) -> bytes:
    return bytes(value.AsStringBytes if value.IsString else value.AsBlob)


def _by_name(kind: str, details: Iterable[Details]) -> dict[str, Details]:
    found: dict[str, Details] = {}
    for detail in details:
        if detail["dtype"] not in _TYPES:
            raise _internal(f"Unknown TfLite type: {detail['dtype'].__name__}")
        if detail["name"] in found:
            text = f"{kind} tensor name: {detail['name']} has multiple indices"
            raise ServingError(grpc.StatusCode.ALREADY_EXISTS, text)
        found[detail["name"]] = detail
    return found


def _known(tensors: Mapping[str, Details], name: str, context: str) -> Details:
    """By its name, or as early converters named it."""
    detail = tensors.get(name) or tensors.get(_legacy(name))
    if detail is None:
        raise _internal(f"{context}{name}: Unknown tensor '{name}'.")
    return detail


def _legacy(name: str) -> str:
    return name.partition(":")[0]


def _check(detail: Details, value: Array) -> None:
    """Ours: the real server copies the bytes whatever their type, past the tensor's end if they are more."""
    expected = np.dtype(np.object_ if detail["dtype"] is np.bytes_ else detail["dtype"])
    if value.dtype != expected:
        raise invalid_argument(f"input tensor {detail['name']} is {expected.name} in the model, not {value.dtype.name}")


def _invoke(interpreter: Any, inputs: Sequence[Details], values: Sequence[Array]) -> None:
    for detail, value in zip(inputs, values, strict=True):
        _resize(interpreter, detail, value)
    try:
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise _internal("Failed to allocate tensors") from error
    try:
        for detail, value in zip(inputs, values, strict=True):
            interpreter.set_tensor(detail["index"], value)
        interpreter.invoke()
    except (RuntimeError, ValueError) as error:
        raise _internal("Failed to invoke TfLite interpreter") from error


def _resize(interpreter: Any, detail: Details, value: Array) -> None:
    try:
        interpreter.resize_tensor_input(detail["index"], value.shape)
    except (RuntimeError, ValueError) as error:
        raise _internal(f"Failed to resize input tensor: {detail['name']} to {list(value.shape)}") from error


def _internal(text: str) -> ServingError:
    return ServingError(grpc.StatusCode.INTERNAL, text)
