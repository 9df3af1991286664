"""Who calls, and what was decided: one `Access` a request, made at its front, read by whatever needs it below."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from gateway.security.grants import NO_GRANTS, Grants, Verb

#: Names and values of headers, or of trailing metadata.
Notes = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Quota:
    """How much a caller may ask for; None is no limit. ``burst`` is what may come at once, a second's worth by default.

    Elements are those of the input tensors, bytes those of request bodies as they travel. A day begins at midnight UTC.
    """

    requests_per_second: float | None = None
    burst: int | None = None
    concurrency: int | None = None
    elements_per_day: int | None = None
    bytes_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller. ``id`` tells it from all others; ``name`` is for people, ``means`` is what it showed.

    ``quota`` is None where nothing is counted.
    """

    id: str
    name: str
    means: str
    grants: Grants
    quota: Quota | None = None


NOBODY = Identity("", "", "none", NO_GRANTS)


ALLOWED, UNAUTHENTICATED, NOT_GRANTED, OVER_QUOTA = "allowed", "unauthenticated", "not_granted", "over_quota"


@dataclass(slots=True)
class Access:
    """One request's: ``verb`` is what the front is about to do with models. The rest is for the audit."""

    identity: Identity
    verb: Verb = Verb.METADATA
    model: str = ""
    verdict: str = ALLOWED
    elements: int = 0
    #: Of the body; those of the quota's day are taken up to ``bytes_taken``.
    bytes_in: int = 0
    bytes_taken: int = 0
    bytes_out: int = 0


#: Of the request that this task answers. None where nobody was let in: then there is nothing that it may do.
ACCESS: ContextVar[Access | None] = ContextVar("duet.access", default=None)
