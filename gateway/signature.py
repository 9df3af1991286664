"""Is this request one that the model takes? Asked once, before anything is sent to a server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from gateway.errors import DataLoss, InvalidArgument, Unimplemented
from gateway.types import DATATYPES, InferRequest, InferResponse, Signature, Tensor, TensorSpec, in_step


def check(request: InferRequest, signature: Signature, *, allow_non_finite: bool = False) -> InferRequest:
    """The request with its inputs in the signature's order; optional ones may be missing.

    Raises InvalidArgument, which names the tensor at fault, and Unimplemented for one that the gateway cannot carry.
    NaN and infinities are refused unless the model's setting lets them in: they are nearly always a client's mistake,
    and what a model makes of them is undefined.
    """
    given = {tensor.name: tensor for tensor in request.inputs}
    if len(given) != len(request.inputs):
        raise InvalidArgument("an input is given twice")
    specs = _sent(given, signature.inputs)
    for spec in specs:
        _check_tensor(given[spec.name], spec, allow_non_finite)
    _check_outputs(request.outputs, signature)
    if len(request.inputs) < 2:
        return request
    return replace(request, inputs=tuple(given[spec.name] for spec in specs))


def arranged(response: InferResponse, request: InferRequest, signature: Signature) -> InferResponse:
    """The answer with its outputs as they were asked for, or in the signature's order. Raises DataLoss for one missing.

    TensorFlow Serving's answers have no order of their own. The number of rows is noted where the request alone does
    not show it.
    """
    if not in_step(request.inputs):
        response = replace(response, rows=signature.rows_of(request.inputs))
    names = request.outputs or tuple(spec.name for spec in signature.outputs)
    if tuple(tensor.name for tensor in response.outputs) == names:
        return response
    found = {tensor.name: tensor for tensor in response.outputs}
    if missing := [name for name in names if name not in found]:
        raise DataLoss(f"the server's answer lacks {_listed(missing)}")
    return replace(response, outputs=tuple(found[name] for name in names))


def like(signature: Signature, twin: Signature) -> Signature:
    """``signature`` in the order of ``twin``, where both have inputs and outputs of the same names."""
    inputs, outputs = _in_order(signature.inputs, twin.inputs), _in_order(signature.outputs, twin.outputs)
    return replace(signature, inputs=inputs, outputs=outputs) if inputs and outputs else signature


def _in_order(specs: tuple[TensorSpec, ...], others: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...] | None:
    by_name = {spec.name: spec for spec in specs}
    if by_name.keys() != {other.name for other in others}:
        return None
    return tuple(by_name[other.name] for other in others)


def _sent(given: Mapping[str, Tensor], wanted: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The inputs of the signature that the request has. Raises InvalidArgument for one too many or too few."""
    sent = tuple(spec for spec in wanted if spec.name in given)
    if len(sent) == len(given) and (len(sent) == len(wanted) or not _missing(given, wanted)):
        return sent
    faults = []
    if missing := _missing(given, wanted):
        faults.append(f"missing: {_listed(missing)}")
    if extra := given.keys() - {spec.name for spec in wanted}:
        faults.append(f"unknown: {_listed(extra)}")
    told = "wrong inputs" if given else "the request must hold at least one tensor"
    raise InvalidArgument(f"{told} ({'; '.join(faults)}); {_described(wanted)}")


def _missing(given: Mapping[str, Tensor], wanted: tuple[TensorSpec, ...]) -> list[str]:
    return [spec.name for spec in wanted if not spec.optional and spec.name not in given]


def _described(wanted: tuple[TensorSpec, ...]) -> str:
    if not wanted:
        return "the model takes no inputs"
    optional = [spec.name for spec in wanted if spec.optional]
    told = f", of which {_listed(optional)} may be left out" if optional else ""
    return f"the model's inputs are {_listed(spec.name for spec in wanted)}{told}"


def _check_outputs(names: tuple[str, ...], signature: Signature) -> None:
    """Asked before anything runs: an answer that cannot be carried would be taken for a server's fault."""
    known = {spec.name: spec for spec in signature.outputs}
    for name in names:
        if name not in known:
            raise InvalidArgument(f"unknown output {name!r}; the model's outputs are {_listed(known)}")
    for name in names or known:
        if known[name].datatype not in DATATYPES:
            raise _not_carried("output", known[name], "ask for other outputs, or its server directly")


def _not_carried(kind: str, spec: TensorSpec, advice: str) -> Unimplemented:
    return Unimplemented(f"{kind} {spec.name!r} is {spec.datatype}, which the gateway cannot carry; {advice}")


def _check_tensor(tensor: Tensor, spec: TensorSpec, allow_non_finite: bool) -> None:
    if spec.datatype not in DATATYPES:
        raise _not_carried("input", spec, "ask the model's server directly")
    if tensor.datatype != spec.datatype:
        raise InvalidArgument(f"input {tensor.name!r}: datatype {tensor.datatype}; the model takes {spec.datatype}")
    shape = tensor.shape
    fits = spec.unknown_rank or (
        len(shape) == len(spec.shape)
        and all(wanted in (-1, size) for size, wanted in zip(shape, spec.shape, strict=True))
    )
    if not fits:
        raise InvalidArgument(f"input {tensor.name!r}: shape {list(shape)}; the model takes {list(spec.shape)}")
    if not allow_non_finite and tensor.data.dtype.kind == "f" and not np.isfinite(tensor.data).all():
        raise InvalidArgument(
            f"input {tensor.name!r} holds NaN or infinity; the model's setting allow_non_finite would let them in"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))
