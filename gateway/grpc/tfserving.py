"""TensorFlow Serving over gRPC: its PredictionService and its ModelService.

Sources: tensorflow_serving/apis/{prediction_service,model_service}.proto, servables/tensorflow/predict_util.cc and
multi_inference.cc.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

import grpc

from gateway.backends.base import Entry
from gateway.codecs import fitting, limits, wire
from gateway.codecs import tfserving as codec
from gateway.codecs import tfserving_examples as examples
from gateway.codecs import tfserving_servables as servables
from gateway.codecs.tfserving_servables import Servable
from gateway.core.modelref import DEFAULT_SIGNATURE, ModelRef
from gateway.errors import DuetError, FailedPrecondition, InvalidArgument, Unimplemented
from gateway.grpc.calls import Behaviour, Call, Calls, plain
from gateway.grpc.server import Services
from gateway.protos import tfserving_pb2 as pb
from gateway.types import InferRequest, InferResponse, Target, Tensor

FRONT = "tfserving_grpc"

#: Longer texts are cut (util/grpc_status_util.cc): they travel in a header, of which clients take 8 KiB.
_MAX_TEXT = 1024


class Prediction:
    """PredictionService's calls."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    async def predict(self, message: pb.PredictRequest, call: Call) -> pb.PredictResponse:
        start = perf_counter()
        servable, read = _servable(message, call), _Predict(message, call.deadline)
        target = _resolved(self._entry, servable)
        with servables.targeted(target):
            response = await self._infer(await read(target), call, start)
        start = perf_counter()
        spec = codec.model_spec(servable.name, response.version, servable.ref.signature)
        answer = codec.encode_predict_response(read.restored(response), model_spec=spec, typed=read.typed)
        call.seen.timings["encode"] = perf_counter() - start
        return answer

    async def classify(self, message: pb.ClassificationRequest, call: Call) -> pb.ClassificationResponse:
        answer = await self._run(message, examples.decode_input(message.input), examples.CLASSIFY, call)
        return pb.ClassificationResponse(model_spec=answer.model_spec, result=answer.classification_result)

    async def regress(self, message: pb.RegressionRequest, call: Call) -> pb.RegressionResponse:
        answer = await self._run(message, examples.decode_input(message.input), examples.REGRESS, call)
        return pb.RegressionResponse(model_spec=answer.model_spec, result=answer.regression_result)

    async def multi_inference(self, message: pb.MultiInferenceRequest, call: Call) -> pb.MultiInferenceResponse:
        """One call behind for each task; TensorFlow Serving runs them as one, all their input tensors being fed."""
        if not message.tasks:
            raise InvalidArgument("Inference request must have at least one task")
        limits.check_count("'tasks'", len(message.tasks), limits.MAX_TASKS)
        if len({task.model_spec.name for task in message.tasks}) > 1:
            raise InvalidArgument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        names: set[str] = set()
        for task in message.tasks:
            name = _signature_name(task)
            if name in names:
                raise InvalidArgument(f"Duplicate evaluation of signature: {name}")
            names.add(name)
        for task in message.tasks:
            if task.method_name not in (examples.CLASSIFY, examples.REGRESS):
                raise Unimplemented(f"Unsupported signature method_name: {task.method_name}")
        serialized = examples.decode_input(message.input)
        results = [await self._run(task, serialized, task.method_name, call) for task in message.tasks]
        return pb.MultiInferenceResponse(results=results)

    async def metadata(self, message: pb.GetModelMetadataRequest, call: Call) -> pb.GetModelMetadataResponse:
        servable = _servable(message, call)
        if not message.metadata_field:
            raise InvalidArgument("GetModelMetadataRequest must specify at least one metadata_field")
        limits.check_count("'metadata_field' entries", len(message.metadata_field), limits.MAX_TASKS)
        for wanted in message.metadata_field:
            if wanted != servables.SIGNATURE_FIELD:
                raise InvalidArgument(f"Metadata field {wanted} is not supported")
        return servables.metadata_message(servable.name, _resolved(self._entry, servable).described)

    async def _run(self, message: Any, serialized: list[bytes], method: str, call: Call) -> pb.InferenceResult:
        """Classifies or regresses the examples; ``message`` is what names the model."""
        start = perf_counter()
        servable, read = _servable(message, call), _Examples(serialized, method, call.deadline)
        target = _resolved(self._entry, servable)
        with servables.targeted(target):
            response = await self._infer(await read(target), call, start)
            result = examples.encode_result(response.outputs, len(serialized), method)
        result.model_spec.CopyFrom(codec.model_spec(servable.name, response.version, servable.ref.signature))
        return result

    async def _infer(self, request: InferRequest, call: Call, start: float) -> InferResponse:
        call.seen.timings["decode"] = perf_counter() - start
        response = await call.infer(self._entry, request)
        call.answered(request, response)
        return response


