"""What the server does, one method a call: requests in, answers out, apart from the transport that they came by."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc
from google.protobuf import any_pb2, wrappers_pb2
from google.protobuf.message import Message
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.embedded import config, examples
from serving.embedded.errors import ServingError, invalid_argument
from serving.embedded.lifecycle import Lifecycle, LoadFailed
from serving.embedded.metrics import Metrics
from serving.embedded.model import Runnable, SignatureDef, Slow
from serving.embedded.predict import DEFAULT_SIGNATURE, predict
from serving.embedded.tensors import Array

SIGNATURE_FIELD = "signature_def"
#: Ours: the artifact's own `duet.json`. The real server refuses it as it does any other.
DUET_FIELD = "duet"


class Calls:
    """Every method raises ServingError, and nothing else that it means to.

    A ``deadline``, on `time.monotonic`'s clock, bounds the run of the model.
    """

    def __init__(self, lifecycle: Lifecycle, metrics: Metrics, *, as_content: bool) -> None:
        self.lifecycle = lifecycle
        self._metrics = metrics
        self._as_content = as_content

    def serving(self, name: str, api: str, deadline: float | None, **wanted: Any) -> Serving:
        """A context of the version's number and the version, for one call. Raises ServingError as it is entered."""
        return Serving(self.lifecycle, self._metrics, name, api, deadline, **wanted)

    def predict(
        self, request: predict_pb2.PredictRequest, deadline: float | None = None, quickly: bool = False
    ) -> predict_pb2.PredictResponse:
        """With ``quickly`` raises `Slow` where the model is not known to be quick."""
        answer = predict_pb2.PredictResponse()
        wanted = _servable(request)
        with self.serving(api="Predict", deadline=deadline, quickly=quickly, **wanted) as (number, servable):
            answer.model_spec.name = request.model_spec.name
            answer.model_spec.version.value = number
            predict(servable, request, answer, as_content=self._as_content)
        return answer

    def classify(
        self, request: classification_pb2.ClassificationRequest, deadline: float | None = None
    ) -> classification_pb2.ClassificationResponse:
        answer = classification_pb2.ClassificationResponse()
        with self.serving(api="Classify", deadline=deadline, **_servable(request)) as (number, servable):
            result = examples.classify(servable, request.model_spec.signature_name, request.input)
            answer.result.CopyFrom(result)
            _fill(answer.model_spec, request.model_spec, number)
        self._count_examples(request.model_spec.name, request.input)
        return answer

    def regress(
        self, request: regression_pb2.RegressionRequest, deadline: float | None = None
    ) -> regression_pb2.RegressionResponse:
        answer = regression_pb2.RegressionResponse()
        with self.serving(api="Regress", deadline=deadline, **_servable(request)) as (number, servable):
            result = examples.regress(servable, request.model_spec.signature_name, request.input)
            answer.result.CopyFrom(result)
            _fill(answer.model_spec, request.model_spec, number)
        self._count_examples(request.model_spec.name, request.input)
        return answer

    def multi_inference(
        self, request: inference_pb2.MultiInferenceRequest, deadline: float | None = None
    ) -> inference_pb2.MultiInferenceResponse:
        answer = inference_pb2.MultiInferenceResponse()
        if not request.tasks:
            raise invalid_argument("Inference request must have at least one task")
        with self.serving(api="MultiInference", deadline=deadline, **_servable(request.tasks[0])) as (number, servable):
            answer.results.extend(examples.multi_inference(servable, request))
            for task, result in zip(request.tasks, answer.results, strict=True):
                _fill(result.model_spec, task.model_spec, number)
        self._count_examples(request.tasks[0].model_spec.name, request.input)
        return answer

    def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        wanted = _servable(request)
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name not in (SIGNATURE_FIELD, DUET_FIELD):
                raise invalid_argument(f"Metadata field {name} is not supported")
        answer = get_model_metadata_pb2.GetModelMetadataResponse()
        with self.lifecycle.serving(**wanted) as (number, servable):
            answer.model_spec.name = request.model_spec.name
            answer.model_spec.version.value = number
            told: dict[str, Message] = {
                SIGNATURE_FIELD: get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signatures),
                DUET_FIELD: wrappers_pb2.BytesValue(value=servable.duet),
            }
            for name in request.metadata_field:
                packed = any_pb2.Any()
                packed.Pack(told[name], deterministic=True)
                answer.metadata[name].CopyFrom(packed)
        return answer

    def status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        spec = request.model_spec  # a name that is empty is one that is not found, here alone
        # A label is ignored here (get_model_status_impl.cc looks at has_version only).
        number = spec.version.value if spec.HasField("version") else None
        answer = get_model_status_pb2.GetModelStatusResponse()
        for found, version in self.lifecycle.status(spec.name, number):
            entry = answer.model_version_status.add(version=found, state=version.state.value)
            if version.error:
                entry.status.error_code = version.code.value[0]
            entry.status.error_message = version.error
        return answer

    def reload(self, request: model_management_pb2.ReloadConfigRequest) -> model_management_pb2.ReloadConfigResponse:
        """The request's models replace all others; answered when the new ones serve (model_service_impl.cc)."""
        if request.config.WhichOneof("config") != "model_config_list":
            kind = "ModelConfigList is currently supported"
            raise invalid_argument(f"ServerConfig type not supported by HandleReloadConfigRequest. Only {kind}")
        try:
            self.lifecycle.configure(config.from_message(request.config))
        except config.ConfigError as error:
            raise invalid_argument(str(error)) from error
        except LoadFailed as error:
            raise ServingError(grpc.StatusCode.UNKNOWN, str(error)) from error
        return model_management_pb2.ReloadConfigResponse()

    def _count_examples(self, name: str, source: input_pb2.Input) -> None:
        self._metrics.examples(name, len(examples.listed(source)))


