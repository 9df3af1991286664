"""Headers and metadata by which a client chooses variant and signature, and says more about its request.

They are the same in every dialect. What they say of the model becomes a part of its `gateway.core.modelref.ModelRef`.
"""

from __future__ import annotations

from gateway.errors import InvalidArgument
from gateway.types import DEFAULT_SIGNATURE, Criticality

#: Header or metadata key, in requests and answers.
VARIANT = "x-duet-variant"
VERSION = "x-duet-version"
#: Header or metadata key of a request: the signature that it calls, where its body names none.
SIGNATURE = "x-duet-signature"
#: Header of a request over REST: its deadline, in milliseconds from the arrival of its head. Over gRPC it is the
#: call's own.
TIMEOUT = "x-duet-timeout-ms"
#: Header or metadata key of a request: critical, default or sheddable.
CRITICALITY = "x-duet-criticality"


def signature(*names: str | None) -> str:
    """The one signature that header and parameter name, or the default. Raises InvalidArgument where they differ."""
    given = {name for name in names if name}
    if len(given) > 1:
        raise InvalidArgument(f"the request names several signatures: {', '.join(map(repr, sorted(given)))}")
    return given.pop() if given else DEFAULT_SIGNATURE


def criticality(text: str) -> Criticality:
    """Raises InvalidArgument for what is none."""
    try:
        return Criticality[text.strip().upper()]
    except KeyError:
        raise InvalidArgument(f"{CRITICALITY} must be critical, default or sheddable") from None
