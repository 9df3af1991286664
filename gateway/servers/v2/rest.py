"""The Open Inference Protocol over REST: JSON, and binary tensors for servers that take them.

Sources: open-inference-protocol ``specification/protocol/inference_rest.md``; Triton
``docs/protocol/extension_{binary_data,model_repository,schedule_policy}.md``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from urllib.parse import quote

import orjson

from gateway import errors
from gateway.codecs import json, raw, v2
from gateway.servers.faults import readable
from gateway.servers.http import HttpPool, Piece, Response
from gateway.servers.v2.client import Described
from gateway.servers.v2.faults import V2
from gateway.tls import ClientTls
from gateway.types import InferRequest, Signature, Tensor, TensorSpec

_BINARY, _DEADLINES = "binary_tensor_data", "schedule_policy"
_HEADER_LENGTH = v2.HEADER_LENGTH.encode()
#: What servers say to a call that they do not have.
_NO_SUCH_CALL = frozenset({404, 405, 501})
_INSTEAD = (
    "this server takes tensors over REST as JSON only; give its endpoint as grpc://, or set binary: true if it "
    "takes the binary tensor extension"
)


class RestWire:
    """``binary``: whether tensors travel in the binary extension; None to do what the server's extensions say."""

    def __init__(self, url: str, *, binary: bool | None, tls: ClientTls | None = None) -> None:
        self._pool = HttpPool(url, faults=V2, tls=tls)
        self._told = HttpPool(url, faults=V2, max_connections=4, tls=tls)
        self._binary = binary
        #: Asked again once the server was away: another may have come in its place.
        self._extensions: frozenset[str] = frozenset()
        self._extensions_known = False

    async def infer(self, request: InferRequest, version: str, seconds: float | None) -> tuple[Tensor, ...]:
        binary = self._binary if self._binary is not None else _BINARY in self._extensions
        parameters: dict[str, Any] = {"binary_data_output": True} if binary else {}
        if seconds is not None and _DEADLINES in self._extensions:
            parameters["timeout"] = max(1, int(seconds * 1e6))
        pieces, header_length = _encoded(request, binary, parameters)
        headers = "Content-Type: application/json\r\n"
        if header_length is not None:
            headers = f"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: {header_length}\r\n"
        size = sum(map(len, pieces))
        path = f"{_path(request.model, version)}/infer"
        response = await self._pool.request("POST", path, headers=headers, body=pieces, size=size)
        if response.status != 200:
            raise _failure(response)
        with readable():
            return v2.decode_response(response.body, response.number(_HEADER_LENGTH))

    async def describe(self, model: str, version: str) -> Described:
        if not self._extensions_known:
            self._extensions = _extensions(await self._asked("GET", "/v2"))
            self._extensions_known = True
        document = await self._asked("GET", _path(model, version))
        try:
            signature = Signature(_specs(document.get("inputs")), _specs(document.get("outputs")))
            versions = tuple(str(text) for text in document.get("versions") or ())
            return Described(versions, str(document.get("platform") or ""), signature)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise errors.DataLoss("the v2 server describes a model in no known form") from None

    async def ready(self, model: str, version: str) -> bool:
        """By the status: of a version that is not ready, Triton and MLServer say 400 and KServe 503."""
        response = await self._answered("GET", f"{_path(model, version)}/ready")
        if response.status != 200:
            return False
        # Triton's and MLServer's bodies are empty.
        document = _parsed(response) if response.body.strip() else {}
        return not isinstance(document, dict) or document.get("ready", True) is not False

    async def models(self) -> Collection[str] | None:
        """From Triton's and MLServer's index, or KServe's list."""
        response = await self._answered("POST", "/v2/repository/index", b"{}")
        if response.status == 200:
            return _names(_parsed(response))
        if response.status not in _NO_SUCH_CALL:
            raise _failure(response, describing=True)
        response = await self._answered("GET", "/v2/models")
        if response.status == 200:
            document = _parsed(response)
            return _names(document.get("models") if isinstance(document, dict) else None)
        return None

    async def aclose(self) -> None:
        await self._pool.aclose()
        await self._told.aclose()

    async def _answered(self, method: str, path: str, body: bytes = b"") -> Response:
        headers = "Content-Type: application/json\r\n" if body else ""
        try:
            return await self._told.request(method, path, headers=headers, body=[body] if body else (), size=len(body))
        except errors.Unavailable:
            self._extensions_known = False
            raise

    async def _asked(self, method: str, path: str) -> Any:
        response = await self._answered(method, path)
        if response.status != 200:
            raise _failure(response, describing=True)
        return _parsed(response)


def _path(model: str, version: str) -> str:
    of_version = f"/versions/{version}" if version else ""
    return f"/v2/models/{quote(model, safe='')}{of_version}"


def _encoded(request: InferRequest, binary: bool, parameters: dict[str, Any]) -> tuple[list[Piece], int | None]:
    """The body's pieces, and the length of its JSON if there are binary tensors behind it.

    Raises Unimplemented for what JSON cannot carry.
    """
    blobs: list[Piece] = []
    message: dict[str, Any] = {"inputs": [_entry(tensor, binary, blobs) for tensor in request.inputs]}
    if request.outputs:
        message["outputs"] = [{"name": name} for name in request.outputs]
    if parameters:
        message["parameters"] = parameters
    document = orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    return [document, *blobs], len(document) if binary else None


def _entry(tensor: Tensor, binary: bool, blobs: list[Piece]) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
    if binary:
        blob = raw.encode(tensor)
        blobs.append(blob)
        return {**entry, "parameters": {"binary_data_size": len(blob)}}
    try:
        return {**entry, "data": json.encode(tensor, instead=_INSTEAD)}
    except errors.NotAcceptable as error:
        raise errors.Unimplemented(error.message.replace("output", "input", 1)) from None


def _failure(response: Response, *, describing: bool = False) -> errors.DuetError:
    text = f"status {response.status}"
    try:
        document = orjson.loads(response.body)
        if isinstance(document, dict) and isinstance(document.get("error"), str):
            text = document["error"]
    except orjson.JSONDecodeError:
        pass  # MLServer answers a failure of its own with a trace, which is for its log
    return V2.translated(response.status, text, describing=describing)


def _parsed(response: Response) -> Any:
    try:
        return orjson.loads(response.body)
    except orjson.JSONDecodeError:
        raise errors.DataLoss("the v2 server sent no JSON") from None


def _extensions(document: Any) -> frozenset[str]:
    found = document.get("extensions") if isinstance(document, dict) else None
    return frozenset(map(str, found)) if isinstance(found, list) else frozenset()


def _names(entries: Any) -> list[str]:
    if not isinstance(entries, list):
        raise errors.DataLoss("the v2 server lists its models in no known form")
    names = (entry.get("name") if isinstance(entry, dict) else entry for entry in entries)
    return list(dict.fromkeys(name for name in names if isinstance(name, str) and name))


def _specs(entries: Any) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(str(entry["name"]), str(entry["datatype"]), tuple(int(size) for size in entry["shape"]))
        for entry in entries or ()
    )
