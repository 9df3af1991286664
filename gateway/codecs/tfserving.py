"""TensorFlow Serving's Predict and its tensors, in both directions: the gateway is its server and its client.

Field meanings: tensorflow/core/framework/tensor.proto, tensorflow_serving/apis/predict.proto.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from math import prod
from typing import Any

import numpy as np

from gateway.codecs import limits, raw
from gateway.errors import DataLoss, InvalidArgument, Unimplemented
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

#: Tensors that several tensors stand for.
_OTHER_ENCODINGS = {"coo_sparse": "SPARSE", "composite_tensor": "COMPOSITE"}

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


#: Fields that lie packed on the wire as an array lies in memory. As bytes they cost no Python object for each value,
#: and a NaN keeps its payload, which the way through Python's floats may change.
_AS_IN_MEMORY = frozenset({"BOOL", "FP32", "FP64"})

#: numpy stops at 64 dimensions; no model comes near.
_MAX_RANK = 32
#: Far above what any message limit lets in, far below where the product of a shape overflows.
_MAX_ELEMENTS = 1 << 40
#: Elements that a server's last value may be repeated to. Clients may ask for less (`limits.Budget`).
_MAX_FILLED = 1 << 22


def encode_tensor(tensor: Tensor, into: pb.TensorProto, *, typed: bool = False) -> None:
    """Fills ``into``: raw ``tensor_content`` or the datatype's own field; BYTES always as ``string_val``."""
    into.dtype = DTYPE_BY_DATATYPE[tensor.datatype]
    dims = into.tensor_shape.dim
    for size in tensor.shape:
        dims.add(size=size)
    if tensor.datatype == "BYTES":
        into.string_val.extend(tensor.data.ravel())
    elif not typed:
        into.tensor_content = bytes(raw.encode(tensor))
    elif tensor.datatype in _AS_IN_MEMORY:
        into.MergeFromString(_packed_field(_VALUES_FIELD[tensor.datatype], raw.encode(tensor)))
    else:
        flat = tensor.data.ravel()
        bits = flat.view(np.uint16) if tensor.datatype == "FP16" else flat
        getattr(into, _VALUES_FIELD[tensor.datatype]).extend(bits.tolist())


def decode_tensor(name: str, proto: pb.TensorProto, budget: limits.Budget | None = None) -> Tensor:
    """A tensor of ``proto``, whichever way it carries its values. ``budget`` is the request's, None for an answer.

    Fewer values than elements: the last one fills the rest (tensor.proto). Raises InvalidArgument where dtype, shape
    and values do not fit one another, Unimplemented for a dtype that the gateway does not know.
    """
    datatype = DATATYPE_BY_DTYPE.get(proto.dtype)
    if datatype is None:
        if proto.dtype == pb.DT_INVALID or proto.dtype not in pb.DataType.values():
            raise InvalidArgument(f"tensor {name!r}: dtype {proto.dtype} is not served")
        raise Unimplemented(f"tensor {name!r} is {_dtype_name(proto.dtype)}, which the gateway cannot carry")
    # The rank before the shape, which is a Python object for each dimension.
    shape = tuple(dim.size for dim in proto.tensor_shape.dim[: _MAX_RANK + 1])
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise InvalidArgument(f"tensor {name!r}: its shape is not known")
    if len(shape) > _MAX_RANK or prod(size or 1 for size in shape) > _MAX_ELEMENTS:
        raise InvalidArgument(f"tensor {name!r}: its shape is too large")
    if budget is not None:
        limits.check_empty(name, shape)
    if not proto.tensor_content:
        values = getattr(proto, _VALUES_FIELD[datatype])
        return Tensor(name, datatype, _filled(name, datatype, shape, values, budget))
    if datatype == "BYTES":
        return Tensor(name, datatype, _packed_strings(name, prod(shape), proto.tensor_content, budget).reshape(shape))
    return raw.decode(name, datatype, shape, proto.tensor_content)


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


def decode_predict(message: pb.PredictRequest) -> tuple[tuple[Tensor, ...], bool]:
    """The inputs, by name, and whether all came as typed values, which is then how the answer is to travel.

    Raises InvalidArgument, which names the tensor at fault.
    """
    limits.check_count("'inputs'", len(message.inputs), limits.MAX_TENSORS)
    names, budget = sorted(message.inputs), limits.Budget()
    typed = not any(message.inputs[name].tensor_content for name in names)
    return tuple(decode_tensor(name, message.inputs[name], budget) for name in names), typed


def encode_predict_response(outputs: Iterable[Tensor], *, model_spec: pb.ModelSpec, typed: bool) -> pb.PredictResponse:
    message = pb.PredictResponse(model_spec=model_spec)
    for tensor in outputs:
        encode_tensor(tensor, message.outputs[tensor.name], typed=typed)
    return message


