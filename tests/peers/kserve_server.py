"""KServe's own Python server with three small models. It runs in KServe's environment, with the server's own flags.

``double`` is y = 2x, and fails on purpose: see `Double.predict`. ``words`` and ``kinds`` answer what they were sent.
``silent`` does not describe itself, as most of KServe's ready-made models do not.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.errors import InferenceError, InvalidInput

KINDS = ("FP16", "FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "BOOL")
DTYPES = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BOOL": "bool"}


def tensor(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


class _Ready(Model):
    def __init__(self, name: str, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        super().__init__(name)
        self._inputs, self._outputs = inputs, outputs

    def load(self) -> bool:
        self.ready = True
        return True

    def get_input_types(self) -> list[dict[str, Any]]:
        return self._inputs

    def get_output_types(self) -> list[dict[str, Any]]:
        return self._outputs

    def answer(self, request: InferRequest, arrays: dict[str, tuple[str, np.ndarray]]) -> InferResponse:
        outputs = []
        binary = request.from_grpc or request.use_binary_outputs
        for name, (datatype, array) in arrays.items():
            output = InferOutput(name=name, shape=list(array.shape), datatype=datatype)
            output.set_data_from_numpy(array, binary_data=binary)
            outputs.append(output)
        return InferResponse(request.id or "0", self.name, outputs, use_binary_outputs=binary)


class Double(_Ready):
    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        x = payload.inputs[0].as_numpy().astype(np.float32)
        first = float(x.ravel()[0]) if x.size else 0.0
        if first == 13.0:
            raise InvalidInput("x must not begin with 13")
        if first == 666.0:
            raise RuntimeError("the model broke")
        if first == 667.0:
            raise InferenceError("the model gave up")
        if first == 99.0:
            await asyncio.sleep(1.5)
        return self.answer(payload, {"y": ("FP32", 2 * x)})


class Words(_Ready):
    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        found = payload.inputs[0].as_numpy()
        items = [item if isinstance(item, bytes) else str(item).encode() for item in found.ravel()]
        return self.answer(payload, {"t": ("BYTES", np.array(items, dtype=object))})


class Kinds(_Ready):
    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        arrays = {}
        for entry in payload.inputs:
            dtype = DTYPES.get(entry.datatype, entry.datatype.lower())
            arrays[entry.name] = entry.datatype, entry.as_numpy().astype(dtype)
        return self.answer(payload, arrays)


if __name__ == "__main__":
    x, y, t = tensor("x", "FP32", -1, 1), tensor("y", "FP32", -1, 1), tensor("t", "BYTES", -1)
    of_kinds = [tensor(kind.lower(), kind, -1) for kind in KINDS]
    models = [
        Double("double", [x], [y]),
        Double("silent", [], []),
        Words("words", [t], [t]),
        Kinds("kinds", of_kinds, of_kinds),
    ]
    for model in models:
        model.load()
    ModelServer(workers=1).start(models)
