"""Predict: names to tensors, one call, tensors to names. Order of checks and texts as in predict_util.cc."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2

from serving.embedded import tensors
from serving.embedded.errors import failed_precondition, invalid_argument
from serving.embedded.model import Runnable, SignatureDef
from serving.embedded.tensors import Array

DEFAULT_SIGNATURE = "serving_default"


def predict(
    servable: Runnable, request: predict_pb2.PredictRequest, answer: predict_pb2.PredictResponse, *, as_content: bool
) -> None:
    """Fills ``answer``'s outputs and its signature's name. Raises ServingError."""
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise failed_precondition(f'Serving signature key "{name}" not found.')
    check_count(request.inputs, signature)
    inputs = _inputs(request.inputs, signature)
    results = run(servable, signature, inputs, _chosen_outputs(request.output_filter, signature))
    for alias, array in results.items():
        tensors.encode(array, signature.outputs[alias].dtype, answer.outputs[alias], as_content=as_content)
    answer.model_spec.signature_name = name


def run(
    servable: Runnable, signature: SignatureDef, inputs: Mapping[str, Array], outputs: Iterable[str]
) -> dict[str, Array]:
    """Arrays by alias in, arrays by alias out. Raises ServingError with TensorFlow's own code and text."""
    aliases, chosen = sorted(inputs), list(outputs)
    results = servable.run(
        [signature.inputs[alias].name for alias in aliases],
        [inputs[alias] for alias in aliases],
        [signature.outputs[alias].name for alias in chosen],
    )
    return dict(zip(chosen, results, strict=True))


def check_count(names: Collection[str], signature: SignatureDef) -> None:
    """Raises ServingError (INVALID_ARGUMENT) if there are too many, or too few and the signature has no defaults."""
    if len(names) == len(signature.inputs) or (len(names) < len(signature.inputs) and signature.defaults):
        return
    sent, required = set(names), set(signature.inputs)
    raise invalid_argument(
        f"input size does not match signature: {len(sent)}!={len(required)} len({_braced(sent)}) != "
        f"len({_braced(required)}). Sent extra: {_braced(sent - required)}. "
        f"Missing but required: {_braced(required - sent)}."
    )


def _inputs(sent: Mapping[str, tensor_pb2.TensorProto], signature: SignatureDef) -> dict[str, Array]:
    """Every input of the signature, sent or by default (tensorflow/cc/saved_model/util.cc § GetInputValues).

    Raises ServingError (INVALID_ARGUMENT).
    """
    inputs = {}
    for alias in sorted(signature.inputs):
        proto = sent[alias] if alias in sent else signature.defaults.get(alias)
        if proto is None:
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {signature.inputs[alias].name}) not found in request and "
                f"no default value provided. Inputs expected to be in the request {_braced(sent)}, or default input "
                f"alias set: {','.join(sorted(signature.defaults))}"
            )
        inputs[alias] = tensors.decode(alias, proto)
    used = sorted(set(sent) & set(signature.inputs))
    if len(used) != len(sent):
        raise invalid_argument(
            f"Inputs contains invalid name. Used request inputs: {','.join(used)}, "
            f"request input: {','.join(sorted(sent))}"
        )
    return inputs


def _chosen_outputs(wanted: Iterable[str], signature: SignatureDef) -> list[str]:
    chosen: list[str] = []
    for alias in wanted:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {_braced(signature.outputs)}."
            )
        if alias in chosen:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        chosen.append(alias)
    return chosen or sorted(signature.outputs)


def _braced(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