class Serving:
    """A model as one call sees it, from entry to exit. (`contextmanager` would cost a tenth of a small call.)"""

    __slots__ = (
        "_api",
        "_deadline",
        "_lifecycle",
        "_metrics",
        "_name",
        "_quickly",
        "_servable",
        "_version",
        "signatures",
    )

    def __init__(
        self,
        lifecycle: Lifecycle,
        metrics: Metrics,
        name: str,
        api: str,
        deadline: float | None,
        *,
        number: int | None = None,
        label: str = "",
        quickly: bool = False,
    ) -> None:
        self._lifecycle, self._metrics, self._quickly = lifecycle, metrics, quickly
        self._name, self._api, self._deadline = name, api, deadline
        self._version = number, label

    def __enter__(self) -> tuple[int, Runnable]:
        number, self._servable = self._lifecycle.hold(self._name, *self._version)
        self.signatures: Mapping[str, SignatureDef] = self._servable.signatures
        return number, self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._servable.release()

    def run(
        self, feeds: Sequence[str], values: Sequence[Array], fetches: Sequence[str], *, deadline: float | None = None
    ) -> list[Array]:
        """Raises `Slow` if only a quick run is wanted and this is none."""
        if self._quickly and not self._servable.quick(feeds, fetches):
            raise Slow
        begun = time.perf_counter_ns()
        results = self._servable.run(feeds, values, fetches, deadline=deadline or self._deadline)
        self._metrics.ran(self._name, self._api, (time.perf_counter_ns() - begun) / 1000)
        return results


def version_wanted(spec: model_pb2.ModelSpec) -> dict[str, Any]:
    match spec.WhichOneof("version_choice"):
        case "version":
            return {"number": spec.version.value}
        case "version_label":
            return {"label": spec.version_label}
        case _:
            return {}


def _servable(request: Any) -> dict[str, Any]:
    spec = _spec(request)
    return {"name": spec.name, **version_wanted(spec)}


def _spec(request: Any) -> model_pb2.ModelSpec:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    spec: model_pb2.ModelSpec = request.model_spec
    if not spec.name:
        raise invalid_argument("ModelSpec has no name specified.")
    return spec


def _fill(into: model_pb2.ModelSpec, asked: model_pb2.ModelSpec, number: int) -> None:
    into.name, into.version.value = asked.name, number
    into.signature_name = asked.signature_name or DEFAULT_SIGNATURE
