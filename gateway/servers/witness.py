"""A request that was answered before. Asked again, it tells an endpoint that is not well from requests that are not.

A caller can make its own requests fail in every way that a server can fail. It cannot make another caller's fail.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gateway.types import InferRequest, Tensor

#: Larger requests are not kept.
_MAX_BYTES = 4 << 20
#: A kept request is replaced after this time: what a model answers may change with its versions and its callers.
_KEPT_SECONDS = 10.0
#: Only requests that take about as long as usual: a slow one would make its endpoint look hung.
_AS_USUAL = 2.0


@dataclass(slots=True)
class Witnesses:
    """Holds one answered request for each model. Times are seconds of a monotonic clock."""

    _kept: dict[str, tuple[float, InferRequest]]

    def __init__(self) -> None:
        self._kept = {}

    def answered(self, request: InferRequest, seconds: float, usual_seconds: float, now: float) -> None:
        """Keeps a copy now and then: a batch's memory is used again once it is answered."""
        found = self._kept.get(request.model)
        if found is not None and (now - found[0] < _KEPT_SECONDS or seconds > _AS_USUAL * usual_seconds):
            return
        if _size_bytes(request) <= _MAX_BYTES:
            self._kept[request.model] = now, _copied(request)

    def of(self, model: str) -> InferRequest | None:
        found = self._kept.get(model)
        return None if found is None else found[1]


def _copied(request: InferRequest) -> InferRequest:
    inputs = tuple(Tensor(tensor.name, tensor.datatype, tensor.data.copy()) for tensor in request.inputs)
    # Not the front's `reread` either, which holds the body and all that the front knows of its caller.
    return replace(request, inputs=inputs, deadline=None, avoid=None, callers=1, target=None, reread=None)


def _size_bytes(request: InferRequest) -> int:
    size = len(request.payload.body) if request.payload is not None else 0
    for tensor in request.inputs:
        size += tensor.data.nbytes if tensor.datatype != "BYTES" else sum(map(len, tensor.data.ravel()))
    return size