class _Predict:
    """Makes the request of a Predict message, by the version that it is for."""

    def __init__(self, message: pb.PredictRequest, deadline: float | None) -> None:
        self._message = message
        self._deadline = deadline
        self._fitted = fitting.Fitted((), fitting.NOTHING)
        self.typed = False

    async def __call__(self, target: Target) -> InferRequest:
        message = self._message
        servables.check_tensors(target)
        signature = servables.signature(target.described, target.ref.signature, _unknown_key)
        codec.check_names(message.inputs, message.output_filter, signature)
        inputs, self.typed = codec.decode_predict(message)
        self._fitted = fitting.fit_all(inputs, signature, fitting.TFSERVING)
        outputs = tuple(message.output_filter)
        return target.request(self._fitted.inputs, outputs, deadline=self._deadline, reread=self)

    def restored(self, response: InferResponse) -> tuple[Tensor, ...]:
        return self._fitted.restore(response.outputs)


class _Examples:
    """Makes the request of serialized examples, by the version that it is for."""

    def __init__(self, serialized: list[bytes], method: str, deadline: float | None) -> None:
        self._serialized = serialized
        self._method = method
        self._deadline = deadline

    async def __call__(self, target: Target) -> InferRequest:
        servables.check_tensors(target)
        name = target.ref.signature
        examples.check(servables.signature(target.described, name, examples.unknown_signature), self._method)
        return target.request((examples.tensor(self._serialized),), deadline=self._deadline, reread=self)


class Model:
    """ModelService's calls."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    async def status(self, message: pb.GetModelStatusRequest, call: Call) -> pb.GetModelStatusResponse:
        """A label is ignored here, as TensorFlow Serving ignores it (get_model_status_impl.cc)."""
        servable = _servable(message, call)
        with servables.status_of(servable):
            metadata = self._entry.describe(servable.ref)
        return servables.status_message(servables.versions(metadata, servable))


def services(entry: Entry, calls: Calls) -> Services:
    prediction, model = Prediction(entry), Model(entry)

    def unary(service: str, method: str, behaviour: Behaviour, request: Any, front: str = "") -> Any:
        path = f"/tensorflow.serving.{service}/{method}"
        checked = wire.Checked(request, max_bytes=None if front else wire.MAX_NAMING_BYTES)
        return {method: calls.unary(behaviour, checked, path=path, front=front, render=_rendered)}

    return {
        "tensorflow.serving.PredictionService": {
            **unary("PredictionService", "Predict", prediction.predict, pb.PredictRequest, FRONT),
            **unary("PredictionService", "Classify", prediction.classify, pb.ClassificationRequest, FRONT),
            **unary("PredictionService", "Regress", prediction.regress, pb.RegressionRequest, FRONT),
            **unary("PredictionService", "MultiInference", prediction.multi_inference, pb.MultiInferenceRequest, FRONT),
            **unary("PredictionService", "GetModelMetadata", prediction.metadata, pb.GetModelMetadataRequest),
        },
        "tensorflow.serving.ModelService": {
            **unary("ModelService", "GetModelStatus", model.status, pb.GetModelStatusRequest),
        },
    }


def _rendered(error: DuetError) -> tuple[grpc.StatusCode, str]:
    code, text = plain(error)
    return code, text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}...TRUNCATED"


def _servable(message: Any, call: Call) -> Servable:
    if not message.HasField("model_spec"):
        raise InvalidArgument("Missing ModelSpec")
    spec: pb.ModelSpec = message.model_spec
    if not spec.name:
        raise InvalidArgument("ModelSpec has no name specified.")
    version = spec.version.value if spec.HasField("version") else None
    label, signature = spec.version_label, _signature_name(message)
    return Servable(
        spec.name, ModelRef.parse(spec.name, call.variant, version=version, label=label, signature=signature)
    )


def _signature_name(message: Any) -> str:
    return str(message.model_spec.signature_name) or DEFAULT_SIGNATURE


def _unknown_key(name: str) -> FailedPrecondition:
    return FailedPrecondition(f'Serving signature key "{name}" not found.')


def _resolved(entry: Entry, servable: Servable) -> Target:
    with servables.looked_up(servable):
        return entry.resolve(servable.ref)
