"""The gRPC services. What is not listed here answers UNIMPLEMENTED by gRPC itself.

A small request to a model that is known to be quick is answered on the server's loop; all else in a thread. The way to
a thread and back costs more than such a model's run.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.embedded.budget import FREE_BYTES, Budget, Claim, Crowded
from serving.embedded.calls import Calls
from serving.embedded.errors import ServingError
from serving.embedded.metrics import Metrics
from serving.embedded.model import Slow

#: A call without a deadline has an infinite one.
_ENDLESS_SECONDS = 1e6
#: A request and its deadline on `time.monotonic`'s clock; whether only a quick model may run. Raises `Slow` if so.
Behaviour = Callable[[Any, float | None, bool], Any]
Context = grpc.aio.ServicerContext[Any, Any]
#: All messages together that were received and not answered, or answered and not taken by their client.
MAX_HELD_BYTES = 1 << 30

log = logging.getLogger("serving.embedded")


def handlers(calls: Calls, metrics: Metrics, threads: Executor) -> list[grpc.GenericRpcHandler]:
    def timed(api: str, behaviour: Callable[..., Any]) -> Behaviour:
        def run(request: Any, deadline: float | None, quickly: bool) -> Any:
            spec = request.tasks[0].model_spec if api == "MultiInference" and request.tasks else None
            name = spec.name if spec else "" if api == "MultiInference" else request.model_spec.name
            with metrics.observe(name, api, "GRPC"):
                return behaviour(request, deadline, quickly)

        return run

    def unary(behaviour: Behaviour, kind: Any) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(_Unary(behaviour, kind, threads).answer)

    prediction = {
        "Predict": (calls.predict, predict_pb2.PredictRequest),
        "Classify": (_slowly(calls.classify), classification_pb2.ClassificationRequest),
        "Regress": (_slowly(calls.regress), regression_pb2.RegressionRequest),
        "MultiInference": (_slowly(calls.multi_inference), inference_pb2.MultiInferenceRequest),
    }
    methods = {name: unary(timed(name, call), kind) for name, (call, kind) in prediction.items()}
    methods["GetModelMetadata"] = unary(_plain(calls.metadata), get_model_metadata_pb2.GetModelMetadataRequest)
    model = {
        "GetModelStatus": unary(_plain(calls.status), get_model_status_pb2.GetModelStatusRequest),
        "HandleReloadConfigRequest": unary(_plain(calls.reload), model_management_pb2.ReloadConfigRequest),
    }
    return [
        grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", methods),
        grpc.method_handlers_generic_handler("tensorflow.serving.ModelService", model),
    ]


def _slowly(behaviour: Callable[[Any, float | None], Any]) -> Behaviour:
    def run(request: Any, deadline: float | None, quickly: bool) -> Any:
        if quickly:
            raise Slow
        return behaviour(request, deadline)

    return run


def _plain(behaviour: Callable[[Any], Any]) -> Behaviour:
    return _slowly(lambda request, deadline: behaviour(request))


_held = Budget(MAX_HELD_BYTES)


class _Unary:
    """One method: bytes in, bytes out."""

    def __init__(self, behaviour: Behaviour, request_type: Any, threads: Executor) -> None:
        self._behaviour = behaviour
        self._parsed = request_type.FromString
        self._threads = threads

    async def answer(self, received: bytes, context: Context) -> bytes:
        try:
            return await self._answer(received, context)
        except ServingError as error:
            code, message = error.code, error.message
        except Crowded as error:
            code, message = grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
        except DecodeError:
            code, message = grpc.StatusCode.INTERNAL, "Exception deserializing request!"  # grpcio's own text
        except Exception:
            log.exception("a call failed")
            code, message = grpc.StatusCode.INTERNAL, "the server failed on this request"
        await context.abort(code, message)
        raise AssertionError("abort raises")

    async def _answer(self, received: bytes, context: Context) -> bytes:
        deadline = _deadline(context)
        if len(received) <= FREE_BYTES:
            try:
                content = self._run(received, deadline, quickly=True)
            except Slow:
                content = await self._in_thread(received, deadline)
            if len(content) > FREE_BYTES:
                _claimed(len(content), context)
            return content
        claim = _claimed(len(received), context)
        content = await self._in_thread(received, deadline)
        claim.add(len(content))
        return content

    def _in_thread(self, received: bytes, deadline: float | None) -> Awaitable[bytes]:
        """A call that has ended while it waited for a thread is not run."""
        return asyncio.get_running_loop().run_in_executor(self._threads, self._run, received, deadline)

    def _run(self, received: bytes, deadline: float | None, quickly: bool = False) -> bytes:
        content: bytes = self._behaviour(self._parsed(received), deadline, quickly).SerializeToString()
        return content


def _deadline(context: Context) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None or remaining > _ENDLESS_SECONDS else time.monotonic() + remaining


def _claimed(size: int, context: Context) -> Claim:
    """Held until the call has ended. Raises Crowded."""
    claim = _held.claim()
    context.add_done_callback(lambda _: claim.release())
    claim.add(size)
    return claim
