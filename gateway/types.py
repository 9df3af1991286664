"""Canonical types: what every wire is decoded to and encoded from. They follow the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gateway.core.modelref import DEFAULT_SIGNATURE as DEFAULT_SIGNATURE
from gateway.core.modelref import ModelRef
from gateway.errors import DuetError, MeantFor, NotFound

Array = NDArray[Any]

#: The Open Inference Protocol's datatypes and the numpy type that holds each. BF16 has no numpy type: its bits travel
#: in ``uint16``. BYTES elements are Python ``bytes`` in an object array.
DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}

#: Values of request and response parameters, as the protocol allows them.
Parameter = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array. ``data`` has the tensor's shape, row-major, and the numpy type that `DATATYPES` gives."""

    name: str
    datatype: str
    data: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a model declares of one input or output; -1 in ``shape`` is a free dimension.

    Where the rank itself is free (``unknown_rank``, which TensorFlow knows), ``shape`` is empty and any will do.
    An ``optional`` input can be left out: the model has a default for it.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    unknown_rank: bool = False
    optional: bool = False

    @property
    def told_shape(self) -> tuple[int, ...]:
        """The shape for those who know no free rank: then it is one free dimension, as long as all elements."""
        return (-1,) if self.unknown_rank else self.shape


class Rows(Enum):
    """Whether a row gets the same answer alone as beside other rows, the first dimension being the batch.

    ``UNKNOWN`` is not ``INDEPENDENT``: only rows that are known to be independent are ever joined.
    """

    INDEPENDENT = "independent"
    DEPENDENT = "dependent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Signature:
    """One way to call a model. ``method`` is TensorFlow's name of what it is for.

    ``ordered`` tells whether inputs and outputs come in the model's own order; TensorFlow Serving has no order to tell,
    and what it declares comes by name. ``rows`` is what the model's artifact says of itself. ``native`` is the
    server's own description of the signature, serialised by its own wire, for a dialect that hands it on unread; empty
    where the server gives none.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    method: str = "tensorflow/serving/predict"
    ordered: bool = True
    rows: Rows = Rows.UNKNOWN
    native: bytes = b""

    def rows_of(self, inputs: Sequence[Tensor]) -> int:
        """The number of rows in a request with these inputs, in whatever order they come; 1 for scalars.

        It is the common first dimension. Where inputs differ, those without a free first dimension are settings of the
        request and not rows of it, and so is an optional input beside required ones. Of those that are left the
        largest counts: one query for fifty candidates is fifty rows.
        """
        if in_step(inputs):
            return _first_size(inputs)
        given = {tensor.name: tensor.shape[0] for tensor in inputs if tensor.shape}
        specs = [spec for spec in self.inputs if spec.name in given]
        specs = [spec for spec in specs if spec.told_shape[:1] == (-1,)] or specs
        specs = [spec for spec in specs if not spec.optional] or specs
        return max((given[spec.name] for spec in specs), default=1)


@dataclass(frozen=True, slots=True)
class ServerBatching:
    """The server itself joins requests, by its own configuration, which ``why`` names.

    ``max_rows`` is the most that one call to it may have; None where there is no such bound.
    """

    why: str
    max_rows: int | None = None


@dataclass(frozen=True, slots=True)
class VersionMetadata:
    """One version of one variant, as its server describes it. ``signatures`` are known once the version is ready.

    An ``opaque`` one has none: what it takes and gives, only its own handler knows. ``batching`` is set where the
    server joins requests itself. ``artifact`` tells one artifact from another of the same number; empty where the
    server does not say.
    """

    version: int
    ready: bool
    signatures: Mapping[str, Signature] = field(default_factory=dict)
    reason: str = ""
    opaque: bool = False
    batching: ServerBatching | None = None
    artifact: str = ""

    @property
    def signature(self) -> Signature | None:
        return self.signatures.get(DEFAULT_SIGNATURE)


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """One variant of a model. ``default`` is the version for a request that names none, whether ready or not.

    ``labels`` are TensorFlow Serving's names of versions.
    ``parallelism``: how many requests its servers work on at a time, as far as they tell.
    """

    model: str
    variant: str
    platform: str
    versions: Mapping[int, VersionMetadata]
    default: int | None
    labels: Mapping[str, int] = field(default_factory=dict)
    parallelism: int = 1
    pending: int = 0

    @property
    def ready(self) -> bool:
        return self.default is not None and self.versions[self.default].ready


@dataclass(frozen=True, slots=True)
class Payload:
    """A body that only a model's own handler understands, on its way in or out. ``status`` is HTTP's, of an answer."""

    body: bytes
    content_type: str | None
    status: int = 200


class Criticality(IntEnum):
    """Which requests are refused first where there are too many."""

    SHEDDABLE = 0
    DEFAULT = 1
    CRITICAL = 2


class Stack(Protocol):
    """The layers and the server that answer requests for one variant."""

    async def infer(self, request: InferRequest) -> InferResponse: ...


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """The version that a `ModelRef` stands for now: a request is decoded, checked, sent and answered by this one value.

    ``signature`` is None where the version has none of the ref's name; an opaque version has none at all.
    ``changes`` tells what the registry knew then (`gateway.registry.Registry.changes`).
    """

    ref: ModelRef
    variant: str
    described: VersionMetadata
    signature: Signature | None
    stack: Stack
    allow_non_finite: bool = False
    changes: int = 0

    @property
    def model(self) -> str:
        return self.ref.model

    @property
    def version(self) -> int:
        return self.described.version

    @property
    def opaque(self) -> bool:
        return self.described.opaque

    @property
    def meant(self) -> MeantFor:
        return MeantFor(self.ref.model, self.variant, self.described.version)

    @property
    def signature_names(self) -> str:
        """For texts."""
        return ", ".join(sorted(self.described.signatures)) or "none"

    def named(self, ref: ModelRef) -> Target | None:
        """This version for a ref that says more: the signature, or the variant. None where it is another variant."""
        if ref == self.ref:
            return self
        if ref.variant not in (None, self.variant):
            return None
        signature = self.described.signatures.get(ref.signature)
        return Target(ref, self.variant, self.described, signature, self.stack, self.allow_non_finite, self.changes)

    def request(
        self,
        inputs: tuple[Tensor, ...],
        outputs: tuple[str, ...] = (),
        parameters: Mapping[str, Parameter] | None = None,
        id: str = "",
        deadline: float | None = None,
        payload: Payload | None = None,
        reread: Read | None = None,
    ) -> InferRequest:
        """A request for this version."""
        return InferRequest(
            self.ref.model,
            inputs,
            outputs,
            self.described.version,
            self.variant,
            parameters if parameters is not None else {},
            id,
            deadline,
            self.ref.signature,
            payload,
            Criticality.DEFAULT,
            None,
            1,
            self,
            reread,
        )

    async def read(self, read: Read) -> InferRequest:
        """What ``read`` makes of a body by this version; its errors tell that they are about this version."""
        try:
            return await read(self)
        except NotFound:
            raise  # the body pins a variant that is not there
        except DuetError as error:
            error.target = error.target or self.meant
            raise


#: Decodes a request's body by a target's signature.
Read = Callable[[Target], Awaitable["InferRequest"]]


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request as the fronts hand it on.

    ``model``, ``version``, ``variant`` and ``signature_name`` are those of its ``target``, for layers and servers;
    `Target.request` makes it. The router takes no request without a target. Empty ``outputs`` asks for all;
    ``deadline`` is a time of the event loop's monotonic clock, in seconds. A request to an opaque version has a
    ``payload`` and no inputs. ``avoid`` is the address of an endpoint that has failed this request: another is taken
    where there is one. ``callers`` wait for its answer: more than one where requests were joined. ``reread`` decodes
    the same body by another version's signature; None where the body itself names datatypes and shapes.
    """

    model: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] = ()
    version: int | None = None
    variant: str | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    id: str = ""
    deadline: float | None = None
    signature_name: str = DEFAULT_SIGNATURE
    payload: Payload | None = None
    criticality: Criticality = Criticality.DEFAULT
    avoid: str | None = None
    callers: int = 1
    target: Target | None = None
    reread: Read | None = None

    # Written out: every request passes it, and dataclasses.replace takes four times as long.
    def due(self, deadline: float) -> InferRequest:
        """With this deadline."""
        return InferRequest(
            self.model,
            self.inputs,
            self.outputs,
            self.version,
            self.variant,
            self.parameters,
            self.id,
            deadline,
            self.signature_name,
            self.payload,
            self.criticality,
            self.avoid,
            self.callers,
            self.target,
            self.reread,
        )

    @property
    def rows(self) -> int:
        """Size of the first dimension, which mostly is the batch; 1 for a scalar.

        Only where all inputs have the same, as in all requests that are joined. `Signature.rows_of` knows of others.
        """
        return _first_size(self.inputs)


def in_step(inputs: Sequence[Tensor]) -> bool:
    """Whether all inputs have one number of rows. Others hold two batches: such a request is never joined."""
    return len(inputs) < 2 or len({tensor.data.shape[:1] for tensor in inputs}) == 1


def _first_size(inputs: Sequence[Tensor]) -> int:
    return inputs[0].shape[0] if inputs and inputs[0].shape else 1


@dataclass(frozen=True, slots=True)
class InferResponse:
    """An answer and who gave it. Layers note in ``timings`` the seconds that their part took, by name.

    ``rows``: how many the request had, where its inputs have different numbers of them; None otherwise.
    ``execution_rows``: the rows of the model's run that this answer is to be counted with; None for the request's own,
    0 where the run is counted with another answer, or where there was none.
    """

    model: str
    variant: str
    version: int
    outputs: tuple[Tensor, ...]
    timings: dict[str, float] = field(default_factory=dict)
    payload: Payload | None = None
    execution_rows: int | None = None
    rows: int | None = None
