"""PredictionService.Predict: names to tensors, one call, tensors to names. Texts as in predict_util.cc."""

from __future__ import annotations

from collections.abc import Iterable

from tensorflow_serving.apis import predict_pb2

from serving.embedded import tensors
from serving.embedded.errors import failed_precondition, invalid_argument
from serving.embedded.servable import Servable, SignatureDef

DEFAULT_SIGNATURE = "serving_default"


def predict(
    servable: Servable, request: predict_pb2.PredictRequest, answer: predict_pb2.PredictResponse, *, as_content: bool
) -> None:
    """Fills ``answer``'s outputs. Raises ServingError."""
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise failed_precondition(f'Serving signature key "{name}" not found.')
    _check_inputs(request, signature)
    outputs = _chosen_outputs(request.output_filter, signature)
    aliases = list(request.inputs)
    results = servable.run(
        [signature.inputs[alias].name for alias in aliases],
        [tensors.decode(alias, request.inputs[alias]) for alias in aliases],
        [signature.outputs[alias].name for alias in outputs],
    )
    for alias, array in zip(outputs, results, strict=True):
        tensors.encode(array, signature.outputs[alias].dtype, answer.outputs[alias], as_content=as_content)
    answer.model_spec.signature_name = name


def _check_inputs(request: predict_pb2.PredictRequest, signature: SignatureDef) -> None:
    sent, required = set(request.inputs), set(signature.inputs)
    if sent == required:
        return
    if len(sent) == len(required):
        alias = sorted(sent - required)[0]
        raise invalid_argument(
            f"input tensor alias not found in signature: {alias}. Inputs expected to be in the set {_braced(required)}."
        )
    raise invalid_argument(
        f"input size does not match signature: {len(sent)}!={len(required)} len({_braced(sent)}) != "
        f"len({_braced(required)}). Sent extra: {_braced(sent - required)}. "
        f"Missing but required: {_braced(required - sent)}."
    )


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
