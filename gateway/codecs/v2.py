"""The Open Inference Protocol's REST bodies, JSON and binary tensor extension, in both directions.

Sources: open-inference-protocol ``specification/protocol/inference_rest.md``; Triton
``docs/protocol/extension_binary_data.md``. The gateway's front decodes requests and encodes responses; the TorchServe
backend, whose generic handler speaks the binary form, does the reverse.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

import orjson

from gateway.codecs import json, raw
from gateway.errors import DataLoss, InvalidArgument
from gateway.types import InferRequest, InferResponse, ModelMetadata, Parameter, Signature, Tensor, TensorSpec

#: Length in bytes of the JSON part of a body with binary tensors behind it.
HEADER_LENGTH = "inference-header-content-length"

#: numpy itself stops at 64 dimensions, TensorFlow at 254; no model comes near.
MAX_RANK = 32
#: Far above what any body limit lets in, far below where the product of a shape overflows.
MAX_ELEMENTS = 1 << 40

_JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True, slots=True)
class OutputForm:
    """Which outputs the client wants as binary data."""

    all_binary: bool = False
    by_name: dict[str, bool] = field(default_factory=dict)

    def binary(self, name: str) -> bool:
        return self.by_name.get(name, self.all_binary)


@dataclass(frozen=True, slots=True)
class InferBody:
    """A decoded request body: what it asks, apart from the model that the path names."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    parameters: dict[str, Parameter]
    id: str
    form: OutputForm


def decode_request(body: bytes, header_length: int | None = None) -> InferBody:
    """A request body; ``header_length`` is the value of the header of that name, None where there is none.

    Raises InvalidArgument, which names the tensor or member at fault.
    """
    document, binary = _split(body, header_length)
    message = _parse(document)
    parameters = _parameters(message.get("parameters"), "the request")
    all_binary = parameters.pop("binary_data_output", False)
    if not isinstance(all_binary, bool):
        raise InvalidArgument("parameter 'binary_data_output' must be true or false")
    request_id = message.get("id", "")
    if not isinstance(request_id, str):
        raise InvalidArgument("'id' must be a string")
    names, by_name = _wanted_outputs(message.get("outputs"))
    entries = message.get("inputs")
    if not isinstance(entries, list) or not entries:
        raise InvalidArgument("'inputs' must be a list of at least one tensor")
    inputs = _tensors(entries, binary, may_hold_booleans=b"true" in document or b"false" in document)
    return InferBody(inputs, names, parameters, request_id, OutputForm(all_binary, by_name))


def encode_response(
    response: InferResponse, *, form: OutputForm, request_id: str = ""
) -> tuple[list[bytes | memoryview], int | None]:
    """The body's pieces, and the value of the `HEADER_LENGTH` header where a binary tensor is among them."""
    message: dict[str, Any] = {"model_name": response.model, "model_version": str(response.version)}
    if request_id:
        message["id"] = request_id
    blobs: list[bytes | memoryview] = []
    message["outputs"] = [_entry(tensor, form.binary(tensor.name), blobs) for tensor in response.outputs]
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
    """The outputs in a response body. Raises DataLoss where it is none."""
    try:
        document, binary = _split(body, header_length)
        entries = _parse(document).get("outputs")
        if not isinstance(entries, list):
            raise InvalidArgument("'outputs' is missing")
        return _tensors(entries, binary, may_hold_booleans=True)
    except InvalidArgument as error:
        raise DataLoss(f"the server's answer is not valid: {error.message}") from error


