"""The Open Inference Protocol's REST bodies, JSON and binary tensor extension, in both directions.

Sources: open-inference-protocol ``specification/protocol/inference_rest.md``; Triton
``docs/protocol/extension_{binary_data,classification}.md``. The gateway's front decodes requests and encodes responses;
the TorchServe backend, whose generic handler speaks the binary form, does the reverse.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import orjson

from gateway.codecs import classification, fitting, json, large, limits, raw, scan, v2_base64
from gateway.errors import DataLoss, InvalidArgument, NotFound, Unimplemented
from gateway.types import DATATYPES, InferRequest, InferResponse, Parameter, Signature, Tensor

#: Length in bytes of the JSON part of a body with binary tensors behind it.
HEADER_LENGTH = "inference-header-content-length"

#: numpy itself stops at 64 dimensions, TensorFlow at 254; no model comes near.
MAX_RANK = 32
#: Far above what any body limit lets in, far below where the product of a shape overflows.
MAX_ELEMENTS = 1 << 40
#: One for each input and output, and one for the parameters of each.
_MAX_OBJECTS = 512

#: A longer ``timeout`` means this one, which is 31 years: no clock's sum comes near where it is exact no more, or none.
_MAX_TIMEOUT_MICROSECONDS = 10**15

#: Asks a stream to mark the last answer to a request.
EMPTY_FINAL_RESPONSE = "triton_enable_empty_final_response"

#: What a datatype's name looks like.
_DATATYPE = re.compile(r"[A-Z][A-Z0-9_]{1,31}")

_RAW = "Inference-Header-Content-Length is 0, so the body is the input's bytes and nothing else; that"
_JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY
_INSTEAD_OF_JSON = "ask for binary data (the parameter binary_data: true of that output), or call over gRPC"
_INSTEAD_OF_TEXT = f"ask for Base64 (the parameter content_encoding: base64 of that output), or {_INSTEAD_OF_JSON}"
#: Of an answer, whose objects are a few for each output: only a server sends it.
_MAX_ANSWER_OBJECTS = 1 << 16


@dataclass(frozen=True, slots=True)
class OutputForm:
    """Which outputs the client wants as binary data, and of which it wants the best classes, and how many.

    ``base64`` names the parameter by which an output was asked for in Base64 (`v2_base64`), ``all_base64`` all others'.
    """

    all_binary: bool = False
    by_name: dict[str, bool] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    base64: dict[str, str] = field(default_factory=dict)
    all_base64: str = ""

    def asks_base64(self, tensor: Tensor) -> str:
        """The parameter by which Base64 was asked for, where the tensor is one that can be said so."""
        return self.base64.get(tensor.name, self.all_base64) if tensor.datatype == "BYTES" else ""

    def binary(self, name: str) -> bool:
        return self.by_name.get(name, self.all_binary)


#: Of a body that is one input's bytes and nothing else: all outputs come back as binary data.
RAW_FORM = OutputForm(all_binary=True)


@dataclass(frozen=True, slots=True)
class InferBody:
    """A decoded request body: what it asks, apart from the model that the path names."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    parameters: dict[str, Parameter]
    id: str
    form: OutputForm
    signature_name: str | None = None


def decode_request(body: bytes, header_length: int | None = None) -> InferBody:
    """A request body; ``header_length`` is the value of the header of that name, None where there is none.

    Whether a request may have no inputs is for its model's signature to say.
    Raises InvalidArgument, which names the tensor or member at fault.
    """
    document, binary = _split(body, header_length)
    message = _parse(document)
    parameters = _parameters(message.get("parameters"), "the request")
    check_parameters(parameters)
    all_binary = parameters.pop("binary_data_output", False)
    if not isinstance(all_binary, bool):
        raise InvalidArgument("parameter 'binary_data_output' must be true or false")
    signature_name = take_signature_name(parameters)
    request_id = message.get("id", "")
    if not isinstance(request_id, str):
        raise InvalidArgument("'id' must be a string")
    base64 = v2_base64.asked(parameters, "the request")
    names, form = _wanted_outputs(message.get("outputs"), all_binary, base64)
    entries = message.get("inputs")
    if not isinstance(entries, list):
        raise InvalidArgument("'inputs' must be a list of tensors")
    booleans = b"true" in document or b"false" in document
    inputs = _tensors(entries, binary, may_hold_booleans=booleans, base64=base64)
    return InferBody(inputs, names, parameters, request_id, form, signature_name)


