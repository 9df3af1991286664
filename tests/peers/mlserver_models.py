"""The same models in MLServer. Runs in MLServer's environment: ``mlserver start FOLDER``."""

from __future__ import annotations

import asyncio

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse


class Double(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
        first = float(x.ravel()[0]) if x.size else 0.0
        if first == 13.0:
            raise InferenceError("x must not begin with 13")
        if first == 666.0:
            raise RuntimeError("the model broke")
        if first == 99.0:
            await asyncio.sleep(1.5)
        return self._answer(NumpyCodec.encode_output("y", 2 * x))

    def _answer(self, *outputs: object) -> InferenceResponse:
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=list(outputs))


class Words(Double):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        items = StringCodec.decode_input(payload.inputs[0])
        return self._answer(StringCodec.encode_output("t", items, use_bytes=False))


class Kinds(Double):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return self._answer(
            *(NumpyCodec.encode_output(entry.name, NumpyCodec.decode_input(entry)) for entry in payload.inputs)
        )
