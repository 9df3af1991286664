"""TensorFlow Serving's messages, in both directions. Field meanings: tensorflow/core/framework/tensor.proto."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gateway.codecs import raw
from gateway.errors import DataLoss, InvalidArgument
from gateway.protos import tfserving_pb2 as pb
from gateway.types import DATATYPES, Array, InferRequest, Signature, Tensor, TensorSpec

DTYPE_BY_DATATYPE: dict[str, pb.DataType] = {
    "BOOL": pb.DT_BOOL,
    "UINT8": pb.DT_UINT8,
    "UINT16": pb.DT_UINT16,
    "UINT32": pb.DT_UINT32,
    "UINT64": pb.DT_UINT64,
    "INT8": pb.DT_INT8,
    "INT16": pb.DT_INT16,
    "INT32": pb.DT_INT32,
    "INT64": pb.DT_INT64,
    "FP16": pb.DT_HALF,
    "BF16": pb.DT_BFLOAT16,
    "FP32": pb.DT_FLOAT,
    "FP64": pb.DT_DOUBLE,
    "BYTES": pb.DT_STRING,
}
DATATYPE_BY_DTYPE: dict[int, str] = {dtype: datatype for datatype, dtype in DTYPE_BY_DATATYPE.items()}

#: The field that holds a datatype's values when they do not travel as ``tensor_content``.
_VALUES_FIELD: dict[str, str] = {
    "BOOL": "bool_val",
    "UINT8": "int_val",
    "UINT16": "int_val",
    "UINT32": "uint32_val",
    "UINT64": "uint64_val",
    "INT8": "int_val",
    "INT16": "int_val",
    "INT32": "int_val",
    "INT64": "int64_val",
    "FP16": "half_val",
    "BF16": "half_val",
    "FP32": "float_val",
    "FP64": "double_val",
    "BYTES": "string_val",
}


def encode_tensor(tensor: Tensor, into: pb.TensorProto) -> None:
    """Fills ``into``: raw ``tensor_content``, or ``string_val`` for BYTES."""
    into.dtype = DTYPE_BY_DATATYPE[tensor.datatype]
    dims = into.tensor_shape.dim
    for size in tensor.shape:
        dims.add(size=size)
    if tensor.datatype == "BYTES":
        into.string_val.extend(tensor.data.ravel())
    else:
        into.tensor_content = bytes(raw.encode(tensor))


def decode_tensor(name: str, proto: pb.TensorProto) -> Tensor:
    """A tensor of ``proto``, whichever way it carries its values.

    Fewer values than elements: the last one fills the rest (tensor.proto). Raises InvalidArgument where dtype, shape
    and values do not fit one another.
    """
    datatype = DATATYPE_BY_DTYPE.get(proto.dtype)
    if datatype is None:
        raise InvalidArgument(f"tensor {name!r}: dtype {proto.dtype} is not served")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise InvalidArgument(f"tensor {name!r}: its shape is not known")
    if datatype != "BYTES" and proto.tensor_content:
        return raw.decode(name, datatype, shape, proto.tensor_content)
    values = getattr(proto, _VALUES_FIELD[datatype])
    return Tensor(name, datatype, _filled(name, datatype, shape, values))


def encode_predict(request: InferRequest) -> pb.PredictRequest:
    message = pb.PredictRequest(output_filter=request.outputs)
    spec = message.model_spec
    spec.name = request.model
    spec.signature_name = request.signature_name
    if request.version is not None:
        spec.version.value = request.version
    for tensor in request.inputs:
        encode_tensor(tensor, message.inputs[tensor.name])
    return message


def decode_predict_response(message: pb.PredictResponse) -> tuple[Tensor, ...]:
    """The outputs, by name in alphabetical order: a protobuf map has none of its own. Raises DataLoss."""
    try:
        return tuple(decode_tensor(name, message.outputs[name]) for name in sorted(message.outputs))
    except InvalidArgument as error:
        raise DataLoss(f"the server's answer is not valid: {error.message}") from error


def decode_signature(definition: pb.SignatureDef) -> Signature:
    return Signature(_specs(definition.inputs), _specs(definition.outputs), definition.method_name)


def _specs(infos: Any) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name,
            DATATYPE_BY_DTYPE.get(infos[name].dtype, "UNKNOWN"),
            tuple(dim.size for dim in infos[name].tensor_shape.dim),
        )
        for name in sorted(infos)
    )


def _filled(name: str, datatype: str, shape: tuple[int, ...], values: Any) -> Array:
    count = prod(shape)
    if len(values) > count or (count and not values):
        raise InvalidArgument(f"tensor {name!r}: shape {list(shape)} takes {count} values, got {len(values)}")
    dtype = DATATYPES[datatype]
    if dtype == np.object_:
        array: Array = np.empty(len(values), np.object_)
        array[:] = values
    elif datatype == "FP16":
        array = np.array(values, np.uint16).view(np.float16)
    else:
        array = np.array(values, dtype)
    if len(array) < count:
        array = np.concatenate([array, np.full(count - len(array), array[-1], dtype)])
    return array.reshape(shape)
