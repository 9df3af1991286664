"""From method, path and body to status and body (http_rest_api_util.cc, http_rest_api_handler.cc)."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    regression_pb2,
)

from serving.embedded.calls import SIGNATURE_FIELD, Calls, version_wanted
from serving.embedded.errors import ServingError, invalid_argument
from serving.embedded.metrics import Metrics
from serving.embedded.predict import DEFAULT_SIGNATURE, run
from serving.embedded.rest import requests, writing

_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_PREDICTION = re.compile(rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<verb>classify|regress|predict)", re.I)
_STATUS = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?P<metadata>/metadata)?", re.I)
_MAX_INT64 = (1 << 63) - 1
#: http_server.cc
_HTTP_STATUS = {
    "OK": 200,
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNKNOWN": 500,
    "INTERNAL": 500,
    "DATA_LOSS": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
JSON, HTML = "application/json", "text/html"
NOT_FOUND_PAGE = b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    content_type: str = JSON


def failure(code: grpc.StatusCode, message: str) -> Answer:
    return Answer(_HTTP_STATUS[code.name], writing.finish(writing.error(message)))


class Routes:
    """``timeout_seconds`` bounds the run of a model, as it bounds the whole of a request over HTTP."""

    def __init__(self, calls: Calls, metrics: Metrics, *, timeout_seconds: float) -> None:
        self._calls = calls
        self._metrics = metrics
        self._timeout_seconds = timeout_seconds

    def answer(self, method: str, target: str, body: bytes) -> Answer:
        """``target`` is the path with the query string: the real server matches both together."""
        if method == "OPTIONS":
            raise ValueError("preflight requests are answered by the HTTP server")
        if not target.startswith("/v1/"):
            return Answer(404, NOT_FOUND_PAGE, HTML)
        try:
            return self._v1(method, target, body)
        except ServingError as error:
            return failure(error.code, error.full)

    def _v1(self, method: str, target: str, body: bytes) -> Answer:
        pattern = {"POST": _PREDICTION, "GET": _STATUS}.get(method)
        found = pattern.fullmatch(target) if pattern else None
        if found is None:
            raise invalid_argument(f"Malformed request: {method} {target}")
        if found["version"] and int(found["version"]) > _MAX_INT64:
            return Answer(400, b"")  # the real one returns before it writes the text
        spec = _spec(found)
        if method == "GET":
            # Any case matches, and only lower case is understood.
            return self._metadata(spec) if found["metadata"] == "/metadata" else self._status(spec)
        verbs = {"predict": self._predict, "classify": self._classify, "regress": self._regress}
        verb = verbs.get(found["verb"])
        if verb is None:
            raise invalid_argument(f"Malformed request: {method} {target}")
        with self._metrics.observe(spec.name, found["verb"].capitalize(), "REST"):
            return Answer(200, writing.finish(verb(spec, body)))

    def _predict(self, spec: model_pb2.ModelSpec, body: bytes) -> str:
        value, name = requests.document(body)
        with self._calls.serving(spec.name, "Predict", self._deadline(), **version_wanted(spec)) as (_, servable):
            signature = servable.signatures.get(name or DEFAULT_SIGNATURE)
            if signature is None:
                raise invalid_argument(
                    f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in signature def'
                )
            if not signature.inputs:
                raise invalid_argument(f"Failed to get input map for signature: {name or 'DEFAULT'}")
            inputs, in_rows = requests.tensors(value, signature)
            outputs = run(servable, signature, inputs, sorted(signature.outputs))
        dtypes = {alias: info.dtype for alias, info in signature.outputs.items()}
        return (writing.rows if in_rows else writing.columns)(outputs, dtypes)

    def _classify(self, spec: model_pb2.ModelSpec, body: bytes) -> str:
        value, spec.signature_name = requests.document(body)
        request = classification_pb2.ClassificationRequest(model_spec=spec, input=requests.examples(value))
        return writing.classifications(self._calls.classify(request, self._deadline()).result)

    def _regress(self, spec: model_pb2.ModelSpec, body: bytes) -> str:
        value, spec.signature_name = requests.document(body)
        request = regression_pb2.RegressionRequest(model_spec=spec, input=requests.examples(value))
        return writing.regressions(self._calls.regress(request, self._deadline()).result)

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout_seconds

    def _status(self, spec: model_pb2.ModelSpec) -> Answer:
        if not spec.name:
            raise invalid_argument("Missing model name in request.")
        answer = self._calls.status(get_model_status_pb2.GetModelStatusRequest(model_spec=spec))
        return Answer(200, f"{_json(answer)}\n".encode())

    def _metadata(self, spec: model_pb2.ModelSpec) -> Answer:
        if not spec.name:
            raise invalid_argument("Missing model name in request.")
        request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=[SIGNATURE_FIELD])
        answer = self._calls.metadata(request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata[SIGNATURE_FIELD].Unpack(signatures)
        model = (
            f'{{\n "name": {writing.quote(spec.name)},\n "signature_name": "",\n '
            f'"version": "{answer.model_spec.version.value}"\n}}\n'
        )
        metadata = f'{{"signature_def": {_json(signatures)}\n}}\n'
        return Answer(200, f'{{\n"model_spec":{model},\n"metadata": {metadata}}}\n'.encode())


def _spec(found: re.Match[str]) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=_unescaped(found["name"] or ""))
    if found["version"]:
        spec.version.value = int(found["version"])
    elif found["label"]:
        spec.version_label = _unescaped(found["label"])
    return spec


def _unescaped(text: str) -> str:
    return unquote(text, errors="replace")


def _json(message: Any) -> str:
    return json_format.MessageToJson(
        message, indent=1, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
