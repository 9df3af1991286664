"""The same models in Triton's Python backend: the name of the model says which."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: dict[str, Any]) -> None:
        self._name, self._version = args["model_name"], args["model_version"]
        json.loads(args["model_config"])

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        if self._name in ("double", "queued"):
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            first = float(x.ravel()[0]) if x.size else 0.0
            if first == 13.0:
                error = pb_utils.TritonError("x must not begin with 13", pb_utils.TritonError.INVALID_ARG)
                return pb_utils.InferenceResponse(error=error)
            if first == 666.0:
                raise RuntimeError("the model broke")
            if first == 99.0:
                time.sleep(1.5)
            return pb_utils.InferenceResponse([pb_utils.Tensor("y", (2 * x).astype(np.float32))])
        tensors = {tensor.name(): tensor for tensor in request.inputs()}
        wanted = request.requested_output_names()
        outputs = [pb_utils.Tensor(name, tensors[name.removesuffix("_out")].as_numpy()) for name in wanted]
        return pb_utils.InferenceResponse(outputs)
