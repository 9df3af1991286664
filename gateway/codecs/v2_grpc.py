"""The Open Inference Protocol's gRPC messages of inference, in both directions.

Sources: open-inference-protocol ``specification/protocol/inference_grpc.md``; Triton's ``grpc_service.proto``. Tensors
travel raw (``raw_*_contents``, one entry per tensor in order) or typed (``contents``), and the answer takes the form of
the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from gateway.codecs import classification, limits, raw, v2, v2_base64
from gateway.errors import InvalidArgument
from gateway.protos import v2_pb2 as pb
from gateway.types import DATATYPES, Array, InferResponse, Parameter, Tensor

#: The field that holds a datatype's values when they travel typed. FP16 and BF16 have none: they travel raw only.
_FIELDS: dict[str, str] = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

#: Fields that lie packed on the wire as an array lies in memory. As bytes they cost no Python object for each value,
#: and a NaN keeps its payload, which the way through Python's floats may change.
_AS_IN_MEMORY = frozenset({"BOOL", "FP32", "FP64"})


@dataclass(frozen=True, slots=True)
class InferMessage:
    """A decoded request. ``raw`` is the form in which its tensors came, ``classes`` how many of an output are asked.

    ``form`` says which outputs are asked for in Base64.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    parameters: dict[str, Parameter]
    classes: dict[str, int]
    raw: bool
    signature_name: str | None = None
    form: v2.OutputForm = v2.OutputForm()  # noqa: RUF009 - frozen


def decode_request(message: pb.ModelInferRequest) -> InferMessage:
    """Raises InvalidArgument, which names the tensor or member at fault."""
    for what, entries in (("'inputs'", message.inputs), ("'outputs'", message.outputs)):
        limits.check_count(what, len(entries), limits.MAX_TENSORS)
    parameters = _parameters(message.parameters, "the request")
    v2.check_parameters(parameters)
    signature_name = v2.take_signature_name(parameters)
    base64 = v2_base64.asked(parameters, "the request")
    # A request without inputs has no form; Triton's clients expect raw answers.
    is_raw, budget = bool(message.raw_input_contents) or not message.inputs, limits.Budget()
    inputs = (
        _raw_inputs(message, budget) if is_raw else tuple(typed_tensor(tensor, budget) for tensor in message.inputs)
    )
    inputs = tuple(_plain(tensor, given, base64) for tensor, given in zip(inputs, message.inputs, strict=True))
    names = [output.name for output in message.outputs]
    for name in names:
        limits.check_name("a name in 'outputs'", name)
    if len(set(names)) != len(names):
        raise InvalidArgument("an output is asked for twice")
    classes: dict[str, int] = {}
    form = v2.OutputForm(all_base64=base64)
    for output in message.outputs:
        asked = _parameters(output.parameters, f"output {output.name!r}")
        if asked:
            form.base64[output.name] = v2_base64.asked(asked, f"output {output.name!r}", base64)
        if "classification" in asked:
            classes[output.name] = classification.count(output.name, asked["classification"])
    return InferMessage(inputs, tuple(names), parameters, classes, is_raw, signature_name, form)


def encode_response(response: InferResponse, asked: InferMessage, *, request_id: str = "") -> pb.ModelInferResponse:
    """The answer in the request's form: raw, or typed unless an output has a datatype that travels raw only."""
    message = pb.ModelInferResponse(model_name=response.model, model_version=str(response.version), id=request_id)
    outputs = classification.best(response.outputs, asked.classes)
    is_raw = asked.raw or any(tensor.datatype not in _FIELDS for tensor in outputs)
    for tensor in outputs:
        entry = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if encoding := asked.form.asks_base64(tensor):
            tensor = v2_base64.encoded(tensor)
            entry.parameters[encoding].string_param = v2_base64.BASE64
        if is_raw:
            message.raw_output_contents.append(bytes(raw.encode(tensor)))
        else:
            _fill(entry.contents, tensor)
    return message


def _plain(tensor: Tensor, given: pb.ModelInferRequest.InferInputTensor, base64: str) -> Tensor:
    """The tensor itself where it came in Base64, which it says, or the request for it (``base64``)."""
    parameters = _parameters(given.parameters, f"tensor {tensor.name!r}") if given.parameters else {}
    if v2_base64.asked(parameters, f"tensor {tensor.name!r}"):
        v2_base64.check_datatype(tensor.name, tensor.datatype)
    elif not base64 or tensor.datatype != "BYTES" or not v2_base64.asked(parameters, "", base64):
        return tensor
    return v2_base64.decoded(tensor)


