"""The TorchScript file in KServe's Python server. Runs in KServe's environment, with the server's own flags."""

from __future__ import annotations

import os
from typing import Any

import torch
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

torch.set_num_threads(1)


class TorchScript(Model):
    def load(self) -> bool:
        self._module = torch.jit.load(os.environ["BENCH_MODEL"]).eval()
        self.ready = True
        return True

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        array = payload.inputs[0].as_numpy()
        # What came as JSON is a list of Python's floats, which are doubles.
        image = torch.from_numpy(array.astype("float32", copy=False).copy())
        with torch.inference_mode():
            answer = self._module(image).numpy()
        output = InferOutput(name="probabilities", shape=list(answer.shape), datatype="FP32")
        binary = payload.from_grpc or payload.use_binary_outputs
        output.set_data_from_numpy(answer, binary_data=binary)
        return InferResponse(
            response_id=payload.id or "0", model_name=self.name, infer_outputs=[output], use_binary_outputs=binary
        )


if __name__ == "__main__":
    model = TorchScript("mlp")
    model.load()
    ModelServer(workers=1).start([model])