def model_metadata(metadata: ModelMetadata, signature: Signature | None) -> dict[str, Any]:
    """The body of ``GET /v2/models/{model}``."""
    return {
        "name": metadata.model,
        "versions": [str(version.version) for version in metadata.versions.values() if version.ready],
        "platform": metadata.platform,
        "inputs": [_spec(spec) for spec in signature.inputs] if signature else [],
        "outputs": [_spec(spec) for spec in signature.outputs] if signature else [],
    }


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _split(body: bytes, header_length: int | None) -> tuple[bytes, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    if not 0 < header_length <= len(body):
        raise InvalidArgument(
            f"Inference-Header-Content-Length is {header_length}; it must be the length of the JSON part, "
            f"at least 1 and at most the body's {len(body)} bytes"
        )
    return body[:header_length], memoryview(body)[header_length:]


def _parse(document: bytes) -> dict[str, Any]:
    try:
        message = orjson.loads(document)
    except orjson.JSONDecodeError as error:
        hint = ""
        if b"NaN" in document or b"Infinity" in document:
            hint = "; NaN and Infinity are not JSON: send such values in the binary tensor extension"
        raise InvalidArgument(f"the body is not valid JSON: {error}{hint}") from None
    if not isinstance(message, dict):
        raise InvalidArgument("the body must be a JSON object")
    return message


def _parameters(value: Any, of: str) -> dict[str, Parameter]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidArgument(f"'parameters' of {of} must be an object")
    for name, item in value.items():
        if not isinstance(item, bool | int | float | str):
            raise InvalidArgument(f"parameter {name!r} of {of} must be a boolean, a number or a string")
    return value


def _wanted_outputs(entries: Any) -> tuple[tuple[str, ...], dict[str, bool]]:
    if entries is None:
        return (), {}
    if not isinstance(entries, list):
        raise InvalidArgument("'outputs' must be a list")
    by_name: dict[str, bool] = {}
    names: list[str] = []
    for entry in entries:
        name = _name(entry, "outputs")
        if name in names:
            raise InvalidArgument(f"output {name!r} is asked for twice")
        names.append(name)
        parameters = _parameters(entry.get("parameters"), f"output {name!r}")
        if "classification" in parameters:
            raise InvalidArgument(f"output {name!r}: the classification extension is not offered")
        if "binary_data" in parameters:
            binary = parameters["binary_data"]
            if not isinstance(binary, bool):
                raise InvalidArgument(f"parameter 'binary_data' of output {name!r} must be true or false")
            by_name[name] = binary
    return tuple(names), by_name


def _tensors(entries: list[Any], binary: memoryview, *, may_hold_booleans: bool) -> tuple[Tensor, ...]:
    tensors: list[Tensor] = []
    offset = 0
    for entry in entries:
        name = _name(entry, "inputs")
        datatype, shape = entry.get("datatype"), _shape(name, entry.get("shape"))
        if not isinstance(datatype, str):
            raise InvalidArgument(f"tensor {name!r}: 'datatype' is missing or no string")
        size = _parameters(entry.get("parameters"), f"tensor {name!r}").get("binary_data_size")
        if (size is None) == ("data" not in entry):
            raise InvalidArgument(f"tensor {name!r}: give either 'data' or the parameter 'binary_data_size'")
        if size is None:
            tensors.append(json.decode(name, datatype, shape, entry["data"], may_hold_booleans=may_hold_booleans))
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(binary) - offset:
            left = len(binary) - offset
            raise InvalidArgument(f"tensor {name!r}: binary_data_size is {size}, {left} bytes are left for it")
        tensors.append(raw.decode(name, datatype, shape, binary[offset : offset + size]))
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
    return name


def _shape(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise InvalidArgument(f"tensor {name!r}: 'shape' must be a list of integers")
    for size in value:
        if type(size) is not int or size < 0:
            raise InvalidArgument(f"tensor {name!r}: shape {value} must hold integers of at least 0, nothing else")
    if len(value) > MAX_RANK:
        raise InvalidArgument(f"tensor {name!r}: {len(value)} dimensions; at most {MAX_RANK} are allowed")
    if prod(size or 1 for size in value) > MAX_ELEMENTS:
        raise InvalidArgument(f"tensor {name!r}: shape {value} is too large")
    return tuple(value)


def _entry(tensor: Tensor, binary: bool, blobs: list[bytes | memoryview]) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
    if binary:
        blob = raw.encode(tensor)
        blobs.append(blob)
        entry["parameters"] = {"binary_data_size": len(blob)}
    else:
        entry["data"] = json.encode(tensor)
    return entry
