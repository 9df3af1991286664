"""Shapes as TensorFlow Serving judges them: its graphs broadcast, so the documentation's own call sends shape [3] to an
input that is declared (-1, 1). Servers behind this gateway hold a tensor to its declared rank; so it is fitted here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gateway.types import Signature, Tensor, TensorSpec


@dataclass(frozen=True, slots=True)
class Fit:
    """Inputs as declared, and what has to be undone in the outputs that share the inputs' declared ``rank``.

    ``added`` dimensions of size 1 were put behind every input (taken away, where negative).
    """

    inputs: tuple[Tensor, ...]
    rank: int = 0
    added: int = 0

    def restore(self, outputs: tuple[Tensor, ...], signature: Signature) -> tuple[Tensor, ...]:
        """The outputs as a graph that was fed the client's own shapes would have given them.

        Outputs of another declared rank than the inputs' stay as they are: they are not computed element by element.
        """
        if not self.added:
            return outputs
        ranks = {spec.name: len(spec.shape) for spec in signature.outputs}
        return tuple(
            _with_rank(tensor, self.rank - self.added) if ranks.get(tensor.name) == self.rank else tensor
            for tensor in outputs
        )


def fit(inputs: tuple[Tensor, ...], signature: Signature) -> Fit:
    """``inputs`` in their declared ranks, where nothing but dimensions of size 1 at the end is missing or too many.

    What does not fit so is left as it is, and the check against the signature names it. An empty list, ``[0]``, is
    an empty batch of any shape, a scalar a batch of one. Where inputs were not all treated alike, outputs keep their
    declared shapes.

    >>> import numpy as np
    >>> x = TensorSpec("x", "FP32", (-1, 1))
    >>> fit((Tensor("x", "FP32", np.ones(3, np.float32)),), Signature((x,), ())).inputs[0].shape
    (3, 1)
    """
    specs = {spec.name: spec for spec in signature.inputs}
    fitted = tuple(_fitted(tensor, specs[tensor.name]) if tensor.name in specs else tensor for tensor in inputs)
    changes = {
        (len(after.shape), len(after.shape) - len(before.shape)) for before, after in zip(inputs, fitted, strict=True)
    }
    if len(changes) != 1:
        return Fit(fitted)
    (rank, added) = changes.pop()
    return Fit(fitted, rank, added)


def _fitted(tensor: Tensor, spec: TensorSpec) -> Tensor:
    given, declared = tensor.shape, spec.shape
    shorter = min(len(given), len(declared))
    if given == (0,) and len(declared) > 1 and declared[0] == -1 and min(declared[1:]) >= 0:
        return replace(tensor, data=tensor.data.reshape(0, *declared[1:]))
    alike = all(wanted in (-1, size) for size, wanted in zip(given, declared, strict=False))
    ones = {1, -1} if given == () else {1}
    if len(given) == len(declared) or not alike or not {*given[shorter:], *declared[shorter:]} <= ones:
        return tensor
    return replace(tensor, data=tensor.data.reshape(given[:shorter] + (1,) * (len(declared) - shorter)))


def _with_rank(tensor: Tensor, rank: int) -> Tensor:
    """Drops dimensions of size 1 from the end, or adds them, until the tensor has ``rank`` or another size is there."""
    shape = tensor.shape
    while len(shape) > rank and shape[-1] == 1:
        shape = shape[:-1]
    return replace(tensor, data=tensor.data.reshape(shape + (1,) * (rank - len(shape))))
