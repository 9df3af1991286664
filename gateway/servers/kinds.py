"""The kinds of servers. A new kind is a folder beside this file, and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticKnownError

from gateway.servers.base import AnyKind
from gateway.servers.settings import ServerSettings
from gateway.servers.tfserving.kind import TFServingKind
from gateway.servers.torchserve.kind import TorchServeKind
from gateway.servers.v2.kind import V2Kind

SERVERS: list[AnyKind] = [
    TFServingKind(),
    TorchServeKind(),
    V2Kind(),
]


def kind_of(settings: ServerSettings) -> AnyKind:
    return next(kind for kind in SERVERS if kind.name == settings.kind)


def settings_of(entry: Any) -> Any:
    """What a server's entry in the settings file says, as its kind reads it. Raises pydantic's ValidationError."""
    if not isinstance(entry, Mapping):
        return entry  # for pydantic to refuse, or a server's settings already
    if "kind" not in entry:
        raise PydanticKnownError("union_tag_not_found", {"discriminator": "'kind'"})
    for kind in SERVERS:
        if kind.name == entry["kind"]:
            return kind.settings.model_validate(entry)
    known = ", ".join(repr(kind.name) for kind in SERVERS)
    context = {"discriminator": "'kind'", "tag": str(entry["kind"]), "expected_tags": known}
    raise PydanticKnownError("union_tag_invalid", context)
