"""TorchServe over REST, with Duet's generic handler (serving/handler.py) in the archive.

Tensors travel in the Open Inference Protocol's binary form. TorchServe's REST is faster than its gRPC, and its gRPC
status codes cannot be told apart: an unknown model and a full queue are both INTERNAL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from gateway import errors
from gateway.codecs import artifact, v2
from gateway.servers.faults import readable
from gateway.servers.http import HttpPool, Piece, Response
from gateway.servers.torchserve.faults import TORCHSERVE
from gateway.servers.torchserve.keys import Keys
from gateway.tls import ClientTls
from gateway.types import (
    DEFAULT_SIGNATURE,
    InferRequest,
    InferResponse,
    ModelMetadata,
    Payload,
    ServerBatching,
    Signature,
    TensorSpec,
    VersionMetadata,
)

PLATFORM = "pytorch_torchscript"
OPAQUE = "torchserve_handler"

#: What an exception of a handler is called, and so is its own choice of a status (PredictionException).
_HANDLERS = "InternalServerException"
#: Those of its statuses that are TorchServe's own too: a worker that died, an exception that nobody chose.
_ALSO_TORCHSERVES = frozenset({500, 503, 507})
#: TorchServe's answer without a body, and those of something between: a proxy or a mesh.
_WITHOUT_KIND = frozenset({413, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class _Described:
    """What a handler tells of its model. ``ours`` is false for a stranger's handler."""

    signature: Signature
    ours: bool
    artifact: str


class TorchServe:
    """The Backend that one TorchServe endpoint is.

    ``endpoint`` is its inference address, ``management`` the address that tells about models (loopback or a private
    network, never open to clients), ``key_file`` where its tokens lie. ``variant`` is the name that its answers carry.
    ``opaque`` names the models whose handler is the user's own: they need no signature, and take payloads.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        management: str,
        variant: str,
        key_file: Path | None = None,
        opaque: Collection[str] = (),
        tls: ClientTls | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._variant = variant
        self._opaque = opaque
        self._inference = HttpPool(endpoint, faults=TORCHSERVE, tls=tls)
        self._management = HttpPool(management, faults=TORCHSERVE, max_connections=4, tls=tls)
        self._keys = Keys(key_file)
        # TorchServe's versions are text ("1", "1.0"); ours are integers.
        self._version_texts: dict[tuple[str, int], str] = {}
        self._described: dict[tuple[str, int], _Described] = {}

    async def infer(self, request: InferRequest) -> InferResponse:
        # TorchServe takes no deadline. Who waits for the call gives it up in time, which closes its connection.
        if request.deadline is not None and request.deadline <= asyncio.get_running_loop().time():
            raise errors.DeadlineExceeded(f"{request.model} could not be asked before the request's deadline")
        if request.payload is not None:
            return await self._pass_on(request, request.payload)
        pieces, header_length = v2.encode_request(request)
        headers = f"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: {header_length}\r\n"
        response = await self._predict(request, headers, pieces)
        if response.status != 200:
            raise _failure(response)
        with readable():
            outputs = v2.decode_response(response.body, response.number(v2.HEADER_LENGTH.encode()))
        return InferResponse(request.model, self._variant, request.version or 0, outputs)

    async def _pass_on(self, request: InferRequest, payload: Payload) -> InferResponse:
        headers = f"Content-Type: {payload.content_type}\r\n" if payload.content_type else ""
        response = await self._predict(request, headers, [payload.body])
        if not _is_handlers_own(response):
            raise _handed_on(response)
        kind = response.headers.get(b"content-type")
        answer = Payload(response.body, kind.decode("latin-1") if kind else None, response.status)
        return InferResponse(request.model, self._variant, request.version or 0, (), payload=answer)

    async def _predict(self, request: InferRequest, headers: str, pieces: Sequence[Piece]) -> Response:
        version = request.version or 0
        text = self._version_texts.get((request.model, version), str(version))
        path = f"/predictions/{quote(request.model, safe='')}/{quote(text, safe='')}"
        size = sum(map(len, pieces))
        key = self._keys.inference
        response = await self._inference.request("POST", path, headers=headers + key, body=pieces, size=size)
        if response.status == 400 and self._refused_key(response, key):
            lines = headers + self._keys.inference
            response = await self._inference.request("POST", path, headers=lines, body=pieces, size=size)
        return response

    async def metadata(self, model: str) -> ModelMetadata:
        await self._renew_keys()
        name = quote(model, safe="")
        described = await self._describe(f"/models/{name}/all")
        default = (await self._describe(f"/models/{name}"))[0].get("modelVersion")
        versions: dict[int, VersionMetadata] = {}
        workers, pending = 1, 0
        for entry in described:
            text = str(entry.get("modelVersion"))
            version = _version(text)
            if version is None:
                continue
            self._version_texts[model, version] = text
            ready_workers = sum(worker.get("status") == "READY" for worker in entry.get("workers", []))
            ready, workers = ready_workers > 0, max(workers, ready_workers)
            pending += _pending(entry)
            if model in self._opaque:
                versions[version] = VersionMetadata(version, ready, reason=_reason(ready), opaque=True)
                continue
            found = await self._description(model, version) if ready else None
            if found is not None:
                signatures = {DEFAULT_SIGNATURE: found.signature}
                batching = _batching(entry, found)
                versions[version] = VersionMetadata(
                    version, True, signatures, batching=batching, artifact=found.artifact
                )
                continue
            reason = "its handler does not describe its signature" if ready else _reason(ready)
            versions[version] = VersionMetadata(version, False, reason=reason)
        platform = OPAQUE if model in self._opaque else PLATFORM
        ordered = dict(sorted(versions.items()))
        default_version = _default(versions, str(default))
        return ModelMetadata(
            model, self._variant, platform, ordered, default_version, parallelism=workers, pending=pending
        )

    async def models(self) -> Collection[str]:
        await self._renew_keys()
        names: list[str] = []
        start = "0"
        while start.isdecimal():
            page = await self._managed(f"/models?limit=1000&next_page_token={start}")
            if not isinstance(page, dict):
                raise errors.DataLoss("TorchServe lists its models in no known form")
            names += [str(entry["modelName"]) for entry in page.get("models", []) if "modelName" in entry]
            start = str(page.get("nextPageToken", ""))
        return names

    async def aclose(self) -> None:
        await self._inference.aclose()
        await self._management.aclose()

    async def _describe(self, path: str) -> list[dict[str, Any]]:
        entries = await self._managed(path)
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
            raise errors.DataLoss("TorchServe describes a model in no known form")
        return entries

    async def _managed(self, path: str) -> Any:
        try:
            key = self._keys.management
            response = await self._management.request("GET", path, headers=key)
            if response.status == 400 and self._refused_key(response, key):
                response = await self._management.request("GET", path, headers=self._keys.management)
        except errors.Unavailable:
            # It may come back with other archives under the same names.
            self._described.clear()
            raise
        if response.status != 200:
            raise _failure(response, describing=True)
        try:
            return orjson.loads(response.body)
        except orjson.JSONDecodeError:
            raise errors.DataLoss("TorchServe's management sent no JSON") from None

    async def _description(self, model: str, version: int) -> _Described | None:
        known = self._described.get((model, version))
        if known is None:
            text = quote(self._version_texts[model, version], safe="")
            entries = await self._describe(f"/models/{quote(model, safe='')}/{text}?customized=true")
            known = _decoded(entries[0].get("customizedMetadata"))
            if known is not None:
                self._described[model, version] = known
        return known

    async def _renew_keys(self) -> None:
        self._keys.reread()
        if self._keys.due_for_renewal():
            for kind in ("inference", "management"):
                await self._management.request("GET", f"/token?type={kind}", headers=self._keys.renewal)
            self._keys.reread()

    def _refused_key(self, response: Response, key: str) -> bool:
        """True where ``key`` was refused and there is another by now: TorchServe makes new ones at each start.

        Another request may have found it before: what was sent counts, not what is known now.
        """
        if _error_type(response)[0] != "InvalidKeyException":
            return False
        if key in (self._keys.inference, self._keys.management):
            self._keys.reread()
        return key not in (self._keys.inference, self._keys.management)


def _failure(response: Response, *, describing: bool = False) -> errors.DuetError:
    kind, message = _error_type(response)
    return TORCHSERVE.translated(response.status, message, kind, describing=describing)


def _is_handlers_own(response: Response) -> bool:
    """Whether a user's own handler chose this answer; otherwise it tells of a failure."""
    if response.status < 400:
        return True
    kind, _ = _error_type(response)
    if kind not in ("", _HANDLERS):
        return False
    return response.status not in (_ALSO_TORCHSERVES if kind else _WITHOUT_KIND)


