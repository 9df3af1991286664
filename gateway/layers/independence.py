"""Whether the rows of a signature may be joined, and who says so."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from gateway.types import Rows, ServerBatching, Signature, VersionMetadata


@dataclass(frozen=True, slots=True)
class Operator:
    """The operator's word about a model's rows, and the setting that holds it; None is no word."""

    said: Rows | None = None
    setting: str = "batching.rows"


def setting_of(model: str) -> str:
    """Where the operator's word about one model goes."""
    return f"models.{model}.batching.rows"


@dataclass(frozen=True, slots=True)
class Independence:
    """What is known of one signature's rows, and why. ``max_rows`` bounds a joined call; None is no bound."""

    rows: Rows
    why: str
    max_rows: int | None = None


def known(model: str, signature: Signature, server: ServerBatching | None, operator: Operator) -> Independence:
    """``dependent`` wins, whoever says it. Otherwise one word is enough: the operator's, artifact's or server's."""
    max_rows = server.max_rows if server is not None else None
    if operator.said is Rows.DEPENDENT:
        return Independence(Rows.DEPENDENT, f"the setting {operator.setting} says so", max_rows)
    if signature.rows is Rows.DEPENDENT:
        return Independence(Rows.DEPENDENT, "its artifact says so", max_rows)
    if operator.said is Rows.INDEPENDENT:
        return Independence(Rows.INDEPENDENT, f"the setting {operator.setting} says so", max_rows)
    if signature.rows is Rows.INDEPENDENT:
        return Independence(Rows.INDEPENDENT, "its artifact says so", max_rows)
    if server is not None:
        return Independence(Rows.INDEPENDENT, server.why, max_rows)
    return Independence(
        Rows.UNKNOWN,
        f"neither its artifact nor its server says whether its rows are independent; "
        f"if they are, set {setting_of(model)}: independent",
    )


@dataclass(slots=True, eq=False)
class Evidence:
    """What samples have shown of a version, for all of its signatures; ``refuted`` is empty while nothing differed."""

    identity: Hashable
    samples: int = 0
    differences: int = 0
    refuted: str = ""
    #: Whether the log has a line about requests of this version going alone.
    logged: bool = False


def identity(version: VersionMetadata) -> Hashable:
    """What tells a version from another one under the same number.

    Not the order of inputs and outputs, in which a twin can change it.
    """
    signatures = frozenset(
        (name, frozenset(found.inputs), frozenset(found.outputs), found.rows, found.native)
        for name, found in version.signatures.items()
    )
    return version.artifact, signatures