def model_spec(name: str, version: int, signature_name: str = "") -> pb.ModelSpec:
    """``name`` is the model's as the client wrote it; the version is the one that serves."""
    return pb.ModelSpec(name=name, version=pb.Int64Value(value=version), signature_name=signature_name)


def check_names(inputs: Collection[str], output_filter: Collection[str], signature: Signature) -> None:
    """Raises InvalidArgument in the words of TensorFlow Serving (predict_util.cc)."""
    limits.check_count("'inputs'", len(inputs), limits.MAX_TENSORS)
    limits.check_count("names in 'output_filter'", len(output_filter), limits.MAX_TENSORS)
    sent, names = set(inputs), {spec.name for spec in signature.inputs}
    if sent != names:
        _check_unequal_names(sent, names, signature)
    known, chosen = {spec.name for spec in signature.outputs}, set[str]()
    for name in output_filter:
        if name not in known:
            raise InvalidArgument(
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {_braced(known)}."
            )
        if name in chosen:
            raise InvalidArgument(f"duplicate output tensor alias: {name}")
        chosen.add(name)


def _check_unequal_names(sent: set[str], names: set[str], signature: Signature) -> None:
    """Only optional inputs may be missing. Raises InvalidArgument."""
    optional = {spec.name for spec in signature.inputs if spec.optional}
    if len(sent) > len(names) or (len(sent) < len(names) and not optional):
        raise InvalidArgument(
            f"input size does not match signature: {len(sent)}!={len(names)} len({_braced(sent)}) != "
            f"len({_braced(names)}). Sent extra: {_braced(sent - names)}. "
            f"Missing but required: {_braced(names - sent)}."
        )
    if not optional:
        raise InvalidArgument(
            f"input tensor alias not found in signature: {min(sent - names)}. "
            f"Inputs expected to be in the set {_braced(names)}."
        )
    _check_beside_defaults(sent, names, optional, signature)


def _check_beside_defaults(sent: set[str], names: set[str], optional: set[str], signature: Signature) -> None:
    """Of a signature with defaults (tensorflow/cc/saved_model/util.cc § GetInputValues)."""
    if missing := names - optional - sent:
        alias = min(missing)
        feed = definition(signature).inputs[alias].name
        raise InvalidArgument(
            f"Signature input alias: {alias}(feed name: {feed}) not found in request and no default value provided. "
            f"Inputs expected to be in the request {_braced(sent)}, or default input alias set: "
            f"{','.join(sorted(optional))}"
        )
    if extra := sent - names:
        raise InvalidArgument(
            f"Inputs contains invalid name. Used request inputs: {','.join(sorted(sent - extra))}, "
            f"request input: {','.join(sorted(sent))}"
        )


def _braced(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def decode_predict_response(message: pb.PredictResponse) -> tuple[Tensor, ...]:
    """The outputs, by name in alphabetical order: a protobuf map has none of its own.

    Raises DataLoss where they are no tensors, Unimplemented for those that the gateway does not carry.
    """
    try:
        names = sorted(message.outputs)
        for name in names:
            _check_supported(name, message.outputs[name])
        return tuple(decode_tensor(name, message.outputs[name]) for name in names)
    except InvalidArgument as error:
        raise DataLoss(f"the server's answer is not valid: {error.message}") from error


def _check_supported(name: str, proto: pb.TensorProto) -> None:
    """Raises Unimplemented for a tensor that a sound server may send and the gateway cannot carry."""
    if proto.dtype not in DATATYPE_BY_DTYPE and proto.dtype != pb.DT_INVALID and proto.dtype in pb.DataType.values():
        dtype = _dtype_name(proto.dtype)
        raise Unimplemented(f"output {name!r} is {dtype}, which the gateway cannot carry; ask for other outputs")
    rank = len(proto.tensor_shape.dim)
    if rank > _MAX_RANK:
        raise Unimplemented(f"output {name!r} has {rank} dimensions; the gateway carries at most {_MAX_RANK}")


def decode_signature(definition: pb.SignatureDef) -> Signature:
    """The signature as the gateway can express it, beside the server's own.

    A tensor that the gateway cannot carry has a datatype of TensorFlow's name (`COMPLEX64`, `QINT8`), or `SPARSE` or
    `COMPOSITE`: calls that need it are refused, and the signature is known all the same. ``native`` is serialised
    deterministically, so that equal signatures of two servers compare as equal.
    """
    return Signature(
        _specs(definition.inputs, definition.defaults),
        _specs(definition.outputs, ()),
        definition.method_name,
        ordered=False,
        native=definition.SerializeToString(deterministic=True),
    )


def definition(signature: Signature) -> pb.SignatureDef:
    """The server's own SignatureDef; one made of what the gateway knows where the server gives none."""
    if signature.native:
        return pb.SignatureDef.FromString(signature.native)
    made = pb.SignatureDef(method_name=signature.method)
    for infos, specs in ((made.inputs, signature.inputs), (made.outputs, signature.outputs)):
        for spec in specs:
            infos[spec.name].CopyFrom(_info(spec))
    return made


def _info(spec: TensorSpec) -> pb.TensorInfo:
    dims = [pb.TensorShapeProto.Dim(size=size) for size in spec.shape]
    shape = pb.TensorShapeProto(dim=dims, unknown_rank=spec.unknown_rank)
    dtype = DTYPE_BY_DATATYPE.get(spec.datatype, pb.DT_INVALID)
    return pb.TensorInfo(name=f"{spec.name}:0", dtype=dtype, tensor_shape=shape)


def _specs(infos: Mapping[str, pb.TensorInfo], defaults: Container[str]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name,
            _datatype(infos[name]),
            tuple(dim.size for dim in infos[name].tensor_shape.dim),
            infos[name].tensor_shape.unknown_rank,
            optional=name in defaults,
        )
        for name in sorted(infos)
    )


