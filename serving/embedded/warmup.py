"""Requests that a SavedModel brings along, played once before it serves (saved_model_warmup.cc)."""

from __future__ import annotations

from pathlib import Path

import grpc
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.embedded import examples
from serving.embedded.errors import ServingError, invalid_argument
from serving.embedded.model import Runnable
from serving.embedded.predict import predict

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1000


def warm_up(servable: Runnable, folder: Path, *, iterations: int = 1) -> bool:
    """Play ``folder``'s records, TFRecords of PredictionLog; False if there are none.

    Raises ServingError: the version then does not serve.
    """
    path = folder / FILE
    if not path.is_file():
        return False
    try:
        for count, record in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()):
            if count >= MAX_RECORDS:
                raise invalid_argument(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}")
            for _ in range(iterations):
                _play(servable, prediction_log_pb2.PredictionLog.FromString(record))
    except tf.errors.OpError as error:
        raise ServingError(grpc.StatusCode.DATA_LOSS, f"Please verify your warmup data: {error.message}") from error
    return True


def _play(servable: Runnable, record: prediction_log_pb2.PredictionLog) -> None:
    match record.WhichOneof("log_type"):
        case "predict_log":
            request = record.predict_log.request
            predict(servable, request, type(record.predict_log.response)(), as_content=True)
        case "classify_log":
            request = record.classify_log.request
            examples.classify(servable, request.model_spec.signature_name, request.input)
        case "regress_log":
            request = record.regress_log.request
            examples.regress(servable, request.model_spec.signature_name, request.input)
        case "multi_inference_log":
            examples.multi_inference(servable, record.multi_inference_log.request)
        case kind:
            raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}")
