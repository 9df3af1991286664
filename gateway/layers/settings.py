"""The parts of duet.yaml that tune the layers, with their defaults.

A model can have settings of its own. What they leave out follows the settings for all models.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gateway.types import Rows

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Switched(_Part):
    """Of a layer; switched off, it is not there."""

    enabled: bool = True


_S = TypeVar("_S", bound=Switched)


def followed(own: _S | None, default: _S) -> _S:
    """A model's own settings, and ``default`` where they leave something out.

    >>> followed(Retry(share=0.5), Retry(per_second=1))
    Retry(enabled=True, share=0.5, per_second=1.0, wait_seconds=0.02)
    """
    if own is None:
        return default
    return default.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})


class Batching(Switched):
    """Requests that wait for one model are sent together, where its rows are known to be independent.

    That is known where the model's artifact says so, where the server batches by its own configuration, or where
    ``rows`` is ``independent`` here, for all models or for one (``models.<name>.batching.rows``). ``rows`` may also
    name variants: ``rows: {tensorflow: independent}``. ``dependent`` wins over what an artifact says. Where nothing is
    known, requests go alone.

    ``max_rows`` and ``max_bytes`` bound one batch. While fewer than ``in_flight`` calls are on their way, a request
    goes at once; by default that many as the model's servers work on at a time.

    ``sample_share`` of the batches, at least one a minute, are asked again request by request, in the background. Of a
    version's first batches it is more: the first, the second, the fourth and so on. The first answer that differs
    turns batching off for that version. 0 asks nothing again.
    """

    rows: Rows | dict[str, Rows] | None = None
    max_rows: Annotated[int, Field(ge=1, le=65_536)] = 64
    max_bytes: Annotated[int, Field(ge=1, le=1 << 30)] = 1 << 20
    in_flight: Annotated[int, Field(ge=1, le=1024)] | None = None
    sample_share: Annotated[float, Field(ge=0, le=1)] = 0.001

    @field_validator("rows", mode="before")
    @classmethod
    def _says_something(cls, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, dict):
            return {str(variant): _word(word) for variant, word in value.items()}
        return _word(value)

    def rows_of(self, variant: str) -> Rows | None:
        """What is said of one variant's rows; None where that is nothing."""
        return self.rows.get(variant) if isinstance(self.rows, dict) else self.rows


def _word(value: Any) -> Rows:
    for rows in (Rows.INDEPENDENT, Rows.DEPENDENT):
        if value in (rows, rows.value):
            return rows
    raise ValueError(
        f"{value!r} must be independent or dependent, or one of them for each variant, "
        f"as in rows: {{tensorflow: independent}}"
    )


class Cache(_Part):
    """Answers are kept, ``max_bytes`` of them for each variant, and given again to the same input bytes."""

    max_bytes: Annotated[int, Field(ge=1)]


class Limit(Switched):
    """How many requests for a model may be in flight at one server, and how many may wait where they are.

    The limit begins at ``initial``, by default ``most``, and is lowered, to ``least`` at most, where requests take
    twice as long as usual and longer than ``calm_seconds``. Without ``most`` that is twice what the server can work
    on, batches included, and at least 256 where requests are batched. A burst may wait ``interval_seconds``; once the
    queue has stood for that long, nobody is let in who would wait ``target_seconds``. At most ``queue`` requests wait.
    """

    least: Annotated[int, Field(ge=1, le=65_536)] = 1
    initial: Annotated[int, Field(ge=1, le=65_536)] | None = None
    most: Annotated[int, Field(ge=1, le=65_536)] | None = None
    queue: Annotated[int, Field(ge=0, le=65_536)] = 512
    calm_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.1
    target_seconds: Seconds = 0.005
    interval_seconds: Seconds = 0.1


class Retry(Switched):
    """A request that failed and may do better elsewhere, or soon, is sent once more, after ``wait_seconds`` at most.

    ``share`` of the requests may be, and ``per_second`` more; none with less than a fifth of its time left.
    """

    share: Annotated[float, Field(ge=0, le=1)] = 0.2
    per_second: Annotated[float, Field(ge=0, le=10_000)] = 10.0
    wait_seconds: Annotated[float, Field(ge=0, le=60)] = 0.02


class Breaker(Switched):
    """An endpoint gets no more requests for a model after ``failures`` in a row, or ``rate`` of its last ones.

    One of ``probe_seconds`` is tried there; when it succeeds, the endpoint is in again. A call that was given up counts
    as a failure where it took ``slow_seconds`` and three times longer than usual.
    """

    failures: Annotated[int, Field(ge=1, le=1000)] = 5
    rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    slow_seconds: Seconds = 0.25
    probe_seconds: Seconds = 1.0


class Balance(Switched):
    """Each call goes to the one of two endpoints that should answer it first; switched off, to any."""


class Validation(Switched):
    """Answers are held against the server's own signature.

    Another version's answer or other outputs are 502 and count as a failure of the server. Another datatype or shape
    than the model declares is 400 and counts against nobody.
    """


class Hedge(Switched):
    """A call that takes longer than nineteen of twenty is sent once more; the first answer counts.

    ``share`` of the calls may be, so much more has the server to do. Off by default, and for TensorFlow Serving alone:
    TorchServe cannot give up the one that lost.
    """

    enabled: bool = False
    share: Annotated[float, Field(gt=0, le=0.2)] = 0.02


class Bounds(Switched):
    """What one request may hold: ``elements`` of a tensor, or as many bytes as that many FP32 take; bytes of a string;

    inputs, outputs and parameters (``tensors``). The body as a whole is bounded by ``http`` and ``grpc``.
    """

    rank: Annotated[int, Field(ge=0, le=32)] = 8
    elements: Annotated[int, Field(ge=1, le=1 << 40)] = 4 << 20
    string_bytes: Annotated[int, Field(ge=1, le=1 << 40)] = 1 << 20
    tensors: Annotated[int, Field(ge=1, le=65_536)] = 64
