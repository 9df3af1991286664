"""Classify, Regress and MultiInference: tf.Examples in, classes and values out (classifier.cc, regressor.cc,
multi_inference.cc).

A signature's method name is not looked at, as the real server's default is (enable_signature_method_name_check=false):
what counts are the names of its inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import numpy as np
from tensorflow.core.example import example_pb2
from tensorflow_serving.apis import classification_pb2, inference_pb2, input_pb2, regression_pb2

from serving.embedded.errors import ServingError, failed_precondition, invalid_argument
from serving.embedded.model import Runnable, SignatureDef
from serving.embedded.predict import DEFAULT_SIGNATURE
from serving.embedded.tensors import Array

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
#: Ours: a context before each of many examples makes terabytes of one megabyte.
_MAX_CONTEXT_BYTES = 256 << 20
_INPUT, _CLASSES, _SCORES, _VALUES = "inputs", "classes", "scores", "outputs"


def classify(servable: Runnable, name: str, source: input_pb2.Input) -> classification_pb2.ClassificationResult:
    """Raises ServingError."""
    signature = _signature(servable, name, "No signature was found with the name: {}")
    feed, fetches = _classify_tensors(signature)
    examples = serialized(source)
    return _classes(signature, len(examples), _run(servable, [feed], examples, fetches))


def regress(servable: Runnable, name: str, source: input_pb2.Input) -> regression_pb2.RegressionResult:
    """Raises ServingError."""
    signature = _signature(servable, name, "No signature was found with the name: {}")
    feed, fetches = _regress_tensors(signature)
    examples = serialized(source)
    return _regressions(signature, len(examples), _run(servable, [feed], examples, fetches))


def multi_inference(
    servable: Runnable, request: inference_pb2.MultiInferenceRequest
) -> list[inference_pb2.InferenceResult]:
    """Several classifications and regressions of the same examples, in one call of the model. Raises ServingError.

    Signatures may have different input tensors; each of these is fed all examples.
    """
    signatures: dict[str, SignatureDef] = {}
    feeds, fetches = set[str](), set[str]()
    for task in request.tasks:
        _check_task(task, request.tasks[0], signatures)
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        signatures[name] = _signature(servable, name, "Requested signature not found in model graph: {}")
        task_feed, task_fetches = _tensors(task.method_name, signatures[name])
        feeds.add(task_feed)
        fetches.update(task_fetches)
    examples = serialized(request.input)
    arrays = _run(servable, sorted(feeds), examples, sorted(fetches))
    results = []
    for task in request.tasks:
        signature = signatures[task.model_spec.signature_name or DEFAULT_SIGNATURE]
        result = inference_pb2.InferenceResult()
        if task.method_name == CLASSIFY:
            result.classification_result.CopyFrom(_classes(signature, len(examples), arrays))
        else:
            result.regression_result.CopyFrom(_regressions(signature, len(examples), arrays))
        results.append(result)
    return results


def serialized(source: input_pb2.Input) -> Array:
    """(n,) bytes; the context's bytes come before each example's (InputToSerializedExampleTensor in util.cc).

    Raises ServingError (INVALID_ARGUMENT) if there is no example.
    """
    context = b""
    if source.WhichOneof("kind") == "example_list_with_context":
        context = source.example_list_with_context.context.SerializeToString()
    found = listed(source)
    if not found:
        raise invalid_argument("Input is empty.")
    if len(context) * len(found) > _MAX_CONTEXT_BYTES:
        raise invalid_argument("the context is too large to be put before so many examples; send fewer at once")
    return np.array([context + example.SerializeToString() for example in found], np.object_)


def listed(source: input_pb2.Input) -> Sequence[example_pb2.Example]:
    if source.WhichOneof("kind") == "example_list_with_context":
        return source.example_list_with_context.examples
    return source.example_list.examples


Tensors = tuple[str, list[str]]


def _tensors(method: str, signature: SignatureDef) -> Tensors:
    if method == CLASSIFY:
        return _classify_tensors(signature)
    if method == REGRESS:
        return _regress_tensors(signature)
    raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f"Unsupported signature method_name: {method}")


def _check_task(
    task: inference_pb2.InferenceTask, first: inference_pb2.InferenceTask, seen: dict[str, SignatureDef]
) -> None:
    if not task.model_spec.name:
        raise invalid_argument("Found ModelSpec with an empty model name.")
    if task.model_spec.name != first.model_spec.name:
        raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    name = task.model_spec.signature_name or DEFAULT_SIGNATURE
    if name in seen:
        raise invalid_argument(f"Duplicate evaluation of signature: {name}")


def _signature(servable: Runnable, name: str, text: str) -> SignatureDef:
    name = name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise invalid_argument(text.format(name))
    return signature


def _classify_tensors(signature: SignatureDef) -> Tensors:
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid_argument(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if _INPUT not in signature.inputs:
        raise failed_precondition(f"No classification inputs found in SignatureDef: {signature}")
    wanted = [alias for alias in (_CLASSES, _SCORES) if alias in signature.outputs]
    if not wanted:
        raise failed_precondition(
            "Expected classification signature outputs to contain at least one of "
            f'"{_CLASSES}" or "{_SCORES}". Signature was: {signature}'
        )
    return signature.inputs[_INPUT].name, [signature.outputs[alias].name for alias in wanted]


def _regress_tensors(signature: SignatureDef) -> Tensors:
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    if _INPUT not in signature.inputs:
        raise failed_precondition(f"No regression inputs found in SignatureDef: {signature}")
    if _VALUES not in signature.outputs:
        raise failed_precondition(f"No regression outputs found in SignatureDef: {signature}")
    return signature.inputs[_INPUT].name, [signature.outputs[_VALUES].name]


def _run(servable: Runnable, feeds: Sequence[str], examples: Array, fetches: Sequence[str]) -> dict[str, Array]:
    return dict(zip(fetches, servable.run(feeds, [examples] * len(feeds), fetches), strict=True))


def _classes(signature: SignatureDef, count: int, arrays: dict[str, Array]) -> classification_pb2.ClassificationResult:
    labels = _table(signature, _CLASSES, count, arrays, np.dtype(np.object_), "DT_STRING")
    scores = _table(signature, _SCORES, count, arrays, np.dtype(np.float32), "DT_FLOAT")
    if labels is not None and scores is not None and labels.shape[1] != scores.shape[1]:
        raise invalid_argument(
            f"Tensors class and score should match in dim_size(1). Got {labels.shape[1]} vs. {scores.shape[1]}"
        )
    width = labels.shape[1] if labels is not None else scores.shape[1] if scores is not None else 0
    result = classification_pb2.ClassificationResult()
    for row in range(count):
        entry = result.classifications.add()
        for column in range(width):
            label = labels[row, column].decode(errors="replace") if labels is not None else ""
            entry.classes.add(label=label, score=float(scores[row, column]) if scores is not None else 0.0)
    return result


def _table(
    signature: SignatureDef, alias: str, count: int, arrays: dict[str, Array], dtype: np.dtype[np.generic], kind: str
) -> Array | None:
    if alias not in signature.outputs:
        return None
    array = arrays[signature.outputs[alias].name]
    if array.ndim != 2:
        raise invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}")
    if array.dtype != dtype:
        raise invalid_argument(f"Expected {alias} Tensor of {kind}. Got: {array.dtype}")
    if len(array) != count:
        raise invalid_argument(f"Expected {alias} output batch size of {count}. Got: {len(array)}")
    return array


def _regressions(signature: SignatureDef, count: int, arrays: dict[str, Array]) -> regression_pb2.RegressionResult:
    array = arrays[signature.outputs[_VALUES].name]
    if not (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)):
        raise invalid_argument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got " + _shape(array)
        )
    if len(array) != count:
        raise invalid_argument(f"Input batch size did not match output batch size: {count} vs. {len(array)}")
    if array.dtype != np.float32:
        raise invalid_argument(f"Expected output Tensor of DT_FLOAT.  Got: {array.dtype}")
    result = regression_pb2.RegressionResult()
    for value in array.reshape(-1).tolist():
        result.regressions.add(value=value)
    return result


def _shape(array: Array) -> str:
    return "[" + ",".join(map(str, array.shape)) + "]"
