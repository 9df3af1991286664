"""What TorchServe answers to OPTIONS: OpenAPI 3.0.1, of the server and, from its signature, of a model."""

from __future__ import annotations

from typing import Any

from gateway import __version__
from gateway.codecs import fitting
from gateway.types import Signature, TensorSpec

_TYPES = {"B": "string", "U": "integer", "I": "integer", "F": "number"}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ERROR = {
    "type": "object",
    "required": ["code", "type", "message"],
    "properties": {
        "code": {"type": "integer", "description": "Error code."},
        "type": {"type": "string", "description": "Error type."},
        "message": {"type": "string", "description": "Error message."},
    },
}
_FAILURES = {
    "400": "The request is wrong",
    "404": "Model not found or Model Version not found",
    "429": "Overload: try again after Retry-After seconds",
    "500": "Internal Server Error",
    "503": "The server behind is not ready or cannot be reached",
    "504": "No answer before the deadline",
}


def server() -> dict[str, Any]:
    """The calls of TorchServe's inference API that are here."""
    healthy = {"type": "object", "properties": {"status": {"type": "string"}}}
    ping = {
        "operationId": "ping",
        "description": "Get TorchServe status.",
        "responses": {
            "200": {"description": "TorchServe status", "content": {"application/json": {"schema": healthy}}},
            "500": _failure("Internal Server Error"),
        },
    }
    anything = {"*/*": _BINARY}
    return _document(
        {
            "/ping": {"get": ping},
            "/predictions/{model_name}": {"post": _predictions("predictions", ["model_name"], anything, anything)},
            "/predictions/{model_name}/{model_version}": {
                "post": _predictions("version_predictions", ["model_name", "model_version"], anything, anything)
            },
        }
    )


def model(path: str, name: str, signature: Signature) -> dict[str, Any]:
    """The call at ``path``: what it takes and gives as JSON, as raw bytes, as .npy and by named parts."""
    single = fitting.main_input(signature.inputs) is not None
    takes: dict[str, Any] = {
        "application/json": {"schema": _values(signature.inputs)},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {spec.name: _binary(spec) for spec in signature.inputs},
                "required": [spec.name for spec in signature.inputs if not spec.optional],
            }
        },
    }
    if single:
        takes |= {"application/octet-stream": _BINARY, "application/x-npy": _BINARY}
    gives: dict[str, Any] = {
        "application/json": {"schema": _values(signature.outputs)},
        "application/octet-stream": _BINARY,
    }
    if len(signature.outputs) == 1:
        gives["application/x-npy"] = _BINARY
    operation = _predictions("predictions", [], takes, gives)
    return _document({path: {"post": operation}}, title=f"RESTful API for: {name}")


def opaque(path: str, name: str) -> dict[str, Any]:
    """The call at ``path`` of a model whose handler alone knows what it takes and gives."""
    operation = _predictions("predictions", [], {"*/*": _BINARY}, {"*/*": _BINARY})
    return _document({path: {"post": operation}}, title=f"RESTful API for: {name}")


def _document(paths: dict[str, Any], title: str = "TorchServe APIs") -> dict[str, Any]:
    return {"openapi": "3.0.1", "info": {"title": title, "version": __version__}, "paths": paths}


def _predictions(name: str, parameters: list[str], takes: dict[str, Any], gives: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": name,
        "description": "Predictions entry point; name@tensorflow or name@pytorch as model name pins the framework.",
        "parameters": [
            {"in": "path", "name": parameter, "required": True, "schema": {"type": "string"}}
            for parameter in parameters
        ],
        "requestBody": {"required": True, "content": takes},
        "responses": {
            "200": {"description": "The model's outputs", "content": gives},
            **{status: _failure(text) for status, text in _FAILURES.items()},
        },
    }


def _failure(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _ERROR}}}


def _values(specs: tuple[TensorSpec, ...]) -> dict[str, Any]:
    """Of one tensor the nested list, of several an object by name."""
    if len(specs) == 1:
        return _nested(specs[0])
    return {
        "type": "object",
        "required": [spec.name for spec in specs if not spec.optional],
        "properties": {spec.name: _nested(spec) for spec in specs},
    }


def _nested(spec: TensorSpec) -> dict[str, Any]:
    kind = "boolean" if spec.datatype == "BOOL" else _TYPES.get(spec.datatype[:1], "string")
    schema: dict[str, Any] = {"type": kind}
    for size in reversed(spec.told_shape):
        schema = {"type": "array", "items": schema}
        if size != -1:
            schema |= {"minItems": size, "maxItems": size}
    return {**schema, "description": _told(spec)}


def _binary(spec: TensorSpec) -> dict[str, Any]:
    return {"type": "string", "format": "binary", "description": f"{_told(spec)}, as JSON, .npy or raw bytes"}


def _told(spec: TensorSpec) -> str:
    return f"{spec.name}: {spec.datatype} {list(spec.told_shape)}"
