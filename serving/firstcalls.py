"""One prediction per model and framework, through the gateway, as a client would make it."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import numpy as np

from gateway.codecs import v2
from gateway.errors import DuetError
from gateway.types import InferRequest, Tensor
from models.probes import as_array
from models.spec import TensorSpec
from serving.failures import Failure

CALL_SECONDS = 30.0
SHOWN_BYTES = 500
#: Their values have no form in JSON: they travel as binary tensors alone.
BINARY_ONLY = ("FP16", "BF16")


class CallFailed(Failure):
    """A prediction was not answered; the text has the gateway's own words."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`output` is the first output's values, `latency_ms` from sending to the last byte of the answer.

    Where the call failed, `failure` says why, and there is no output.
    """

    model: str
    variant: str
    version: str
    output: list[Any]
    latency_ms: float
    failure: str = ""


@dataclass(frozen=True, slots=True)
class FirstCall:
    """The request that a model is shown with. `path` follows the gateway's address; `{variant}` in it is filled in.

    `curl` is the same request as text for a shell, None where its values have no form in JSON.
    """

    path: str
    body: bytes
    headers: Mapping[str, str]
    curl: str | None = None


def tensor_call(model: str, inputs: Sequence[TensorSpec], values: Mapping[str, Any]) -> FirstCall:
    """A call with these inputs, nested lists by name, sent as binary tensors: so every datatype and rank can be.

    An element of BYTES is text, or `{"b64": "..."}` for bytes that are no text. Raises CallFailed where the values do
    not fit the inputs.
    """
    given = [spec for spec in inputs if spec.name in values]
    try:
        tensors = tuple(as_tensor(spec, values[spec.name]) for spec in given)
        (head, *blobs), _ = v2.encode_request(InferRequest(model, tensors))
    except (TypeError, ValueError, KeyError, OverflowError, DuetError) as error:
        raise CallFailed(f"the example does not fit the model's inputs: {error}") from error
    # The answer in binary too: FP16 and bytes that are no text have no other form.
    document = json.dumps(json.loads(bytes(head)) | {"parameters": {"binary_data_output": True}}).encode()
    in_json = json.dumps({"inputs": [as_json(tensor) for tensor in tensors]})
    return FirstCall(
        path=f"/v2/models/{quote(model, safe='')}@{{variant}}/infer",
        body=b"".join((document, *blobs)),
        headers={"Content-Type": "application/octet-stream", v2.HEADER_LENGTH: str(len(document))},
        curl=f"-d '{quoted(in_json)}'" if all(map(has_json, tensors)) else None,
    )


def payload_call(model: str, body: bytes, content_type: str) -> FirstCall:
    """A call of a handler of the user's own: the bytes as they are, as TorchServe's clients send them."""
    return FirstCall(
        path=f"/predictions/{quote(model, safe='')}@{{variant}}",
        body=body,
        headers={"Content-Type": content_type} if content_type else {},
    )


def as_tensor(spec: TensorSpec, values: Any) -> Tensor:
    if spec.datatype == "BF16":  # the upper half of a float32's bits, rounded to even
        bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
        return Tensor(spec.name, spec.datatype, ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16))
    return Tensor(spec.name, spec.datatype, as_array(spec, values))


def has_json(tensor: Tensor) -> bool:
    if tensor.datatype != "BYTES":
        return tensor.datatype not in BINARY_ONLY
    return all(is_text(one) for one in tensor.data.ravel())


def is_text(element: bytes) -> bool:
    try:
        element.decode()
    except UnicodeDecodeError:
        return False
    return True


def as_json(tensor: Tensor) -> dict[str, Any]:
    flat = tensor.data.ravel()
    values = [one.decode(errors="replace") for one in flat] if tensor.datatype == "BYTES" else tensor.data.tolist()
    # A list, of a single number too.
    nested = values if isinstance(values, list) else [values]
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape), "data": nested}


def quoted(text: str) -> str:
    """For a shell, between single quotes."""
    return text.replace("'", "'\\''")


def call(
    host: str,
    port: int,
    model: str,
    variant: str,
    request: FirstCall,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Answer:
    """Ask one variant. Raises CallFailed."""
    path = request.path.format(variant=variant)
    connection = http.client.HTTPConnection(host, port, timeout=CALL_SECONDS)
    begun = time.perf_counter()
    try:
        connection.request("POST", path, request.body, {**request.headers, **headers})
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise CallFailed(f"POST {path}: {error or type(error).__name__}") from error
    finally:
        connection.close()
    latency_ms = (time.perf_counter() - begun) * 1e3
    if response.status != http.client.OK:
        raise CallFailed(f"{response.status} {text_of(content)}")
    length = response.headers.get(v2.HEADER_LENGTH)
    if "/predictions/" in path:
        output: list[Any] = [" ".join(text_of(content).split())]
    else:
        output = first_output(content, int(length) if length else None)
    return Answer(model, variant, response.headers.get("x-duet-version", "?"), output, latency_ms)


def text_of(content: bytes) -> str:
    """Of an error the gateway's own words; of anything else its beginning."""
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    told = document.get("error", document.get("message")) if isinstance(document, dict) else None
    return str(told) if told else content[:SHOWN_BYTES].decode(errors="replace")


def first_output(content: bytes, header_length: int | None) -> list[Any]:
    """Its values, flat. Raises CallFailed where the answer is none."""
    try:
        outputs = v2.decode_response(content, header_length)
    except DuetError as error:
        raise CallFailed(error.message) from error
    if not outputs:
        return []
    first = outputs[0]
    if first.datatype == "BYTES":
        return [one.decode() if is_text(one) else f"({len(one)} bytes)" for one in first.data.ravel()]
    if first.datatype == "BF16":
        widened: list[Any] = (first.data.astype(np.uint32) << 16).view(np.float32).ravel().tolist()
        return widened
    values: list[Any] = first.data.ravel().tolist()
    return values
