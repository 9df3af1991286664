"""Joined batches that are asked again request by request, to see whether their rows really are independent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from gateway.layers import rows
from gateway.layers.agreement import Difference, difference
from gateway.types import InferRequest, InferResponse, Tensor

_EVERY_SECONDS = 60.0
#: After a sample that was not answered.
_AGAIN_SECONDS = 1.0
#: Many times a thousandth makes a little less than a whole.
_WHOLE = 1.0 - 1e-9
_CROWDS = 3
#: So many requests are looked at where one differs grossly. One alone would not do: among requests that are alike,
#: each is answered the same in its own company.
_LOOKED_AT = 8

#: Asks a server outside the callers' way.
Ask = Callable[[InferRequest], Awaitable[InferResponse]]


class Turns:
    """Says which batches are asked again: ``share`` of them, one a minute at least, and more of the first ones.

    Of the first ``1 / share`` these are the first, the second, the fourth and so on: callers who begin alike would hide
    what the batches after them show.

    One at a time: `begun`, then `ended`. 0 asks none. Time comes in as an argument.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._saved = 0.0
        self._seen = 0
        self._not_before = -inf
        self._begun_at = -inf
        self._busy = False

    def due(self, now: float) -> bool:
        """To be asked once for each batch."""
        if not self._share:
            return False
        self._saved = min(1.0, self._saved + self._share)
        self._seen += 1
        if self._seen * self._share <= 1.0 and self._seen.bit_count() == 1:
            self._saved = 1.0
        if self._busy or now < self._not_before:
            return False
        return self._saved >= _WHOLE or now - self._begun_at >= _EVERY_SECONDS

    def begun(self, now: float) -> None:
        self._busy = True
        self._begun_at = now
        self._saved = 0.0

    def ended(self, now: float, *, answered: bool) -> None:
        """What was not answered proves nothing, and is taken again soon."""
        self._busy = False
        if not answered:
            self._saved = 1.0
            self._not_before = now + _AGAIN_SECONDS


@dataclass(frozen=True, slots=True)
class Sample:
    """A joined batch and its answer, in memory of its own: what they came in may be used again."""

    requests: tuple[InferRequest, ...]
    outputs: tuple[Tensor, ...]

    @classmethod
    def of(cls, requests: Sequence[InferRequest], response: InferResponse) -> Sample:
        wanted = requests[0].outputs
        return cls(tuple(_plain(request, wanted) for request in requests), _copied(response.outputs))

    async def difference(self, ask: Ask) -> Difference | None:
        """What in the batch's answer is not what its requests are answered alone, if anything.

        Numbers that come from sums are never quite the same: a batch of another size is added up in another order, and
        where terms cancel, little of the value is left beside that. So of the requests that differ most, batches of the
        same size are asked for that hold the rows of one alone, again and again. The order of sums is the same there,
        only the company differs. It is asked for thrice before it counts, since replicas on other processors round
        otherwise.
        What does not come from the company may come from a row's place or the number of rows. It is one of them where
        half of the rows at least differ by more than rounding explains, or where the request is answered as if alone
        once its rows are the first of such a batch. Raises what ``ask`` raises.
        """
        total = sum(request.rows for request in self.requests)
        found: list[_Apart] = []
        start = 0
        for request in self.requests:
            alone = (await ask(request)).outputs
            apart = difference(alone, rows.cut(self.outputs, start, request.rows))
            if apart is not None and apart.form:
                return apart
            if apart is not None:
                found.append(_Apart(apart, start, request, alone))
            start += request.rows
        if not found:
            return None
        found.sort(key=lambda each: each.by.size, reverse=True)
        worst = found[0]
        for each in found[: _LOOKED_AT if worst.by.gross_rows else 1]:
            if await self._comes_of_company(each, total, ask) or await _comes_of_place(each, total, ask):
                return worst.by
        return worst.by if 2 * sum(each.by.gross_rows for each in found) >= total else None

    async def _comes_of_company(self, apart: _Apart, total: int, ask: Ask) -> bool:
        count = apart.request.rows
        here = rows.cut(self.outputs, apart.start, count)
        for _ in range(_CROWDS):
            crowd = (await ask(_crowd(apart.request, apart.start, total))).outputs
            if not _rows_differ(here, rows.cut(crowd, apart.start, count), apart.by.size):
                return False
        return True


@dataclass(frozen=True, slots=True)
class _Apart:
    """A request that was answered otherwise than ``alone``, with its rows from ``start`` on."""

    by: Difference
    start: int
    request: InferRequest
    alone: tuple[Tensor, ...]


async def _comes_of_place(apart: _Apart, total: int, ask: Ask) -> bool:
    """Whether it is answered as if alone where it comes first, and has only itself for company."""
    if not apart.start or not apart.by.gross_rows:
        return False
    for _ in range(_CROWDS):
        first = (await ask(_crowd(apart.request, 0, total))).outputs
        if _rows_differ(apart.alone, rows.cut(first, 0, apart.request.rows), apart.by.size):
            return False
    return True


def _rows_differ(one: Sequence[Tensor], other: Sequence[Tensor], size: float) -> bool:
    """Whether they differ by a good part of the difference that is to be explained."""
    apart = difference(one, other)
    return apart is not None and (apart.form or apart.size >= min(size, 1.0) / 4)


def _crowd(request: InferRequest, start: int, total: int) -> InferRequest:
    """``total`` rows, all of them the request's own, which stand at ``start`` in their order."""
    places = (np.arange(total) - start) % request.rows
    inputs = tuple(Tensor(tensor.name, tensor.datatype, tensor.data[places]) for tensor in request.inputs)
    return replace(request, inputs=inputs)


def _plain(request: InferRequest, outputs: tuple[str, ...]) -> InferRequest:
    """As it is in a joined call, which carries nothing of one caller alone."""
    return InferRequest(
        request.model,
        _copied(request.inputs),
        outputs,
        request.version,
        request.variant,
        signature_name=request.signature_name,
    )


def _copied(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(Tensor(tensor.name, tensor.datatype, tensor.data.copy()) for tensor in tensors)