def _raw_inputs(message: pb.ModelInferRequest, budget: limits.Budget) -> tuple[Tensor, ...]:
    if len(message.raw_input_contents) != len(message.inputs):
        raise InvalidArgument(
            f"'raw_input_contents' has {len(message.raw_input_contents)} entries for {len(message.inputs)} inputs; "
            "it must have one for each"
        )
    tensors = []
    for tensor, content in zip(message.inputs, message.raw_input_contents, strict=True):
        # MLServer's client sends an empty `contents` beside each raw entry.
        if tensor.contents.ByteSize():
            raise InvalidArgument(f"tensor {tensor.name!r}: give either 'contents' or 'raw_input_contents'")
        tensors.append(raw.decode(_name(tensor), tensor.datatype, _shape(tensor), content, budget))
    return tuple(tensors)


def typed_tensor(
    tensor: pb.ModelInferRequest.InferInputTensor | pb.ModelInferResponse.InferOutputTensor,
    budget: limits.Budget | None,
) -> Tensor:
    """A tensor whose values are in ``contents``; ``budget`` is a request's. Raises InvalidArgument."""
    name, datatype, shape = _name(tensor), tensor.datatype, _shape(tensor)
    if datatype not in DATATYPES:
        raise InvalidArgument(f"tensor {name!r}: unknown datatype {datatype!r}; known are {', '.join(DATATYPES)}")
    v2.check_no_shared_memory(name, _parameters(tensor.parameters, f"tensor {name!r}"))
    field = _FIELDS.get(datatype)
    if field is None:
        raise InvalidArgument(f"tensor {name!r}: {datatype} has no typed form; send it in 'raw_input_contents'")
    filled = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if filled not in ([], [field]):
        raise InvalidArgument(f"tensor {name!r}: {datatype} belongs in {field!r}, found {', '.join(filled)}")
    values = getattr(tensor.contents, field)
    if len(values) != prod(shape):
        raise InvalidArgument(
            f"tensor {name!r}: shape {list(shape)} takes {prod(shape)} values, {field!r} has {len(values)}"
        )
    if datatype == "BYTES" and budget is not None:
        budget.strings(name, len(values))
    if datatype in _AS_IN_MEMORY and values:
        return raw.decode(name, datatype, shape, _packed(tensor.contents, len(values) * DATATYPES[datatype].itemsize))
    return Tensor(name, datatype, _array(name, datatype, values).reshape(shape))


def _fill(contents: pb.InferTensorContents, tensor: Tensor) -> None:
    field = _FIELDS[tensor.datatype]
    if tensor.datatype not in _AS_IN_MEMORY:
        getattr(contents, field).extend(tensor.data.ravel().tolist())
    elif tensor.data.size:
        values = raw.encode(tensor)
        # A packed field: number and wire type 2, length, values (protobuf's encoding, "Packed repeated fields").
        tag = bytes([pb.InferTensorContents.DESCRIPTOR.fields_by_name[field].number << 3 | 2])
        contents.MergeFromString(b"".join([tag, _varint(len(values)), values]))


def _packed(contents: pb.InferTensorContents, size: int) -> memoryview:
    """The values of the one field that is filled: ``size`` bytes after its tag and their number."""
    start = 1 + len(_varint(size))
    return memoryview(contents.SerializeToString())[start : start + size]


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _array(name: str, datatype: str, values: Any) -> Array:
    dtype = DATATYPES[datatype]
    if datatype == "BYTES":
        strings = np.empty(len(values), np.object_)
        strings[:] = list(values)
        return strings
    if dtype.kind in "fb" or dtype.itemsize >= 4:
        return np.array(values, dtype)
    # INT8, INT16 and their unsigned kin share a field of 32 bits.
    wide = np.array(values, np.int32 if dtype.kind == "i" else np.uint32)
    limits = np.iinfo(dtype)
    if wide.size and (wide.min() < limits.min or wide.max() > limits.max):
        raise InvalidArgument(f"tensor {name!r}: {datatype} holds {limits.min} to {limits.max}")
    return wide.astype(dtype)


def _name(tensor: pb.ModelInferRequest.InferInputTensor | pb.ModelInferResponse.InferOutputTensor) -> str:
    if not tensor.name:
        raise InvalidArgument("each of 'inputs' needs a 'name'")
    limits.check_name("a name in 'inputs'", tensor.name)
    limits.check_name("a datatype in 'inputs'", tensor.datatype)
    return tensor.name


def _shape(tensor: pb.ModelInferRequest.InferInputTensor | pb.ModelInferResponse.InferOutputTensor) -> tuple[int, ...]:
    v2.check_rank(tensor.name, len(tensor.shape))
    shape = v2.check_shape(tensor.name, tensor.shape)
    limits.check_empty(tensor.name, shape)
    return shape


def _parameters(values: Mapping[str, pb.InferParameter], of: str) -> dict[str, Parameter]:
    limits.check_count(f"parameters of {of}", len(values), limits.MAX_TENSORS)
    found: dict[str, Parameter] = {}
    for name, value in values.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidArgument(f"parameter {name!r} of {of} has no value")
        found[name] = getattr(value, choice)
    return found
