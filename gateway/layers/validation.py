"""What a server answers is not trusted: it must be what its own signature promises for this request.

Two kinds of answers are not. One is no answer to this request: another version's, or outputs of other names. The server
is at fault. The other is whole and has the right outputs, of another datatype or shape than the model declares. That is
the model's own doing, at every endpoint, and often of some inputs alone (as many boxes as the image has). If it counted
against the endpoint, one caller could take the model away from all others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from gateway.backends.base import Layer, Server
from gateway.errors import CORRUPT, UNDECLARED, DataLoss, FailedPrecondition
from gateway.types import InferRequest, InferResponse, ModelMetadata, Signature, Tensor, TensorSpec, VersionMetadata


class Validation(Layer):
    """Stands next to a server's client, and notes what the server tells of its models on the way.

    Raises DataLoss, which counts against the endpoint, for an answer of another version or with other outputs than the
    signature has; FailedPrecondition, which counts against nobody, for other datatypes or shapes than it has.
    ``by_row`` names the models whose outputs have a row for each row of the inputs, which no signature tells.
    ``finite`` names the models of which NaN and infinities are no answers; those count against nobody, since a model
    may well compute them.
    """

    def __init__(
        self, inner: Server, *, finite: frozenset[str] = frozenset(), by_row: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(inner)
        self._server = inner
        self._finite = finite
        self._by_row = by_row
        self._versions: dict[str, Mapping[int, VersionMetadata]] = {}

    async def metadata(self, model: str) -> ModelMetadata:
        metadata = await self._server.metadata(model)
        self._versions[model] = metadata.versions
        return metadata

    async def models(self) -> Collection[str] | None:
        return await self._server.models()

    async def infer(self, request: InferRequest) -> InferResponse:
        response = await self.inner.infer(request)
        if request.payload is not None:
            return response
        if response.version != request.version:
            raise _corrupt(f"version {response.version} answered for version {request.version}")
        version = self._versions.get(request.model, {}).get(response.version)
        signature = version.signatures.get(request.signature_name) if version is not None else None
        if signature is not None:
            _check(request, response, signature)
        if request.model in self._by_row:
            _check_rows(request, response)
        if request.model in self._finite:
            _check_finite(response)
        return response


def _check(request: InferRequest, response: InferResponse, signature: Signature) -> None:
    outputs = response.outputs
    wanted = len(request.outputs) or len(signature.outputs)
    if len(outputs) != wanted:
        raise _corrupt(f"{len(outputs)} outputs, and not {wanted}")
    if request.outputs and {tensor.name for tensor in outputs} != set(request.outputs):
        raise _corrupt("other outputs than were asked for")
    # Mostly they come in the order of the signature; a server may have another.
    in_order = not request.outputs
    for index, tensor in enumerate(outputs):
        spec: TensorSpec | None = signature.outputs[index] if in_order else None
        if spec is None or spec.name != tensor.name:
            in_order, spec = False, _named(tensor.name, signature)
        if spec is None:
            raise _corrupt("an output that its signature does not have")
        if tensor.datatype != spec.datatype:
            raise _undeclared(tensor, spec)
        if not (spec.unknown_rank or _fits(tensor.data.shape, spec.shape)):
            raise _undeclared(tensor, spec)
    if not in_order and len({tensor.name for tensor in outputs}) != len(outputs):
        raise _corrupt("an output twice")


def _named(name: str, signature: Signature) -> TensorSpec | None:
    return next((spec for spec in signature.outputs if spec.name == name), None)


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    if len(shape) != len(wanted):
        return False
    for size, declared in zip(shape, wanted, strict=True):  # noqa: SIM110 - the hot path
        if declared not in (-1, size):
            return False
    return True


def _check_rows(request: InferRequest, response: InferResponse) -> None:
    """Inputs with different numbers of rows leave open which of them the answer's rows are for."""
    sizes = {tensor.data.shape[0] for tensor in request.inputs if tensor.data.ndim} or {1}
    for tensor in response.outputs:
        if not tensor.data.ndim or len(tensor.data) not in sizes:
            rows = " or ".join(map(str, sorted(sizes)))
            raise _corrupt(f"output {tensor.name!r} of shape {list(tensor.data.shape)} for {rows} rows")


def _check_finite(response: InferResponse) -> None:
    for tensor in response.outputs:
        if tensor.data.dtype.kind == "f" and not np.isfinite(tensor.data).all():
            raise DataLoss(f"the model computed NaN or infinity in its output {tensor.name!r}")


def _undeclared(tensor: Tensor, spec: TensorSpec) -> FailedPrecondition:
    declared = f"{spec.datatype} {list(spec.shape)}" if not spec.unknown_rank else f"{spec.datatype} of any shape"
    error = FailedPrecondition(
        f"output {spec.name!r}: the model declares {declared} and gave {tensor.datatype} {list(tensor.data.shape)}; "
        "import or export the model again with the signature that it has, -1 for each size that varies"
    )
    error.fault = UNDECLARED
    return error


def _corrupt(what: str) -> DataLoss:
    error = DataLoss(f"the server sent no valid answer: {what}")
    error.fault = CORRUPT
    return error
