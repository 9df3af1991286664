"""What the tests need of the binary tensor wire and of TorchServe's archives, written from their documents."""

from __future__ import annotations

import json
import struct
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

HANDLER = Path(__file__).parents[2] / "serving" / "handler.py"
LENGTH = "Inference-Header-Content-Length"
DATATYPES = {"float32": "FP32", "int64": "INT64", "bool": "BOOL", "float64": "FP64", "uint16": "UINT16"}


def spec(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


def write_model(
    folder: Path,
    module: torch.nn.Module,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    *,
    rows: str | None = "independent",
    **more: Any,
) -> Path:
    """The unpacked archive: what TorchServe gives a handler as its model_dir. `more` goes into its signature."""
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), str(folder / "model.pt"))
    signature = {"name": folder.name, "version": 1, "inputs": inputs, "outputs": outputs, **more}
    if rows is not None:
        signature["rows"] = rows
    (folder / "signature.json").write_text(json.dumps(signature))
    return folder


def pack(folder: Path, store: Path, name: str, version: int) -> Path:
    archive = store / f"{name}-{version}.mar"
    model = {"modelName": name, "modelVersion": str(version), "serializedFile": "model.pt", "handler": "handler.py"}
    with zipfile.ZipFile(archive, "w") as file:
        for source in (folder / "model.pt", folder / "signature.json", HANDLER):
            file.write(source, source.name)
        file.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model}))
    return archive


def texts(*values: str) -> bytes:
    return b"".join(struct.pack("<I", len(value.encode())) + value.encode() for value in values)


def tensor(name: str, values: Any) -> tuple[dict[str, Any], bytes]:
    """An entry of the header and its bytes; `values` is an array or a list of texts."""
    if isinstance(values, np.ndarray):
        datatype, shape, blob = DATATYPES[str(values.dtype)], values.shape, values.tobytes()
    else:
        datatype, shape, blob = "BYTES", (len(values),), texts(*values)
    header = {"name": name, "datatype": datatype, "shape": list(shape), "parameters": {"binary_data_size": len(blob)}}
    return header, blob


def request(*tensors: tuple[dict[str, Any], bytes], padding: int = 0, **more: Any) -> tuple[bytes, int]:
    """The body and the length of its header. `padding` moves the tensors by as many bytes."""
    header = json.dumps({"inputs": [entry for entry, _ in tensors], **more}).encode() + b" " * padding
    return header + b"".join(blob for _, blob in tensors), len(header)


def answer(body: bytes, header_length: int) -> dict[str, Any]:
    """Each output's numpy array, or its texts."""
    outputs, position = {}, header_length
    for entry in json.loads(body[:header_length])["outputs"]:
        size = entry["parameters"]["binary_data_size"]
        blob = body[position : position + size]
        position += size
        if entry["datatype"] == "BYTES":
            outputs[entry["name"]] = split(blob)
        else:
            dtype = next(name for name, datatype in DATATYPES.items() if datatype == entry["datatype"])
            outputs[entry["name"]] = np.frombuffer(blob, dtype).reshape(entry["shape"])
    assert position == len(body), "the blobs and only the blobs follow the header"
    return outputs


def split(blob: bytes) -> list[str]:
    values, position = [], 0
    while position < len(blob):
        (size,) = struct.unpack_from("<I", blob, position)
        values.append(blob[position + 4 : position + 4 + size].decode())
        position += 4 + size
    return values