def decode_raw_request(body: bytes, signature: Signature) -> InferBody:
    """A body that is the only input's bytes (header value 0): a batch of 1, and all outputs come back as binary data.

    One further dimension may be free. BYTES is one element, without a length before it. Raises InvalidArgument.
    """
    spec = fitting.main_input(signature.inputs)
    if spec is None:
        raise InvalidArgument(f"{_RAW} needs a model with one input; this one has {len(signature.inputs)}")
    shape = [1, *spec.shape[1:]] if spec.shape[:1] == (-1,) else list(spec.told_shape)
    form = RAW_FORM
    if spec.datatype == "BYTES":
        shape = [1 if size == -1 else size for size in shape]
        if prod(shape) != 1:
            raise InvalidArgument(f"{_RAW} takes one string; input {spec.name!r} has the shape {list(spec.shape)}")
        text = np.empty(1, np.object_)
        text[0] = bytes(body)
        return InferBody((Tensor(spec.name, spec.datatype, text.reshape(shape)),), (), {}, "", form)
    if shape.count(-1) > 1:
        raise InvalidArgument(f"{_RAW} needs at most one free dimension besides the batch; {spec.name!r} has more")
    dtype = DATATYPES.get(spec.datatype)
    known = prod(size for size in shape if size != -1) * (dtype.itemsize if dtype else 0)
    shape = [(len(body) // known if known else 0) if size == -1 else size for size in shape]
    try:
        return InferBody((raw.decode(spec.name, spec.datatype, tuple(shape), body),), (), {}, "", form)
    except InvalidArgument as error:
        raise InvalidArgument(f"{_RAW} does not fit: {error.message}") from None


def encode_response(
    response: InferResponse, *, form: OutputForm, request_id: str = ""
) -> tuple[list[bytes | memoryview], int | None]:
    """The body's pieces, and the value of the `HEADER_LENGTH` header where a binary tensor is among them."""
    message: dict[str, Any] = {"model_name": response.model, "model_version": str(response.version)}
    if request_id:
        message["id"] = request_id
    blobs: list[bytes | memoryview] = []
    outputs = classification.best(response.outputs, form.classes)
    message["outputs"] = [
        _entry(tensor, form.binary(tensor.name), blobs, form.asks_base64(tensor)) for tensor in outputs
    ]
    document = orjson.dumps(message, option=_JSON_OPTIONS)
    if not any(blobs):
        return [document], None
    return [document, *blobs], len(document)


def encode_request(request: InferRequest) -> tuple[list[bytes | memoryview], int]:
    """The binary form of a request: the body's pieces and the length of its JSON part."""
    blobs: list[bytes | memoryview] = []
    message: dict[str, Any] = {"inputs": [_entry(tensor, True, blobs) for tensor in request.inputs]}
    if request.outputs:
        message["outputs"] = [{"name": name} for name in request.outputs]
    document = orjson.dumps(message)
    return [document, *blobs], len(document)


def decode_response(body: bytes, header_length: int | None) -> tuple[Tensor, ...]:
    """The outputs in a response body. Raises DataLoss where it is none, Unimplemented for what the gateway lacks."""
    try:
        document, binary = _split(body, header_length)
        entries = _parse(document, max_objects=_MAX_ANSWER_OBJECTS, of_client=False).get("outputs")
        if not isinstance(entries, list):
            raise InvalidArgument("'outputs' is missing")
        for entry in entries:
            _check_supported(entry)
        return _tensors(entries, binary, may_hold_booleans=True)
    except InvalidArgument as error:
        raise DataLoss(f"the server's answer is not valid: {error.message}") from error


def decode_index_request(body: bytes) -> bool:
    """Whether only models that are ready are asked for; an empty body asks for all. Raises InvalidArgument."""
    ready = _parse(body).get("ready", False) if body.strip() else False
    if not isinstance(ready, bool):
        raise InvalidArgument("'ready' must be true or false")
    return ready


def version(text: str) -> int:
    """Raises NotFound for what no version can be."""
    if not text.isdecimal() or len(text) > 18:
        raise NotFound(f"version {text!r} does not exist: versions are whole numbers")
    return int(text)


def variant(parameters: Mapping[str, Parameter]) -> str | None:
    """The variant that the parameter of that name pins. Raises InvalidArgument."""
    given = parameters.get("variant")
    if given is not None and not isinstance(given, str):
        raise InvalidArgument("parameter 'variant' must be a string")
    return given


def take_signature_name(parameters: dict[str, Parameter]) -> str | None:
    """Takes the parameter of that name, which is no parameter of the model's, out. Raises InvalidArgument."""
    given = parameters.pop("signature_name", None)
    if given is not None and not isinstance(given, str):
        raise InvalidArgument("parameter 'signature_name' must be a string")
    return given


def timeout_seconds(parameters: Mapping[str, Parameter]) -> float | None:
    """Triton's parameter ``timeout``, which is in microseconds; None where there is none or it is 0."""
    given = parameters.get("timeout", 0)
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise InvalidArgument("parameter 'timeout' must be a whole number of microseconds")
    return min(given, _MAX_TIMEOUT_MICROSECONDS) / 1e6 if given else None


def check_parameters(parameters: Mapping[str, Parameter]) -> None:
    """Triton keeps the prefix ``triton_`` to itself and refuses what it does not know of it. Raises InvalidArgument."""
    for name in parameters:
        if name.startswith("triton_") and name != EMPTY_FINAL_RESPONSE:
            raise InvalidArgument(f"parameter {name!r}: names that begin with 'triton_' are reserved")


def check_no_shared_memory(name: str, parameters: Mapping[str, Parameter]) -> None:
    if "shared_memory_region" in parameters:
        raise InvalidArgument(f"tensor {name!r}: shared memory is not offered; send the data itself")


def check_shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Raises InvalidArgument for what no tensor can have, before memory is taken for it."""
    check_rank(name, len(shape))
    if min(shape, default=0) < 0:
        raise InvalidArgument(f"tensor {name!r}: shape {list(shape)} must hold integers of at least 0, nothing else")
    if prod(size or 1 for size in shape) > MAX_ELEMENTS:
        raise InvalidArgument(f"tensor {name!r}: shape {list(shape)} is too large")
    return tuple(shape)


def check_rank(name: str, rank: int) -> None:
    """Comes before all other checks of a shape, whose errors show it. Raises InvalidArgument."""
    if rank > MAX_RANK:
        raise InvalidArgument(f"tensor {name!r}: {rank} dimensions; at most {MAX_RANK} are allowed")


def _split(body: bytes, header_length: int | None) -> tuple[bytes, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    if not 0 < header_length <= len(body):
        raise InvalidArgument(
            f"Inference-Header-Content-Length is {header_length}; it must be the length of the JSON part, "
            f"at least 1 and at most the body's {len(body)} bytes"
        )
    return body[:header_length], memoryview(body)[header_length:]


def _check_supported(output: Any) -> None:
    if not isinstance(output, dict):
        return
    datatype, shape = output.get("datatype"), output.get("shape")
    known = datatype if isinstance(datatype, str) else ""
    check_supported(output.get("name"), known, len(shape) if isinstance(shape, list) else 0)


def check_supported(name: Any, datatype: str, rank: int) -> None:
    """A well-formed output of a datatype or a rank that the gateway does not have is no bad answer."""
    if _DATATYPE.fullmatch(datatype) and datatype not in DATATYPES:
        raise Unimplemented(f"output {name!r} is {datatype}, which the gateway cannot carry; ask for other outputs")
    if rank > MAX_RANK:
        raise Unimplemented(f"output {name!r} has {rank} dimensions; the gateway carries at most {MAX_RANK}")


def _parse(document: bytes, *, max_objects: int = _MAX_OBJECTS, of_client: bool = True) -> dict[str, Any]:
    try:
        scan.check(document, max_objects=max_objects, of_client=of_client)
    except InvalidArgument as error:
        if b'"b64"' not in document:
            raise
        hint = 'send elements as strings, with the parameter content_encoding "base64", in place of {"b64": ...}'
        raise InvalidArgument(f"{error.message}; {hint}") from None
    try:
        message = large.loads(document)
    except orjson.JSONDecodeError as error:
        hint = ""
        if b"NaN" in document or b"Infinity" in document:
            hint = "; NaN and Infinity are not JSON: send such values in the binary tensor extension"
        raise InvalidArgument(f"the body is not valid JSON: {error}{hint}") from None
    if not isinstance(message, dict):
        raise InvalidArgument("the body must be a JSON object")
    for member in ("inputs", "outputs"):
        # orjson takes the last of two, others the first: what was checked on the way here may not be what counts.
        if document.count(b'"%b"' % member.encode()) > 1 and _is_twice(document, member):
            raise InvalidArgument(f"{member!r} is given twice")
    return message


def _is_twice(document: bytes, member: str) -> bool:
    return sum(1 for _ in re.finditer(rb'"%b"\s*:' % member.encode(), document)) > 1


def _parameters(value: Any, of: str) -> dict[str, Parameter]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidArgument(f"'parameters' of {of} must be an object")
    for name, item in value.items():
        if not isinstance(item, bool | int | float | str):
            raise InvalidArgument(f"parameter {name!r} of {of} must be a boolean, a number or a string")
    return large.plain(value)


def _wanted_outputs(entries: Any, all_binary: bool, all_base64: str) -> tuple[tuple[str, ...], OutputForm]:
    form = OutputForm(all_binary, all_base64=all_base64)
    if entries is None:
        return (), form
    if not isinstance(entries, list):
        raise InvalidArgument("'outputs' must be a list")
    limits.check_count("'outputs'", len(entries), limits.MAX_TENSORS)
    names: dict[str, None] = {}
    for entry in entries:
        name = _name(entry, "outputs")
        if name in names:
            raise InvalidArgument(f"output {name!r} is asked for twice")
        names[name] = None
        parameters = _parameters(entry.get("parameters"), f"output {name!r}")
        if parameters:
            form.base64[name] = v2_base64.asked(parameters, f"output {name!r}", all_base64)
        if "classification" in parameters:
            form.classes[name] = classification.count(name, parameters["classification"])
        if "binary_data" in parameters:
            binary = parameters["binary_data"]
            if not isinstance(binary, bool):
                raise InvalidArgument(f"parameter 'binary_data' of output {name!r} must be true or false")
            form.by_name[name] = binary
    return tuple(names), form


def _tensors(
    entries: list[Any], binary: memoryview, *, may_hold_booleans: bool, base64: str | None = None
) -> tuple[Tensor, ...]:
    """``base64`` is what a request asks for its tensors (`v2_base64.asked`); None for an answer, where nobody asks."""
    budget = limits.Budget() if base64 is not None else None
    if budget is not None:
        limits.check_count("'inputs'", len(entries), limits.MAX_TENSORS)
    tensors: list[Tensor] = []
    offset = 0
    for entry in entries:
        name = _name(entry, "inputs")
        datatype, shape = entry.get("datatype"), _shape(name, entry.get("shape"))
        if not isinstance(datatype, str):
            raise InvalidArgument(f"tensor {name!r}: 'datatype' is missing or no string")
        limits.check_name(f"the datatype of tensor {name!r}", datatype)
        if budget is not None:
            limits.check_empty(name, shape)
        parameters = _parameters(entry.get("parameters"), f"tensor {name!r}")
        check_no_shared_memory(name, parameters)
        encoded = base64 is not None and bool(v2_base64.asked(parameters, f"tensor {name!r}"))
        if encoded:
            v2_base64.check_datatype(name, datatype)
        elif base64 and datatype == "BYTES":
            encoded = bool(v2_base64.asked(parameters, f"tensor {name!r}", base64))
        size = parameters.get("binary_data_size")
        if (size is None) == ("data" not in entry):
            raise InvalidArgument(f"tensor {name!r}: give either 'data' or the parameter 'binary_data_size'")
        if size is None:
            data, booleans = entry["data"], may_hold_booleans
            tensor = json.decode(name, datatype, shape, data, may_hold_booleans=booleans, base64=encoded, budget=budget)
            tensors.append(tensor)
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(binary) - offset:
            left = len(binary) - offset
            raise InvalidArgument(f"tensor {name!r}: binary_data_size is {size}, {left} bytes are left for it")
        tensor = raw.decode(name, datatype, shape, binary[offset : offset + size], budget)
        tensors.append(v2_base64.decoded(tensor) if encoded else tensor)
        offset += size
    if offset != len(binary):
        raise InvalidArgument(f"{len(binary) - offset} bytes are left after the last binary tensor")
    return tuple(tensors)


def _name(entry: Any, member: str) -> str:
    if not isinstance(entry, dict):
        raise InvalidArgument(f"each element of '{member}' must be an object")
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidArgument(f"each element of '{member}' needs a 'name'")
    limits.check_name(f"a name in '{member}'", name)
    return name


def _shape(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise InvalidArgument(f"tensor {name!r}: 'shape' must be a list of integers")
    check_rank(name, len(value))
    if not all(type(size) is int for size in value):
        raise InvalidArgument(f"tensor {name!r}: shape {value} must hold integers of at least 0, nothing else")
    return check_shape(name, value)


def _entry(tensor: Tensor, binary: bool, blobs: list[bytes | memoryview], base64: str = "") -> dict[str, Any]:
    """``base64`` is the parameter's name by which it was asked for, and which tells of it."""
    entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
    if base64:
        tensor = v2_base64.encoded(tensor)
        entry["parameters"] = {base64: v2_base64.BASE64}
    if binary:
        blob = raw.encode(tensor)
        blobs.append(blob)
        entry["parameters"] = {**entry.get("parameters", {}), "binary_data_size": len(blob)}
    else:
        instead = _INSTEAD_OF_TEXT if tensor.datatype == "BYTES" else _INSTEAD_OF_JSON
        entry["data"] = json.encode(tensor, instead=instead)
    return entry
