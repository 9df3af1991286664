"""The TorchScript file in BentoML. Runs in BentoML's environment: ``bentoml serve bentoml_service:TorchScript``."""

from __future__ import annotations

import os

import bentoml
import numpy as np
import torch

torch.set_num_threads(1)


@bentoml.service(workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class TorchScript:
    def __init__(self) -> None:
        self._module = torch.jit.load(os.environ["BENCH_MODEL"]).eval()

    @bentoml.api
    def single(self, image: np.ndarray) -> np.ndarray:
        return self._run(image)

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=1000)
    def batched(self, image: np.ndarray) -> np.ndarray:
        return self._run(image)

    def _run(self, image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self._module(torch.from_numpy(image.astype(np.float32))).numpy()
