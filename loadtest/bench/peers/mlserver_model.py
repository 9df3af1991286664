"""The TorchScript file in MLServer. Runs in MLServer's environment: ``mlserver start FOLDER``."""

from __future__ import annotations

import os

import torch
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

torch.set_num_threads(1)


class TorchScript(MLModel):
    async def load(self) -> bool:
        self._module = torch.jit.load(os.environ["BENCH_MODEL"]).eval()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        image = torch.from_numpy(NumpyCodec.decode_input(payload.inputs[0]))
        with torch.inference_mode():
            answer = self._module(image).numpy()
        output = NumpyCodec.encode_output("probabilities", answer)
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])
