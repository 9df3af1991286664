"""One model's requests in every wire that the benchmark speaks, as `Job`s without connections and times."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway.protos import tfserving_pb2, v2_pb2
from loadtest.bench.jobs import Job

V2_INFER = "/inference.GRPCInferenceService/ModelInfer"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
_HOST = "127.0.0.1"
_JSON, _OCTETS = "Content-Type: application/json\r\n", "Content-Type: application/octet-stream\r\n"
#: Different requests that are sent in turn: no cache of any kind should see only one.
_BODIES = 32


@dataclass(frozen=True, slots=True)
class Payload:
    """``batches`` are the inputs ``name`` of the requests, ``expected`` the right answers to them, float32 bytes."""

    name: str
    batches: tuple[NDArray[np.float32], ...]
    expected: tuple[bytes, ...]

    @staticmethod
    def random(name: str, shape: tuple[int, ...], *, count: int = _BODIES) -> Payload:
        """Without right answers, which some server has to give."""
        random = np.random.default_rng(0)
        batches = tuple(random.random(shape, np.float32).round(4) for _ in range(count))
        return Payload(name, batches, (b"",) * count)

    def v2_json(self, port: int, path: str) -> Job:
        bodies = [
            orjson.dumps({"inputs": [{**self._entry(batch), "data": batch.ravel()}]}, option=orjson.OPT_SERIALIZE_NUMPY)
            for batch in self.batches
        ]
        return self._http(port, path, bodies, "v2_json", _JSON)

    def v2_binary(self, port: int, path: str, *, headers: str = "") -> Job:
        """The outputs come back as bytes too."""
        documents = [self._binary_document(batch) for batch in self.batches]
        length = len(documents[0])
        if {len(document) for document in documents} != {length}:
            raise ValueError("all batches must have one shape")
        bodies = [document + batch.tobytes() for document, batch in zip(documents, self.batches, strict=True)]
        lines = f"{_OCTETS}Inference-Header-Content-Length: {length}\r\n{headers}"
        return self._http(port, path, bodies, "v2_binary", lines)

    def plain_json(self, port: int, path: str) -> Job:
        """``{name: values}``, the form of a BentoML service with one argument."""
        bodies = [orjson.dumps({self.name: batch}, option=orjson.OPT_SERIALIZE_NUMPY) for batch in self.batches]
        return self._http(port, path, bodies, "plain_json", _JSON)

    def v2_grpc(self, port: int, model: str) -> Job:
        messages = []
        for batch in self.batches:
            message = v2_pb2.ModelInferRequest(model_name=model)
            message.inputs.add(name=self.name, datatype="FP32", shape=batch.shape)
            message.raw_input_contents.append(batch.tobytes())
            messages.append(message.SerializeToString())
        return self._job("grpc", port, V2_INFER, messages, "v2_grpc")

    def predict(self, port: int, model: str) -> Job:
        messages = []
        for batch in self.batches:
            message = tfserving_pb2.PredictRequest()
            message.model_spec.name = model
            tensor = message.inputs[self.name]
            tensor.dtype = 1  # DT_FLOAT
            for size in batch.shape:
                tensor.tensor_shape.dim.add(size=size)
            tensor.tensor_content = batch.tobytes()
            messages.append(message.SerializeToString())
        return self._job("grpc", port, PREDICT, messages, "predict")

    def _entry(self, batch: NDArray[np.float32]) -> dict[str, Any]:
        return {"name": self.name, "datatype": "FP32", "shape": list(batch.shape)}

    def _binary_document(self, batch: NDArray[np.float32]) -> bytes:
        entry = {**self._entry(batch), "parameters": {"binary_data_size": batch.nbytes}}
        return json.dumps({"parameters": {"binary_data_output": True}, "inputs": [entry]}).encode()

    def _http(self, port: int, path: str, bodies: list[bytes], answer: str, headers: str) -> Job:
        return self._job("http", port, path, bodies, answer, headers)

    def _job(self, wire: str, port: int, path: str, bodies: list[bytes], answer: str, headers: str = "") -> Job:
        return Job(
            wire=wire,
            host=_HOST,
            port=port,
            path=path,
            bodies=bodies,
            expected=self.expected,
            answer=answer,
            headers=headers,
        )


def torchserve_token(key_file: Path) -> str:
    """The header line that a direct call to TorchServe needs."""
    return f"Authorization: Bearer {json.loads(key_file.read_text())['inference']['key']}\r\n"
