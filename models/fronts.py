"""One request and its answer over one of the gateway's fronts: the steps of `python -m models generate`."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from queue import SimpleQueue
from typing import Any, Protocol
from urllib.parse import urlsplit

import grpc
import numpy as np

from gateway.protos import v2_pb2 as pb
from models.spec import ModelSpec

CALL_SECONDS = 30.0
DTYPES = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8")}
_SERVICE = "/inference.GRPCInferenceService/"


class FrontError(RuntimeError):
    """The gateway was not reached, or did not answer as asked."""


class Front(Protocol):
    """A connection that is kept for all steps."""

    def __call__(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Nested lists by input name in, nested lists by output name out. Raises FrontError."""
        ...

    def close(self) -> None: ...


class Rest:
    """The Open Inference Protocol's JSON over HTTP."""

    def __init__(self, url: str, spec: ModelSpec, variant: str) -> None:
        parts = urlsplit(url if "//" in url else f"//{url}")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        try:
            self._connection = kind(parts.hostname or "", parts.port, timeout=CALL_SECONDS)
        except ValueError:  # the port is no number
            parts = urlsplit("")
        if not parts.hostname:
            raise FrontError(f"--url {url}: give an address such as {URLS['v2-rest']}")
        self._url = url
        self._path = f"{parts.path.rstrip('/')}/v2/models/{spec.name}@{variant}/infer"
        self._spec = spec

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            self._connection.request("POST", self._path, self._body(inputs), {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise unreached(self._url, str(error) or type(error).__name__) from error
        if response.status != http.client.OK:
            raise FrontError(f"{self._path}: {response.status} {content[:300].decode(errors='replace')}")
        # `data` may be flat or nested, whatever the shape (Open Inference Protocol, "Tensor Data").
        return {
            one["name"]: np.array(one["data"], DTYPES[one["datatype"]]).reshape(one["shape"]).tolist()
            for one in json.loads(content)["outputs"]
        }

    def _body(self, inputs: Mapping[str, Any]) -> bytes:
        tensors = [
            {"name": tensor.name, "datatype": tensor.datatype, "shape": list(np.shape(values)), "data": values}
            for tensor, values in ((tensor, inputs[tensor.name]) for tensor in self._spec.inputs)
        ]
        return json.dumps({"inputs": tensors}).encode()

    def close(self) -> None:
        self._connection.close()


class Grpc:
    """ModelInfer: a call for each step."""

    def __init__(self, url: str, spec: ModelSpec, variant: str) -> None:
        self._url, self._spec, self._model = url, spec, f"{spec.name}@{variant}"
        self._channel = opened(url)
        self._infer = self._channel.unary_unary(
            f"{_SERVICE}ModelInfer", pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
        )

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return outputs(self._infer(request(self._spec, self._model, inputs), timeout=CALL_SECONDS))
        except grpc.RpcError as error:
            raise refused(self._url, self._model, error) from error

    def close(self) -> None:
        self._channel.close()


class Stream:
    """ModelStreamInfer: all steps in one call, each request made of the answer to the one before."""

    def __init__(self, url: str, spec: ModelSpec, variant: str) -> None:
        self._url, self._spec, self._model = url, spec, f"{spec.name}@{variant}"
        self._channel = opened(url)
        self._requests: SimpleQueue[pb.ModelInferRequest | None] = SimpleQueue()
        open_stream = self._channel.stream_stream(
            f"{_SERVICE}ModelStreamInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelStreamInferResponse.FromString,
        )
        self._answers: Iterator[pb.ModelStreamInferResponse] = open_stream(iter(self._requests.get, None))

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        asked = request(self._spec, self._model, inputs)
        # A stream has one deadline for all of its answers; this one is of the request.
        asked.parameters["timeout"].int64_param = int(CALL_SECONDS * 1e6)
        self._requests.put(asked)
        try:
            answer = next(self._answers)
        except grpc.RpcError as error:
            raise refused(self._url, self._model, error) from error
        except StopIteration:
            raise unreached(self._url, "it has ended the stream") from None
        if answer.error_message:
            raise FrontError(f"{self._model}: {answer.error_message}")
        return outputs(answer.infer_response)

    def close(self) -> None:
        self._requests.put(None)
        self._channel.close()


def opened(url: str) -> grpc.Channel:
    if "/" in url:
        raise FrontError(f"--url {url}: over gRPC give an address such as {URLS['v2-grpc']}")
    return grpc.insecure_channel(url)


def request(spec: ModelSpec, model: str, inputs: Mapping[str, Any]) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name=model)
    for tensor in spec.inputs:
        array = np.array(inputs[tensor.name], DTYPES[tensor.datatype])
        made.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
        made.raw_input_contents.append(array.tobytes())
    return made


def outputs(response: pb.ModelInferResponse) -> dict[str, Any]:
    return {
        one.name: np.frombuffer(content, DTYPES[one.datatype]).reshape(tuple(one.shape)).tolist()
        for one, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def unreached(url: str, why: str) -> FrontError:
    return FrontError(f"no answer from the gateway at {url} ({why}); start it with `make up`")


def refused(url: str, model: str, error: grpc.RpcError) -> FrontError:
    code, text = error.code(), error.details()
    # The gateway's own UNAVAILABLE has trailing metadata, such as the request's id; a connection that failed has none.
    if code is grpc.StatusCode.UNAVAILABLE and not error.trailing_metadata():
        return unreached(url, text)
    return FrontError(f"{model}: {code.name} {text}")


FRONTS: dict[str, Callable[[str, ModelSpec, str], Front]] = {"v2-rest": Rest, "v2-grpc": Grpc, "v2-grpc-stream": Stream}
URLS = {"v2-rest": "http://localhost:8000", "v2-grpc": "localhost:8001", "v2-grpc-stream": "localhost:8001"}
