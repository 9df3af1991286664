"""How large a request's tensors may be, whichever way they came: asked once, before anything else looks at them."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.backends.base import Backend, Layer
from gateway.errors import InvalidArgument
from gateway.types import InferRequest, InferResponse, Tensor


@dataclass(frozen=True, slots=True)
class Bounds:
    """``elements`` are those of one tensor. Where they are small, as many bytes as that many FP32 take may come:

    a picture of 16 MB in UINT8 is no larger than one of 4M floats. ``string_bytes`` bounds each element of BYTES,
    ``tensors`` the inputs of a request, and the outputs and parameters that it names.
    """

    rank: int = 8
    elements: int = 4 << 20
    string_bytes: int = 1 << 20
    tensors: int = 64


class Bounded(Layer):
    def __init__(self, inner: Backend, *, bounds: Bounds) -> None:
        super().__init__(inner)
        self._bounds = bounds

    async def infer(self, request: InferRequest) -> InferResponse:
        check(request, self._bounds)
        return await self.inner.infer(request)


def check(request: InferRequest, bounds: Bounds) -> None:
    """Raises InvalidArgument, which names the tensor at fault and the setting that bounds it."""
    most = bounds.tensors
    if len(request.inputs) > most or len(request.outputs) > most or len(request.parameters) > most:
        counts = {"inputs": request.inputs, "outputs": request.outputs, "parameters": request.parameters}
        what = next(what for what, found in counts.items() if len(found) > most)
        raise InvalidArgument(f"{len(counts[what])} {what}; at most {most} are taken (bounds.tensors)")
    for tensor in request.inputs:
        _check_tensor(tensor, bounds)


def _check_tensor(tensor: Tensor, bounds: Bounds) -> None:
    data, name = tensor.data, tensor.name[:64]
    if data.ndim > bounds.rank:
        raise InvalidArgument(f"tensor {name!r}: {data.ndim} dimensions; at most {bounds.rank} are taken (bounds.rank)")
    is_text = tensor.datatype == "BYTES"
    if data.size > bounds.elements and (is_text or data.nbytes > 4 * bounds.elements):
        raise InvalidArgument(
            f"tensor {name!r}: {data.size} elements; at most {bounds.elements} are taken (bounds.elements)"
        )
    if is_text and data.size and max(map(len, data.ravel())) > bounds.string_bytes:
        raise InvalidArgument(
            f"tensor {name!r}: a string is longer than the {bounds.string_bytes} bytes that are taken "
            "(bounds.string_bytes)"
        )