def _handed_on(response: Response) -> errors.DuetError:
    """The failure that an answer to an opaque body tells of.

    A handler may hand back what it was sent, in TorchServe's own form: nothing in it is beyond a caller.
    """
    error = _failure(response)
    if error.fault is not None:
        error.fault = replace(error.fault, unreachable=False, by_request=True)
    return error


def _pending(entry: dict[str, Any]) -> int:
    """Requests in TorchServe's queue: a worker that hangs is READY all the same, and only this shows it."""
    queue = entry.get("jobQueueStatus")
    pending = queue.get("pendingRequests") if isinstance(queue, dict) else None
    return pending if isinstance(pending, int) else 0


def _reason(ready: bool) -> str:
    return "" if ready else "no worker is ready"


def _error_type(response: Response) -> tuple[str, str]:
    try:
        body = orjson.loads(response.body)
        return str(body["type"]), str(body["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "", f"status {response.status}"


def _version(text: str) -> int | None:
    """TorchServe's "2" and "2.0" are our 2; None for what is no whole number."""
    whole, _, fraction = text.partition(".")
    return int(whole) if whole.isdecimal() and not fraction.strip("0") else None


def _default(versions: dict[int, VersionMetadata], text: str) -> int | None:
    """TorchServe's own default, which it would serve too: not another one while this one's workers start."""
    default = _version(text)
    return default if default in versions else None


def _batching(entry: dict[str, Any], found: _Described) -> ServerBatching | None:
    """Set where TorchServe gathers requests for a handler that is not ours, whose rows are then its author's business.

    Ours merges only rows that its artifact calls independent, and its artifact says so here too.
    """
    size = entry.get("batchSize")
    if found.ours or not isinstance(size, int) or size <= 1:
        return None
    return ServerBatching(f"TorchServe batches this model itself (batchSize {size})")


def _decoded(described: Any) -> _Described | None:
    if isinstance(described, str):
        described = artifact.parsed(described)
    try:
        signature = Signature(_specs(described["inputs"]), _specs(described["outputs"]), rows=artifact.rows(described))
    except (KeyError, TypeError, ValueError):
        return None
    return _Described(signature, artifact.is_of_duet(described), artifact.digest(described))


def _specs(entries: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            str(entry["name"]),
            str(entry["datatype"]),
            tuple(int(size) for size in entry["shape"]),
            optional=entry.get("optional") is True,
        )
        for entry in entries
    )
