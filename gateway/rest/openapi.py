"""OpenAPI of the inference calls: they are plain ASGI endpoints, of which FastAPI cannot read anything itself."""

from __future__ import annotations

from typing import Any

from gateway.types import DATATYPES

_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string", "enum": list(DATATYPES)},
        "parameters": {
            "type": "object",
            "description": "`binary_data_size`: bytes of this tensor after the JSON part. `content_encoding: base64`: "
            "the elements of BYTES are Base64, as are an output's that asks for it.",
        },
        "data": {"type": "array", "items": {}, "description": "Row-major, flat or nested as `shape` says."},
    },
}

SCHEMAS: dict[str, Any] = {
    "Tensor": _TENSOR,
    "InferRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {
                "type": "object",
                "description": "`variant` pins the framework, `signature_name` names the signature that is called, "
                "`timeout` is the deadline in microseconds, "
                "`binary_data_output` asks for all outputs as binary data.",
            },
            "inputs": {
                "type": "array",
                "items": {"$ref": "#/components/schemas/Tensor"},
                "description": "The model's inputs. Those that its metadata calls `optional` may be left out.",
            },
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"type": "string"},
                        "parameters": {
                            "type": "object",
                            "description": "`binary_data` asks for this output as binary data, `classification` for "
                            "so many of its best classes.",
                        },
                    },
                },
            },
        },
        "example": {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [5]}]},
    },
    "InferResponse": {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        },
    },
    "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
}

_HEADER_LENGTH = "Bytes of JSON before the binary tensors; 0 where the body is the only input's bytes and nothing else."

_FAILURES = {
    400: "The request is wrong; the text says what.",
    401: "Nobody who is known here asks.",
    403: "Nobody may do this here.",
    404: "No such model, version or variant.",
    413: "The body is too large.",
    414: "The URL is too long.",
    417: "The only expectation that is met is `100-continue`.",
    429: "Overload, or over the caller's quota: try again after `Retry-After` seconds.",
    431: "The headers are too many or too long.",
    500: "The gateway or the model's code failed.",
    501: "A `Content-Encoding` that is not known; `Accept-Encoding` names those that are.",
    502: "The server behind gave no valid answer.",
    503: "The server behind is not ready or cannot be reached.",
    504: "No answer before the deadline.",
}


def failures() -> dict[str, Any]:
    """The responses that any call may have."""
    return {str(status): {"description": text, "content": _content("Error")} for status, text in _FAILURES.items()}


def complete(paths: dict[str, Any]) -> None:
    """What FastAPI cannot read of its routes: their paths' parameters, and what may come in place of 200."""
    for path, operations in paths.items():
        for operation in operations.values():
            operation["responses"] = {"200": operation["responses"]["200"], **failures()}
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in ("model", "version")
                if f"{{{name}}}" in path
            ]


def infer_operation(path: str) -> dict[str, Any]:
    """The operation object of the infer call at ``path``."""
    names = ["model", "version"] if "{version}" in path else ["model"]
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
    ]
    parameters[0]["description"] = "A model's name; `name@tensorflow` or `name@pytorch` pins the framework."
    parameters.append(_header("x-duet-variant", "string", "Pins the framework, as `@` in the name does."))
    parameters.append(
        _header("x-duet-signature", "string", "The signature that is called, where it is not the default.")
    )
    parameters.append(_header("Inference-Header-Content-Length", "integer", _HEADER_LENGTH))
    parameters.append(_header("Content-Encoding", "string", "`gzip` or `deflate` where the body is compressed."))
    parameters.append(_header("Accept-Encoding", "string", "`gzip` or `deflate`: larger answers are compressed."))
    return {
        "tags": ["Open Inference Protocol"],
        "summary": "Inference",
        "operationId": "infer_version" if len(names) == 2 else "infer",
        "parameters": parameters,
        "requestBody": {"required": True, "content": _content("InferRequest")},
        "responses": {
            "200": {"description": "The outputs.", "content": _content("InferResponse")},
            **failures(),
        },
    }


def _header(name: str, kind: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": {"type": kind}, "description": description}


def _content(schema: str) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    if schema != "Error":
        binary = {"schema": {"type": "string", "format": "binary"}}
        content["application/octet-stream"] = binary
    return content
