"""A module of a test's own, imported by the command, behind its own handler and the gateway's check of answers."""

from __future__ import annotations

import asyncio
import json
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ts.context import Context, RequestProcessor
from ts.utils.util import PredictionException

from gateway.codecs import v2
from gateway.errors import InvalidArgument
from gateway.layers.validation import Validation
from gateway.types import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    Signature,
    Tensor,
    TensorSpec,
    VersionMetadata,
)
from models.__main__ import main
from models.frameworks.pytorch import torchscript
from serving.handler import LENGTH_HEADER, TensorHandler

DATATYPES = {"float32": "FP32", "int64": "INT64", "bool": "BOOL", "object": "BYTES"}


class Imported:
    """What `python -m models import` has made of a module: its signature, and calls as the gateway makes them."""

    def __init__(self, archive: Path) -> None:
        folder = archive.with_suffix("")
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
        self.signature = json.loads((folder / "signature.json").read_text())
        self.handler = TensorHandler()
        self.handler.initialize(Context("model", str(folder), None, 0, None, "0.12.0"))
        self._gateway = Validation(Server(self.handler, self.signature))

    @property
    def inputs(self) -> dict[str, list[int]]:
        return {one["name"]: one["shape"] for one in self.signature["inputs"]}

    @property
    def outputs(self) -> dict[str, list[int]]:
        return {one["name"]: one["shape"] for one in self.signature["outputs"]}

    def ask(self, **inputs: Any) -> dict[str, Any]:
        """The answer, held against the declared signature. Raises DataLoss where it contradicts that."""
        return asyncio.run(self._ask(inputs))

    async def _ask(self, inputs: dict[str, Any]) -> dict[str, Any]:
        await self._gateway.metadata("own")
        request = InferRequest("own", tuple(tensor(name, value) for name, value in inputs.items()), version=1)
        response = await self._gateway.infer(request)
        return {one.name: one.data for one in response.outputs}


class Server:
    """The Backend that the handler would be, but for TorchServe and the network between."""

    def __init__(self, handler: TensorHandler, signature: dict[str, Any]) -> None:
        self._handler = handler
        self._signature = Signature(specs(signature["inputs"]), specs(signature["outputs"]))

    async def infer(self, request: InferRequest) -> InferResponse:
        pieces, length = v2.encode_request(request)
        context = Context("model", "", None, 1, None, "0.12.0")
        context.request_processor = [RequestProcessor({LENGTH_HEADER: str(length)})]
        try:
            (raw,) = self._handler.handle([{"body": bytearray(b"".join(pieces))}], context)
        except PredictionException as error:
            raise InvalidArgument(f"{error.error_code}: {error.message}") from error
        outputs = v2.decode_response(raw, int(context.get_response_headers(0)[LENGTH_HEADER]))
        return InferResponse("own", "pytorch", 1, outputs)

    async def metadata(self, model: str) -> ModelMetadata:
        version = VersionMetadata(1, True, {"serving_default": self._signature})
        return ModelMetadata(model, "pytorch", "pytorch_torchscript", {1: version}, 1)

    async def models(self) -> Collection[str]:
        return ["own"]

    async def aclose(self) -> None: ...


def specs(entries: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(one["name"], one["datatype"], tuple(one["shape"])) for one in entries)


def tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return Tensor(name, "BYTES", np.array([one.encode() for one in value], object))
    array = np.asarray(value)
    array = array.astype(np.float32) if array.dtype == np.float64 else array
    return Tensor(name, DATATYPES[str(array.dtype)], array)


def bring(folder: Path, module: Any, *flags: str) -> int:
    """The command's exit status for a module, scripted unless it is TorchScript already."""
    with torchscript():
        made = module if isinstance(module, torch.jit.ScriptModule) else torch.jit.script(module.eval())
        torch.jit.save(made, str(folder / "own.pt"))
    return main(["import", str(folder / "own.pt"), *flags, "--out", str(folder / "artifacts"), "--force"])


def imported(folder: Path, module: Any, *flags: str) -> Imported:
    assert bring(folder, module, *flags) == 0
    return Imported(folder / "artifacts" / "pytorch" / "own-1.mar")
