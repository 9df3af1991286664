"""Classify and regress: examples in; classes with scores, or values, out. The signature takes serialized examples.

Sources: tensorflow/core/example/feature.proto, tensorflow_serving/apis/{input,classification,regression}.proto,
servables/tensorflow/{classifier,regressor}.cc, util/json_tensor.cc.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gateway.codecs import large, limits
from gateway.codecs import tfserving_json as json
from gateway.codecs.tfserving_rest import signature_name
from gateway.errors import FailedPrecondition, InvalidArgument
from gateway.protos import tfserving_pb2 as pb
from gateway.types import Array, Signature, Tensor

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"

#: The names that signatures for examples give their tensors (saved_model/signature_constants.h).
INPUTS, CLASSES, SCORES, OUTPUTS = "inputs", "classes", "scores", "outputs"

_KEYS = ("signature_name", "context", "examples")
_INT64 = np.iinfo(np.int64)


@dataclass(frozen=True, slots=True)
class ExamplesBody:
    """A decoded body: each example serialized, the context's bytes before its own, so that its own features win."""

    examples: list[bytes]
    signature_name: str


def decode(body: bytes) -> ExamplesBody:
    """The body of a classify or a regress over REST. Raises InvalidArgument."""
    members = json.parse(body, keys=_KEYS)
    name = signature_name(members)
    if "examples" not in members:
        # These words are used for regress, too.
        raise _malformed(members, "When method is classify, key 'examples' is expected and was not found")
    examples = members["examples"]
    if not isinstance(examples, list):
        raise _malformed(members, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise _malformed(members, "'examples' value is an empty array")
    limits.check_count("'examples'", len(examples), limits.MAX_EXAMPLES)
    budget = limits.Budget()
    context = _example(members["context"], budget) if "context" in members else b""
    budget.copies("'context'", len(context), len(examples))
    return ExamplesBody([context + _example(example, budget) for example in examples], name)


def decode_input(message: pb.Input) -> list[bytes]:
    """The serialized examples of a gRPC request. Raises InvalidArgument where there is none, or too much."""
    plain, shared = message.example_list.examples, message.example_list_with_context.examples
    context = message.example_list_with_context.context
    count = len(plain) + len(shared)
    if not count:
        raise InvalidArgument("Input is empty.")
    limits.check_count("'examples'", count, limits.MAX_EXAMPLES)
    limits.Budget().copies("'context'", len(context), len(shared))
    return [*plain, *(context + example for example in shared)]


def tensor(examples: list[bytes]) -> Tensor:
    array = np.empty(len(examples), np.object_)
    array[:] = examples
    return Tensor(INPUTS, "BYTES", array)


def unknown_signature(name: str) -> InvalidArgument:
    return InvalidArgument(f"No signature was found with the name: {name}")


def check(signature: Signature, method: str) -> None:
    """Whether the signature can classify or regress: by its tensors' names, as TensorFlow Serving asks it.

    Raises InvalidArgument or FailedPrecondition.
    """
    inputs, outputs = ({spec.name for spec in specs} for specs in (signature.inputs, signature.outputs))
    kind = "classification" if method == CLASSIFY else "regression"
    if len(inputs) != 1:
        raise InvalidArgument("Expected one input Tensor.")
    if method == CLASSIFY and len(outputs) > 2:
        raise InvalidArgument(f"Expected one or two output Tensors, found {len(outputs)}")
    if method == REGRESS and len(outputs) != 1:
        raise InvalidArgument("Expected one output Tensor.")
    if INPUTS not in inputs:
        raise FailedPrecondition(f"No {kind} inputs found in SignatureDef: {_described(signature)}")
    if method == CLASSIFY and not outputs & {CLASSES, SCORES}:
        raise FailedPrecondition(
            "Expected classification signature outputs to contain at least one of "
            f'"{CLASSES}" or "{SCORES}". Signature was: {_described(signature)}'
        )
    if method == REGRESS and OUTPUTS not in outputs:
        raise FailedPrecondition(f"No regression outputs found in SignatureDef: {_described(signature)}")


def classifications(outputs: tuple[Tensor, ...], count: int) -> list[list[tuple[str, np.float32]]]:
    """Label and score of each class of each example; absent labels are empty, absent scores 0.

    Raises InvalidArgument where the model gave no classes, as TensorFlow Serving does (classifier.cc).
    """
    found = {output.name: output for output in outputs}
    classes, scores = found.get(CLASSES), found.get(SCORES)
    for output, datatype in ((classes, "BYTES"), (scores, "FP32")):
        if output is None:
            continue
        if len(output.shape) != 2:
            raise InvalidArgument(f"Expected Tensor shape: [batch_size num_classes] but got {list(output.shape)}")
        if output.datatype != datatype:
            raise InvalidArgument(f"Expected {output.name} Tensor of {datatype}. Got: {output.datatype}")
        if output.shape[0] != count:
            raise InvalidArgument(f"Expected {output.name} output batch size of {count}. Got: {output.shape[0]}")
    if classes and scores and classes.shape != scores.shape:
        raise InvalidArgument(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    given = classes or scores
    if given is None:
        raise InvalidArgument(f"the server's answer has neither {CLASSES} nor {SCORES}")
    labels: Array = classes.data if classes else np.full(given.shape, b"", np.object_)
    values: Array = scores.data if scores else np.zeros(given.shape, np.float32)
    return [
        [(label.decode(errors="replace"), score) for label, score in zip(*row, strict=True)]
        for row in zip(labels, values, strict=True)
    ]


def regressions(outputs: tuple[Tensor, ...], count: int) -> Array:
    """One float32 per example. Raises InvalidArgument."""
    output = next((output for output in outputs if output.name == OUTPUTS), None)
    if output is None:
        raise InvalidArgument(f"Could not find output tensor '{OUTPUTS}'")
    if output.datatype != "FP32":
        raise InvalidArgument(f"Expected output Tensor of DT_FLOAT. Got: {output.datatype}")
    if output.shape not in ((count,), (count, 1)):
        raise InvalidArgument(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] with batch_size {count} "
            f"but got {list(output.shape)}"
        )
    return output.data.reshape(count)


def encode(outputs: tuple[Tensor, ...], count: int, method: str) -> bytes:
    """``{"results": ...}``: lists of ``[label, score]``, or values. (The key in api_rest.md, ``result``, is wrong.)"""
    if method == REGRESS:
        return json.dumps({"results": json.encode(Tensor(OUTPUTS, "FP32", regressions(outputs, count)))})
    return json.dumps(
        {"results": [[(label, _score(score)) for label, score in row] for row in classifications(outputs, count)]}
    )


def encode_result(outputs: tuple[Tensor, ...], count: int, method: str) -> pb.InferenceResult:
    """The gRPC form of the same, without the model that gave it. Raises InvalidArgument."""
    if method == REGRESS:
        values = [pb.Regression(value=value) for value in regressions(outputs, count)]
        return pb.InferenceResult(regression_result=pb.RegressionResult(regressions=values))
    rows = [
        pb.Classifications(classes=[pb.Class(label=label, score=float(score)) for label, score in row])
        for row in classifications(outputs, count)
    ]
    return pb.InferenceResult(classification_result=pb.ClassificationResult(classifications=rows))


def _score(score: np.float32) -> Any:
    return json.encode(Tensor(SCORES, "FP32", np.array(score)))


def _malformed(members: dict[str, Any], text: str) -> InvalidArgument:
    return InvalidArgument(f"JSON Value: {json.shown(members)} {text}")


def _described(signature: Signature) -> str:
    inputs, outputs = (
        ", ".join(f"{spec.name}: {spec.datatype} {list(spec.shape)}" for spec in specs)
        for specs in (signature.inputs, signature.outputs)
    )
    return f"inputs {{{inputs}}} outputs {{{outputs}}} method_name {signature.method}"


def _example(value: Any, budget: limits.Budget) -> bytes:
    if not isinstance(value, dict):
        raise InvalidArgument(f"Example must be JSON object but got JSON {json.type_name(value)}")
    example = pb.Example()
    features = example.features
    features.SetInParent()
    for name, content in value.items():
        _fill(features.feature[name], name, content, budget)
    return example.SerializeToString()


def _fill(feature: pb.Feature, name: str, content: Any, budget: limits.Budget) -> None:
    """A feature of one value or of a list of them, of which the first fixes the kind. No value, no kind."""
    values = content if isinstance(content, list) else [content]
    budget.example_values(name, len(values))
    kinds = list(dict.fromkeys(_kind(name, value) for value in values))
    if not kinds:
        return
    if len(kinds) > 1:
        raise InvalidArgument(f"Unexpected element type in feature: {name} expecting type: {kinds[0]}")
    _FILLERS[kinds[0]](feature, name, values)


def _kind(name: str, value: Any) -> str:
    if isinstance(value, bool | int):
        return "int64"
    if isinstance(value, float):
        return "float"
    if isinstance(value, str) or json.is_base64(value):
        return "bytes"
    raise InvalidArgument(f"Feature: {name} has element with unexpected JSON type: {json.type_name(value)}")


def _bytes(feature: pb.Feature, _: str, values: list[Any]) -> None:
    feature.bytes_list.value.extend(map(json.string, values))


def _floats(feature: pb.Feature, _: str, values: list[Any]) -> None:
    """What float32 cannot hold becomes an infinity."""
    for piece in large.pieces(values):
        feature.float_list.value.extend(piece)


def _integers(feature: pb.Feature, name: str, values: list[Any]) -> None:
    if max(values) > _INT64.max or min(values) < _INT64.min:
        raise InvalidArgument(f"Feature: {name} has uint64 element. Only int64 is supported.")
    for piece in large.pieces(values):
        feature.int64_list.value.extend(map(int, piece))


_FILLERS: dict[str, Callable[[pb.Feature, str, list[Any]], None]] = {
    "bytes": _bytes,
    "float": _floats,
    "int64": _integers,
}