def _datatype(info: pb.TensorInfo) -> str:
    encoding = info.WhichOneof("encoding")
    if encoding in _OTHER_ENCODINGS:
        return _OTHER_ENCODINGS[encoding]
    return DATATYPE_BY_DTYPE.get(info.dtype) or _dtype_name(info.dtype)


def _dtype_name(dtype: int) -> str:
    """TensorFlow's name for a dtype that the gateway has none for."""
    try:
        return pb.DataType.Name(dtype).removeprefix("DT_")
    except ValueError:
        return f"dtype {dtype}"


def _packed_field(field: str, values: bytes | memoryview) -> bytes:
    """Number and wire type 2, length as a varint, values (protobuf's encoding, "Packed repeated fields")."""
    head = bytearray([pb.TensorProto.DESCRIPTOR.fields_by_name[field].number << 3 | 2])
    length = len(values)
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return b"".join([bytes([*head, length]), values])


def _filled(name: str, datatype: str, shape: tuple[int, ...], values: Any, budget: limits.Budget | None) -> Array:
    count = prod(shape)
    if len(values) > count or (count and not values):
        raise InvalidArgument(f"tensor {name!r}: shape {list(shape)} takes {count} values, got {len(values)}")
    if len(values) < count and count > _MAX_FILLED:
        raise InvalidArgument(f"tensor {name!r}: a value is repeated to at most {_MAX_FILLED} elements; send them all")
    dtype = DATATYPES[datatype]
    if budget is not None and len(values) < count:
        size = dtype.itemsize + (len(values[-1]) if datatype == "BYTES" else 0)
        budget.copies(f"the last value of tensor {name!r}", size, count - len(values))
    if budget is not None and datatype == "BYTES":
        budget.strings(name, count)
    if datatype == "BYTES":
        array: Array = np.empty(len(values), np.object_)
        array[:] = values
    elif _VALUES_FIELD[datatype] in ("int_val", "half_val"):
        array = _narrowed(name, datatype, np.array(values, np.int32))
    else:
        array = np.array(values, dtype)
    if len(array) < count:
        given, array = array, np.empty(count, dtype)
        array[: len(given)], array[len(given) :] = given, given[-1]
    return array.reshape(shape)


def _narrowed(name: str, datatype: str, values: Array) -> Array:
    """Values of the 32-bit field that carries all smaller types, halves as their bits. TensorFlow wraps them around."""
    dtype = DATATYPES[datatype]
    bits = np.dtype(np.uint16) if dtype.kind == "f" else dtype
    limits = np.iinfo(bits)
    if values.size and (values.min() < limits.min or values.max() > limits.max):
        raise InvalidArgument(f"tensor {name!r}: a value is outside the range of {datatype}")
    return values.astype(bits).view(dtype)


def _packed_strings(name: str, count: int, content: bytes, budget: limits.Budget | None) -> Array:
    """Strings as ``tensor_content``: all their lengths as varints, then all their bytes (core/platform/coding.cc)."""
    if count > len(content):
        raise InvalidArgument(f"tensor {name!r}: {len(content)} bytes are too few for {count} strings")
    if budget is not None:
        budget.strings(name, count)
    # Most lengths are one byte. What begins with bytes below 0x80 alone is those bytes.
    offset = next((at for at, byte in enumerate(content[:count]) if byte > 0x7F), count)
    lengths = list(content[:offset])
    for _ in range(count - offset):
        length, offset = _varint(name, content, offset)
        lengths.append(length)
    if offset + sum(lengths) != len(content):
        raise InvalidArgument(f"tensor {name!r}: strings of {sum(lengths)} bytes, but {len(content) - offset} are left")
    found = []
    for length in lengths:
        found.append(content[offset : offset + length])
        offset += length
    items = np.empty(count, np.object_)
    items[:] = found
    return items


def _varint(name: str, content: bytes, offset: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if offset >= len(content):
            break
        byte = content[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
    raise InvalidArgument(f"tensor {name!r}: its content does not begin with the lengths of its strings")
